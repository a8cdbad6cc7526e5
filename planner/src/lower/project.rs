//! SELECT's expressions. Two projections on top of each other become one where the upper one only picks columns.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::logical_expr::Projection;
use streaming::expr::Expr;
use streaming::operators::{AnyOperator, Project, TapReader};

use super::{Lowering, Node, all, expr, field};
use crate::error::Result;

impl Lowering {
    pub(super) fn projection(&mut self, projection: &Projection) -> Result<Node> {
        let input = self.lower(&projection.input)?;
        let exprs = all(&projection.expr, &projection.input)?;
        let types = projection.schema.fields();
        let fields: Vec<Field> = exprs
            .iter()
            .zip(&projection.expr)
            .zip(types)
            .map(|((lowered, e), f)| field(&expr::name(lowered, e, &input), f.data_type().clone()))
            .collect();
        Ok(self.project(&input, exprs, Arc::new(Schema::new(fields))))
    }

    /// `exprs` over `input`, as few operators as that takes.
    pub(super) fn project(&mut self, input: &Node, mut exprs: Vec<Expr>, mut schema: SchemaRef) -> Node {
        if exprs.is_empty() {
            // Rows without columns cannot be counted.
            exprs.push(Expr::Column(0));
            schema = Arc::new(Schema::new(vec![input.schema.field(0).clone()]));
        }
        let columns: Option<Vec<usize>> =
            exprs.iter().map(|e| if let Expr::Column(c) = e { Some(*c) } else { None }).collect();
        let Some(columns) = columns else {
            return self.add(Project { exprs, schema }, &[input.index], input.append_only);
        };
        let same_names = schema == input.schema;
        if same_names && columns.iter().copied().eq(0..input.width()) {
            return input.clone();
        }
        let below = &self.plan.nodes[input.index];
        match &below.operator {
            AnyOperator::TapReader(reader)
                if reader.history.is_none()
                    && columns.iter().zip(schema.fields()).all(|(&c, f)| f.name() == input.name(c)) =>
            {
                let reader = TapReader {
                    columns: columns.iter().map(|&c| reader.columns[c]).collect(),
                    watermarks: columns.iter().map(|&c| reader.watermarks.get(c).copied().flatten()).collect(),
                    schema,
                    ..reader.clone()
                };
                self.add(reader, &[], input.append_only)
            }
            AnyOperator::Project(project) => {
                let exprs = columns.iter().map(|&c| project.exprs[c].clone()).collect();
                let inputs = below.inputs.clone();
                self.add(Project { exprs, schema }, &inputs, input.append_only)
            }
            _ => self.add(Project { exprs, schema }, &[input.index], input.append_only),
        }
    }
}
