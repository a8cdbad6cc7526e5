//! The dataflow engine: operators, the driver that runs them, jobs that follow each other epoch by epoch.
//!
//! It knows nothing of SQL text, of Kafka or of Postgres.

pub mod aggregates;
pub mod byte_table;
pub mod checkpoint;
pub mod clock;
pub mod coordinator;
pub mod counted_rows;
mod dataflow;
mod discovery;
mod driver;
pub mod engine;
pub mod error;
pub mod event_time;
pub mod evicted;
pub mod expiry;
pub mod expr;
pub mod inbox;
pub mod int_table;
pub mod job;
pub mod lookup;
pub mod memory;
pub mod operator;
pub mod operators;
pub mod ordered_rows;
pub mod outbox;
pub mod owed;
pub mod partitions;
pub mod plan;
pub mod reader;
pub mod retention;
pub mod retries;
pub mod row_errors;
mod runtime;
pub mod sink;
pub mod source;
pub mod spec;
pub mod status;
mod table_log;
pub mod tap;
#[doc(hidden)]
pub mod testing;
pub mod ttl;
mod visible;
pub mod watermark;
pub mod windows;

pub use error::{Error, Result};
