//! Taps: where jobs meet. A tap hands a reader the sealed epochs of what it reads, on each worker for itself.
//!
//! What is published stays in the reader's inbox until the reader's job is given a target at or beyond its epoch. A
//! reader that is behind so gets several epochs at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use storage::{Batch, RelationId};

use crate::inbox::Inbox;

/// The readers of each relation on this worker.
#[derive(Default, Clone)]
pub struct Taps {
    readers: Rc<RefCell<HashMap<RelationId, Vec<Weak<RefCell<Inbox>>>>>>,
}

impl Taps {
    /// From now on `inbox` gets what is published of `relation` on this worker.
    pub fn subscribe(&self, relation: RelationId, inbox: &Rc<RefCell<Inbox>>) {
        self.readers.borrow_mut().entry(relation).or_default().push(Rc::downgrade(inbox));
    }

    /// Hands `batch` to every reader of `relation`; `projection` says which of its columns it has, if not all.
    pub fn publish(&self, relation: RelationId, epoch: u64, batch: &Batch, projection: Option<&[usize]>) {
        self.hand_out(relation, epoch, batch, projection, false);
    }

    /// Hands `batch` to every reader of the history of `relation`.
    pub fn publish_history(&self, relation: RelationId, epoch: u64, batch: &Batch) {
        self.hand_out(relation, epoch, batch, None, true);
    }

    fn hand_out(&self, relation: RelationId, epoch: u64, batch: &Batch, projection: Option<&[usize]>, history: bool) {
        let mut readers = self.readers.borrow_mut();
        let Some(inboxes) = readers.get_mut(&relation) else { return };
        inboxes.retain(|inbox| match inbox.upgrade() {
            Some(inbox) => {
                let mut inbox = inbox.borrow_mut();
                if inbox.history == history {
                    inbox.push(epoch, batch, projection);
                }
                true
            }
            None => false,
        });
    }

    /// Takes back what was published of `relation` after `epoch`: no reader was given a target beyond it.
    pub fn retract(&self, relation: RelationId, epoch: u64) {
        let readers = self.readers.borrow();
        for inbox in readers.get(&relation).into_iter().flatten().filter_map(Weak::upgrade) {
            inbox.borrow_mut().forget_after(epoch);
        }
    }

    /// Rows that wait for the reader of `relation` that is least behind; 0 without readers.
    pub fn rows_waiting(&self, relation: RelationId) -> usize {
        let readers = self.readers.borrow();
        let inboxes = readers.get(&relation).into_iter().flatten().filter_map(Weak::upgrade);
        inboxes.map(|inbox| inbox.borrow().rows()).min().unwrap_or(0)
    }
}
