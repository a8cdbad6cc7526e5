//! Taps: where jobs meet. A tap hands a reader the sealed epochs of what it reads, on each worker for itself.
//!
//! What is published stays in the reader's inbox until the reader's job is given a target at or beyond its epoch. A
//! reader that is behind so gets several epochs at once.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use storage::{Batch, RelationId};

use crate::job::JobControl;

/// One published batch.
pub struct Delivery {
    /// Its epoch.
    pub epoch: u64,
    /// The changes.
    pub batch: Batch,
    /// For a source: which columns of it the batch has. `None`: all.
    pub projection: Option<Arc<Vec<usize>>>,
}

/// What waits for one reader on one worker.
pub struct Inbox {
    deliveries: VecDeque<Delivery>,
    reader: Arc<JobControl>,
}

impl Inbox {
    /// The inbox of one of `reader`'s leaves.
    pub fn new(reader: Arc<JobControl>) -> Inbox {
        Inbox { deliveries: VecDeque::new(), reader }
    }

    /// The oldest delivery if its epoch is at most `target`.
    pub fn pop(&mut self, target: u64) -> Option<Delivery> {
        if self.deliveries.front()?.epoch > target {
            return None;
        }
        let delivery = self.deliveries.pop_front()?;
        self.count(-(delivery.batch.num_rows() as i64));
        Some(delivery)
    }

    fn push(&mut self, delivery: Delivery) {
        self.count(delivery.batch.num_rows() as i64);
        self.deliveries.push_back(delivery);
    }

    fn count(&self, rows: i64) {
        self.reader.rows_waiting.fetch_add(rows, Ordering::Relaxed);
        self.reader.clock.rows_waiting.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let rows: usize = self.deliveries.iter().map(|d| d.batch.num_rows()).sum();
        self.count(-(rows as i64));
    }
}

/// The readers of each relation on this worker.
#[derive(Default, Clone)]
pub struct Taps {
    readers: Rc<RefCell<HashMap<RelationId, Vec<std::rc::Weak<RefCell<Inbox>>>>>>,
}

impl Taps {
    /// From now on `inbox` gets what is published of `relation` on this worker.
    pub fn subscribe(&self, relation: RelationId, inbox: &Rc<RefCell<Inbox>>) {
        self.readers.borrow_mut().entry(relation).or_default().push(Rc::downgrade(inbox));
    }

    /// Hands `batch` to every reader of `relation`.
    pub fn publish(&self, relation: RelationId, epoch: u64, batch: &Batch, projection: Option<&Arc<Vec<usize>>>) {
        let mut readers = self.readers.borrow_mut();
        let Some(inboxes) = readers.get_mut(&relation) else { return };
        inboxes.retain(|inbox| match inbox.upgrade() {
            Some(inbox) => {
                inbox.borrow_mut().push(Delivery { epoch, batch: batch.clone(), projection: projection.cloned() });
                true
            }
            None => false,
        });
    }
}
