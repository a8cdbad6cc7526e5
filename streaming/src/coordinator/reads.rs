//! Who reads: at one epoch, after a flush, or as a subscriber.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use storage::{Batch, Epoch, RelationId, RelationSnapshot};
use tokio::sync::oneshot;

use super::followed::{Job, Stage};
use super::{Coordinator, State};
use crate::error::{Error, Result};
use crate::job::{Changes, Subscriber};

/// Several relations as of one epoch.
pub struct ReadView {
    /// The epoch.
    pub epoch: Epoch,
    /// A snapshot per relation that was asked for.
    pub relations: BTreeMap<RelationId, RelationSnapshot>,
}

pub(super) struct Reader {
    pub(super) relations: Vec<RelationId>,
    pub(super) at_least: u64,
    pub(super) pin: Option<u64>,
    pub(super) taken: BTreeMap<RelationId, RelationSnapshot>,
    pub(super) send: Option<oneshot::Sender<Result<ReadView>>>,
}

pub(super) struct Flush {
    pub(super) epoch: Option<u64>,
    pub(super) send: oneshot::Sender<Result<Epoch>>,
}

impl Coordinator {
    /// Reads relations as of one epoch: at once if it has come.
    pub fn read(
        &self,
        relations: &[RelationId],
        at_least: u64,
    ) -> Result<std::result::Result<ReadView, oneshot::Receiver<Result<ReadView>>>> {
        let mut state = self.state.lock();
        let mut reader =
            Reader { relations: relations.to_vec(), at_least, pin: None, taken: BTreeMap::new(), send: None };
        reader.relations.sort_unstable();
        reader.relations.dedup();
        if let Some(view) = Self::try_read(&state, &mut reader)? {
            return Ok(Ok(view));
        }
        let (send, receive) = oneshot::channel();
        reader.send = Some(send);
        if let Some(pin) = reader.pin {
            state.pins.insert(pin);
        }
        state.readers.push(reader);
        drop(state);
        self.clock.notify.notify();
        Ok(Err(receive))
    }

    /// Every relation as of one epoch; `None` if that epoch has not come yet.
    fn try_read(state: &State, reader: &mut Reader) -> Result<Option<ReadView>> {
        let mut frontiers = Vec::new();
        for id in &reader.relations {
            let job = state
                .owner(*id)
                .ok_or_else(|| Error::NotFound(format!("relation {} does not exist any more", id.0)))?;
            if let Some(failed) = state.failed(*id)
                && *id != failed.spec.errors
            {
                let why = failed.control.error.lock().clone().unwrap_or_default();
                return Err(Error::Failed(format!("\"{}\" has failed: {why}", failed.spec.name)));
            }
            let relation = job
                .relation_of(*id)
                .ok_or_else(|| Error::Unsupported(format!("\"{}\" keeps no rows", job.spec.name)))?;
            frontiers.push((*id, job.frontier, relation));
        }
        let newest = frontiers.iter().map(|(_, f, _)| *f).max().unwrap_or(state.sealed);
        let oldest = frontiers.iter().map(|(_, f, _)| *f).min().unwrap_or(state.sealed);
        let epoch = match reader.pin {
            Some(pin) => pin,
            None if oldest >= reader.at_least => oldest,
            None => {
                // Wait for the newest, which the others will reach and stop at.
                reader.pin = (newest >= reader.at_least && reader.relations.len() > 1).then_some(newest);
                return Ok(None);
            }
        };
        for (id, frontier, relation) in &frontiers {
            if *frontier >= epoch && !reader.taken.contains_key(id) {
                match relation.snapshot(Epoch(epoch)) {
                    Ok(snapshot) => drop(reader.taken.insert(*id, snapshot)),
                    // Too far back by now: wait for the slower ones at the newest epoch.
                    Err(_) => {
                        reader.taken.clear();
                        reader.pin = Some(newest.max(reader.at_least));
                        return Ok(None);
                    }
                }
            }
        }
        if reader.taken.len() < reader.relations.len() {
            reader.pin = Some(epoch);
            return Ok(None);
        }
        Ok(Some(ReadView { epoch: Epoch(epoch), relations: std::mem::take(&mut reader.taken) }))
    }

    /// Answers the readers whose epoch has come.
    pub(super) fn answer(&self, state: &mut State) {
        let mut readers = std::mem::take(&mut state.readers);
        readers.retain_mut(|reader| {
            if reader.send.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return false;
            }
            match Self::try_read(state, reader) {
                Ok(None) => true,
                Ok(Some(view)) => {
                    let _ = reader.send.take().expect("open").send(Ok(view));
                    false
                }
                Err(error) => {
                    let _ = reader.send.take().expect("open").send(Err(error));
                    false
                }
            }
        });
        state.readers = readers;
        state.pins = state.readers.iter().filter_map(|reader| reader.pin).collect();
    }

    /// Resolves when everything that has come in is visible and durable.
    pub fn flush(&self) -> oneshot::Receiver<Result<Epoch>> {
        let (send, receive) = oneshot::channel();
        let mut state = self.state.lock();
        state.flushes.push(Flush { epoch: None, send });
        state.force_seal = true;
        state.want_checkpoint = true;
        drop(state);
        self.clock.notify.notify();
        receive
    }

    /// Answers who waits for all that had come in: it is durable, and every view has it.
    pub(super) fn answer_flushes(state: &mut State) {
        let follows = |job: &&Job| job.stage == Stage::Running;
        let visible = state.jobs.values().filter(follows).map(|job| job.frontier).min().unwrap_or(state.sealed);
        let complete = visible.min(state.durable);
        let is_over = |flush: &mut Flush| flush.epoch.is_some_and(|epoch| epoch <= complete);
        for flush in state.flushes.extract_if(.., is_over) {
            let _ = flush.send.send(Ok(Epoch(complete)));
        }
    }

    /// Registers a reader of a relation's changes.
    pub fn subscribe(
        &self,
        relation: RelationId,
        changes: tokio::sync::mpsc::Sender<Changes>,
    ) -> Result<Arc<Subscriber>> {
        let state = self.state.lock();
        let job = state.owner(relation).ok_or_else(|| Error::NotFound("the relation does not exist".into()))?;
        let subscriber = Arc::new(Subscriber {
            inbox: Mutex::new(VecDeque::new()),
            relation,
            delivered: std::sync::atomic::AtomicU64::new(u64::MAX),
            changes,
        });
        job.control.subscribers.lock().push(subscriber.clone());
        Ok(subscriber)
    }

    /// The epoch that a relation must reach so that everything begun before this call is complete.
    pub fn in_flight(&self, relation: RelationId) -> u64 {
        let mut state = self.state.lock();
        state.force_seal = true;
        let epoch = state.owner(relation).map_or(0, |job| job.busy.unwrap_or(job.frontier).max(job.frontier));
        let input = state.owner(relation).is_some_and(Job::is_input);
        let epoch = if input { epoch.max(state.sealed + 1) } else { epoch };
        drop(state);
        self.clock.notify.notify();
        epoch
    }

    /// Hands changes to the readers outside.
    pub(super) fn publish(&self, state: &mut State) {
        for job in state.jobs.values() {
            let mut subscribers = job.control.subscribers.lock();
            subscribers.retain(|subscriber| deliver(subscriber, job.frontier));
        }
    }
}

/// Hands a reader everything up to `frontier`; false when it has gone.
fn deliver(subscriber: &Subscriber, frontier: u64) -> bool {
    let delivered = subscriber.delivered.load(Ordering::Acquire);
    if subscriber.changes.is_closed() {
        return false;
    }
    if delivered >= frontier {
        return true;
    }
    // No room: it gets more at once later.
    let Ok(permit) = subscriber.changes.try_reserve() else { return true };
    let mut batches: Vec<Batch> = Vec::new();
    let mut inbox = subscriber.inbox.lock();
    while inbox.front().is_some_and(|(epoch, _)| *epoch <= frontier) {
        let (epoch, batch) = inbox.pop_front().expect("the front");
        if epoch > delivered {
            batches.push(batch);
        }
    }
    drop(inbox);
    subscriber.delivered.store(frontier, Ordering::Release);
    permit.send(Changes { epoch: Epoch(frontier), batches });
    true
}
