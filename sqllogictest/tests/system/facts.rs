//! What the tests that kill sinks write: facts that change and events that are only added, by a writer that remembers what
//! was acknowledged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::run::ask;
use tokio::sync::{Mutex, RwLock};
use tokio_postgres::Client;

/// The tables, with the first facts.
pub const TABLES: &str = "CREATE TABLE facts (id int PRIMARY KEY, k int, v numeric(10,2));
    CREATE TABLE events (id bigint, note text) APPEND ONLY;
    INSERT INTO facts SELECT i, i % 10, i FROM generate_series(1, 200) AS g(i)";

/// What the writer did. Whoever holds the gate's other side has it wait.
#[derive(Clone, Default)]
pub struct Written {
    /// The writer holds it for reading while it writes.
    pub gate: Arc<RwLock<()>>,
    /// Whether the writer is to end.
    pub stop: Arc<AtomicBool>,
    /// The events.
    pub ids: Arc<Mutex<Ids>>,
}

impl Written {
    /// Every event that was acknowledged is there once, and none that was never sent.
    pub async fn check_events(&self, client: &Client) -> Result<()> {
        let known = self.ids.lock().await;
        let mut there = BTreeSet::new();
        for id in crate::orders::rows(client, "SELECT id FROM events").await? {
            let id: u64 = id.parse()?;
            ensure!(there.insert(id), "event {id} is there twice");
            ensure!(id <= known.sent, "event {id} was never sent");
        }
        let lost: Vec<&u64> = known.acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        Ok(())
    }
}

/// Events by their ids.
#[derive(Default)]
pub struct Ids {
    /// Those whose INSERT was answered.
    pub acknowledged: BTreeSet<u64>,
    /// Events 1 up to here were sent.
    pub sent: u64,
}

/// Changes facts and adds events until it is told to stop.
pub async fn write(address: SocketAddr, written: Written) -> Result<()> {
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 6);
    let mut client: Option<Client> = None;
    while !written.stop.load(Ordering::SeqCst) {
        let moving = written.gate.read().await;
        let connected = match client.take() {
            Some(client) => client,
            None => match slt::target::connect(address, "root", "dev").await {
                Ok(client) => client,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        let (fact, k, v) = (random.random_range(1..400), random.random_range(0..12), random.random_range(0..1000));
        let change = match random.random_range(0..4) {
            0 => format!("DELETE FROM facts WHERE id = {fact}"),
            1 => format!("DELETE FROM facts WHERE k = {k}"),
            _ => format!(
                "INSERT INTO facts VALUES ({fact}, {k}, {v}) ON CONFLICT (id) DO UPDATE SET k = EXCLUDED.k, v = EXCLUDED.v"
            ),
        };
        let id = {
            let mut ids = written.ids.lock().await;
            ids.sent += 1;
            ids.sent
        };
        let mut done = true;
        for statement in [change, format!("INSERT INTO events VALUES ({id}, 'event {id}')")] {
            match ask(&connected, &statement).await {
                Ok(_) => {}
                Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => {
                    done = false;
                    break;
                }
                Err(failure) => bail!("{} {}", failure.code, failure.message),
            }
        }
        if done {
            written.ids.lock().await.acknowledged.insert(id);
            client = Some(connected);
        }
        drop(moving);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
