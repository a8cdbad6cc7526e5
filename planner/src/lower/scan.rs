//! A scan becomes a tap reader of the columns that are read.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::logical_expr::TableScan;
use streaming::operators::TapReader;

use super::{Lowering, Node, field, unsupported};
use crate::batch::RelationSource;
use crate::error::Result;

impl Lowering {
    /// The filters of a scan are repeated above it.
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Node> {
        let Some(source) = RelationSource::of(scan) else {
            if let Some(node) = self.last_round(scan) {
                return Ok(node);
            }
            return Err(unsupported(&format!("reading \"{}\"", scan.table_name)));
        };
        let all = || (0..source.columns().len()).collect();
        let mut columns: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
        if columns.is_empty() {
            // Rows are only counted: the shortest thing that says there is one.
            columns.push(source.key().first().copied().unwrap_or(0));
        }
        Ok(self.tap(source, columns))
    }

    pub(super) fn tap(&mut self, source: &RelationSource, columns: Vec<usize>) -> Node {
        let types = datafusion::logical_expr::TableSource::schema(source);
        let fields: Vec<Field> =
            columns.iter().map(|&c| field(&source.columns()[c], types.field(c).data_type().clone())).collect();
        let append_only = source.is_append_only();
        let watermarks = columns.iter().map(|&c| source.watermark(c)).collect();
        let reader = TapReader {
            relation: source.relation(),
            name: source.name().to_string(),
            columns,
            append_only,
            history: None,
            watermarks,
            schema: Arc::new(Schema::new(fields)),
        };
        self.add(reader, &[], append_only)
    }
}
