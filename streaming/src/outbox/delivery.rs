//! The threads that deliver: one per sink or group of sinks, which tries until the target takes the changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::failpoint;
use storage::table::StateTable;

use super::Outbox;
use super::group::{self, Points};
use crate::clock::Notify;
use crate::error::Result;
use crate::sink::{Delivered, Delivery, Position, Refused, Sink};

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

/// The delivery threads of an engine, by what their targets' positions are kept under.
#[derive(Default)]
pub struct Deliveries {
    threads: Mutex<BTreeMap<String, Running>>,
}

/// A sink of a delivery thread.
pub struct Member {
    /// Its outbox.
    pub outbox: Arc<Outbox>,
    /// The entries.
    pub table: StateTable,
}

struct Running {
    delivering: Arc<Delivering>,
    thread: JoinHandle<()>,
}

/// What a delivery thread does.
struct Delivering {
    name: String,
    members: Vec<Member>,
    /// Of a group: where its sinks are together.
    points: Option<Arc<Points>>,
    sink: Arc<dyn Sink>,
    stopped: AtomicBool,
    wake: Arc<Notify>,
}

impl Deliveries {
    /// Starts to deliver what is in the outboxes of `members`, sinks of a group (which has `points`) or one alone, instead of
    /// what was delivered under `id` before.
    pub fn start(&self, id: &str, name: &str, points: Option<Arc<Points>>, members: Vec<Member>, sink: Arc<dyn Sink>) {
        let mut threads = self.threads.lock();
        let before = threads.remove(id);
        if let Some(before) = &before {
            before.delivering.stop();
        }
        let wake = Arc::new(Notify::default());
        for member in &members {
            *member.outbox.wake.lock() = wake.clone();
            member.outbox.join();
        }
        let (name, stopped) = (name.to_owned(), AtomicBool::new(false));
        let delivering = Arc::new(Delivering { name, members, points, sink, stopped, wake });
        let thread = std::thread::Builder::new()
            .name(format!("deliver {}", delivering.name).chars().take(15).collect())
            .spawn({
                let delivering = delivering.clone();
                move || {
                    // One transaction at a time.
                    if let Some(before) = before {
                        let _ = before.thread.join();
                    }
                    delivering.deliver_all();
                }
            })
            .expect("the system has a thread to spare");
        threads.insert(id.to_owned(), Running { delivering, thread });
    }

    /// Whether something is delivered under `id`.
    pub fn has(&self, id: &str) -> bool {
        self.threads.lock().contains_key(id)
    }

    /// Ends the delivery of sinks that were dropped. Does not wait for the target: what is under way may still arrive.
    pub fn forget(&self, id: &str) {
        let Some(running) = self.threads.lock().remove(id) else { return };
        running.delivering.stop();
        let name = "forget sink".to_owned();
        let after = move || {
            let _ = running.thread.join();
            running.delivering.sink.forget();
        };
        std::thread::Builder::new().name(name).spawn(after).expect("the system has a thread to spare");
    }

    /// Ends all deliveries and waits for the threads, for a while: one whose target does not answer is left to itself, and
    /// its transaction to the target.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.values().for_each(|running| running.delivering.stop());
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

impl Delivering {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The target has everything up to here.
    fn delivered(&self, until: Position) {
        self.members.iter().for_each(|member| member.outbox.delivered(until));
        if let Some(points) = &self.points {
            points.passed(until.epoch);
        }
    }

    /// What the next transaction has: entries with the place of their sink, and up to where they reach.
    fn next(&self) -> Option<(Vec<(usize, Position, u64)>, Position)> {
        if self.members.iter().any(|member| member.outbox.is_paused()) {
            return None;
        }
        if let Some(points) = &self.points {
            return group::next(&self.members, points, TRANSACTION_ROWS);
        }
        let entries = self.members.first()?.outbox.next(TRANSACTION_ROWS, EPOCH_ROWS);
        let until = entries.last()?.0;
        Some((entries.into_iter().map(|(position, rows)| (0, position, rows)).collect(), until))
    }

    fn deliver_all(&self) {
        let mut connection: Option<Box<dyn Delivery>> = None;
        let mut pause = RETRY_PAUSE[0];
        while !self.is_stopped() {
            if self.next().is_none() {
                self.wake.wait(IDLE_PAUSE);
                continue;
            }
            match self.deliver_some(&mut connection) {
                Ok(()) => {
                    for member in &self.members {
                        let mut progress = member.outbox.progress.lock();
                        if let Some((_, now)) = progress.error.as_mut().filter(|(_, now)| *now) {
                            *now = false;
                            tracing::info!(sink = self.name, "the target takes changes again");
                        }
                    }
                    pause = RETRY_PAUSE[0];
                }
                Err(error) => {
                    connection = None;
                    for member in &self.members {
                        let mut progress = member.outbox.progress.lock();
                        progress.retries += 1;
                        if !progress.error.as_ref().is_some_and(|(_, now)| *now) {
                            tracing::warn!(sink = self.name, "the target takes no changes, trying again: {error}");
                        }
                        progress.error = Some((error.to_string(), true));
                    }
                    let until = Instant::now() + pause;
                    // What is sealed meanwhile is no reason to hurry.
                    while Instant::now() < until && !self.is_stopped() {
                        self.wake.wait(until.saturating_duration_since(Instant::now()));
                    }
                    pause = (pause * 2).min(RETRY_PAUSE[1]);
                }
            }
        }
    }

    /// One transaction, or none if the target turns out to have everything.
    fn deliver_some(&self, connection: &mut Option<Box<dyn Delivery>>) -> Result<()> {
        let delivery = match connection {
            Some(delivery) => delivery,
            None => {
                let delivery = self.sink.connect()?;
                if let Some(position) = delivery.position() {
                    self.delivered(position);
                }
                connection.insert(delivery)
            }
        };
        let Some((entries, until)) = self.next() else { return Ok(()) };
        let mut rows = vec![0; self.members.len()];
        let mut changes = entries.iter().map(|(place, position, _)| {
            let Member { outbox, table } = &self.members[*place];
            let changes = outbox.read(table, *position)?;
            rows[*place] += changes.num_rows() as u64;
            Ok((*place, changes))
        });
        let delivered = failpoint::around("sink/deliver", || delivery.deliver(&mut changes, until))?;
        if let Delivered::Refused(refused) = delivered {
            for (at, (place, position, _)) in entries.iter().enumerate() {
                let of_entry: Vec<&Refused> = refused.iter().filter(|refused| refused.batch == at).collect();
                if !of_entry.is_empty() {
                    let Member { outbox, table } = &self.members[*place];
                    outbox.refuse(table, *position, &of_entry)?;
                }
            }
            return Ok(());
        }
        self.delivered(until);
        for (member, rows) in self.members.iter().zip(rows) {
            let mut progress = member.outbox.progress.lock();
            progress.transactions += 1;
            progress.rows += rows;
        }
        Ok(())
    }
}
