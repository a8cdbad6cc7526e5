//! A relation: the rows that a job maintains, readable by any thread as of an epoch.
//!
//! ```text
//! publish(worker, epoch, delta) -> open:   epoch 7: runs of each worker, as they come
//! advance(7)                    -> sealed: [2..4] [5] [6] [7]   one run per epoch, older ones merged
//! committed(4)                  -> bases:  RocksDB as of epoch 4 (and, for a while, as of the checkpoint before)
//!
//! snapshot(6) = base 4 + [5] + [6]
//!
//! key of a row := vnode u8, key columns (`keys.rs`)                      relation with unique keys
//!               | vnode u8, key columns, all columns (`row.rs`)          otherwise
//! value        := all columns (`row.rs`)                                 relation with unique keys
//!               | how many of the row there are, i64 little endian       otherwise
//! ```
//!
//! A run is immutable and sorted by key. An entry's diff is the number of rows that came or went; in a relation with
//! unique keys an entry above zero is the row of its key and one below zero says that the key is gone.
//! A snapshot holds on to a base and some runs, so nothing that happens later changes or ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, VNODES, vnodes, with_columns};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::keys::{self, SortOption, after_prefix};
use crate::row;
use crate::run::{Cursor, Entry, Merge, Refill, Run};
use crate::store::Snapshot;
use crate::table::{DirtyRun, TableId};

/// A relation can be read as of so many epochs before the newest one, at least.
pub const EPOCHS_READABLE_BACK: u64 = 32;

/// Rows of one batch of a scan, at most.
pub const SCAN_ROWS_MAX: usize = 8192;

/// Runs of older epochs that are not worth merging.
const OLD_RUNS_MAX: usize = 32;

/// Runs that are merged at once.
const MERGE_RUNS: usize = 8;

/// Checkpoints before the last one whose epochs stay readable, at most: each keeps old versions of rows on disk.
const BASES_MAX: usize = 3;

/// Identifies a relation (a table, a source, a view, an index, an error table) for ever. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationId(pub u32);

/// What a relation looks like.
#[derive(Clone, Debug)]
pub struct RelationSpec {
    /// Which relation.
    pub id: RelationId,
    /// All its columns, hidden ones included.
    pub schema: SchemaRef,
    /// The columns of the key. Without any, all rows are in vnode 0.
    pub key: Vec<usize>,
    /// How the columns of the key are sorted; the default for those that are left out.
    pub key_options: Vec<SortOption>,
    /// The columns that rows are placed by: the first ones of the key, or none to have all rows in order in vnode 0.
    pub vnode_columns: Vec<usize>,
    /// Whether there is at most one row per key. Otherwise equal rows are counted.
    pub unique: bool,
}

impl RelationSpec {
    /// A relation whose rows are placed by the whole key, sorted ascending.
    pub fn new(id: RelationId, schema: SchemaRef, key: Vec<usize>, unique: bool) -> RelationSpec {
        RelationSpec { id, schema, vnode_columns: key.clone(), key, key_options: Vec::new(), unique }
    }
}

/// What does not change of a relation.
#[derive(Debug)]
struct Shape {
    spec: RelationSpec,
    table: TableId,
    types: Vec<DataType>,
    key_types: Vec<DataType>,
}

/// The rows of one relation. Shared by the workers that publish changes and the threads that read.
pub struct Relation {
    shape: Arc<Shape>,
    state: Mutex<State>,
    /// Held by who merges runs: one at a time, outside of `state`.
    merging: Mutex<()>,
}

impl std::fmt::Debug for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relation({} as of {})", self.shape.spec.id.0, self.newest())
    }
}

struct State {
    /// What is durable, oldest first; never empty.
    bases: Vec<Base>,
    /// Changes since the oldest base by epoch.
    sealed: Vec<Sealed>,
    /// Changes of epochs that are not complete.
    open: BTreeMap<Epoch, Vec<Run>>,
    /// The newest epoch that is complete.
    newest: Epoch,
    /// Epochs that a checkpoint will ask for: no run reaches across one.
    cuts: BTreeSet<Epoch>,
    /// Changes of epochs that are not complete, as they will be once they are.
    ordered: Vec<Sealed>,
    /// How often something was taken back.
    retracted: u64,
}

#[derive(Clone)]
struct Base {
    epoch: Epoch,
    rows: i64,
    snapshot: Arc<Snapshot>,
}

/// The changes of the epochs `from..=to`, one entry per key.
#[derive(Clone)]
struct Sealed {
    from: Epoch,
    to: Epoch,
    rows: i64,
    run: Arc<Run>,
}

impl Sealed {
    /// The changes of one epoch.
    fn of(epoch: Epoch, mut runs: Vec<Run>, unique: bool) -> Sealed {
        let rows = runs.iter().flat_map(|r| &r.entries).map(|e| e.diff).sum();
        let run = if runs.len() == 1 && !unique {
            runs.remove(0)
        } else if runs.len() == 1 && runs[0].has_distinct_keys() {
            let mut run = runs.remove(0);
            run.entries.iter_mut().filter(|e| e.diff < 0).for_each(|e| e.value = 0);
            run
        } else if runs.len() == 1 {
            resolve_in_place(runs.remove(0))
        } else {
            resolve(runs, unique)
        };
        Sealed { from: epoch, to: epoch, rows, run: Arc::new(run) }
    }
}

impl Relation {
    pub(crate) fn new(spec: RelationSpec, snapshot: Snapshot, epoch: Epoch, rows: i64) -> Relation {
        debug_assert!(spec.key.starts_with(&spec.vnode_columns), "rows are placed by the first columns of the key");
        let types: Vec<DataType> = spec.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let key_types = spec.key.iter().map(|k| types[*k].clone()).collect();
        let table = TableId::rows_of(spec.id);
        Relation {
            shape: Arc::new(Shape { spec, table, types, key_types }),
            state: Mutex::new(State {
                bases: vec![Base { epoch, rows, snapshot: Arc::new(snapshot) }],
                sealed: Vec::new(),
                open: BTreeMap::new(),
                newest: epoch,
                cuts: BTreeSet::new(),
                ordered: Vec::new(),
                retracted: 0,
            }),
            merging: Mutex::default(),
        }
    }

    /// Which relation.
    pub fn id(&self) -> RelationId {
        self.shape.spec.id
    }

    /// What it looks like.
    pub fn spec(&self) -> &RelationSpec {
        &self.shape.spec
    }

    /// Takes changes of an epoch that is not complete yet. May be called several times per epoch and worker; what
    /// counts in the end is the sum of all changes of the epoch.
    ///
    /// # Errors
    /// `Unsupported` for a column of a type that no SQL type has.
    ///
    /// # Panics
    /// If the epoch is complete already: the changes would be lost.
    pub fn publish(&self, _worker: usize, epoch: Epoch, delta: &Batch) -> Result<()> {
        if delta.num_rows() == 0 {
            return Ok(());
        }
        let run = self.shape.run_of(delta)?;
        if !run.is_empty() {
            let mut state = self.state.lock();
            let (id, newest) = (self.shape.spec.id.0, state.newest);
            assert!(epoch > newest, "relation {id} gets changes of epoch {epoch} but is complete up to {newest}");
            state.open.entry(epoch).or_default().push(run);
        }
        Ok(())
    }

    /// Entries of changes that [`Relation::advance`] to `epoch` would have to bring into one order.
    pub fn unordered(&self, epoch: Epoch) -> usize {
        let state = self.state.lock();
        let open = state.open.range(..=epoch).filter(|(_, runs)| runs.len() > 1);
        open.flat_map(|(_, runs)| runs).map(Run::len).sum()
    }

    /// Brings the changes up to `epoch`, all of which are published, into one order, while others read. After that
    /// [`Relation::advance`] is quick.
    pub fn order(&self, epoch: Epoch) {
        let (open, retracted) = {
            let mut state = self.state.lock();
            let later = state.open.split_off(&epoch.next());
            (std::mem::replace(&mut state.open, later), state.retracted)
        };
        let unique = self.shape.spec.unique;
        let ordered: Vec<Sealed> = open.into_iter().map(|(epoch, runs)| Sealed::of(epoch, runs, unique)).collect();
        let mut state = self.state.lock();
        if state.retracted == retracted {
            state.ordered.extend(ordered);
        }
    }

    /// Says that every epoch up to `epoch` is complete: no more changes of them will be published.
    pub fn advance(&self, epoch: Epoch) {
        {
            let mut state = self.state.lock();
            state.seal(&self.shape, epoch);
            state.newest = state.newest.max(epoch);
            state.forget();
        }
        self.merge_old_runs();
    }

    /// Announces that a checkpoint will take the changes up to `epoch`, so that they stay apart from later ones.
    pub fn cut(&self, epoch: Epoch) {
        self.state.lock().cuts.insert(epoch);
    }

    /// The newest epoch that is complete.
    pub fn newest(&self) -> Epoch {
        self.state.lock().newest
    }

    /// The relation as of `epoch`, which must be complete.
    ///
    /// # Errors
    /// `NotFound` if the epoch is so long ago that it cannot be told from others any more.
    pub fn snapshot(&self, epoch: Epoch) -> Result<RelationSnapshot> {
        let mut state = self.state.lock();
        state.seal(&self.shape, epoch);
        let gone = || {
            Error::NotFound(format!("relation {} cannot be read as of epoch {epoch} any more", self.shape.spec.id.0))
        };
        let base = state.bases.iter().rfind(|b| b.epoch <= epoch).ok_or_else(gone)?.clone();
        let runs = state.between(base.epoch, epoch).ok_or_else(gone)?;
        let rows = base.rows + runs.iter().map(|r| r.rows).sum::<i64>();
        Ok(RelationSnapshot {
            shape: self.shape.clone(),
            base: base.snapshot,
            runs: runs.iter().map(|r| r.run.clone()).collect(),
            epoch,
            rows: rows.max(0) as u64,
        })
    }

    /// Bytes of memory of the changes since the last checkpoint, and the number of their runs.
    pub fn memory(&self) -> (usize, usize) {
        let state = self.state.lock();
        let open = state.open.values().flatten();
        let runs = state.sealed.iter().chain(&state.ordered).map(|s| &*s.run).chain(open);
        runs.fold((0, 0), |(bytes, n), run| (bytes + run.bytes(), n + 1))
    }

    /// The changes since the last checkpoint up to `up_to` as what is to be written, and how many rows there are then.
    pub(crate) fn take_dirty(&self, up_to: Epoch) -> Result<(Option<DirtyRun>, i64)> {
        let (base, runs) = {
            let mut state = self.state.lock();
            state.seal(&self.shape, up_to);
            // Cuts before this one were for checkpoints that did not come about.
            state.cuts = state.cuts.split_off(&up_to);
            state.cuts.insert(up_to);
            let base = state.bases[state.bases.len() - 1].clone();
            let runs = state.between(base.epoch, up_to).unwrap_or_else(|| {
                panic!("epoch {up_to} of relation {} was not announced as a checkpoint", self.shape.spec.id.0)
            });
            (base, runs)
        };
        let rows = base.rows + runs.iter().map(|r| r.rows).sum::<i64>();
        let runs: Vec<Arc<Run>> = runs.into_iter().map(|r| r.run).filter(|r| !r.is_empty()).collect();
        let run = match runs.len() {
            0 => return Ok((None, rows)),
            1 => runs[0].clone(),
            _ => Arc::new(merge_runs(&runs, self.shape.spec.unique)?),
        };
        let run = if self.shape.spec.unique { run } else { Arc::new(self.shape.counted(&run, &base.snapshot)?) };
        Ok((Some(DirtyRun { table: self.shape.table, run, committed: Arc::default() }), rows))
    }

    /// What [`Relation::take_dirty`] handed out is durable, and `snapshot` has it.
    pub(crate) fn committed(&self, up_to: Epoch, snapshot: Arc<Snapshot>, rows: i64) {
        let mut state = self.state.lock();
        state.cuts = state.cuts.split_off(&up_to.next());
        state.newest = state.newest.max(up_to);
        let epoch = up_to.max(state.bases[state.bases.len() - 1].epoch);
        if state.bases[state.bases.len() - 1].epoch == epoch {
            state.bases.pop();
        }
        state.bases.push(Base { epoch, rows, snapshot });
        state.forget();
    }

    /// A checkpoint wrote nothing of this relation: its last base is the same in a newer snapshot.
    pub(crate) fn refresh(&self, snapshot: Arc<Snapshot>) {
        if let Some(base) = self.state.lock().bases.last_mut() {
            base.snapshot = snapshot;
        }
    }

    /// The epoch that its rows in the store are as of.
    pub fn durable(&self) -> Epoch {
        let state = self.state.lock();
        state.bases[state.bases.len() - 1].epoch
    }

    /// About how many rows there are now.
    pub fn rows_estimate(&self) -> u64 {
        let state = self.state.lock();
        let base = &state.bases[state.bases.len() - 1];
        let since = state.sealed.iter().filter(|sealed| sealed.from > base.epoch);
        (base.rows + since.map(|sealed| sealed.rows).sum::<i64>()).max(0) as u64
    }

    /// Forgets what was published of epochs after `epoch`, which nobody has seen: the relation was never advanced to them.
    pub fn retract(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        state.open.split_off(&epoch.next());
        state.ordered.retain(|sealed| sealed.to <= epoch);
        state.retracted += 1;
    }

    /// What changed after `from` and up to `to`.
    ///
    /// # Errors
    /// `NotFound` if one of the two is too long ago, or was never announced to be looked at.
    pub fn changes(&self, from: Epoch, to: Epoch) -> Result<RelationChanges> {
        let before = self.snapshot(from)?;
        let mut state = self.state.lock();
        state.seal(&self.shape, to);
        let gone = || {
            let id = self.shape.spec.id.0;
            Error::NotFound(format!("what changed in relation {id} between {from} and {to} is not known any more"))
        };
        let runs = state.between(from, to).ok_or_else(gone)?;
        Ok(RelationChanges { before, runs: runs.into_iter().map(|sealed| sealed.run).collect() })
    }

    /// Merges runs of epochs that nobody will ask for one by one, so that the number of runs grows with the logarithm
    /// of their rows. Several at once: a row is copied once per [`MERGE_RUNS`]-fold growth of its run.
    fn merge_old_runs(&self) {
        let Some(_merging) = self.merging.try_lock() else { return };
        loop {
            // Not in the condition of the loop: there the lock would be held for all of its body.
            let Some(runs) = self.state.lock().mergeable() else { return };
            let parts: Vec<Arc<Run>> = runs.iter().map(|r| r.run.clone()).collect();
            let run = merge_runs(&parts, self.shape.spec.unique).expect("runs in memory can be read");
            let rows = runs.iter().map(|r| r.rows).sum();
            let merged = Sealed { from: runs[0].from, to: runs[runs.len() - 1].to, rows, run: Arc::new(run) };
            let mut state = self.state.lock();
            // A checkpoint may have been announced, or have taken them, in the meantime.
            let at = state
                .sealed
                .windows(runs.len())
                .position(|w| w.iter().zip(&parts).all(|(a, b)| Arc::ptr_eq(&a.run, b)));
            match at {
                Some(at) if !state.is_apart(&runs) => {
                    state.sealed.splice(at..at + runs.len(), [merged]);
                }
                _ => return,
            }
        }
    }
}

impl State {
    /// Makes one run of each epoch up to `epoch`.
    fn seal(&mut self, shape: &Shape, epoch: Epoch) {
        let later = self.ordered.partition_point(|sealed| sealed.to <= epoch);
        for sealed in self.ordered.drain(..later) {
            let at = self.sealed.partition_point(|s| s.to <= sealed.to);
            self.sealed.insert(at, sealed);
        }
        while let Some(entry) = self.open.first_entry().filter(|e| *e.key() <= epoch) {
            let (epoch, runs) = entry.remove_entry();
            let sealed = Sealed::of(epoch, runs, shape.spec.unique);
            // Epochs come in order; a late one would be a bug of the engine, but is not lost.
            debug_assert!(self.sealed.last().is_none_or(|s| s.to <= epoch), "epoch {epoch} is published late");
            let at = self.sealed.partition_point(|s| s.to <= epoch);
            self.sealed.insert(at, sealed);
        }
    }

    /// Neighbours that are worth merging: old, not about to be dropped, and none of them larger than all the others.
    fn mergeable(&self) -> Option<Vec<Sealed>> {
        let base = self.bases[self.bases.len() - 1].epoch;
        let from = self.sealed.partition_point(|s| s.to <= base);
        let end = self.sealed.partition_point(|s| s.to.0 + EPOCHS_READABLE_BACK <= self.newest.0);
        if end < from + OLD_RUNS_MAX {
            return None;
        }
        let worth = |runs: &&[Sealed]| {
            let sizes = runs.iter().map(|r| r.run.len());
            sizes.clone().max() <= Some(sizes.sum::<usize>() / 2) && !self.is_apart(runs)
        };
        self.sealed[from..end].windows(MERGE_RUNS).rev().find(worth).map(<[Sealed]>::to_vec)
    }

    /// Whether something may be read as of an epoch between these runs.
    fn is_apart(&self, runs: &[Sealed]) -> bool {
        let between = runs[0].to..runs[runs.len() - 1].from;
        self.bases.iter().map(|b| &b.epoch).chain(&self.cuts).any(|epoch| between.contains(epoch))
    }

    /// The runs of the epochs after `after` up to `to`; `None` if one reaches across `to`.
    fn between(&self, after: Epoch, to: Epoch) -> Option<Vec<Sealed>> {
        let from = self.sealed.partition_point(|s| s.to <= after);
        let end = self.sealed.partition_point(|s| s.to <= to);
        let whole = self.sealed.get(end).is_none_or(|s| s.from > to);
        (whole && self.sealed.get(from).is_none_or(|s| s.from > after))
            .then(|| self.sealed[from.min(end)..end].to_vec())
    }

    /// Lets go of bases, and of the runs before the oldest one, that are too long ago to be read.
    fn forget(&mut self) {
        while self.bases.len() > 1
            && (self.bases.len() > BASES_MAX || self.bases[1].epoch.0 + EPOCHS_READABLE_BACK <= self.newest.0)
        {
            self.bases.remove(0);
        }
        let oldest = self.bases[0].epoch;
        let gone = self.sealed.partition_point(|s| s.to <= oldest);
        self.sealed.drain(..gone);
    }
}

impl Shape {
    /// The sorted changes of a batch: equal rows summed up, in a relation with unique keys possibly several per key.
    fn run_of(&self, delta: &Batch) -> Result<Run> {
        let n = delta.num_rows();
        let columns = |indices: &[usize]| indices.iter().map(|i| delta.column(*i).clone()).collect::<Vec<ArrayRef>>();
        let keys = keys::encode_rows(&columns(&self.spec.key), &self.spec.key_options, n)?;
        let places = vnodes(&columns(&self.spec.vnode_columns), n);
        let rows = row::encode_rows(delta.data().columns(), n)?;
        let order = sorted(&places, &keys, (!self.spec.unique).then_some(&rows));

        let mut run = Run::with_capacity(n, n + keys.data.len() + rows.data.len());
        let same_key = |a: u32, b: u32| {
            let (a, b) = (a as usize, b as usize);
            places[a] == places[b] && keys.get(a) == keys.get(b) && (self.spec.unique || rows.get(a) == rows.get(b))
        };
        let mut key = Vec::new();
        for group in order.chunk_by(|a, b| same_key(*a, *b)) {
            let first = group[0] as usize;
            if !self.spec.unique {
                let diff: i64 = group.iter().map(|i| delta.diff(*i as usize)).sum();
                if diff != 0 {
                    key.clear();
                    key.extend_from_slice(keys.get(first));
                    key.extend_from_slice(rows.get(first));
                    run.push(&[places[first]], &key, &[], diff);
                }
            } else if group.len() == 1 {
                let diff = delta.diff(first);
                if diff != 0 {
                    run.push(&[places[first]], keys.get(first), rows.get(first), diff);
                }
            } else {
                let changes = group.iter().map(|i| (rows.get(*i as usize), delta.diff(*i as usize)));
                for (row, diff) in net(changes.collect()) {
                    run.push(&[places[first]], keys.get(first), row, diff);
                }
            }
        }
        Ok(run)
    }

    /// Counts in place of changes of counts, as what is to be written.
    fn counted(&self, run: &Run, base: &Snapshot) -> Result<Run> {
        let mut counted = Run::with_capacity(run.len(), run.data.len() + run.len() * 8);
        for from in (0..run.len()).step_by(SCAN_ROWS_MAX) {
            let entries = from..(from + SCAN_ROWS_MAX).min(run.len());
            let keys: Vec<&[u8]> = entries.clone().map(|i| run.key(i)).collect();
            let before = base.multi_get(self.table, &keys)?;
            for (i, before) in entries.zip(before) {
                let before = before.map_or(Ok(0), |bytes| count(&bytes))?;
                let after = before + run.diff(i);
                self.check_count(after);
                counted.push(&[], run.key(i), &after.to_le_bytes(), if after == 0 { -1 } else { 1 });
            }
        }
        Ok(counted)
    }

    fn check_count(&self, count: i64) {
        assert!(
            count >= 0,
            "relation {} holds a row {count} times: a row was taken back that never came",
            self.spec.id.0
        );
    }

    /// The columns at `projection` of encoded rows.
    fn decode<'a>(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        rows: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch> {
        let n = rows.len();
        with_columns(schema.clone(), row::decode_columns(&self.types, projection, rows)?, n)
    }

    /// The encoded columns of a row, from its entry.
    fn row<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<&'a [u8]> {
        if self.spec.unique {
            return Ok(value);
        }
        let len = keys::prefix_len(&self.key_types, &self.spec.key_options, &key[1..])?;
        Ok(&key[1 + len..])
    }
}

fn count(bytes: &[u8]) -> Result<i64> {
    let bytes = bytes.try_into().map_err(|_| Error::Corrupt("a stored count of rows is not 8 bytes long".into()))?;
    Ok(i64::from_le_bytes(bytes))
}

/// The order of the rows by vnode, key and (if given) row. Equal ones stay in the order that they came in.
fn sorted(places: &[u8], keys: &keys::Keys, rows: Option<&keys::Keys>) -> Vec<u32> {
    // One counting sort by vnode, which leaves short stretches that are often in order already: keys tend to grow.
    let mut starts = [0usize; VNODES + 1];
    places.iter().for_each(|p| starts[*p as usize + 1] += 1);
    for i in 0..VNODES {
        starts[i + 1] += starts[i];
    }
    let mut at = starts;
    let mut order = vec![0u32; places.len()];
    for (row, place) in places.iter().enumerate() {
        order[at[*place as usize]] = row as u32;
        at[*place as usize] += 1;
    }
    let compare = |a: &u32, b: &u32| {
        let (a, b) = (*a as usize, *b as usize);
        keys.get(a).cmp(keys.get(b)).then_with(|| rows.map_or(std::cmp::Ordering::Equal, |r| r.get(a).cmp(r.get(b))))
    };
    for place in starts.windows(2).filter(|w| w[1] - w[0] > 1) {
        // A stable sort that notices what is sorted.
        order[place[0]..place[1]].sort_by(compare);
    }
    order
}

/// The changes of one key with equal rows summed up: those that leave first, and the last one that came at the end.
fn net(changes: Vec<(&[u8], i64)>) -> Vec<(&[u8], i64)> {
    let mut sums: Vec<(&[u8], i64)> = Vec::with_capacity(changes.len());
    if changes.len() <= 8 {
        for (row, diff) in changes {
            // A row that comes again moves to the end: the last one wins.
            let before = sums.iter().position(|(r, _)| *r == row).map_or(0, |i| sums.remove(i).1);
            if before + diff != 0 {
                sums.push((row, before + diff));
            }
        }
    } else {
        let mut by_row: BTreeMap<&[u8], (usize, i64)> = BTreeMap::new();
        for (i, (row, diff)) in changes.into_iter().enumerate() {
            let sum = by_row.entry(row).or_default();
            *sum = (i, sum.1 + diff);
        }
        let mut rows: Vec<_> = by_row.into_iter().filter(|(_, (_, sum))| *sum != 0).collect();
        rows.sort_by_key(|(_, (i, _))| *i);
        sums.extend(rows.into_iter().map(|(row, (_, sum))| (row, sum)));
    }
    sums.sort_by_key(|(_, diff)| *diff > 0);
    sums
}

/// One entry per key out of one run of a relation with unique keys: the row that came last, else "gone". The buffer
/// stays as it is.
fn resolve_in_place(mut run: Run) -> Run {
    let Run { data, entries } = &mut run;
    let key = |e: &Entry| &data[e.at..e.at + e.key as usize];
    let mut kept = 0;
    let mut i = 0;
    while i < entries.len() {
        let mut end = i + 1;
        while end < entries.len() && key(&entries[end]) == key(&entries[i]) {
            end += 1;
        }
        // `net` put what came behind what left.
        let mut last = entries[end - 1];
        if last.diff < 0 {
            last.value = 0;
        }
        entries[kept] = last;
        kept += 1;
        i = end;
    }
    entries.truncate(kept);
    run
}

/// One entry per key out of the runs of one epoch.
fn resolve(runs: Vec<Run>, unique: bool) -> Run {
    let runs: Vec<Arc<Run>> = runs.into_iter().map(Arc::new).collect();
    if !unique {
        return merge_runs(&runs, false).expect("runs in memory can be read");
    }
    let (entries, bytes) = runs.iter().fold((0, 0), |(n, b), r| (n + r.len(), b + r.data.len()));
    let mut resolved = Run::with_capacity(entries, bytes);
    let mut merge = Merge::new(runs.iter().cloned().map(Cursor::all).collect(), 0);
    let mut key: Vec<u8> = Vec::new();
    let mut changes: Vec<(Vec<u8>, i64)> = Vec::new();
    let flush = |key: &[u8], changes: &mut Vec<(Vec<u8>, i64)>, resolved: &mut Run| {
        match net(changes.iter().map(|(row, diff)| (row.as_slice(), *diff)).collect()).last() {
            Some((row, diff)) if *diff > 0 => resolved.push(&[], key, row, *diff),
            Some(_) => resolved.push(&[], key, &[], -1),
            None => {}
        }
        changes.clear();
    };
    while merge.next().expect("runs in memory can be read") {
        // A run may have several entries of one key: they are steps of their own.
        if merge.key() != key {
            flush(&key, &mut changes, &mut resolved);
            key.clear();
            key.extend_from_slice(merge.key());
        }
        changes.extend(merge.entries().map(|(_, row, diff)| (row.to_vec(), diff)));
    }
    flush(&key, &mut changes, &mut resolved);
    resolved
}

/// Several sealed runs, oldest first, as one.
fn merge_runs(runs: &[Arc<Run>], unique: bool) -> Result<Run> {
    let (entries, bytes) = runs.iter().fold((0, 0), |(n, b), r| (n + r.len(), b + r.data.len()));
    let mut merged = Run::with_capacity(entries, bytes);
    let mut merge = Merge::new(runs.iter().cloned().map(Cursor::all).collect(), 0);
    while merge.next()? {
        if unique {
            if let Some((_, row, diff)) = merge.entries().next_back() {
                merged.push(&[], merge.key(), row, diff);
            }
        } else {
            let diff = merge.entries().map(|(.., diff)| diff).sum();
            if diff != 0 {
                merged.push(&[], merge.key(), &[], diff);
            }
        }
    }
    Ok(merged)
}

/// A relation at one epoch. Whatever happens later does not change it; cheap to clone.
#[derive(Clone)]
pub struct RelationSnapshot {
    shape: Arc<Shape>,
    base: Arc<Snapshot>,
    runs: Arc<[Arc<Run>]>,
    epoch: Epoch,
    rows: u64,
}

impl std::fmt::Debug for RelationSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelationSnapshot({} as of {}, {} runs)", self.shape.spec.id.0, self.epoch, self.runs.len())
    }
}

/// What changed in a relation between two epochs. Whatever happens later does not change it.
pub struct RelationChanges {
    before: RelationSnapshot,
    runs: Vec<Arc<Run>>,
}

impl RelationChanges {
    /// The changes of the rows of `vnodes` (of 0..256), consolidated, at most [`SCAN_ROWS_MAX`] keys per batch.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn batches(&self, vnodes: Range<usize>) -> Result<Vec<Batch>> {
        let shape = &self.before.shape;
        let merged = merge_runs(&self.runs, shape.spec.unique)?;
        let entries: Vec<usize> =
            (0..merged.len()).filter(|i| vnodes.contains(&(merged.key(*i)[0] as usize))).collect();
        let all: Vec<usize> = (0..shape.types.len()).collect();
        let mut batches = Vec::new();
        for part in entries.chunks(SCAN_ROWS_MAX) {
            let old: Vec<Option<Vec<u8>>> = if shape.spec.unique {
                let keys: Vec<&[u8]> = part.iter().map(|i| merged.key(*i)).collect();
                self.before.values(&keys)?
            } else {
                Vec::new()
            };
            let mut rows: Vec<(&[u8], i64)> = Vec::with_capacity(part.len() * 2);
            for (n, i) in part.iter().enumerate() {
                if !shape.spec.unique {
                    rows.push((shape.row(merged.key(*i), &[])?, merged.diff(*i)));
                    continue;
                }
                let new = (merged.diff(*i) > 0).then(|| merged.value(*i));
                let old = old[n].as_deref();
                if old != new {
                    rows.extend(old.map(|row| (row, -1)));
                    rows.extend(new.map(|row| (row, 1)));
                }
            }
            let data = shape.decode(&all, &shape.spec.schema, rows.iter().map(|(row, _)| *row))?;
            let diffs = arrow::array::Int64Array::from_iter_values(rows.iter().map(|(_, diff)| *diff));
            if data.num_rows() > 0 {
                batches.push(Batch::new(data, Some(diffs)));
            }
        }
        Ok(batches)
    }
}

/// Batches of a scan.
pub type Scan = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl RelationSnapshot {
    /// All columns, hidden ones included.
    pub fn schema(&self) -> SchemaRef {
        self.shape.spec.schema.clone()
    }

    /// The epoch that it is as of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The key's columns, how they are sorted, and whether each key is there once at most.
    pub fn spec(&self) -> &RelationSpec {
        &self.shape.spec
    }

    /// About how many rows there are: exact as long as no row was published that was there already.
    pub fn rows_estimate(&self) -> u64 {
        self.rows
    }

    /// The rows of `vnodes` (of 0..256), ordered by vnode and then by key, at most [`SCAN_ROWS_MAX`] per batch. A row
    /// that is there n times comes n times. Only `projection` is decoded.
    pub fn scan(&self, projection: Option<&[usize]>, vnodes: Range<usize>) -> Scan {
        let vnodes = vnodes.start.min(VNODES)..vnodes.end.min(VNODES);
        if vnodes.is_empty() {
            return Box::new(std::iter::empty());
        }
        let from = [vnodes.start as u8];
        let to = (vnodes.end < VNODES).then_some([vnodes.end as u8]);
        let to = to.as_ref().map(|t| t.as_slice());
        let mut cursors = Vec::with_capacity(self.runs.len() + 1);
        if let Err(error) = self.cursors(&from, to, SCAN_ROWS_MAX, &mut cursors) {
            return Box::new(std::iter::once(Err(error)));
        }
        self.rows(Merge::new(cursors, 0), projection)
    }

    /// The rows between two encoded keys ([`keys::encode`] with the relation's options), in key order. A bound may
    /// have only the first columns of the key: then it stands for all keys that begin with them.
    pub fn scan_range(&self, lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>, projection: Option<&[usize]>) -> Scan {
        match self.range_cursors(lower, upper) {
            Ok(cursors) => self.rows(Merge::new(cursors, 1), projection),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    /// The rows whose key is the one row of `key`, which has the key's columns or its first ones. `None` if there are
    /// none.
    pub fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>> {
        let spec = &self.shape.spec;
        let encoded = keys::encode_rows(key, &spec.key_options, 1)?;
        if key.len() == spec.key.len() && spec.unique {
            let place = vnodes(&key[..spec.vnode_columns.len()], 1)[0];
            return self.get_encoded(place, encoded.get(0));
        }
        let bound = encoded.get(0).to_vec();
        let batches: Vec<RecordBatch> =
            self.scan_range(Bound::Included(bound.clone()), Bound::Included(bound), None).collect::<Result<_>>()?;
        match batches.len() {
            0 => Ok(None),
            1 => Ok(batches.into_iter().next()),
            _ => Ok(Some(arrow::compute::concat_batches(&spec.schema, &batches)?)),
        }
    }

    fn get_encoded(&self, place: u8, key: &[u8]) -> Result<Option<RecordBatch>> {
        let key = [&[place], key].concat();
        let all: Vec<usize> = (0..self.shape.types.len()).collect();
        let decode = |row: &[u8]| self.shape.decode(&all, &self.shape.spec.schema, [row].into_iter()).map(Some);
        for run in self.runs.iter().rev() {
            if let Some(i) = run.find(&key) {
                return if run.diff(i) > 0 { decode(run.value(i)) } else { Ok(None) };
            }
        }
        match self.base.get(self.shape.table, &key)? {
            Some(row) => decode(&row),
            None => Ok(None),
        }
    }

    /// The encoded rows of keys (with their vnodes) of a relation with unique keys.
    fn values(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut misses = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let found = self.runs.iter().rev().find_map(|run| run.find(key).map(|at| (run, at)));
            values.push(found.and_then(|(run, at)| (run.diff(at) > 0).then(|| run.value(at).to_vec())));
            if found.is_none() {
                misses.push(i);
            }
        }
        let missing: Vec<&[u8]> = misses.iter().map(|i| keys[*i]).collect();
        for (i, value) in misses.into_iter().zip(self.base.multi_get(self.shape.table, &missing)?) {
            values[i] = value;
        }
        Ok(values)
    }

    /// Cursors over a range of stored keys, oldest first.
    fn cursors(&self, from: &[u8], to: Option<&[u8]>, rows: usize, cursors: &mut Vec<Cursor>) -> Result<()> {
        cursors.push(Cursor::refilled(Box::new(BaseRows {
            base: self.base.clone(),
            table: self.shape.table,
            from: from.to_vec(),
            to: to.map(<[u8]>::to_vec),
            rows,
            counted: !self.shape.spec.unique,
            done: false,
        }))?);
        cursors.extend(self.runs.iter().map(|run| Cursor::range(run.clone(), from, to)));
        Ok(())
    }

    fn range_cursors(&self, lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>) -> Result<Vec<Cursor>> {
        let (spec, types) = (&self.shape.spec, &self.shape.key_types);
        // The rows may be in one vnode only: if both bounds have the same columns that rows are placed by.
        let place = if spec.vnode_columns.is_empty() {
            Some(0)
        } else if let (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) =
            (&lower, &upper)
        {
            let types = &types[..spec.vnode_columns.len()];
            match keys::prefix_len(types, &spec.key_options, a) {
                Ok(len) if b.get(..len) == Some(&a[..len]) => {
                    Some(vnodes(&keys::decode(types, &spec.key_options, [&a[..len]].into_iter())?, 1)[0])
                }
                _ => None,
            }
        } else {
            None
        };
        // No key is the beginning of another, so "after this key" is "after all that begins with it".
        let from = match lower {
            Bound::Included(key) => Some(key),
            Bound::Excluded(key) => after_prefix(&key),
            Bound::Unbounded => Some(Vec::new()),
        };
        let Some(from) = from else { return Ok(Vec::new()) };
        let to = match upper {
            Bound::Included(key) => after_prefix(&key),
            Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        if to.as_ref().is_some_and(|to| *to <= from) {
            return Ok(Vec::new());
        }
        let mut cursors = Vec::new();
        let places = place.map_or(0..=255, |p| p..=p);
        // Many cursors read little ahead each, until it shows how far the reader goes.
        let rows = if places.len() > 1 { 16 } else { 256 };
        for place in places {
            let from = [&[place], from.as_slice()].concat();
            let to = match &to {
                Some(to) => Some([&[place], to.as_slice()].concat()),
                None => place.checked_add(1).map(|next| vec![next]),
            };
            self.cursors(&from, to.as_deref(), rows, &mut cursors)?;
        }
        Ok(cursors)
    }

    fn rows(&self, merge: Merge, projection: Option<&[usize]>) -> Scan {
        let schema = self.schema();
        let (projection, schema) = match projection {
            None => ((0..self.shape.types.len()).collect(), schema),
            Some(p) => (p.to_vec(), Arc::new(schema.project(p).expect("the projection names columns of the relation"))),
        };
        let shape = self.shape.clone();
        Box::new(Rows { shape, merge, projection, schema, again: 0, done: false })
    }
}

/// Reads a range of a base piece by piece, in bigger and bigger pieces.
struct BaseRows {
    base: Arc<Snapshot>,
    table: TableId,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    rows: usize,
    counted: bool,
    done: bool,
}

impl Refill for BaseRows {
    fn refill(&mut self) -> Result<Option<Arc<Run>>> {
        if self.done {
            return Ok(None);
        }
        let mut run = self.base.read(self.table, &self.from, self.to.as_deref(), self.rows)?;
        self.done = run.len() < self.rows;
        self.rows = (self.rows * 4).min(SCAN_ROWS_MAX);
        if run.is_empty() {
            return Ok(None);
        }
        self.from = [run.key(run.len() - 1), &[0]].concat();
        if self.counted {
            for i in 0..run.len() {
                run.entries[i].diff = count(run.value(i))?;
            }
        }
        Ok(Some(Arc::new(run)))
    }
}

/// Decodes what a merge hands out.
struct Rows {
    shape: Arc<Shape>,
    merge: Merge,
    projection: Vec<usize>,
    schema: SchemaRef,
    /// How often the current row still has to come.
    again: i64,
    done: bool,
}

impl Rows {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut data: Vec<u8> = Vec::new();
        let mut ends: Vec<usize> = Vec::new();
        while ends.len() < SCAN_ROWS_MAX {
            if self.again == 0 {
                if !self.merge.next()? {
                    self.done = true;
                    break;
                }
                self.again = if self.shape.spec.unique {
                    self.merge.entries().next_back().map_or(0, |(.., diff)| i64::from(diff > 0))
                } else {
                    let count = self.merge.entries().map(|(.., diff)| diff).sum();
                    self.shape.check_count(count);
                    count
                };
                if self.again == 0 {
                    continue;
                }
            }
            let value = self.merge.entries().next_back().map_or(&[][..], |(_, value, _)| value);
            let row = self.shape.row(self.merge.key(), value)?;
            while self.again > 0 && ends.len() < SCAN_ROWS_MAX {
                data.extend_from_slice(row);
                ends.push(data.len());
                self.again -= 1;
            }
        }
        if ends.is_empty() {
            return Ok(None);
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let rows: Vec<&[u8]> = starts.zip(&ends).map(|(from, to)| &data[from..*to]).collect();
        self.shape.decode(&self.projection, &self.schema, rows.into_iter()).map(Some)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let batch = self.next_batch().transpose();
        // After an error nothing more can be trusted.
        self.done |= !matches!(batch, Some(Ok(_)));
        batch
    }
}
