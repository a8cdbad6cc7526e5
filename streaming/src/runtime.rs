//! The worker threads, and the commands that all of them follow in the same order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use storage::relation::RelationChanges;
use storage::table::TableId;
use storage::{DirtyHandle, Relation, RelationId, StateTable, Store};
use timely::dataflow::operators::probe::{Handle as ProbeHandle, Probe};
use timely::worker::Worker;

use crate::driver::{self, JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::event_time::Judge;
use crate::expr::Functions;
use crate::inbox::Inbox;
use crate::job::{JobControl, Start};
use crate::lookup::TaskLookups;
use crate::operator::{Operator, Output, Seal, Task, TaskContext};
use crate::operators::AnyOperator;
use crate::operators::materialize::Root;
use crate::operators::sink::SinkTask;
use crate::operators::source::SourceLeaf;
use crate::operators::table_source::TableLeaf;
use crate::operators::tap_reader::TapLeaf;
use crate::owed::{Owed, OwedTo};
use crate::spec::JobSpec;
use crate::tap::Taps;

/// Commands that may wait for a worker.
const COMMANDS_MAX: usize = 4096;
/// The stack of a worker. Pages that nothing touches cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// What every worker is told, in the same order.
#[derive(Clone)]
pub enum Command {
    /// Build the job's dataflow.
    Install(Arc<Installation>),
    /// Forget the job's dataflow and its state in memory.
    Remove(RelationId),
    /// Drop the dataflow of a job that has failed, but keep what waits for it.
    Halt(Arc<Halt>),
    /// Make the inboxes of such a job anew, for its next start.
    Park(Arc<Parking>),
    /// Put what waits for such a job into the checkpoint under way: by node, up to which epoch.
    Store {
        /// The job.
        relation: RelationId,
        /// The limits.
        limits: Arc<HashMap<usize, u64>>,
        /// Who has.
        acknowledged: Arc<Acknowledged>,
    },
    /// Leave.
    Stop,
}

/// What a worker needs to build a job's dataflow.
pub struct Installation {
    /// The job.
    pub spec: JobSpec,
    /// Its shared part.
    pub control: Arc<JobControl>,
    /// The relation that it keeps; `None` for a source.
    pub relation: Option<Arc<Relation>>,
    /// The relation of its errors.
    pub errors: Arc<Relation>,
    /// The relation of its late rows.
    pub late: Option<Arc<Relation>>,
    /// The store that its state tables are in.
    pub store: Arc<Store>,
    /// The SQL functions.
    pub functions: Arc<dyn Functions>,
    /// It starts again, with the inboxes that it was parked with.
    pub again: bool,
}

/// How many workers have done something, and what was wrong.
#[derive(Debug, Default)]
pub struct Acknowledged {
    workers: AtomicUsize,
    /// The first error.
    pub error: Mutex<Option<String>>,
}

impl Acknowledged {
    /// Whether all have.
    pub fn is_complete(&self, workers: usize) -> bool {
        self.workers.load(Ordering::Acquire) == workers
    }

    fn by(&self, result: Result<()>) {
        if let Err(error) = result {
            self.error.lock().get_or_insert(error.to_string());
        }
        self.workers.fetch_add(1, Ordering::AcqRel);
    }
}

/// A job that has failed.
pub struct Halt {
    /// The job.
    pub relation: RelationId,
    /// What it publishes.
    pub published: Vec<RelationId>,
    /// What was published after this epoch is taken back.
    pub after: u64,
    /// Who has.
    pub acknowledged: Arc<Acknowledged>,
}

/// What a job that has failed starts again with.
pub struct Parking {
    /// The job, with its shared part for the next start.
    pub installation: Installation,
    /// By node of a tap reader.
    pub taps: HashMap<usize, ParkedTap>,
    /// What it has published since its state, besides what is owed already.
    pub owed: Vec<(OwedTo, RelationChanges)>,
    /// Who has.
    pub acknowledged: Arc<Acknowledged>,
}

/// What an inbox gets behind what the last checkpoint has of it.
pub struct ParkedTap {
    /// What came of epochs after this one is in the inbox that the job had; `None` if it had none.
    pub after: Option<u64>,
    /// What came before, by the epoch up to which.
    pub changes: Vec<(u64, RelationChanges)>,
}

/// The worker threads.
pub struct Runtime {
    commands: Mutex<Vec<Sender<Command>>>,
    threads: Vec<std::thread::Thread>,
    guards: Mutex<Option<timely::communication::WorkerGuards<()>>>,
}

impl Runtime {
    /// Starts `workers` threads.
    pub fn start(workers: usize) -> Result<Runtime> {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..workers {
            let (send, receive) = bounded::<Command>(COMMANDS_MAX);
            senders.push(send);
            receivers.push(Mutex::new(Some(receive)));
        }
        let (ready, threads) = bounded(workers);
        let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
        let guards = timely::execute(config, move |worker| {
            let commands = receivers[worker.index()].lock().take().expect("one start a worker");
            let _ = ready.send((worker.index(), std::thread::current()));
            // Expressions are computed as deep as they were written.
            stacker::grow(STACK_BYTES, || run(worker, &commands));
        })
        .map_err(Error::Failed)?;
        let mut threads: Vec<_> = (0..workers).map(|_| threads.recv().expect("every worker starts")).collect();
        threads.sort_by_key(|(index, _)| *index);
        let threads = threads.into_iter().map(|(_, thread)| thread).collect();
        Ok(Runtime { commands: Mutex::new(senders), threads, guards: Mutex::new(Some(guards)) })
    }

    /// Tells every worker, after everything that was told before.
    pub fn send(&self, command: Command) {
        for sender in self.commands.lock().iter() {
            // A worker that has left needs no commands.
            let _ = sender.send(command.clone());
        }
        self.threads.iter().for_each(std::thread::Thread::unpark);
    }

    /// Stops the workers and waits for them.
    pub fn stop(&self) {
        self.send(Command::Stop);
        if let Some(guards) = self.guards.lock().take() {
            for result in guards.join() {
                if let Err(error) = result {
                    tracing::error!("a worker ended with an error: {error}");
                }
            }
        }
    }
}

struct Installed {
    dataflow: usize,
    control: Arc<JobControl>,
    probe: ProbeHandle<u64>,
    reported: u64,
    inboxes: Inboxes,
}

type Inboxes = HashMap<usize, Rc<RefCell<Inbox>>>;

/// A job on its way to its next start, on this worker.
#[derive(Default)]
struct Parked {
    inboxes: HashMap<usize, (Rc<RefCell<Inbox>>, DirtyHandle)>,
    owed: Option<(StateTable, DirtyHandle)>,
    control: Option<Arc<JobControl>>,
}

fn run(worker: &mut Worker, commands: &Receiver<Command>) {
    let taps = Taps::default();
    let mut jobs: HashMap<RelationId, Installed> = HashMap::new();
    let mut halted: HashMap<RelationId, Inboxes> = HashMap::new();
    let mut parked: HashMap<RelationId, Parked> = HashMap::new();
    loop {
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Install(installation) => {
                    let control = installation.control.clone();
                    let from = parked.remove(&control.relation).filter(|_| installation.again).unwrap_or_default();
                    let (installed, failed) = install(worker, &taps, &installation, from);
                    jobs.insert(control.relation, installed);
                    if let Some(error) = failed {
                        control.fail(error.to_string());
                    }
                    control.installed.fetch_add(1, Ordering::AcqRel);
                    control.clock.notify.notify();
                }
                Command::Halt(halt) => {
                    if let Some(job) = jobs.remove(&halt.relation) {
                        worker.drop_dataflow(job.dataflow);
                        halted.insert(halt.relation, job.inboxes);
                    }
                    halt.published.iter().for_each(|id| taps.retract(*id, halt.after));
                    halt.acknowledged.by(Ok(()));
                    notify(&jobs, &parked);
                }
                Command::Park(parking) => {
                    let job = &parking.installation;
                    let old = halted.remove(&job.spec.relation).unwrap_or_default();
                    let result = park(worker.index(), worker.peers(), &taps, &parking, &old);
                    parking.acknowledged.by(result.map(|new| drop(parked.insert(job.spec.relation, new))));
                    job.control.clock.notify.notify();
                }
                Command::Store { relation, limits, acknowledged } => {
                    let result = parked.get(&relation).map_or(Ok(()), |job| store(job, &limits));
                    acknowledged.by(result);
                    notify(&jobs, &parked);
                }
                Command::Remove(relation) => {
                    halted.remove(&relation);
                    parked.remove(&relation);
                    if let Some(job) = jobs.remove(&relation) {
                        worker.drop_dataflow(job.dataflow);
                    }
                }
                Command::Stop => {
                    for (_, job) in jobs.drain() {
                        worker.drop_dataflow(job.dataflow);
                    }
                    return;
                }
            }
        }
        worker.step_or_park(None);
        for job in jobs.values_mut() {
            let target = job.control.target.load(Ordering::Acquire);
            if target > job.reported && !job.probe.less_than(&driver::time(target + 1, 0)) {
                job.reported = target;
                job.control.done.fetch_max(target, Ordering::AcqRel);
                job.control.clock.notify.notify();
            }
        }
    }
}

/// Puts what waits for a job that is down into its state tables, and hands over what they have.
fn store(job: &Parked, limits: &HashMap<usize, u64>) -> Result<()> {
    let mut runs = Vec::new();
    for (node, (inbox, dirty)) in &job.inboxes {
        inbox.borrow_mut().store(limits.get(node).copied().unwrap_or(u64::MAX))?;
        runs.extend(dirty.take());
    }
    runs.extend(job.owed.iter().filter_map(|(_, dirty)| dirty.take()));
    if let Some(control) = &job.control {
        control.cut_runs.lock().extend(runs);
    }
    Ok(())
}

/// Makes the inboxes of a job that has failed as they were at its cut, with all that came since.
fn park(index: usize, workers: usize, taps: &Taps, parking: &Parking, old: &Inboxes) -> Result<Parked> {
    let job = &parking.installation;
    let vnodes = || storage::batch::vnodes_of_worker(index, workers);
    let mut parked = Parked { control: Some(job.control.clone()), ..Parked::default() };
    for (node, plan_node) in job.spec.plan.nodes.iter().enumerate() {
        let AnyOperator::TapReader(tap) = &plan_node.operator else { continue };
        let id = TableId::new(job.spec.relation, node as u32 + 1, 0);
        let (table, dirty) = job.store.table(id, index, workers)?;
        let dir = job.store.dir().to_owned();
        let mut inbox = Inbox::open(job.control.clone(), tap, table, dir)?;
        let ParkedTap { after, changes } = &parking.taps[&node];
        for (epoch, changes) in changes {
            for batch in changes.batches(vnodes())? {
                inbox.push(*epoch, &batch, None);
            }
        }
        if let Some(after) = after {
            let missing = || Error::Failed("what came for it is not there".into());
            let mut old = old.get(&node).ok_or_else(missing)?.borrow_mut();
            while let Some((epoch, batch)) = old.pop(u64::MAX)? {
                if epoch > *after {
                    inbox.give(epoch, batch);
                }
            }
        }
        let inbox = Rc::new(RefCell::new(inbox));
        taps.subscribe(tap.relation, &inbox);
        parked.inboxes.insert(node, (inbox, dirty));
    }
    let (table, dirty) = job.store.table(owed_table(&job.spec), index, workers)?;
    let owed = Owed::new(table);
    for (to, changes) in &parking.owed {
        owed.add(*to, &changes.batches(vnodes())?)?;
    }
    parked.owed = Some((owed.into_table(), dirty));
    Ok(parked)
}

/// The state table of what a job owes: behind those of its last operator.
fn owed_table(spec: &JobSpec) -> TableId {
    let tables = matches!(spec.plan.root().operator, AnyOperator::Sink(_)) as u8;
    TableId::new(spec.relation, spec.plan.nodes.len() as u32, tables)
}

/// Wakes the coordinator.
fn notify(jobs: &HashMap<RelationId, Installed>, parked: &HashMap<RelationId, Parked>) {
    let controls = jobs.values().map(|job| &job.control).chain(parked.values().filter_map(|job| job.control.as_ref()));
    if let Some(control) = controls.into_iter().next() {
        control.clock.notify.notify();
    }
}

/// Builds a job's dataflow on this worker, with the inboxes that it was parked with, if it was. If a part of it cannot
/// start, the dataflow is there all the same, so that all workers have the same, and why comes with it.
fn install(worker: &mut Worker, taps: &Taps, job: &Arc<Installation>, parked: Parked) -> (Installed, Option<Error>) {
    let dataflow = worker.next_dataflow_index();
    let (index, workers) = (worker.index(), worker.peers());
    let probe = ProbeHandle::new();
    let ctx = JobContext {
        job: job.control.clone(),
        worker: index,
        workers,
        errors: Rc::default(),
        late: Rc::default(),
        history: Rc::default(),
        probe: probe.clone(),
    };
    // Every worker must build the same graph, also when a task cannot start: so tasks are opened first.
    let mut tasks = Vec::new();
    let mut inboxes: Inboxes = HashMap::new();
    let mut failed = None;
    let Parked { inboxes: mut parked_inboxes, owed: parked_owed, .. } = parked;
    let mut parked_owed = parked_owed;
    let mut root_owed = None;
    let evicts =
        |node: &&crate::plan::PlanNode| matches!(node.operator, AnyOperator::Aggregate(_) | AnyOperator::HashJoin(_));
    let evicting = job.spec.plan.nodes.iter().filter(evicts).count();
    let judge = job.spec.event_time().map(|event| Judge::new(event, &job.spec.columns, &job.functions));
    let judge = judge.transpose().unwrap_or_else(|error| {
        failed = Some(error);
        None
    });
    for (node, plan_node) in job.spec.plan.nodes.iter().enumerate() {
        let mut handles = Vec::new();
        let mut tables = 0u8;
        let mut open_table = |_name: &str| {
            let id = TableId::new(job.spec.relation, node as u32 + 1, tables);
            tables += 1;
            let (table, handle) = job.store.table(id, index, workers)?;
            handles.push(handle);
            Ok(table)
        };
        let task = match &plan_node.operator {
            AnyOperator::Source(_) | AnyOperator::TableSource(_) | AnyOperator::Materialize(_) => None,
            AnyOperator::TapReader(_) if parked_inboxes.contains_key(&node) => {
                let (inbox, dirty) = parked_inboxes.remove(&node).expect("checked");
                inboxes.insert(node, inbox);
                handles.push(dirty);
                None
            }
            AnyOperator::TapReader(tap) => {
                let inbox = open_table("inbox").and_then(|table| {
                    let dir = job.store.dir().to_owned();
                    Inbox::open(job.control.clone(), tap, table, dir)
                });
                match inbox {
                    Ok(inbox) => drop(inboxes.insert(node, Rc::new(RefCell::new(inbox)))),
                    Err(error) => failed = Some(error),
                }
                None
            }
            AnyOperator::Sink(sink) => match (open_table("outbox"), &job.control.outbox) {
                (Ok(table), Some(outbox)) => {
                    let task = SinkTask::new(sink, job.control.clone(), outbox.clone(), table);
                    Some(Box::new(task) as Box<dyn Task>)
                }
                (table, _) => {
                    let missing = || Error::Failed("the sink has no outbox".into());
                    failed = Some(table.err().unwrap_or_else(missing));
                    Some(Box::new(Nothing) as Box<dyn Task>)
                }
            },
            operator => {
                let schema = |input: &usize| job.spec.plan.nodes[*input].operator.schema();
                let inputs = plan_node.inputs.iter().map(schema).collect();
                let wake = job.control.clone();
                let lookups = job.control.lookups.as_ref().map(|lookups| TaskLookups {
                    lookups: lookups.clone(),
                    node,
                    worker: index,
                    wake: Arc::new(move || {
                        wake.wake();
                        wake.clock.notify.notify();
                    }),
                });
                let mut context = TaskContext {
                    worker: index,
                    workers,
                    inputs,
                    functions: &job.functions,
                    memory_max: job.control.memory.share_at_start(evicting * workers),
                    lookups,
                    open_table: &mut open_table,
                };
                match operator.start(&mut context) {
                    Ok(task) => Some(task),
                    Err(error) => {
                        failed = Some(error);
                        Some(Box::new(Nothing) as Box<dyn Task>)
                    }
                }
            }
        };
        let is_root = matches!(plan_node.operator, AnyOperator::Materialize(_) | AnyOperator::Sink(_));
        if is_root && job.control.table.is_none() {
            let owed = match parked_owed.take() {
                Some((table, dirty)) => Ok((table, dirty, false)),
                None => job.store.table(owed_table(&job.spec), index, workers).map(|(table, dirty)| {
                    let is_new = table.is_new();
                    (table, dirty, is_new)
                }),
            };
            match owed {
                Ok((_, _, true)) => {}
                Ok((table, dirty, false)) => root_owed = Some((Owed::new(table), dirty)),
                Err(error) => failed = Some(error.into()),
            }
        }
        tasks.push((task, handles));
    }
    let kept = inboxes.clone();
    worker.dataflow_named::<u64, _, _>(&job.spec.name, |scope| {
        let mut streams = Vec::new();
        let last = job.spec.plan.nodes.len() - 1;
        for (node, (plan_node, (task, handles))) in job.spec.plan.nodes.iter().zip(tasks).enumerate() {
            let operator = &plan_node.operator;
            let name = operator.name();
            let root = |schema, owed| {
                let errors = (job.spec.errors, job.errors.clone());
                let late = job.spec.late().zip(job.late.clone());
                let relation = job.relation.clone();
                let task = Root::new(ctx.clone(), taps.clone(), &job.spec, relation, errors, late, schema, owed);
                Box::new(task) as Box<dyn Task>
            };
            let inputs: Vec<_> = plan_node
                .inputs
                .iter()
                .zip(operator.inputs())
                .map(|(input, exchange)| {
                    let stream: &timely::dataflow::Stream<'_, u64, crate::dataflow::Parcel> = &streams[*input];
                    (stream.clone(), exchange)
                })
                .collect();
            let stream = match operator {
                AnyOperator::Source(source) => {
                    let leaf = driver::leaf(scope, name, ctx.clone(), handles, |wake| {
                        Box::new(SourceLeaf::new(ctx.clone(), taps.clone(), judge.clone(), wake))
                    });
                    debug_assert_eq!(node, last, "a source's job has one node");
                    let task = root(source.schema.clone(), None);
                    let inputs = vec![(leaf, crate::operator::Exchange::Same)];
                    driver::operator(scope, "publish", (node, &[]), ctx.clone(), inputs, task, Vec::new())
                }
                AnyOperator::TableSource(_) => {
                    let key = match &job.spec.plan.root().operator {
                        AnyOperator::Materialize(root) => root.key.clone(),
                        _ => Vec::new(),
                    };
                    let judge = judge.clone().map(|judge| (judge, key));
                    driver::leaf(scope, name, ctx.clone(), handles, |_| Box::new(TableLeaf::new(ctx.clone(), judge)))
                }
                AnyOperator::TapReader(tap) => {
                    let inbox = inboxes.remove(&node);
                    if let Some(inbox) = &inbox
                        && !job.again
                    {
                        taps.subscribe(tap.relation, inbox);
                    }
                    driver::leaf(scope, name, ctx.clone(), handles, |wake| match inbox {
                        Some(inbox) => Box::new(TapLeaf::new(ctx.clone(), node, tap, inbox, wake)),
                        None => Box::new(Nothing),
                    })
                }
                AnyOperator::Sink(sink) => {
                    let task = task.expect("started above");
                    let stream =
                        driver::operator(scope, name, (node, &plan_node.inputs), ctx.clone(), inputs, task, handles);
                    // Nothing comes out of it, but rows that failed on their way are published at the job's end.
                    let inputs = vec![(stream, crate::operator::Exchange::Same)];
                    let (owed, dirty) = root_owed.take().unzip();
                    let task = root(sink.schema.clone(), owed);
                    let dirty = dirty.into_iter().collect();
                    driver::operator(scope, "publish", (node + 1, &[]), ctx.clone(), inputs, task, dirty)
                }
                AnyOperator::Materialize(materialize) => {
                    let (owed, dirty) = root_owed.take().unzip();
                    let task = root(materialize.schema.clone(), owed);
                    let dirty = handles.into_iter().chain(dirty).collect();
                    driver::operator(scope, name, (node, &plan_node.inputs), ctx.clone(), inputs, task, dirty)
                }
                _ if inputs.is_empty() => {
                    let task = task.expect("started above");
                    let leaf = Constant { ctx: ctx.clone(), node, task, batches: None };
                    driver::leaf(scope, name, ctx.clone(), handles, |_| Box::new(leaf))
                }
                _ => {
                    let task = task.expect("started above");
                    driver::operator(scope, name, (node, &plan_node.inputs), ctx.clone(), inputs, task, handles)
                }
            };
            streams.push(stream);
        }
        streams.pop().expect("a plan has a node").probe_with(&probe);
    });
    (Installed { dataflow, control: job.control.clone(), probe, reported: 0, inboxes: kept }, failed)
}

/// Stands in for a task that could not start, so that all workers build the same graph before it is dropped.
struct Nothing;

impl Task for Nothing {
    fn apply(&mut self, _: usize, _: &storage::Batch, _: &mut Output) -> Result<crate::operator::Progress> {
        Ok(crate::operator::Progress::Done)
    }
}

impl Leaf for Nothing {
    fn next(&mut self, _: u64, _: u64) -> Next {
        Next::Nothing
    }
}

/// An operator without input: what it says at the seal of the job's first epoch, on worker 0.
struct Constant {
    ctx: JobContext,
    node: usize,
    task: Box<dyn Task>,
    batches: Option<Vec<storage::Batch>>,
}

impl Leaf for Constant {
    fn next(&mut self, target: u64, sealed: u64) -> Next {
        if target <= sealed || self.ctx.worker != 0 {
            return Next::Nothing;
        }
        if self.batches.is_none() {
            let mut out = Output::default();
            let resumed = matches!(self.ctx.job.starts.lock().get(&self.node), Some(Start::Resume { .. }));
            if !resumed {
                let at = Seal::plain(storage::Epoch(target), false);
                if let Err(error) = self.task.seal(&at, &mut out) {
                    return Next::Failed(error.to_string());
                }
            }
            let mut batches = out.take_batches();
            batches.reverse();
            self.batches = Some(batches);
        }
        match self.batches.as_mut().and_then(Vec::pop) {
            Some(batch) => Next::Batch(target, batch),
            None => Next::Nothing,
        }
    }
}
