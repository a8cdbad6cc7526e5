//! SQL text to a bound statement to a logical plan to operators: the only crate that plans with DataFusion.

pub mod batch;
pub mod bind;
pub mod catalog;
pub mod dialect;
#[cfg(test)]
mod end_to_end;
pub mod error;
pub mod explain;
pub(crate) mod expr;
pub mod functions;
pub mod lower;
pub mod nodes;
pub mod parser;
pub mod rename;
pub mod rules;
pub mod settings;
pub mod stack;
pub mod statement;
pub mod types;

/// One value with its type, as parameters carry it.
pub use datafusion::common::ScalarValue;

pub use bind::{
    Bound, BoundDelete, BoundInsert, BoundUpdate, OutputColumn, Settings, bind_delete, bind_insert, bind_query,
    bind_update, bind_view, relation_oid,
};
pub use error::{Error, Result};
pub use lower::{IndexPlan, Indexed, ViewPlan, plan_bound_view, plan_index, plan_view};
pub use parser::{Parsed, parse};
pub use statement::Statement;

/// The functions that plans name, for the engine.
pub fn functions() -> std::sync::Arc<dyn streaming::expr::Functions> {
    std::sync::Arc::new(functions::Registry)
}
