//! A short run of `slt fuzz` with a fixed seed: random queries over changing tables answer as a real Postgres does.

use slt::fuzz::{Options, run};

/// The first round.
const SEED: u64 = 1;
/// So many queries take about a minute.
const N_QUERIES: u64 = 150;

#[test]
fn random_queries_answer_as_postgres_does() {
    let options = Options { seed: SEED, n_queries: N_QUERIES, tells: false, ..Options::default() };
    let figures = slt::run::in_runtime(run(&options)).unwrap();
    assert!(figures.mismatches.is_empty(), "{figures}\n{}", figures.mismatches.join("\n"));
    assert!(figures.n_queries >= N_QUERIES && figures.n_views > N_QUERIES / 2, "{figures}");
    println!("{figures}");
}
