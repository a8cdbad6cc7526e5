//! Every suite in every mode is a test of its own; the `compat` suites and those of `stream` also run on a real Postgres.

use libtest_mimic::{Arguments, Failed, Trial};
use slt::run::{run_file, run_file_on_postgres, suite_name};
use slt::script::is_only_headwater;
use slt::target::{Mode, suites_folder};

fn main() {
    let mut arguments = Arguments::from_args();
    // Each suite starts a server with threads of its own.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut trials = Vec::new();
    for path in slt::suites(&suites_folder()) {
        let name = suite_name(&path);
        for mode in Mode::ALL {
            let path = path.clone();
            trials.push(Trial::test(format!("{name}::{}", mode.name()), move || fail(run_file(&path, mode))));
        }
        let text = std::fs::read_to_string(&path).expect("a suite can be read");
        if name.starts_with("compat/") || name.starts_with("stream/") && !is_only_headwater(&text) {
            trials.push(Trial::test(format!("{name}::postgres"), move || {
                fail(slt::services::postgres().and_then(|address| run_file_on_postgres(&path, address)))
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn fail(outcome: anyhow::Result<()>) -> Result<(), Failed> {
    outcome.map_err(|error| Failed::from(format!("{error:#}")))
}
