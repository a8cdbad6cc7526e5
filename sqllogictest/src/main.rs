//! Runs suites by hand: `slt [--against postgres|ADDRESS] [--complete] [--mode NAME] [--keep-going] FILE or
//! FOLDER ...`, or `slt fuzz --against postgres` for random queries.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use slt::run;
use slt::target::Mode;

fn main() -> Result<ExitCode> {
    let (mut paths, mut complete, mut against, mut modes) = (Vec::new(), false, None, Mode::ALL.to_vec());
    let mut run_file: fn(&Path, Mode) -> Result<()> = run::run_file;
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "fuzz").is_some() {
        return Ok(if slt::fuzz::main(arguments)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--complete" => complete = true,
            "--keep-going" => run_file = run::run_whole_file,
            "--against" => {
                let address: SocketAddr = match arguments.next().as_deref() {
                    Some("postgres") => slt::services::postgres()?,
                    Some(address) => address.parse()?,
                    None => bail!("--against needs postgres or an address"),
                };
                against = Some(address);
            }
            "--mode" => {
                let name = arguments.next().context("--mode needs a name")?;
                modes.retain(|mode| mode.name() == name);
            }
            path => paths.push(PathBuf::from(path)),
        }
    }
    let files: Vec<PathBuf> =
        paths.iter().flat_map(|path| if path.is_dir() { slt::suites(path) } else { vec![path.clone()] }).collect();
    if files.is_empty() || modes.is_empty() {
        bail!(
            "usage: slt [--against postgres|ADDRESS] [--complete] [--mode one_worker|two_workers|crash] FILE or FOLDER ..."
        );
    }
    let mut n_failed = 0;
    for file in &files {
        let outcomes: Vec<(&str, Result<()>)> = match (complete, against) {
            (true, _) => vec![("complete", run::complete_file(file, against))],
            (false, Some(address)) => vec![("postgres", run::run_file_on_postgres(file, address))],
            (false, None) => modes.iter().map(|mode| (mode.name(), run_file(file, *mode))).collect(),
        };
        for (name, outcome) in outcomes {
            match outcome {
                Ok(()) => println!("ok      {} ({name})", file.display()),
                Err(error) => {
                    n_failed += 1;
                    println!("FAILED  {} ({name})\n{error:#}\n", file.display());
                }
            }
        }
    }
    Ok(if n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
