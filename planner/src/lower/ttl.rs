//! `ttl` of a view: behind each reader of an input stands what forgets the rows that came too long ago.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use streaming::operators::{AnyOperator, TapReader, Ttl};
use streaming::plan::Plan;

use super::ViewPlan;
use crate::bind::key_of;
use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// The catalog as a view with a ttl sees it: no relation only grows, since it forgets rows.
pub fn as_forgotten(catalog: &Catalog) -> Catalog {
    let mut seen = catalog.clone();
    seen.without_append_only();
    seen
}

impl ViewPlan {
    /// The view of the rows that came within `micros`; planned over [`as_forgotten`].
    ///
    /// # Errors
    /// `0A000` where the query needs rows that stay.
    pub fn forgetting(mut self, micros: i64, text: &str, catalog: &Catalog) -> Result<ViewPlan> {
        let mut plan = Plan::default();
        let mut places = Vec::with_capacity(self.job.plan.nodes.len());
        for node in std::mem::take(&mut self.job.plan).nodes {
            let inputs = node.inputs.iter().map(|input| places[*input]).collect();
            let place = match node.operator {
                AnyOperator::TapReader(reader) if reader.history.is_some() => {
                    return Err(refused("a join with the versions of a table"));
                }
                AnyOperator::WindowClose(close) if close.column.is_some() => {
                    return Err(refused("EMIT ON WINDOW CLOSE").with_hint(
                        "The watermark bounds what such a view keeps: leave the ttl out, or let the rows leave the tables.",
                    ));
                }
                AnyOperator::TapReader(reader) => {
                    let schema = reader.schema.clone();
                    let reader = plan.add(with_key(reader, catalog), vec![]);
                    plan.add(Ttl { micros, text: text.to_string(), schema }, vec![reader])
                }
                operator => plan.add(operator, inputs),
            };
            places.push(place);
        }
        self.job.plan = plan;
        Ok(self)
    }
}

/// The reader with the columns behind its own that tell the relation's rows apart: equal rows came at different times.
fn with_key(mut reader: TapReader, catalog: &Catalog) -> TapReader {
    let Some(object) = catalog.by_id(reader.relation) else { return reader };
    let missing: Vec<usize> = key_of(object).0.into_iter().filter(|column| !reader.columns.contains(column)).collect();
    let mut fields: Vec<Arc<Field>> = reader.schema.fields().iter().cloned().collect();
    for &column in &missing {
        let ty = object.columns[column].ty.arrow();
        fields.push(Arc::new(Field::new(&object.columns[column].name, ty, true)));
    }
    reader.watermarks.resize(reader.columns.len(), None);
    reader.watermarks.extend(missing.iter().map(|_| None));
    reader.columns.extend(missing);
    reader.schema = Arc::new(Schema::new(fields));
    reader
}

fn refused(what: &str) -> Error {
    Error::unsupported(format!("{what} in a view with a ttl is not supported"))
}
