//! Runs tasks under timely: the only file that does.
//!
//! ```text
//!  time = epoch << 24 | segment            segments exist for flow control only; no task sees them
//!
//!  leaf      hands out what it has up to the target T, segment by segment; a window of unfinished segments, counted
//!            by the job's probe, keeps it from running ahead. Then it moves on to T + 1.
//!  operator  stashes its input by epoch, applies the oldest open epoch eagerly, seals T once the frontier has passed T.
//!            It holds one capability at (T, last segment) until then, and speaks with it at the seal.
//! ```
//!
//! Quotas bound what one activation applies and emits, so that a step stays short and queues stay small. A panic or an
//! error of a task stops the job, never the worker.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use storage::table::DirtyHandle;
use storage::{Batch, Epoch};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::InputHandleCore;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::{Scope, Stream};

use crate::dataflow::{Parcel, Router};
use crate::job::JobControl;
use crate::memory::Counted;
use crate::operator::{Exchange, Output, Progress, RowError, StateSize, Task};

/// Bits of a time that number the segments of an epoch.
const SEGMENT_BITS: u32 = 24;
/// The last segment of an epoch: what is said at the seal.
const SEGMENT_LAST: u64 = (1 << SEGMENT_BITS) - 1;
/// Unfinished segments that a leaf may have.
const SEGMENTS_IN_FLIGHT_MAX: usize = 16;
/// Batches in a segment.
const SEGMENT_BATCHES: usize = 4;
/// Batches that an operator applies in one activation.
const ACTIVATION_BATCHES_MAX: usize = 32;
/// How long an operator may go on in one activation, to the end of the batch that it is at: others wait for the thread.
const ACTIVATION_TIME_MAX: Duration = Duration::from_millis(5);
/// Rows after which an operator's state is measured, at least: it may grow a lot before the next checkpoint.
const MEASURED_ROWS: u64 = 65_536;
/// How long a leaf that may not go on waits before it looks again.
const LEAF_PAUSE: Duration = Duration::from_micros(500);
/// How long a seal that waits for something outside waits before it looks again, should nobody wake it.
const SEAL_PAUSE: Duration = Duration::from_millis(20);

/// The first moment of an epoch.
pub fn time(epoch: u64, segment: u64) -> u64 {
    epoch << SEGMENT_BITS | segment
}

/// The epoch of a time.
pub fn epoch_of(time: u64) -> u64 {
    time >> SEGMENT_BITS
}

type Input<P> = InputHandleCore<u64, Parcel, P>;
type PipelinePuller = <Pipeline as timely::dataflow::channels::pact::ParallelizationContract<u64, Parcel>>::Puller;
type ExchangePuller =
    timely::dataflow::channels::pact::LogPuller<Box<dyn timely::communication::Pull<Message<u64, Parcel>>>>;

enum AnyInput {
    Pipeline(Input<PipelinePuller>),
    Exchange(Input<ExchangePuller>),
}

/// What all operators of a job share on one worker.
#[derive(Clone)]
pub struct JobContext {
    /// The job.
    pub job: Arc<JobControl>,
    /// This worker.
    pub worker: usize,
    /// The number of workers.
    pub workers: usize,
    /// Rows that failed in the epoch; the root publishes them.
    pub errors: Rc<RefCell<Vec<RowError>>>,
    /// Rows that were late, by epoch; the root publishes them.
    pub late: Rc<RefCell<Vec<(u64, Batch)>>>,
    /// What a table's rows were from when on, by epoch; the root publishes it.
    pub history: Rc<RefCell<Vec<(u64, Batch)>>>,
    /// Counts unfinished segments.
    pub probe: ProbeHandle<u64>,
}

/// Something that hands out batches: a reader of a tap, of a source, of a table.
pub trait Leaf {
    /// The epoch in which the leaf wants to emit now, if it has something. `target` is the epoch in flight, or the
    /// last one (`sealed`) if none is.
    fn next(&mut self, target: u64, sealed: u64) -> Next;

    /// The epochs up to `target` are handed out; at a `checkpoint` what still waits is put into the leaf's state.
    fn sealed(&mut self, _target: u64, _checkpoint: bool) -> crate::Result<()> {
        Ok(())
    }
}

/// What a leaf says when it is asked.
pub enum Next {
    /// This batch, in this epoch.
    Batch(u64, Batch),
    /// Nothing more up to the target; the leaf's wake-up comes from outside.
    Nothing,
    /// Nothing now, but ask again soon.
    Later,
    /// The job cannot go on.
    Failed(String),
}

/// Adds a leaf to the dataflow. `make` gets a function that wakes the leaf from any thread.
pub fn leaf<'s>(
    scope: Scope<'s, u64>,
    name: &str,
    ctx: JobContext,
    dirty: Vec<DirtyHandle>,
    make: impl FnOnce(Arc<dyn Fn() + Send + Sync>) -> Box<dyn Leaf>,
) -> Stream<'s, u64, Parcel> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let info = builder.operator_info();
    let (output, stream) = builder.new_output::<Parcel>();
    let mut output = OutputBuilder::<u64, CapacityContainerBuilder<Parcel>>::from(output);
    let wake = waker(scope, info.address.to_vec());
    let local = scope.worker().activator_for(info.address.clone());
    ctx.job.wakers.lock().push(wake.clone());
    let mut leaf = make(wake);
    // What it was told before it could be woken.
    local.activate();
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop().expect("one output");
        let mut sealed = 0u64;
        let mut segments: VecDeque<u64> = VecDeque::new();
        let mut in_segment = 0;
        move |_frontiers| {
            let job = &ctx.job;
            if job.failed.load(Ordering::Acquire) {
                return;
            }
            let target = job.target.load(Ordering::Acquire);
            let mut quota = ACTIVATION_BATCHES_MAX;
            loop {
                while segments.front().is_some_and(|t| !ctx.probe.less_equal(t)) {
                    segments.pop_front();
                }
                if quota == 0 {
                    local.activate();
                    return;
                }
                if segments.len() >= SEGMENTS_IN_FLIGHT_MAX {
                    local.activate_after(LEAF_PAUSE);
                    return;
                }
                quota -= 1;
                match guard(job, || Ok(leaf.next(target, sealed))) {
                    Some(Next::Batch(epoch, batch)) => {
                        if epoch_of(*capability.time()) < epoch {
                            capability.downgrade(&time(epoch, 0));
                            in_segment = 0;
                        }
                        job.rows_in.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                        output.activate().session(&capability).give_container(&mut Parcel::new(batch));
                        in_segment += 1;
                        if in_segment == SEGMENT_BATCHES && *capability.time() & SEGMENT_LAST < SEGMENT_LAST - 1 {
                            segments.push_back(*capability.time());
                            let next = *capability.time() + 1;
                            capability.downgrade(&next);
                            in_segment = 0;
                        }
                    }
                    Some(Next::Nothing) => break,
                    Some(Next::Later) => {
                        local.activate_after(LEAF_PAUSE);
                        return;
                    }
                    Some(Next::Failed(message)) => return job.fail(message),
                    None => return,
                }
            }
            if target > sealed {
                sealed = target;
                let checkpoint = job.cut.load(Ordering::Acquire) == target;
                if guard(job, || leaf.sealed(target, checkpoint)).is_none() {
                    return;
                }
                if checkpoint {
                    job.cut_runs.lock().extend(dirty.iter().filter_map(DirtyHandle::take));
                }
                if epoch_of(*capability.time()) <= target {
                    capability.downgrade(&time(target + 1, 0));
                    in_segment = 0;
                    segments.clear();
                }
                // What came for the next epoch meanwhile.
                local.activate();
            }
        }
    });
    stream
}

/// A function that schedules an operator from any thread.
fn waker(scope: Scope<'_, u64>, address: Vec<usize>) -> Arc<dyn Fn() + Send + Sync> {
    let activator = std::sync::Mutex::new(scope.worker().sync_activator_for(address));
    Arc::new(move || {
        // A worker that has gone needs no waking.
        let _ = activator.lock().expect("never poisoned").activate();
    })
}

/// Adds an operator to the dataflow: node `node` of the plan, fed by the nodes `from`.
pub fn operator<'s>(
    scope: Scope<'s, u64>,
    name: &str,
    (node, from): (usize, &[usize]),
    ctx: JobContext,
    inputs: Vec<(Stream<'s, u64, Parcel>, Exchange)>,
    mut task: Box<dyn Task>,
    dirty: Vec<DirtyHandle>,
) -> Stream<'s, u64, Parcel> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut handles = Vec::new();
    let from = from.to_vec();
    for (stream, exchange) in inputs {
        handles.push(match exchange {
            _ if ctx.workers == 1 => AnyInput::Pipeline(builder.new_input(stream, Pipeline)),
            Exchange::Same => AnyInput::Pipeline(builder.new_input(stream, Pipeline)),
            Exchange::Broadcast => {
                let copies = broadcast(scope, stream, ctx.workers);
                AnyInput::Exchange(
                    builder
                        .new_input(copies, DistributorPact(|workers: usize| Router::new(Exchange::Broadcast, workers))),
                )
            }
            exchange => AnyInput::Exchange(
                builder.new_input(stream, DistributorPact(move |workers: usize| Router::new(exchange, workers))),
            ),
        });
    }
    let info = builder.operator_info();
    let (output, stream) = builder.new_output::<Parcel>();
    let mut output = OutputBuilder::<u64, CapacityContainerBuilder<Parcel>>::from(output);
    let local = scope.worker().activator_for(info.address.clone());
    // A new target lets the operator give up what it held for the open epoch, which lets the leaf go on.
    ctx.job.wakers.lock().push(waker(scope, info.address.to_vec()));
    builder.build(move |mut capabilities| {
        let mut held: Capability<u64> = capabilities.pop().expect("one output");
        let mut sealed = 0u64;
        let mut stash: BTreeMap<u64, VecDeque<(usize, Capability<u64>, Batch)>> = BTreeMap::new();
        let mut resuming: Option<Capability<u64>> = None;
        let mut out = Output::default();
        let mut counted = Counted::new(ctx.job.memory.clone());
        // Rows applied since the state was measured, and what it was then.
        let (mut since, mut size) = (0, StateSize::default());
        move |frontiers| {
            for (input, handle) in handles.iter_mut().enumerate() {
                let mut take = |cap: timely::dataflow::operators::InputCapability<u64>, parcel: &mut Parcel| {
                    if let Some(batch) = std::mem::take(parcel).batch {
                        let cap = cap.retain(0);
                        stash.entry(epoch_of(*cap.time())).or_default().push_back((input, cap, batch));
                    }
                };
                match handle {
                    AnyInput::Pipeline(handle) => handle.for_each(&mut take),
                    AnyInput::Exchange(handle) => handle.for_each(&mut take),
                }
            }
            let job = &ctx.job;
            if job.failed.load(Ordering::Acquire) {
                stash.clear();
                return;
            }
            let target = job.target.load(Ordering::Acquire);
            if target > sealed && *held.time() < time(target, SEGMENT_LAST) {
                held.downgrade(&time(target, SEGMENT_LAST));
            }
            let mut emit = |out: &mut Output, cap: &Capability<u64>| {
                let mut errors = out.take_errors();
                if !errors.is_empty() {
                    ctx.errors.borrow_mut().append(&mut errors);
                }
                let batches = out.take_batches();
                if !batches.is_empty() {
                    let mut active = output.activate();
                    let mut session = active.session(cap);
                    for batch in batches {
                        session.give_container(&mut Parcel::new(batch));
                    }
                }
            };
            if let Some(cap) = resuming.take() {
                let Some(progress) = guard(job, || task.resume(&mut out)) else { return };
                emit(&mut out, &cap);
                if progress == Progress::More {
                    resuming = Some(cap);
                    local.activate();
                    return;
                }
            }
            let mut quota = ACTIVATION_BATCHES_MAX;
            let begun = Instant::now();
            while let Some(mut oldest) = stash.first_entry() {
                // While an epoch waits for its seal, younger ones wait in the stash.
                if target > sealed && *oldest.key() > target {
                    break;
                }
                while let Some((input, cap, batch)) = oldest.get_mut().pop_front() {
                    if quota == 0 || begun.elapsed() > ACTIVATION_TIME_MAX {
                        oldest.get_mut().push_front((input, cap, batch));
                        local.activate();
                        return;
                    }
                    quota -= 1;
                    let Some(progress) = guard(job, || task.apply(input, &batch, &mut out)) else { return };
                    emit(&mut out, &cap);
                    since += batch.num_rows() as u64;
                    if since > MEASURED_ROWS.max(size.rows / 2) {
                        size = task.state_size();
                        since = 0;
                        counted.set(size.bytes);
                        if let Some(message) = job.memory.stop_within_step() {
                            return job.fail_of_memory(message);
                        }
                    }
                    if progress == Progress::More {
                        resuming = Some(cap);
                        local.activate();
                        return;
                    }
                }
                oldest.remove();
            }
            if target > sealed && frontiers.iter().all(|f| !f.less_than(&time(target + 1, 0))) {
                let checkpoint = job.cut.load(Ordering::Acquire) == target;
                let at = job.seal(Epoch(target), checkpoint, &from);
                let Some(progress) = guard(job, || task.seal(&at, &mut out)) else { return };
                emit(&mut out, &held);
                match progress {
                    Progress::Done => {}
                    Progress::More => return local.activate(),
                    Progress::Wait => return local.activate_after(SEAL_PAUSE),
                }
                if checkpoint {
                    let runs: Vec<_> = dirty.iter().filter_map(DirtyHandle::take).collect();
                    job.cut_runs.lock().extend(runs);
                    job.forgotten.lock().insert((node, ctx.worker), task.forgotten());
                }
                if checkpoint || since > MEASURED_ROWS.max(size.rows / 2) {
                    size = task.state_size();
                    since = 0;
                    counted.set(size.bytes);
                    if let Some(to) = job.memory.allowance(size.bytes) {
                        if guard(job, || task.evict(to)).is_none() {
                            return;
                        }
                        size = task.state_size();
                        counted.set(size.bytes);
                    }
                    job.sizes.lock().insert((node, ctx.worker), size);
                }
                sealed = target;
                held.downgrade(&time(target + 1, 0));
                if !stash.is_empty() {
                    local.activate();
                }
            }
        }
    });
    stream
}

/// Copies every parcel for every worker.
fn broadcast<'s>(scope: Scope<'s, u64>, stream: Stream<'s, u64, Parcel>, workers: usize) -> Stream<'s, u64, Parcel> {
    let mut builder = OperatorBuilder::new("broadcast".to_owned(), scope);
    let mut input = builder.new_input(stream, Pipeline);
    let (output, stream) = builder.new_output::<Parcel>();
    let mut output = OutputBuilder::<u64, CapacityContainerBuilder<Parcel>>::from(output);
    builder.build(move |capabilities| {
        drop(capabilities);
        move |_frontiers| {
            let mut active = output.activate();
            input.for_each(|cap, parcel| {
                let parcel = std::mem::take(parcel);
                let cap = cap.retain(0);
                let mut session = active.session(&cap);
                for worker in 0..workers {
                    session.give_container(&mut Parcel { worker: Some(worker), ..parcel.clone() });
                }
            });
        }
    });
    stream
}

/// Runs `act`; an error or a panic stops the job, and `None` comes back.
fn guard<R>(job: &JobControl, act: impl FnOnce() -> crate::Result<R>) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(result)) => Some(result),
        Ok(Err(error)) => {
            job.fail(error.to_string());
            None
        }
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "panic without a message".to_owned());
            job.fail(format!("internal error: {message}"));
            None
        }
    }
}
