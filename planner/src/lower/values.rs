//! VALUES, and the one row of a SELECT without FROM.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{EmptyRelation, Expr as DfExpr, Values as DfValues};
use streaming::expr::{Expr, Literal};
use streaming::operators::{Project, UnionAll, Values};

use super::{Lowering, Node, expr, field};
use crate::error::{Error, Result};

impl Lowering {
    pub(super) fn empty(&mut self, empty: &EmptyRelation) -> Result<Node> {
        if empty.produce_one_row {
            return self.one_row();
        }
        let fields: Vec<Field> = empty.schema.fields().iter().map(|f| field(f.name(), f.data_type().clone())).collect();
        Ok(self.add(Values { rows: vec![], schema: Arc::new(Schema::new(fields)) }, &[], true))
    }

    /// One row with a column that nobody reads.
    fn one_row(&mut self) -> Result<Node> {
        let present = Literal::from_scalar(&ScalarValue::Boolean(Some(true))).map_err(Error::from)?;
        let schema = Arc::new(Schema::new(vec![field("present", DataType::Boolean)]));
        Ok(self.add(Values { rows: vec![vec![present]], schema }, &[], true))
    }

    /// A column that nobody reads for each row of the input.
    pub(super) fn presence(&mut self, input: &Node) -> Result<Node> {
        let schema = Arc::new(Schema::new(vec![field("present", DataType::Boolean)]));
        let present = expr::literal(&ScalarValue::Boolean(Some(true)))?;
        Ok(self.project(input, vec![present], schema))
    }

    pub(super) fn values(&mut self, values: &DfValues) -> Result<Node> {
        let fields: Vec<Field> =
            values.schema.fields().iter().map(|f| field(f.name(), f.data_type().clone())).collect();
        let schema = Arc::new(Schema::new(fields));
        let constant = |e: &DfExpr| match e {
            DfExpr::Literal(value, _) => Some(value.clone()),
            e => crate::expr::constant(e),
        };
        let (mut constants, mut computed) = (vec![], vec![]);
        for row in &values.values {
            match row.iter().map(constant).collect::<Option<Vec<_>>>() {
                Some(row) => constants
                    .push(row.iter().map(Literal::from_scalar).collect::<Result<Vec<_>, _>>().map_err(Error::from)?),
                None => computed.push(row),
            }
        }
        let mut branches = vec![];
        if !constants.is_empty() || computed.is_empty() {
            branches.push(self.add(Values { rows: constants, schema: schema.clone() }, &[], true));
        }
        let nothing = datafusion::common::DFSchema::empty();
        for row in computed {
            let exprs = row.iter().map(|e| expr::lower(e, &nothing)).collect::<Result<Vec<Expr>>>()?;
            let one = self.one_row()?;
            branches.push(self.add(Project { exprs, schema: schema.clone() }, &[one.index], true));
        }
        if branches.len() == 1 {
            return Ok(branches.swap_remove(0));
        }
        let indexes: Vec<usize> = branches.iter().map(|b| b.index).collect();
        Ok(self.add(UnionAll { n_inputs: indexes.len(), schema }, &indexes, true))
    }
}
