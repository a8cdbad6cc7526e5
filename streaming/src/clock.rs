//! The one clock: it numbers the epochs of the whole server.
//!
//! ```text
//!  source or table ──enter()──▶ open epoch E ──seal()──▶ E is complete, E+1 is open
//! ```
//!
//! A source labels what it emits with the open epoch, and tells so under the same lock under which an epoch is sealed:
//! so it is never in doubt whether a sealed epoch has changes that are still on their way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use crate::memory::{Memory, NO_BUDGET};

/// Epochs whose time is remembered.
const TIMES_MAX: usize = 100_000;

/// Wakes the coordinator.
#[derive(Default)]
pub struct Notify {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Notify {
    /// Something happened.
    pub fn notify(&self) {
        let mut raised = self.raised.lock();
        if !*raised {
            *raised = true;
            self.changed.notify_one();
        }
    }

    /// Waits until something happened, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.changed.wait_for(&mut raised, timeout);
        }
        *raised = false;
    }
}

/// Bytes that all inboxes may spill together; above it sources pause.
pub const SPILLED_BYTES_MAX: i64 = 16 << 30;

/// When an epoch was sealed.
#[derive(Clone, Copy)]
struct Sealed {
    epoch: u64,
    time: i64,
    /// Every row that is stamped with an earlier time is in the epoch or in one before.
    complete: i64,
}

/// What rows are stamped with that are written now: until it is dropped, the processing time does not pass it.
pub struct Stamp {
    clock: Arc<Clock>,
    /// In microseconds since 1970.
    pub at: i64,
}

impl Drop for Stamp {
    fn drop(&mut self) {
        let mut stamps = self.clock.stamps.lock();
        if let Some(count) = stamps.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                stamps.remove(&self.at);
            }
        }
    }
}

/// The processing time moves in steps of this, so that watermarks are worked out so often at most.
const PROCESSING_TIME_STEP: i64 = 50_000;

/// The number of the open epoch, and what all jobs share.
pub struct Clock {
    open: Mutex<u64>,
    /// When the last epochs were sealed, the oldest first.
    times: Mutex<VecDeque<Sealed>>,
    /// The times of rows that are being written, with how many have each.
    stamps: Mutex<BTreeMap<i64, usize>>,
    /// Wakes the coordinator.
    pub notify: Arc<Notify>,
    /// What takes memory.
    pub memory: Arc<Memory>,
    /// Bytes that the inboxes of all jobs have spilled: sources pause above [`SPILLED_BYTES_MAX`].
    pub spilled_bytes: AtomicI64,
    /// Set while checkpoints do not succeed: sources pause, since what they bring could only pile up in memory.
    pub held: AtomicBool,
    /// Set while what was visible before a restart is not visible again yet.
    pub recovering: AtomicBool,
    /// Set when the workers shall stop.
    pub stopping: AtomicBool,
}

impl Clock {
    /// A clock whose open epoch is `open`, of a server without a budget.
    pub fn new(open: u64) -> Clock {
        Clock::with_memory(open, NO_BUDGET)
    }

    /// A clock whose open epoch is `open`, of a server that may take `memory` bytes.
    pub fn with_memory(open: u64, memory: u64) -> Clock {
        Clock {
            open: Mutex::new(open),
            times: Mutex::new(VecDeque::from([Sealed {
                epoch: open.saturating_sub(1),
                time: wall_clock(),
                complete: i64::MIN,
            }])),
            stamps: Mutex::default(),
            notify: Arc::default(),
            memory: Arc::new(Memory::new(memory)),
            spilled_bytes: AtomicI64::new(0),
            held: AtomicBool::new(false),
            recovering: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// The open epoch, in which the job whose flag `dirty` is is going to emit something.
    pub fn enter(&self, dirty: &AtomicBool) -> u64 {
        self.enter_all([dirty].into_iter(), |_| ())
    }

    /// The same for several jobs; `act` runs before the epoch can be sealed.
    pub fn enter_all<'a>(&self, dirty: impl Iterator<Item = &'a AtomicBool>, act: impl FnOnce(u64)) -> u64 {
        let open = self.open.lock();
        for flag in dirty {
            flag.store(true, Ordering::Release);
        }
        act(*open);
        let epoch = *open;
        drop(open);
        self.notify.notify();
        epoch
    }

    /// Seals the open epoch: `act` runs with its number before the next one opens.
    pub fn seal(&self, act: impl FnOnce(u64)) -> u64 {
        let mut open = self.open.lock();
        self.note_time(*open);
        act(*open);
        *open += 1;
        *open - 1
    }

    fn note_time(&self, epoch: u64) {
        let wall = wall_clock();
        let mut times = self.times.lock();
        let last = times.back().copied();
        if times.len() == TIMES_MAX {
            times.pop_front();
        }
        let time = last.map_or(wall, |last| wall.max(last.time));
        // Rows of before a crash come back meanwhile, with their times.
        let complete = if self.recovering.load(Ordering::Acquire) {
            i64::MIN
        } else {
            let open = self.stamps.lock().first_key_value().map_or(time, |(stamp, _)| time.min(*stamp));
            open.div_euclid(PROCESSING_TIME_STEP) * PROCESSING_TIME_STEP
        };
        let complete = last.map_or(complete, |last| complete.max(last.complete));
        times.push_back(Sealed { epoch, time, complete });
    }

    /// What rows are stamped with that are written now.
    pub fn stamp(self: &Arc<Self>) -> Stamp {
        // No epoch is sealed meanwhile.
        let times = self.times.lock();
        let at = times.back().map_or(i64::MIN, |last| last.time).max(wall_clock());
        *self.stamps.lock().entry(at).or_default() += 1;
        drop(times);
        Stamp { clock: self.clone(), at }
    }

    /// Rows that are stamped with an earlier time do not come behind `epoch` any more; `i64::MIN` where nobody knows.
    pub fn processing_time(&self, epoch: u64) -> i64 {
        let times = self.times.lock();
        let behind = times.partition_point(|sealed| sealed.epoch <= epoch);
        behind.checked_sub(1).and_then(|at| times.get(at)).map_or(i64::MIN, |sealed| sealed.complete)
    }

    /// The wall clock when `epoch` was sealed, in microseconds since 1970. It never falls from one epoch to the next. For an
    /// epoch so old that nobody remembers, the oldest time that is remembered.
    pub fn time_of(&self, epoch: u64) -> i64 {
        let times = self.times.lock();
        let behind = times.partition_point(|sealed| sealed.epoch <= epoch);
        times.get(behind.saturating_sub(1)).map_or(0, |sealed| sealed.time)
    }

    /// The open epoch.
    pub fn open(&self) -> u64 {
        *self.open.lock()
    }

    /// Whether sources should pause: too much waits, in memory (where nothing can be spilled) or spilled, or nothing can
    /// be made durable.
    pub fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed)
            || self.spilled_bytes.load(Ordering::Relaxed) > SPILLED_BYTES_MAX
            || self.memory.inboxes.load(Ordering::Relaxed) > 2 * self.memory.inboxes_max() as i64
    }
}

/// In microseconds since 1970.
pub fn wall_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
