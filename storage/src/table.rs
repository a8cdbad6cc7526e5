//! State tables.
/// A state table.
pub struct StateTable {}
