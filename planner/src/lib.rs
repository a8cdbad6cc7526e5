//! SQL text to a bound statement to a logical plan to operators: the only crate that plans with DataFusion.

pub mod batch;
pub mod error;
pub mod explain;
pub mod lower;
pub mod nodes;
pub mod rules;
pub mod functions;
pub mod types;

pub use error::{Error, Result};
