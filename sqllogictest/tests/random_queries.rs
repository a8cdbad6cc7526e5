//! A short run of `slt fuzz` with fixed seeds: random queries over changing tables answer as a real Postgres does.
//!
//! Its end is a number of queries, not a time: the same queries are asked on every machine. Longer runs: `docs/testing.md`.

use slt::fuzz::{Options, run};

/// The first round; the others follow.
const SEED: u64 = 1;
/// So many queries take about a minute on two idle processors.
const N_QUERIES: u64 = 150;
/// Queries in a round.
const N_PER_ROUND: usize = 25;

#[test]
fn random_queries_answer_as_postgres_does() {
    let options =
        Options { seed: SEED, n_queries: N_QUERIES, n_per_round: N_PER_ROUND, tells: false, ..Options::default() };
    let figures = slt::run::in_runtime(run(&options)).unwrap();
    assert!(figures.mismatches.is_empty(), "{figures}\n{}", figures.mismatches.join("\n"));
    assert!(figures.n_queries >= N_QUERIES && figures.n_views > N_QUERIES / 2, "{figures}");
    println!("{figures}");
}
