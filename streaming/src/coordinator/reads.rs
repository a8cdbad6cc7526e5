//! Who reads: at one epoch, after a flush, or as a subscriber.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use storage::{Batch, Epoch, RelationId, RelationSnapshot};
use tokio::sync::oneshot;

use super::exact;
use super::followed::{Job, Stage};
use super::{Coordinator, State};
use crate::error::{Error, Result};
use crate::job::{Changes, Subscriber};

/// Reads that make jobs meet for the next read, at once.
const WISHES_MAX: usize = 16;

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
    /// Whether it got less than what each of its relations has.
    pub(super) stale: bool,
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
        let relations = relations.to_vec();
        let mut reader = Reader { relations, at_least, pin: None, taken: BTreeMap::new(), stale: false, send: None };
        reader.relations.sort_unstable();
        reader.relations.dedup();
        if let Some(view) = Self::try_read(&state, &mut reader)? {
            if reader.stale {
                let wish = exact::wish(&exact::all_upstreams(&state, &reader.relations));
                Self::take_wishes(&mut state, vec![wish]);
                drop(state);
                self.clock.notify.notify();
            }
            return Ok(Ok(view));
        }
        let (send, receive) = oneshot::channel();
        reader.send = Some(send);
        state.readers.push(reader);
        Self::set_pins(&mut state);
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
                && !failed.spec.is_aside(*id)
            {
                let why = failed.failures.last.clone().or(failed.control.error.lock().clone()).unwrap_or_default();
                return Err(Error::Failed(format!("\"{}\" has failed: {why}", failed.spec.name)));
            }
            let relation = job
                .relation_of(*id)
                .ok_or_else(|| Error::Unsupported(format!("\"{}\" keeps no rows", job.spec.name)))?;
            frontiers.push((*id, job.frontier, relation));
        }
        let jobs = exact::all_upstreams(state, &reader.relations);
        let at_least = reader.at_least.max(state.floor);
        if reader.pin.is_none() {
            let oldest = frontiers.iter().map(|(_, f, _)| *f).min().unwrap_or(state.sealed);
            let newest = exact::newest(&jobs, oldest).filter(|epoch| *epoch >= at_least);
            if let Some(epoch) = newest {
                let snapshots = frontiers.iter().map(|(id, _, relation)| Ok((*id, relation.snapshot(Epoch(epoch))?)));
                // Too far back by now for one of them: they will have to meet again.
                if let Ok(relations) = snapshots.collect::<Result<_>>() {
                    reader.stale = epoch < oldest;
                    return Ok(Some(ReadView { epoch: Epoch(epoch), relations }));
                }
            }
        }
        let newest = frontiers.iter().map(|(_, f, _)| *f).max().unwrap_or(state.sealed);
        let meeting = exact::meeting(&jobs).max(newest).max(at_least);
        let pin = *reader.pin.get_or_insert(meeting);
        for (id, _, relation) in &frontiers {
            if reader.taken.contains_key(id) {
                continue;
            }
            let jobs = exact::all_upstreams(state, &[*id]);
            if !exact::have_come(&jobs, pin) {
                continue;
            }
            match relation.snapshot(Epoch(pin)) {
                Ok(snapshot) if exact::newest(&jobs, pin) == Some(pin) => drop(reader.taken.insert(*id, snapshot)),
                // One that it reads was recreated or has failed meanwhile: all meet somewhere else.
                _ => {
                    reader.taken.clear();
                    reader.pin = Some(meeting.max(pin + 1));
                    return Ok(None);
                }
            }
        }
        if reader.taken.len() < reader.relations.len() {
            return Ok(None);
        }
        Ok(Some(ReadView { epoch: Epoch(pin), relations: std::mem::take(&mut reader.taken) }))
    }

    /// Answers the readers whose epoch has come.
    pub(super) fn answer(&self, state: &mut State) {
        let pins = state.pins.clone();
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
        let jobs = &state.jobs;
        state.wishes.retain(|(epoch, ids)| {
            let behind =
                |id: &RelationId| jobs.get(id).is_some_and(|j| j.stage != Stage::Failed && j.frontier < *epoch);
            ids.iter().any(behind)
        });
        Self::set_pins(state);
        // Who stopped there goes on.
        if state.pins != pins {
            self.clock.notify.notify();
        }
    }

    /// Lets jobs meet, unless they are about to.
    pub(super) fn take_wishes(state: &mut State, wishes: Vec<(u64, Vec<RelationId>)>) {
        for wish in wishes {
            if state.wishes.len() < WISHES_MAX && !state.wishes.iter().any(|(_, jobs)| *jobs == wish.1) {
                state.wishes.push(wish);
            }
        }
        Self::set_pins(state);
    }

    /// Makes the jobs stop at every epoch that a reader waits for, and lets the epochs come that are not even open yet.
    fn set_pins(state: &mut State) {
        let waits = state.readers.iter().filter_map(|reader| reader.pin);
        state.pins = waits.chain(state.wishes.iter().map(|(epoch, _)| *epoch)).collect();
        if state.pins.last().is_some_and(|pin| *pin > state.sealed) {
            state.force_seal = true;
        }
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
        let follows = |job: &&Job| matches!(job.stage, Stage::Running | Stage::Resuming);
        // What waits for room in a full outbox waits for its target, which nobody else should; nor for a group's other sinks.
        let at = |job: &Job| if job.is_full() || job.group().is_some() { job.frontier } else { job.reached() };
        let visible = state.jobs.values().filter(follows).map(at).min().unwrap_or(state.sealed);
        let complete = visible.min(state.durable);
        let is_over = |flush: &mut Flush| flush.epoch.is_some_and(|epoch| epoch <= complete);
        let over: Vec<Flush> = state.flushes.extract_if(.., is_over).collect();
        for flush in over {
            // Each view has it, but the newest epoch at which two of them were both exact may be an older one.
            state.floor = state.floor.max(flush.epoch.unwrap_or(0));
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
        let mut wishes = Vec::new();
        for job in state.jobs.values() {
            let mut subscribers = job.control.subscribers.lock();
            if subscribers.is_empty() {
                continue;
            }
            let jobs = exact::all_upstreams(state, &[job.spec.relation]);
            let newest = exact::newest(&jobs, job.frontier).unwrap_or(0);
            if newest < job.frontier {
                wishes.push(exact::wish(&jobs));
            }
            subscribers.retain(|subscriber| deliver(subscriber, newest));
        }
        Self::take_wishes(state, wishes);
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
