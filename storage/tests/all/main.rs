//! The store from outside: one binary, because every binary links RocksDB again.

mod crash;
mod damage;
mod recovery;
mod relations;
mod tables;

use std::path::Path;
use std::sync::Arc;

use storage::{Checkpoint, CheckpointStats, DirtyHandle, Epoch, Store, StoreOptions};

/// Opens a store that writes sorted files from so many entries on.
fn open(dir: &Path, ingest_rows_min: usize) -> Arc<Store> {
    Store::open(dir, StoreOptions { ingest_rows_min, ..StoreOptions::small() }).unwrap()
}

/// A checkpoint of some state tables.
fn checkpoint(store: &Store, epoch: u64, tables: &[&DirtyHandle]) -> storage::Result<CheckpointStats> {
    let dirty = tables.iter().filter_map(|t| t.take()).collect();
    store.checkpoint(Checkpoint { epoch: Epoch(epoch), dirty, ..Default::default() })
}
