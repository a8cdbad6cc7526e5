//! The store: everything durable of one server, in one directory. The only door to RocksDB.
//!
//! ```text
//! <data directory>/
//!   LOCK      held (flock) by the server that uses the directory; holds its process id
//!   format    "headwater data directory\nformat 1\n<checksum>\n"
//!   db/       RocksDB, one column family
//!   ingest/   sorted files on their way into RocksDB; swept at every start
//!   log/      the synced log of table writes, see `log.rs`
//!   savepoints/  copies as of named checkpoints, see `copy.rs`
//!
//! key in db := table u64 big endian, vnode u8, key          a state table, or the rows of a relation
//! table     := relation u32, operator u24, n u8             rows of a relation: operator and n all ones
//! table 0   := vnode 0, kind u8, key                        what belongs to no relation:
//!              'd' relation u32   -> ()                     dropped, its tables are still to be removed
//!              'e'                -> epoch u64 LE           the marker: the epoch of the last checkpoint
//!              'm' key            -> value                  the catalog, source offsets, whatever the engine keeps
//!              'r' relation u32   -> epoch u64 LE, rows i64 LE  what its rows are as of, and how many there are
//! ```
//!
//! The table comes first so that a table is one range: one seek to read it, one range delete to drop it
//! (`docs/decisions/0006-key-layout.md`).
//!
//! A checkpoint is one atomic step of sorted changes: a `WriteBatch` with a synced WAL when it is small, sorted files
//! and one ingest of all of them when it is large. Nothing else ever writes, so whatever RocksDB recovers is the state
//! as of the last marker.

pub mod copy;
pub(crate) mod torn;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator, DBRecoveryMode,
    IngestExternalFileOptions, LogLevel, Options, ReadOptions, SstFileWriter, WriteBatch, WriteOptions,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::vnodes_of_worker;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::failpoint::around;
use crate::relation::{Relation, RelationId, RelationSpec};
use crate::run::{Cursor, Merge, Run};
use crate::table::{DirtyHandle, DirtyRun, StateTable, TableId};

/// The version of everything that is in a data directory. A change of any layout that an older server would read
/// wrongly counts it up.
pub const FORMAT: u32 = 1;

const META: TableId = TableId(0);
const MARKER: &[u8] = b"\0e";

/// How a store uses memory and disk.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes of writes that are kept in memory before they go to a sorted file.
    pub write_buffer_bytes: usize,
    /// Bytes of memory that reads may fill. Used as reads come, never in advance.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// A checkpoint of at least so many entries is written as sorted files.
    pub ingest_rows_min: usize,
    /// Bytes after which such a file ends and the next begins.
    pub ingest_file_bytes: u64,
    /// Whether a checkpoint waits for the disk. Only tests can do without.
    pub sync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            write_buffer_bytes: 64 << 20,
            block_cache_bytes: 256 << 20,
            background_jobs: 2,
            ingest_rows_min: 100_000,
            ingest_file_bytes: 64 << 20,
            sync: true,
        }
    }
}

impl StoreOptions {
    /// For tests: hundreds of stores may be open at once, and nothing waits for the disk.
    pub fn small() -> Self {
        StoreOptions {
            write_buffer_bytes: 1 << 20,
            block_cache_bytes: 1 << 20,
            background_jobs: 2,
            sync: false,
            ..StoreOptions::default()
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} as of {})", self.dir.display(), self.last_checkpoint())
    }
}

/// Everything durable of one server.
pub struct Store {
    // The order matters: RocksDB is closed before the lock is given up.
    db: Arc<Db>,
    dir: PathBuf,
    options: StoreOptions,
    writer: Mutex<Writer>,
    relations: Mutex<BTreeMap<RelationId, Weak<Relation>>>,
    /// The epoch of the last checkpoint.
    durable: AtomicU64,
    _lock: File,
}

/// What only the thread that takes a checkpoint touches.
#[derive(Default)]
struct Writer {
    /// Taken from their tables by checkpoints that failed: they go with the next.
    retained: Vec<DirtyRun>,
    /// The number of the next file to ingest.
    next_file: u64,
}

/// One atomic step. Everything in it is durable afterwards, or nothing is.
#[derive(Default)]
pub struct Checkpoint {
    /// What the state is as of. Never below the last one.
    pub epoch: Epoch,
    /// The dirty entries of state tables. If the checkpoint fails, the store keeps them for the next one. Where two
    /// runs of a table have the same key, the later one counts.
    pub dirty: Vec<DirtyRun>,
    /// Relations whose rows become durable, each up to an epoch of its own.
    pub relations: Vec<(Arc<Relation>, Epoch)>,
    /// Changes of the meta table; `None` deletes.
    pub meta: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Relations whose rows and state tables go away for ever.
    pub drop: Vec<RelationId>,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Entries written.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// Whether it was written as sorted files.
    pub ingested: bool,
}

impl Store {
    /// Bytes of memory that the store itself takes.
    pub fn memory_bytes(&self) -> u64 {
        self.db.memory_bytes()
    }

    /// Opens the data directory `dir`, which is made if it is not there, at its last checkpoint.
    ///
    /// # Errors
    /// `Conflict` if another server uses the directory or a newer one wrote it, `Corrupt` if a file is damaged.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Arc<Store>> {
        if copy::is_copy(dir) {
            let text = format!("\"{}\" is a backup: make a data directory of it with headwater restore", dir.display());
            return Err(Error::Conflict(text));
        }
        fs::create_dir_all(dir).map_err(|e| io_error("create the data directory", dir, &e))?;
        let lock = lock(dir)?;
        check_format(dir, options.sync)?;
        // Files that a crash left behind never became part of the store.
        let ingest = dir.join("ingest");
        match around("ingest/sweep", || fs::remove_dir_all(&ingest)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error("remove", &ingest, &e)),
            _ => {}
        }
        around("ingest/folder", || fs::create_dir(&ingest)).map_err(|e| io_error("create", &ingest, &e))?;
        let db = Arc::new(Db::open(&dir.join("db"), &options)?);
        let epoch = match db.get(META, MARKER[0], &MARKER[1..])? {
            Some(bytes) => read_u64(&bytes, "the marker of the last checkpoint")?,
            None => 0,
        };
        let store = Store {
            db,
            dir: dir.to_path_buf(),
            options,
            writer: Mutex::default(),
            relations: Mutex::default(),
            durable: AtomicU64::new(epoch),
            _lock: lock,
        };
        store.finish_drops()?;
        Ok(Arc::new(store))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The epoch that everything in the store is as of.
    pub fn last_checkpoint(&self) -> Epoch {
        Epoch(self.durable.load(Ordering::Acquire))
    }

    /// Opens a state table for one of `workers` workers, and the hand that takes its dirty entries.
    pub fn table(&self, id: TableId, worker: usize, workers: usize) -> Result<(StateTable, DirtyHandle)> {
        StateTable::open(self.db.clone(), id, vnodes_of_worker(worker, workers))
    }

    /// Opens a relation, or hands out the one that is open already.
    pub fn relation(&self, spec: RelationSpec) -> Result<Arc<Relation>> {
        // The snapshot and the epoch must be of the same checkpoint. The writer comes first, as in a checkpoint.
        let _writer = self.writer.lock();
        let mut relations = self.relations.lock();
        if let Some(relation) = relations.get(&spec.id).and_then(Weak::upgrade) {
            return Ok(relation);
        }
        let (epoch, rows) = match self.db.get(META, 0, &rows_key(spec.id)[1..])? {
            Some(bytes) => {
                let (epoch, rows) = bytes.split_at(bytes.len().min(8));
                (
                    read_u64(epoch, "the epoch of a relation")?,
                    read_u64(rows, "the number of rows of a relation")? as i64,
                )
            }
            None => (0, 0),
        };
        let id = spec.id;
        let relation = Arc::new(Relation::new(spec, Snapshot::new(self.db.clone()), Epoch(epoch), rows));
        relations.insert(id, Arc::downgrade(&relation));
        Ok(relation)
    }

    /// A value of the meta table.
    pub fn meta_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(META, 0, &meta_key(key)[1..])
    }

    /// The keys of the meta table that begin with `prefix`, in order, with their values.
    pub fn meta_scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let from = meta_key(prefix);
        let to = crate::keys::after_prefix(&from);
        let mut rows = Vec::new();
        self.db.scan(META, &from, to.as_deref(), &mut |key, value| {
            rows.push((key[2..].to_vec(), value.to_vec()));
            Ok(true)
        })?;
        Ok(rows)
    }

    /// Makes a step durable. Blocks until it is: call it on a thread of its own.
    ///
    /// # Errors
    /// `DiskFull` and `Io`: nothing of the step is durable; dirty entries go with the next checkpoint, relations keep
    /// theirs, meta changes and drops are the caller's to repeat.
    ///
    /// # Panics
    /// If a relation would hold a row less than zero times.
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Result<CheckpointStats> {
        let start = Instant::now();
        let Checkpoint { epoch, dirty, relations, meta, drop } = checkpoint;
        let mut writer = self.writer.lock();
        assert!(epoch >= self.last_checkpoint(), "checkpoint {epoch} after {}", self.last_checkpoint());
        let drop: BTreeSet<RelationId> = drop.into_iter().collect();
        writer.retained.extend(dirty);
        writer.retained.retain(|run| !drop.contains(&run.table.relation()));
        let relations: Vec<_> = relations.into_iter().filter(|(r, _)| !drop.contains(&r.id())).collect();

        // Everything in key order: the meta table is table 0, then the runs by table.
        let mut head: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            meta.into_iter().map(|(key, value)| (meta_key(&key), value)).collect();
        head.insert(MARKER.to_vec(), Some(epoch.0.to_le_bytes().to_vec()));
        let mut runs = writer.retained.clone();
        let mut counts = Vec::with_capacity(relations.len());
        for (relation, up_to) in &relations {
            let (run, rows) = relation.take_dirty(*up_to)?;
            if let Some(run) = run {
                let value = [up_to.0.to_le_bytes(), rows.to_le_bytes()].concat();
                head.insert(rows_key(relation.id()), Some(value));
                runs.push(run);
            }
            counts.push(rows);
        }
        runs.sort_by_key(|run| run.table);
        let rows = head.len() + runs.iter().map(DirtyRun::len).sum::<usize>();
        let ingested = rows >= self.options.ingest_rows_min;
        for id in &drop {
            head.insert(rows_key(*id), None);
            if ingested {
                head.insert(dropped_key(*id), Some(Vec::new()));
            }
        }
        let bytes = if ingested { self.ingest(&mut writer, &head, &runs)? } else { self.write(&head, &runs, &drop)? };

        // From here on everything is durable.
        self.durable.store(epoch.0, Ordering::Release);
        let snapshot = Arc::new(Snapshot::new(self.db.clone()));
        for run in std::mem::take(&mut writer.retained).iter().chain(&runs) {
            run.committed.store(true, Ordering::Release);
        }
        for ((relation, up_to), rows) in relations.iter().zip(counts) {
            relation.committed(*up_to, snapshot.clone(), rows);
        }
        // The others are in the new snapshot as they were in the old, which need not be kept for them.
        let mut open = self.relations.lock();
        open.retain(|id, relation| !drop.contains(id) && relation.strong_count() > 0);
        for relation in open.values().filter_map(Weak::upgrade) {
            if !relations.iter().any(|(r, _)| Arc::ptr_eq(r, &relation)) {
                relation.refresh(snapshot.clone());
            }
        }
        std::mem::drop(open);
        if ingested && !drop.is_empty() {
            self.finish_drops()?;
        }
        Ok(CheckpointStats { rows: rows as u64, bytes, duration: start.elapsed(), ingested })
    }

    /// Removes what is there of relations that are not in `keep`, and says which. For the start: what was being
    /// created or dropped when the server died is not in the catalog.
    pub fn purge_except(&self, keep: &[RelationId]) -> Result<Vec<RelationId>> {
        let _writer = self.writer.lock();
        let keep: BTreeSet<RelationId> = keep.iter().copied().collect();
        let mut found = BTreeSet::new();
        let mut next = Some(RelationId(1));
        while let Some(from) = next {
            next = None;
            if let Some(id) = self.db.first_relation(from)? {
                found.insert(id);
                next = id.0.checked_add(1).map(RelationId);
            }
        }
        let counts = [b"\0r".to_vec(), b"\0s".to_vec()];
        self.db.scan(META, &counts[0], Some(&counts[1]), &mut |key, _| {
            found.insert(relation_of_key(&key[2..])?);
            Ok(true)
        })?;
        let purged: Vec<RelationId> = found.difference(&keep).copied().collect();
        if !purged.is_empty() {
            let mut batch = WriteBatch::default();
            for id in &purged {
                delete_relation(&mut batch, *id);
            }
            around("purge/write", || self.db.write(batch, self.options.sync))?;
        }
        Ok(purged)
    }

    /// The relations that have something in the store, with about how many bytes on disk each.
    pub fn relation_sizes(&self) -> Result<Vec<(RelationId, u64)>> {
        let mut sizes = Vec::new();
        let mut next = Some(RelationId(1));
        while let Some(from) = next {
            next = None;
            if let Some(id) = self.db.first_relation(from)? {
                sizes.push((id, self.db.size(id)));
                next = id.0.checked_add(1).map(RelationId);
            }
        }
        Ok(sizes)
    }

    /// Removes the tables of relations that a checkpoint has marked as dropped. Doing it twice does no harm.
    fn finish_drops(&self) -> Result<()> {
        let mut dropped = Vec::new();
        self.db.scan(META, b"\0d", Some(b"\0e"), &mut |key, _| {
            dropped.push(relation_of_key(&key[2..])?);
            Ok(true)
        })?;
        if dropped.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for id in dropped {
            delete_relation(&mut batch, id);
            batch.delete(full_key(META, &dropped_key(id)));
        }
        around("drop/write", || self.db.write(batch, self.options.sync))
    }

    /// The small way: one sorted batch and a synced WAL.
    fn write(
        &self,
        head: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        runs: &[DirtyRun],
        drop: &BTreeSet<RelationId>,
    ) -> Result<u64> {
        let mut batch = WriteBatch::default();
        for id in drop {
            delete_relation(&mut batch, *id);
        }
        let mut bytes = 0;
        for_each_change(head, runs, &mut |key, value| {
            bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
            Ok(())
        })?;
        around("checkpoint/write", || self.db.write(batch, self.options.sync))?;
        Ok(bytes)
    }

    /// The large way: sorted files that become part of the store all at once.
    fn ingest(&self, writer: &mut Writer, head: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, runs: &[DirtyRun]) -> Result<u64> {
        let mut files = Vec::new();
        let result = self.ingest_files(writer, head, runs, &mut files);
        if result.is_err() {
            for file in &files {
                let _ = fs::remove_file(file);
            }
        }
        result
    }

    fn ingest_files(
        &self,
        writer: &mut Writer,
        head: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        runs: &[DirtyRun],
        files: &mut Vec<PathBuf>,
    ) -> Result<u64> {
        let db = &self.db;
        let mut sst: Option<SstFileWriter<'_>> = None;
        let mut bytes = 0;
        for_each_change(head, runs, &mut |key, value| {
            bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            let file = match &mut sst {
                Some(file) => file,
                none => {
                    let path = self.dir.join("ingest").join(format!("{:06}.sst", writer.next_file));
                    writer.next_file += 1;
                    let file = SstFileWriter::create(&db.options);
                    files.push(path);
                    file.open(&files[files.len() - 1]).map_err(|e| db.error(e))?;
                    none.insert(file)
                }
            };
            match value {
                Some(value) => file.put(key, value),
                None => file.delete(key),
            }
            .map_err(|e| db.error(e))?;
            if file.file_size() >= self.options.ingest_file_bytes {
                around("checkpoint/file", || file.finish().map_err(|e| db.error(e)))?;
                sst = None;
            }
            Ok(())
        })?;
        if let Some(mut file) = sst {
            around("checkpoint/file", || file.finish().map_err(|e| db.error(e)))?;
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let ingest = || db.db.ingest_external_file_opts(&options, files.clone()).map_err(|e| db.error(e));
        around("checkpoint/ingest", ingest)?;
        Ok(bytes)
    }
}

/// Takes changes: key, and value or `None` for a delete.
type VisitChange<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<()> + 'a;

/// Takes rows, key and value, and says whether to go on.
pub(crate) type VisitRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool> + 'a;

/// Hands every change of a checkpoint to `f` in key order: key in the database, value or `None` for a delete.
fn for_each_change(
    head: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    runs: &[DirtyRun],
    f: &mut VisitChange<'_>,
) -> Result<()> {
    let mut key = Vec::new();
    for (suffix, value) in head {
        write_key(&mut key, META, suffix);
        f(&key, value.as_deref())?;
    }
    for runs in runs.chunk_by(|a, b| a.table == b.table) {
        let table = runs[0].table;
        // The runs of the workers of one table follow each other; they overlap only after a failed checkpoint.
        let mut order: Vec<&Arc<Run>> = runs.iter().map(|r| &r.run).filter(|r| !r.is_empty()).collect();
        order.sort_by(|a, b| a.key(0).cmp(b.key(0)));
        if order.windows(2).all(|w| w[0].key(w[0].len() - 1) < w[1].key(0)) {
            for run in order {
                for i in 0..run.len() {
                    write_key(&mut key, table, run.key(i));
                    f(&key, (run.diff(i) > 0).then(|| run.value(i)))?;
                }
            }
            continue;
        }
        let mut merge = Merge::new(runs.iter().map(|r| Cursor::all(r.run.clone())).collect(), 0);
        while merge.next()? {
            write_key(&mut key, table, merge.key());
            if let Some((_, value, diff)) = merge.entries().next_back() {
                f(&key, (diff > 0).then_some(value))?;
            }
        }
    }
    Ok(())
}

fn write_key(key: &mut Vec<u8>, table: TableId, suffix: &[u8]) {
    key.clear();
    key.extend_from_slice(&table.0.to_be_bytes());
    key.extend_from_slice(suffix);
}

fn full_key(table: TableId, suffix: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + suffix.len());
    write_key(&mut key, table, suffix);
    key
}

fn meta_key(key: &[u8]) -> Vec<u8> {
    [b"\0m", key].concat()
}

fn rows_key(id: RelationId) -> Vec<u8> {
    [b"\0r", id.0.to_be_bytes().as_slice()].concat()
}

fn dropped_key(id: RelationId) -> Vec<u8> {
    [b"\0d", id.0.to_be_bytes().as_slice()].concat()
}

fn relation_of_key(bytes: &[u8]) -> Result<RelationId> {
    let bytes =
        bytes.try_into().map_err(|_| Error::Corrupt("a relation's id in the store has a wrong length".into()))?;
    Ok(RelationId(u32::from_be_bytes(bytes)))
}

/// Deletes everything of a relation: its tables are one range.
fn delete_relation(batch: &mut WriteBatch, id: RelationId) {
    let end = (u64::from(id.0) + 1) << 32;
    batch.delete_range((u64::from(id.0) << 32).to_be_bytes(), end.to_be_bytes());
    batch.delete(full_key(META, &rows_key(id)));
}

fn read_u64(bytes: &[u8], what: &str) -> Result<u64> {
    let bytes = bytes.try_into().map_err(|_| Error::Corrupt(format!("{what} is {} bytes long", bytes.len())))?;
    Ok(u64::from_le_bytes(bytes))
}

/// RocksDB, with keys of tables in place of plain ones.
pub(crate) struct Db {
    db: DB,
    dir: PathBuf,
    options: Options,
}

impl Db {
    /// Bytes of memory: blocks that were read, and what is not in sorted files yet.
    fn memory_bytes(&self) -> u64 {
        let count = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        count("rocksdb.block-cache-usage") + count("rocksdb.cur-size-all-mem-tables")
    }

    fn open(dir: &Path, store: &StoreOptions) -> Result<Db> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(store.block_cache_bytes));
        table.set_block_size(16 << 10);
        table.set_format_version(6);
        // Whole keys: misses of point reads are what operators cannot keep in memory. No prefix extractor: prefixes
        // have every length, and each reader of a prefix would need one of its own.
        table.set_bloom_filter(10.0, false);
        // Index and filters count into the cache, so that many files do not mean much memory.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(store.write_buffer_bytes);
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(store.background_jobs);
        options.set_level_compaction_dynamic_level_bytes(true);
        // Most bytes are in the last level: there lz4 saves a third of the disk, above it would only cost.
        options.set_compression_type(DBCompressionType::None);
        options.set_bottommost_compression_type(DBCompressionType::Lz4);
        options.set_max_open_files(512);
        options.set_paranoid_checks(true);
        // A torn record at the end is a write that nobody was told about. Anything else in the middle is damage: the
        // default would silently recover to before it.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_bytes_per_sync(1 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Warn);
        // No thread wakes up while the server is idle.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // Named, so that its handle can be asked for.
        let open = |options: &Options| {
            let column_family = ColumnFamilyDescriptor::new("default", options.clone());
            DB::open_cf_descriptors(options, dir, [column_family])
        };
        let db = match open(&options) {
            // A power failure while the last checkpoint was written: to RocksDB that is damage like any other.
            Err(error) if error.kind() == rocksdb::ErrorKind::Corruption && torn::torn_log(dir).is_some() => {
                options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
                open(&options)
            }
            other => other,
        };
        let db = db.map_err(|e| rocksdb_error(dir, e))?;
        Ok(Db { db, dir: dir.to_path_buf(), options })
    }

    fn error(&self, error: rocksdb::Error) -> Error {
        rocksdb_error(&self.dir, error)
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(|e| self.error(e))
    }

    /// The value of a key.
    pub fn get(&self, table: TableId, vnode: u8, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let key = [&table.0.to_be_bytes(), [vnode].as_slice(), key].concat();
        self.db.get(key).map_err(|e| self.error(e))
    }

    /// The values of many keys.
    pub fn multi_get(&self, table: TableId, keys: &[(u8, &[u8])]) -> Result<Vec<Option<Vec<u8>>>> {
        self.multi_get_opt(table, keys, &ReadOptions::default())
    }

    fn multi_get_opt(
        &self,
        table: TableId,
        keys: &[(u8, &[u8])],
        options: &ReadOptions,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let table = table.0.to_be_bytes();
        let keys: Vec<Vec<u8>> = keys.iter().map(|(vnode, key)| [&table, [*vnode].as_slice(), key].concat()).collect();
        let cf = self.db.cf_handle("default").expect("the default column family was opened by name");
        let values = self.db.batched_multi_get_cf_opt(&cf, &keys, keys.is_sorted(), options);
        values.into_iter().map(|v| v.map(|v| v.map(|v| v.to_vec())).map_err(|e| self.error(e))).collect()
    }

    /// Hands the rows of a range of a table to `f`, keys with their vnode and without their table, until it says no.
    pub fn scan(&self, table: TableId, from: &[u8], to: Option<&[u8]>, f: &mut VisitRow<'_>) -> Result<()> {
        let options = range_options(table, to);
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(full_key(table, from));
        while let Some((key, value)) = rows.item() {
            if !f(&key[8..], value)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|e| self.error(e))
    }

    /// The first relation from `from` on that has anything.
    fn first_relation(&self, from: RelationId) -> Result<Option<RelationId>> {
        let mut rows = self.db.raw_iterator();
        rows.seek((u64::from(from.0) << 32).to_be_bytes());
        let found = rows.key().map(|key| relation_of_key(key.get(..4).unwrap_or(key))).transpose()?;
        rows.status().map_err(|e| self.error(e))?;
        Ok(found)
    }

    fn size(&self, id: RelationId) -> u64 {
        let (from, to) = ((u64::from(id.0) << 32).to_be_bytes(), ((u64::from(id.0) + 1) << 32).to_be_bytes());
        self.db.get_approximate_sizes(&[rocksdb::Range::new(&from, &to)]).iter().sum()
    }
}

fn range_options(table: TableId, to: Option<&[u8]>) -> ReadOptions {
    let mut options = ReadOptions::default();
    match to {
        Some(to) => options.set_iterate_upper_bound(full_key(table, to)),
        // The table after the last one has no number, and no key begins with nine bytes of ones.
        None => match table.0.checked_add(1) {
            Some(next) => options.set_iterate_upper_bound(next.to_be_bytes()),
            None => options.set_iterate_upper_bound([0xff; 10]),
        },
    }
    options.set_auto_readahead_size(true);
    options
}

/// The store as of a checkpoint, for as long as it is held.
pub(crate) struct Snapshot {
    // Dropped before `db`, which it points into.
    snapshot: rocksdb::Snapshot<'static>,
    db: Arc<Db>,
}

impl Snapshot {
    fn new(db: Arc<Db>) -> Snapshot {
        let snapshot = db.db.snapshot();
        // SAFETY: the snapshot borrows `db.db`, which lives in the heap allocation of an Arc that the same struct
        // holds: it neither moves nor is freed before `db` is dropped, and fields are dropped in the order of their
        // declaration, so the snapshot goes first. The snapshot never leaves the struct.
        #[allow(unsafe_code)]
        let snapshot = unsafe { std::mem::transmute::<rocksdb::Snapshot<'_>, rocksdb::Snapshot<'static>>(snapshot) };
        Snapshot { snapshot, db }
    }

    /// The value of a key that begins with its vnode.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.snapshot.get(full_key(table, key)).map_err(|e| self.db.error(e))
    }

    /// The values of keys that begin with their vnode.
    pub fn multi_get(&self, table: TableId, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        let keys: Vec<(u8, &[u8])> = keys.iter().map(|key| (key[0], &key[1..])).collect();
        self.db.multi_get_opt(table, &keys, &options)
    }

    /// Up to `rows` rows of a range of a table, all puts.
    pub fn read(&self, table: TableId, from: &[u8], to: Option<&[u8]>, rows: usize) -> Result<Run> {
        let mut iterator: DBRawIterator<'_> = self.snapshot.raw_iterator_opt(range_options(table, to));
        let mut run = Run::default();
        iterator.seek(full_key(table, from));
        while run.len() < rows
            && let Some((key, value)) = iterator.item()
        {
            run.push(&[], &key[8..], value, 1);
            iterator.next();
        }
        iterator.status().map_err(|e| self.db.error(e))?;
        Ok(run)
    }
}

/// Names what happened in terms of what to do about it.
fn rocksdb_error(dir: &Path, error: rocksdb::Error) -> Error {
    use rocksdb::ErrorKind;
    let (kind, text) = (error.kind(), error.into_string());
    let dir = dir.display();
    if text.contains("No space left on device") || text.contains("NoSpace") || text.contains("Disk quota exceeded") {
        return Error::DiskFull(format!("no space left on the device of \"{dir}\": {text}"));
    }
    match kind {
        ErrorKind::Corruption => Error::Corrupt(format!("a file of \"{dir}\" is damaged: {text}")),
        _ => Error::Io(format!("could not use \"{dir}\": {text}")),
    }
}

/// Names what happened to a file in terms of what to do about it.
pub(crate) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::DiskFull(format!("could not {what} \"{}\": {error}", path.display()))
        }
        _ => Error::Io(format!("could not {what} \"{}\": {error}", path.display())),
    }
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| io_error("open", &path, &e))?;
    // A server that is just going away, or a process that it is just starting, may hold the lock for a moment longer.
    let mut attempts = 10;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(Duration::from_millis(25));
            }
            other => break other,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let process = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            return Err(Error::Conflict(format!(
                "data directory \"{}\" is in use by another server{process}",
                dir.display()
            )));
        }
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &path, &e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|e| io_error("write", &path, &e))?;
    Ok(file)
}

/// Checks that this server can read the directory; a new one gets the mark of this version.
fn check_format(dir: &Path, sync: bool) -> Result<()> {
    let path = dir.join("format");
    let body = |version: u32| format!("headwater data directory\nformat {version}\n");
    let damaged = || Error::Corrupt(format!("file \"{}\" is damaged", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) => {
            let (head, checksum) = text.trim_end().rsplit_once('\n').ok_or_else(damaged)?;
            let head = format!("{head}\n");
            if u64::from_str_radix(checksum, 16) != Ok(xxh3_64(head.as_bytes())) {
                return Err(damaged());
            }
            let version = head.lines().nth(1).and_then(|line| line.strip_prefix("format "));
            let version: u32 = version.and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
            if version > FORMAT {
                return Err(Error::Conflict(format!(
                    "data directory \"{}\" has format {version}, but this server reads formats up to {FORMAT}: \
                     it was written by a newer version",
                    dir.display()
                )));
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("db").exists() {
                return Err(Error::Corrupt(format!("file \"{}\" is missing", path.display())));
            }
            let head = body(FORMAT);
            let text = format!("{head}{:016x}\n", xxh3_64(head.as_bytes()));
            let new = dir.join("format.new");
            let write = || {
                let mut file = File::create(&new)?;
                around("format/write", || file.write_all(text.as_bytes()))?;
                if sync {
                    around("format/sync", || file.sync_all())?;
                }
                around("format/rename", || fs::rename(&new, &path))?;
                if sync { around("format/sync_folder", || File::open(dir)?.sync_all()) } else { Ok(()) }
            };
            write().map_err(|e| io_error("write", &path, &e))
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(damaged()),
        Err(e) => Err(io_error("read", &path, &e)),
    }
}
