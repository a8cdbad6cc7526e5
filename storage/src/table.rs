//! A state table: the durable ordered map of one operator on one worker.
//!
//! ```text
//! put, delete -> dirty --take--> in flight (a sorted run per checkpoint under way) --committed--> RocksDB
//! get, scan   <- dirty     <-    in flight, newest first                            <-            RocksDB
//! ```
//!
//! An operator keeps its hot state in structures of its own and puts what changed since the last checkpoint when it
//! seals with `at.checkpoint`. The dirty part is therefore filled in bursts and then taken as a whole: it is a hash
//! table over one buffer, sorted once when it is taken. Only an operator that scans between its own writes pays for
//! an ordered index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Result;
use crate::keys::after_prefix;
use crate::relation::RelationId;
use crate::run::{Entry, Run};
use crate::store::Db;

/// Identifies a state table for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub(crate) u64);

impl TableId {
    /// Table `n` of operator number `operator` of the job that maintains `relation`.
    ///
    /// # Panics
    /// If `operator` has more than 24 bits.
    pub fn new(relation: RelationId, operator: u32, n: u8) -> TableId {
        assert!(operator < 0xff_ffff, "operator {operator} does not fit in a table's id");
        TableId(u64::from(relation.0) << 32 | u64::from(operator) << 8 | u64::from(n))
    }

    /// The table of the rows of a relation itself.
    pub(crate) fn rows_of(relation: RelationId) -> TableId {
        TableId(u64::from(relation.0) << 32 | 0xffff_ffff)
    }

    pub(crate) fn relation(self) -> RelationId {
        RelationId((self.0 >> 32) as u32)
    }
}

/// The dirty entries of a table, sorted: what a checkpoint writes. Cheap to clone and to send to a writer thread.
#[derive(Clone, Debug)]
pub struct DirtyRun {
    pub(crate) table: TableId,
    /// Keys with their vnode; a diff above zero is a put, one below a delete.
    pub(crate) run: Arc<Run>,
    /// Set once a checkpoint has made the entries durable.
    pub(crate) committed: Arc<AtomicBool>,
}

impl DirtyRun {
    pub(crate) fn new(table: TableId, run: Run) -> DirtyRun {
        DirtyRun { table, run: Arc::new(run), committed: Arc::default() }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.run.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// Their size in memory.
    pub fn bytes(&self) -> usize {
        self.run.bytes()
    }
}

/// Takes the rows of a scan: vnode, key, value.
pub type Visit<'a> = dyn FnMut(u8, &[u8], &[u8]) -> Result<()> + 'a;

/// A durable ordered map `vnode | key -> value`. Writes are buffered until a checkpoint takes them.
pub struct StateTable {
    db: Arc<Db>,
    id: TableId,
    vnodes: Range<usize>,
    is_new: bool,
    dirty: Arc<Mutex<Dirty>>,
}

/// The driver's hand on a table that its operator owns.
#[derive(Clone)]
pub struct DirtyHandle {
    id: TableId,
    dirty: Arc<Mutex<Dirty>>,
}

impl DirtyHandle {
    /// Takes the dirty entries for a checkpoint; `None` if there are none. They stay readable through the table, now
    /// and until the checkpoint has committed them.
    pub fn take(&self) -> Option<DirtyRun> {
        let mut dirty = self.dirty.lock();
        let run = DirtyRun::new(self.id, dirty.pending.take()?);
        dirty.forget_committed();
        dirty.in_flight.push(run.clone());
        Some(run)
    }

    /// Entries waiting for a checkpoint to take them.
    pub fn len(&self) -> usize {
        self.dirty.lock().pending.entries.len()
    }

    /// Whether no entry is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory of the waiting entries.
    pub fn bytes(&self) -> usize {
        self.dirty.lock().pending.data.len()
    }
}

impl StateTable {
    pub(crate) fn open(db: Arc<Db>, id: TableId, vnodes: Range<usize>) -> Result<(StateTable, DirtyHandle)> {
        let mut is_new = true;
        // Nothing durable for any worker: a restart may have changed which vnodes are ours, never the answer.
        db.scan(id, &[], None, &mut |_, _| {
            is_new = false;
            Ok(false)
        })?;
        let dirty = Arc::new(Mutex::new(Dirty::default()));
        let handle = DirtyHandle { id, dirty: dirty.clone() };
        Ok((StateTable { db, id, vnodes, is_new, dirty }, handle))
    }

    /// Whether nothing of the table was durable when it was opened, so that there is nothing to read.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The vnodes of this worker. State that belongs to a worker and not to a key goes to the first of them.
    pub fn vnodes(&self) -> Range<usize> {
        self.vnodes.clone()
    }

    /// The value of a key.
    pub fn get(&self, vnode: u8, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(found) = self.dirty.lock().get(vnode, key) {
            return Ok(found);
        }
        self.db.get(self.id, vnode, key)
    }

    /// The values of many keys: cheaper than one by one.
    pub fn multi_get(&self, keys: &[(u8, &[u8])]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut misses = Vec::new();
        {
            let mut dirty = self.dirty.lock();
            for (i, (vnode, key)) in keys.iter().enumerate() {
                values.push(dirty.get(*vnode, key).unwrap_or_else(|| {
                    misses.push(i);
                    None
                }));
            }
        }
        let missing: Vec<(u8, &[u8])> = misses.iter().map(|i| keys[*i]).collect();
        for (i, value) in misses.into_iter().zip(self.db.multi_get(self.id, &missing)?) {
            values[i] = value;
        }
        Ok(values)
    }

    /// Sets the value of a key.
    pub fn put(&self, vnode: u8, key: &[u8], value: &[u8]) {
        self.dirty.lock().pending.set(vnode, key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&self, vnode: u8, key: &[u8]) {
        self.dirty.lock().pending.set(vnode, key, None);
    }

    /// All keys that begin with `prefix`, in order, with their values.
    pub fn scan_prefix(&self, vnode: u8, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let from = [&[vnode], prefix].concat();
        let to = after_prefix(&from);
        let mut rows = Vec::new();
        self.scan_range(&from, to.as_deref(), &mut |_, key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(rows)
    }

    /// Hands all rows of this worker to `f`, in the order of vnode and key.
    pub fn scan(&self, f: &mut Visit<'_>) -> Result<()> {
        if self.vnodes.is_empty() {
            return Ok(());
        }
        let to = (self.vnodes.end < crate::batch::VNODES).then_some([self.vnodes.end as u8]);
        self.scan_range(&[self.vnodes.start as u8], to.as_ref().map(|t| t.as_slice()), f)
    }

    /// Hands all rows of all workers to `f`: for an input that every worker holds as a whole and saves a share of.
    pub fn scan_all(&self, f: &mut Visit<'_>) -> Result<()> {
        self.scan_range(&[], None, f)
    }

    fn scan_range(&self, from: &[u8], to: Option<&[u8]>, f: &mut Visit<'_>) -> Result<()> {
        // What is not durable yet lies over what is.
        let overlay = self.dirty.lock().range(from, to);
        let mut overlay = overlay.iter().peekable();
        self.db.scan(self.id, from, to, &mut |key, value| {
            while let Some((over, change)) = overlay.next_if(|(over, _)| over.as_slice() < key) {
                if let Some(value) = change {
                    f(over[0], &over[1..], value)?;
                }
            }
            match overlay.next_if(|(over, _)| over.as_slice() == key) {
                Some((_, Some(value))) => f(key[0], &key[1..], value)?,
                Some((_, None)) => {}
                None => f(key[0], &key[1..], value)?,
            }
            Ok(true)
        })?;
        for (over, change) in overlay {
            if let Some(value) = change {
                f(over[0], &over[1..], value)?;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Dirty {
    pending: Pending,
    /// Taken, not yet known to be committed; oldest first.
    in_flight: Vec<DirtyRun>,
}

impl Dirty {
    fn forget_committed(&mut self) {
        self.in_flight.retain(|run| !run.committed.load(Ordering::Acquire));
    }

    /// `None`: not here. `Some(None)`: deleted.
    fn get(&mut self, vnode: u8, key: &[u8]) -> Option<Option<Vec<u8>>> {
        if let Some(i) = self.pending.find(vnode, key) {
            let entry = self.pending.entries[i as usize];
            let at = entry.at + entry.key as usize;
            return Some((entry.diff > 0).then(|| self.pending.data[at..at + entry.value as usize].to_vec()));
        }
        if self.in_flight.is_empty() {
            return None;
        }
        self.forget_committed();
        let full = [&[vnode], key].concat();
        let run = self.in_flight.iter().rev().find_map(|r| r.run.find(&full).map(|i| (&r.run, i)));
        run.map(|(run, i)| (run.diff(i) > 0).then(|| run.value(i).to_vec()))
    }

    /// A copy of all changes in a range, deletes as `None`.
    fn range(&mut self, from: &[u8], to: Option<&[u8]>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut changes = BTreeMap::new();
        self.forget_committed();
        for DirtyRun { run, .. } in &self.in_flight {
            let end = to.map_or(run.len(), |to| run.lower_bound(to));
            for i in run.lower_bound(from)..end {
                changes.insert(run.key(i).to_vec(), (run.diff(i) > 0).then(|| run.value(i).to_vec()));
            }
        }
        self.pending.range(from, to, &mut changes);
        changes
    }
}

fn hash(vnode: u8, key: &[u8]) -> u32 {
    xxh3_64_with_seed(key, vnode.into()) as u32
}

/// Half a hash as a whole one: the table looks at both ends of it.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What was put and deleted since the last take, the newest change of each key.
#[derive(Default)]
struct Pending {
    data: Vec<u8>,
    entries: Vec<Entry>,
    /// The entry of each key, with a part of the key's hash: the table grows, and mostly answers, without the keys.
    index: HashTable<(u32, u32)>,
    /// The same in key order, from the first scan to the next take.
    ordered: Option<BTreeMap<Box<[u8]>, u32>>,
}

impl Pending {
    fn find(&self, vnode: u8, key: &[u8]) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        self.find_hashed(hash(vnode, key), vnode, key)
    }

    fn find_hashed(&self, hash: u32, vnode: u8, key: &[u8]) -> Option<u32> {
        let Pending { data, entries, .. } = self;
        let is = |(h, i): &(u32, u32)| {
            *h == hash && {
                let entry = &entries[*i as usize];
                data[entry.at] == vnode && &data[entry.at + 1..entry.at + entry.key as usize] == key
            }
        };
        self.index.find(spread(hash), is).map(|(_, i)| *i)
    }

    fn set(&mut self, vnode: u8, key: &[u8], value: Option<&[u8]>) {
        let (diff, value) = (if value.is_some() { 1 } else { -1 }, value.unwrap_or_default());
        let hash = hash(vnode, key);
        if let Some(i) = self.find_hashed(hash, vnode, key) {
            let entry = &mut self.entries[i as usize];
            entry.diff = diff;
            if entry.value as usize == value.len() {
                let at = entry.at + entry.key as usize;
                self.data[at..at + value.len()].copy_from_slice(value);
                return;
            }
            (entry.at, entry.value) = (self.data.len(), value.len() as u32);
            self.data.push(vnode);
            self.data.extend_from_slice(key);
            self.data.extend_from_slice(value);
            return;
        }
        let i = self.entries.len() as u32;
        let (at, key_len, value_len) = (self.data.len(), key.len() as u32 + 1, value.len() as u32);
        self.data.push(vnode);
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        self.entries.push(Entry { at, key: key_len, value: value_len, diff });
        self.index.insert_unique(spread(hash), (hash, i), |(hash, _)| spread(*hash));
        if let Some(ordered) = &mut self.ordered {
            ordered.insert(self.data[at..at + key_len as usize].into(), i);
        }
    }

    fn range(&mut self, from: &[u8], to: Option<&[u8]>, changes: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        if self.entries.is_empty() {
            return;
        }
        let Pending { data, entries, ordered, .. } = self;
        let ordered = ordered.get_or_insert_with(|| {
            let key = |e: &Entry| Box::from(&data[e.at..e.at + e.key as usize]);
            entries.iter().enumerate().map(|(i, e)| (key(e), i as u32)).collect()
        });
        for (key, i) in ordered.range::<[u8], _>((Included(from), to.map_or(Unbounded, Excluded))) {
            let entry = &entries[*i as usize];
            let at = entry.at + entry.key as usize;
            changes.insert(key.to_vec(), (entry.diff > 0).then(|| data[at..at + entry.value as usize].to_vec()));
        }
    }

    /// All changes as a sorted run. The buffer goes with it: only the entries are put in order.
    fn take(&mut self) -> Option<Run> {
        if self.entries.is_empty() {
            return None;
        }
        let Pending { data, mut entries, .. } = std::mem::take(self);
        let key = |e: &Entry| &data[e.at..e.at + e.key as usize];
        if !entries.is_sorted_by(|a, b| key(a) < key(b)) {
            // Most comparisons are decided by the first 16 bytes, which stand beside the entry.
            let head = |e: &Entry| {
                let (key, mut head) = (key(e), [0; 16]);
                let len = key.len().min(16);
                head[..len].copy_from_slice(&key[..len]);
                u128::from_be_bytes(head)
            };
            let mut order: Vec<(u128, Entry)> = entries.iter().map(|e| (head(e), *e)).collect();
            order.sort_unstable_by(|(x, a), (y, b)| x.cmp(y).then_with(|| key(a).cmp(key(b))));
            entries = order.into_iter().map(|(_, e)| e).collect();
        }
        Some(Run { data, entries })
    }
}
