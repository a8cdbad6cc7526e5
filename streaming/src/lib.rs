//! The dataflow engine: operators, the driver that runs them, jobs that follow each other epoch by epoch.
//!
//! It knows nothing of SQL text, of Kafka or of Postgres.

pub mod aggregates;
pub mod engine;
pub mod error;
pub mod expr;
pub mod operator;
pub mod operators;
pub mod plan;
pub mod source;

pub use error::{Error, Result};
