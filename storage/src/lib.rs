//! What a change is, when it happened, how it is kept. The bottom crate.

pub mod batch;
pub mod epoch;
pub mod error;
pub mod keys;
pub mod numeric;
pub mod log;
pub mod relation;
pub mod row;
pub mod store;
pub mod table;
pub mod types;

pub use batch::Batch;
pub use epoch::Epoch;
pub use error::{Error, Result};
pub use relation::{RelationId, RelationSnapshot};
pub use store::Store;
pub use table::StateTable;
pub use types::{Column, SqlType};
