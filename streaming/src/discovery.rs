//! Looks for new splits of the sources, and for the ends of the old ones, on a thread of its own.
//!
//! A new split gets a number and is read once a checkpoint holds that number: what was visible of a split is remembered
//! by it, and a server that starts again must find the same splits under the same numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use storage::RelationId;

use crate::coordinator::{Coordinator, Stage};
use crate::event_time::Progress;
use crate::job::{JobControl, SplitState};
use crate::source::Split;

/// How often the sources are looked after.
const DISCOVERY_TICK: Duration = Duration::from_millis(500);

/// Starts the thread; it ends with the engine, or soon after `stop` is set.
pub fn start(coordinator: &Arc<Coordinator>, stop: Arc<AtomicBool>) {
    let coordinator = Arc::downgrade(coordinator);
    let look = move || {
        let mut looked: BTreeMap<RelationId, Instant> = BTreeMap::new();
        while !stop.load(Ordering::Acquire) {
            std::thread::sleep(DISCOVERY_TICK);
            let Some(engine) = coordinator.upgrade() else { return };
            let controls: Vec<Arc<JobControl>> = engine
                .state
                .lock()
                .jobs
                .values()
                .filter(|job| job.control.source.is_some() && job.stage == Stage::Running)
                .map(|job| job.control.clone())
                .collect();
            // Asking outside systems may take long: the store must not wait for it to be closed.
            drop(engine);
            for control in controls {
                look_for_ends(&control);
                let source = control.source.as_ref().expect("a source job");
                let Some(interval) = source.source.discovery_interval() else { continue };
                if looked.get(&control.relation).is_some_and(|at| at.elapsed() < interval) {
                    continue;
                }
                looked.insert(control.relation, Instant::now());
                if look_for_splits(&control) && !read_new_splits(&coordinator, &control) {
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("discovery".into()).spawn(look).expect("the system has a thread to spare");
}

/// Adds a split to a source and lets it be read once a checkpoint holds it; false if the engine has stopped.
pub fn add_split(coordinator: &Arc<Coordinator>, control: &JobControl, split: Split) -> bool {
    let source = control.source.as_ref().expect("a source job");
    let is_new = {
        let mut splits = source.splits.lock();
        let is_new = !splits.iter().any(|known| known.id == split.id);
        if is_new {
            let number = splits.iter().map(|split| split.number + 1).max().unwrap_or(0);
            splits.push(new_split(split, number));
        }
        is_new || splits.len() > source.durable_splits.load(Ordering::Acquire)
    };
    !is_new || read_new_splits(&Arc::downgrade(coordinator), control)
}

/// Lets a source's new splits be read once a checkpoint holds them; false if the engine has stopped.
fn read_new_splits(coordinator: &Weak<Coordinator>, control: &JobControl) -> bool {
    let source = control.source.as_ref().expect("a source job");
    let splits = source.splits.lock().len();
    // The checkpoint that is under way may have taken the source's splits before these were found.
    for _ in 0..2 {
        let Some(coordinator) = coordinator.upgrade() else { return false };
        let durable = coordinator.drop_jobs(&[], Vec::new());
        drop(coordinator);
        if !matches!(durable.blocking_recv(), Ok(Ok(()))) {
            return false;
        }
    }
    source.durable_splits.fetch_max(splits, Ordering::AcqRel);
    source.version.fetch_add(1, Ordering::AcqRel);
    control.wake();
    true
}

/// Asks for the ends of a source's splits.
fn look_for_ends(control: &JobControl) {
    let source = control.source.as_ref().expect("a source job");
    let known: Vec<String> = source.splits.lock().iter().map(|split| split.id.clone()).collect();
    for id in &known {
        let end = source.source.end(id);
        if let Some(split) = source.splits.lock().iter_mut().find(|split| split.id == *id) {
            match end {
                Ok(end) => (split.end, split.end_error) = (end, None),
                Err(error) => split.end_error = Some(error.to_string()),
            }
        }
    }
}

/// Adds splits that are new; true if there are some that no checkpoint holds.
fn look_for_splits(control: &JobControl) -> bool {
    let source = control.source.as_ref().expect("a source job");
    let found = match source.source.splits() {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(source = control.name, "cannot look for new splits: {error}");
            Vec::new()
        }
    };
    let mut splits = source.splits.lock();
    for split in found {
        if !splits.iter().any(|known| known.id == split.id) {
            let number = splits.iter().map(|split| split.number + 1).max().unwrap_or(0);
            splits.push(new_split(split, number));
        }
    }
    splits.len() > source.durable_splits.load(Ordering::Acquire)
}

/// A split that nothing was read of yet.
pub fn new_split(split: Split, number: u16) -> SplitState {
    SplitState {
        id: split.id,
        number,
        start: split.start,
        offset: split.start,
        progress: Progress::default(),
        idle: false,
        last_record: None,
        replay_until: split.start,
        end: None,
        error: None,
        end_error: None,
    }
}
