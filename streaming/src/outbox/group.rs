//! Several sinks that deliver together: one transaction of the target has all their changes of an epoch.
//!
//! ```text
//!  sink a   ──e──────e──P──e───────P──e──     e  an entry of its outbox
//!  sink b   ───────e────P────e──e──P─────     P  a point: a checkpoint has all sinks with what came up to this epoch, exactly
//!                       │          └ one transaction up to here
//! ```
//!
//! The coordinator lets the jobs of a group take what their inputs published up to an epoch at which all of that is exact
//! (`coordinator/groups.rs`), and their entries are named by it. Once a checkpoint has all of them there it is a point. The
//! points are in the store too, so that what waits for long leaves in parts, also after a restart.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::Outbox;
use super::delivery::Member;
use crate::sink::Position;

/// Points that a group may have before it: past them every second one is forgotten, and transactions get larger.
const POINTS_MAX: usize = 1024;

/// The epochs at which all sinks of a group stood at a checkpoint, those that the target may not have yet.
#[derive(Debug, Default)]
pub struct Points {
    durable: Mutex<BTreeSet<u64>>,
}

impl Points {
    /// As the store has them.
    pub fn read(bytes: &[u8]) -> Option<Points> {
        let (points, []) = bytes.as_chunks::<8>() else { return None };
        let durable = points.iter().map(|point| u64::from_be_bytes(*point)).collect();
        Some(Points { durable: Mutex::new(durable) })
    }

    /// What the store keeps of them once `more` is one.
    pub fn with(&self, more: u64) -> Vec<u8> {
        self.durable.lock().iter().chain([&more]).flat_map(|point| point.to_be_bytes()).collect()
    }

    /// The last one; 0 if there was none.
    pub fn last(&self) -> u64 {
        self.durable.lock().last().copied().unwrap_or(0)
    }

    /// A checkpoint is durable that has all sinks at `point`.
    pub fn add(&self, point: u64) {
        let mut points = self.durable.lock();
        points.insert(point);
        if points.len() > POINTS_MAX {
            let mut keep = false;
            points.retain(|p| {
                keep = !keep;
                keep || *p == point
            });
        }
    }

    /// The target is at `point`. The last one is kept: what comes is behind it.
    pub(super) fn passed(&self, point: u64) {
        let mut points = self.durable.lock();
        let last = points.last().copied();
        points.retain(|p| *p > point || Some(*p) == last);
    }
}

impl Outbox {
    /// The epoch of its last entry; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.entries.lock().last_key_value().map_or(0, |(position, _)| position.epoch)
    }

    /// Whether it has entries behind `point`.
    pub fn is_beyond(&self, point: u64) -> bool {
        self.newest() > point
    }

    /// In a group: no entry that it will get belongs to an epoch before this.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    /// No entry that it will get may belong to an epoch before `epoch`.
    pub fn raise_floor(&self, epoch: u64) {
        self.floor.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether the thread of its group knows of it.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    pub(super) fn join(&self) {
        self.joined.store(true, Ordering::Release);
    }

    /// The entries up to `point` that the target does not have, and the first epoch whose entries may not leave yet.
    fn waiting(&self, point: u64) -> (Vec<(Position, u64)>, Option<u64>) {
        let durable = self.durable.load(Ordering::Acquire);
        let delivered = *self.delivered.lock();
        let mut waiting = Vec::new();
        for (position, entry) in self.entries.lock().iter() {
            if position.epoch > point {
                break;
            }
            if delivered.is_some_and(|delivered| *position <= delivered) {
                continue;
            }
            if self.is_in_question(*position, durable) {
                return (waiting, Some(position.epoch));
            }
            waiting.push((*position, entry.rows));
        }
        (waiting, None)
    }
}

/// What the next transaction has: entries with the place of their sink, and up to where they reach, which is a point. Of about
/// `rows_max` rows, but what lies between two points is never divided.
pub(super) fn next(
    members: &[Member],
    points: &Points,
    rows_max: u64,
) -> Option<(Vec<(usize, Position, u64)>, Position)> {
    let mut limit = points.last();
    let mut entries: Vec<(usize, Position, u64)> = Vec::new();
    for (place, member) in members.iter().enumerate() {
        let (waiting, question) = member.outbox.waiting(limit);
        limit = question.map_or(limit, |epoch| limit.min(epoch - 1));
        entries.extend(waiting.into_iter().map(|(position, rows)| (place, position, rows)));
    }
    // Oldest first; of one epoch, each sink's in its own order.
    entries.sort_unstable_by_key(|(place, position, _)| (position.epoch, *place, *position));
    let mut until = None;
    let (mut at, mut rows) = (0, 0);
    for point in points.durable.lock().range(..=limit) {
        let more = entries[at..].iter().take_while(|(_, position, _)| position.epoch <= *point);
        let (count, sum) = more.fold((0, 0), |(count, sum), (_, _, rows)| (count + 1, sum + rows));
        if at > 0 && rows + sum > rows_max {
            break;
        }
        (at, rows, until) = (at + count, rows + sum, Some(*point));
    }
    entries.truncate(at);
    let epoch = until.filter(|_| !entries.is_empty())?;
    Some((entries, Position { epoch, vnode: u8::MAX, number: u64::MAX }))
}
