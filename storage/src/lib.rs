//! What a change is, when it happened, how it is kept. The bottom crate: it knows no SQL, no operators and no network.
//!
//! In reading order: [`types`] and [`numeric`] (what a column's bytes mean), [`batch`] and [`epoch`] (what a change is
//! and when), [`keys`] and [`row`] (changes as bytes), [`table`] (an operator's state), [`relation`] (rows that anyone
//! may read), [`store`] (all of it on disk, a checkpoint at a time), [`log`] (table writes between two checkpoints).
//!
//! # How an engine uses it
//!
//! - A worker opens each state table with [`Store::table`], under [`TableId::new`]; at a checkpoint it takes the dirty
//!   entries through the [`DirtyHandle`], in place, and goes on. They stay readable through the table.
//! - Workers call [`Relation::publish`] as often as they like while an epoch is open; once the epoch is complete on all
//!   of them, one calls [`Relation::advance`], and from then on [`Relation::snapshot`] serves it. The epoch of a
//!   checkpoint is announced with [`Relation::cut`] before more than [`relation::EPOCHS_READABLE_BACK`] newer ones are
//!   complete.
//! - A thread of its own calls [`Store::checkpoint`] with the dirty runs and `(relation, epoch)` pairs; it takes the
//!   relations' changes itself and gives them their new base. After an error the dirty runs stay with the store and go
//!   with the next checkpoint; meta changes and drops are the caller's to repeat.
//! - After a start, [`Store::purge_except`] removes what the catalog does not know.
//!
//! ```
//! use storage::{Checkpoint, Epoch, RelationId, Store, StoreOptions, TableId};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let store = Store::open(dir.path(), StoreOptions::small())?;
//! let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1)?;
//! table.put(7, b"key", b"value");
//! store.checkpoint(Checkpoint { epoch: Epoch(1), dirty: dirty.take().into_iter().collect(), ..Default::default() })?;
//! # drop((table, store));
//!
//! let store = Store::open(dir.path(), StoreOptions::small())?;
//! assert_eq!(store.last_checkpoint(), Epoch(1));
//! let (table, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1)?;
//! assert_eq!(table.get(7, b"key")?, Some(b"value".to_vec()));
//! # Ok::<(), storage::Error>(())
//! ```

pub mod batch;
pub mod epoch;
pub mod error;
pub mod failpoint;
pub mod jsonb;
pub mod keys;
pub mod log;
pub mod numeric;
pub mod relation;
pub mod row;
mod run;
pub mod store;
pub mod table;
pub mod types;

pub use batch::Batch;
pub use epoch::Epoch;
pub use error::{Error, Result};
pub use keys::SortOption;
pub use relation::{Relation, RelationId, RelationSnapshot, RelationSpec};
pub use store::{Checkpoint, CheckpointStats, Store, StoreOptions};
pub use table::{DirtyHandle, DirtyRun, StateTable, TableId};
pub use types::{Column, SqlType};
