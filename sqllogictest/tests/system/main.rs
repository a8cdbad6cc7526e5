//! The server binary among real outside systems: a Kafka broker, SIGKILL, full disks, and the clients that people use.
//!
//! `HEADWATER_TEST_ORDERS` is how many orders the Kafka tests produce (default 100,000); `HEADWATER_TEST_KILLS` how often
//! the server is killed (default 20); `HEADWATER_TEST_CRASHES` how often the server, the broker or the Postgres of its sinks is
//! killed or stopped in the crash test (default 16); `HEADWATER_TEST_SEED` makes a run again.

mod backups;
mod clients;
mod crash;
mod damages;
mod facts;
mod failures;
mod flushed;
mod formats;
mod jobs;
mod kafka;
mod kills;
mod lives;
mod lookups;
mod mariadb;
mod orders;
mod programs;
mod protocol;
mod refused_rows;
mod resumes;
mod retries;
mod sink_groups;
mod sinks;
mod steps;

use std::sync::OnceLock;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The seed of this run, told once.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = number("HEADWATER_TEST_SEED", rand::random::<u32>().into());
        eprintln!("HEADWATER_TEST_SEED={seed}");
        seed
    })
}
