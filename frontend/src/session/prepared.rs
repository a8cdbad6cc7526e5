//! A statement that is parsed and bound once and may run many times.

use std::sync::Arc;

use planner::batch::Query;
use planner::bind::SetConfig;
use planner::catalog::Catalog;
use planner::{Bound, Parsed};
use storage::{RelationId, SqlType};

use crate::error::Result;
use crate::fields::{self, Field};

/// A statement that is parsed and bound, and may run many times.
pub struct Prepared {
    /// The statement; `None` if the text was empty.
    pub parsed: Option<Parsed>,
    /// The query, if it is one.
    pub ready: Option<Ready>,
    /// The parameters' types.
    pub parameters: Vec<SqlType>,
    /// What the client said of them.
    pub given: Vec<Option<SqlType>>,
    /// The columns of its rows; `None` if it returns none.
    pub fields: Option<Vec<Field>>,
    /// What it was bound against.
    pub catalog: Arc<Catalog>,
    /// The settings that binding depends on: the search path and the time zone.
    pub bound_with: (String, String),
}

/// A bound query that is optimised and may run many times.
pub struct Ready {
    /// The columns.
    pub fields: Vec<Field>,
    /// What it reads.
    pub relations: Vec<RelationId>,
    /// What it sets: `set_config`.
    pub sets: Vec<SetConfig>,
    query: Query,
    /// The same through indexes, and what that reads.
    indexed: Option<(Query, Vec<RelationId>)>,
}

impl Ready {
    /// Optimises a query.
    pub fn new(bound: Bound, catalog: &Catalog) -> Result<Ready> {
        let fields = fields::of(&bound);
        let query = Query::new(bound.plan)?;
        let indexed = query.with_indexes(catalog)?.map(|query| {
            let relations = query.relations();
            (query, relations)
        });
        Ok(Ready { fields, relations: bound.relations, sets: bound.sets, query, indexed })
    }

    /// The way to its rows, and what it reads: an index does not have what the transaction has changed.
    pub fn way(&self, is_changed: impl Fn(RelationId) -> bool) -> (&Query, &[RelationId]) {
        match &self.indexed {
            Some((query, relations)) if !self.relations.iter().any(|&r| is_changed(r)) => (query, relations),
            _ => (&self.query, &self.relations),
        }
    }
}
