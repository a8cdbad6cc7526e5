//! A relation.
use serde::{Deserialize, Serialize};

/// Identifies a relation (a table, a source, a view, an index, an error table) for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationId(pub u32);

/// A relation at one epoch.
#[derive(Clone)]
pub struct RelationSnapshot {}
