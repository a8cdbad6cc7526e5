//! The threads that deliver: one per sink, which tries until the target takes the changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::table::StateTable;
use storage::{RelationId, failpoint};

use super::Outbox;
use crate::error::Result;
use crate::sink::{Delivered, Delivery, Sink};

/// Rows of one transaction, unless an epoch alone has more.
const TRANSACTION_ROWS: u64 = 100_000;
/// Rows of one epoch that go in one transaction; a first snapshot may have more, and is then delivered in parts.
const EPOCH_ROWS: u64 = 1_000_000;
/// The first pause after an error, and the longest.
const RETRY_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(15)];
/// A thread without work looks at least this often whether it is still wanted.
const IDLE_PAUSE: Duration = Duration::from_secs(60);
/// How long a thread gets to finish its transaction when the server stops, and how often it is asked.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const STOP_POLL: Duration = Duration::from_millis(1);

/// The delivery threads of an engine.
#[derive(Default)]
pub struct Deliveries {
    threads: Mutex<BTreeMap<RelationId, Running>>,
}

struct Running {
    outbox: Arc<Outbox>,
    sink: Arc<dyn Sink>,
    thread: JoinHandle<()>,
}

impl Deliveries {
    /// Starts to deliver what is in `outbox`, whose entries are in `table`.
    pub fn start(&self, relation: RelationId, name: &str, outbox: Arc<Outbox>, table: StateTable, sink: Arc<dyn Sink>) {
        let thread = std::thread::Builder::new()
            .name(format!("deliver {name}").chars().take(15).collect())
            .spawn({
                let (outbox, sink, name) = (outbox.clone(), sink.clone(), name.to_owned());
                move || deliver_all(&name, &outbox, &table, &*sink)
            })
            .expect("the system has a thread to spare");
        self.threads.lock().insert(relation, Running { outbox, sink, thread });
    }

    /// Ends the delivery of a sink that was dropped. Does not wait for the target: what is under way may still arrive.
    pub fn forget(&self, relation: RelationId) {
        let Some(running) = self.threads.lock().remove(&relation) else { return };
        running.outbox.stop();
        let name = "forget sink".to_owned();
        let after = move || {
            let _ = running.thread.join();
            running.sink.forget();
        };
        std::thread::Builder::new().name(name).spawn(after).expect("the system has a thread to spare");
    }

    /// Ends all deliveries and waits for the threads, for a while: one whose target does not answer is left to itself, and
    /// its transaction to the target.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.values().for_each(|running| running.outbox.stop());
        let begun = Instant::now();
        for (_, running) in threads {
            while !running.thread.is_finished() && begun.elapsed() < STOP_TIMEOUT {
                std::thread::sleep(STOP_POLL);
            }
            if !running.thread.is_finished() {
                tracing::warn!("the target of a sink does not answer: stopping without it");
            }
        }
    }
}

fn deliver_all(name: &str, outbox: &Outbox, table: &StateTable, sink: &dyn Sink) {
    let mut connection: Option<Box<dyn Delivery>> = None;
    let mut pause = RETRY_PAUSE[0];
    while !outbox.is_stopped() {
        if outbox.is_paused() || outbox.next(1, 1).is_empty() {
            outbox.wake.wait(IDLE_PAUSE);
            continue;
        }
        match deliver_some(outbox, table, sink, &mut connection) {
            Ok(()) => {
                let mut progress = outbox.progress.lock();
                if let Some((_, now)) = progress.error.as_mut().filter(|(_, now)| *now) {
                    *now = false;
                    tracing::info!(sink = name, "the target takes changes again");
                }
                pause = RETRY_PAUSE[0];
            }
            Err(error) => {
                connection = None;
                let mut progress = outbox.progress.lock();
                progress.retries += 1;
                if !progress.error.as_ref().is_some_and(|(_, now)| *now) {
                    tracing::warn!(sink = name, "the target takes no changes, trying again: {error}");
                }
                progress.error = Some((error.to_string(), true));
                drop(progress);
                let until = Instant::now() + pause;
                // What is sealed meanwhile is no reason to hurry.
                while Instant::now() < until && !outbox.is_stopped() {
                    outbox.wake.wait(until.saturating_duration_since(Instant::now()));
                }
                pause = (pause * 2).min(RETRY_PAUSE[1]);
            }
        }
    }
}

/// One transaction, or none if the target turns out to have everything.
fn deliver_some(
    outbox: &Outbox,
    table: &StateTable,
    sink: &dyn Sink,
    connection: &mut Option<Box<dyn Delivery>>,
) -> Result<()> {
    let delivery = match connection {
        Some(delivery) => delivery,
        None => {
            let delivery = sink.connect()?;
            if let Some(position) = delivery.position() {
                outbox.delivered(position);
            }
            connection.insert(delivery)
        }
    };
    let entries = outbox.next(TRANSACTION_ROWS, EPOCH_ROWS);
    let Some((until, _)) = entries.last().copied() else { return Ok(()) };
    let mut rows = 0;
    let mut changes = entries.iter().map(|(position, _)| {
        let changes = outbox.read(table, *position)?;
        rows += changes.num_rows() as u64;
        Ok(changes)
    });
    let delivered = failpoint::around("sink/deliver", || delivery.deliver(&mut changes, until))?;
    if let Delivered::Refused(refused) = delivered {
        return outbox.refuse(table, &entries, refused);
    }
    outbox.delivered(until);
    let mut progress = outbox.progress.lock();
    progress.transactions += 1;
    progress.rows += rows;
    debug_assert!(until.epoch <= outbox.durable.load(Ordering::Acquire));
    Ok(())
}
