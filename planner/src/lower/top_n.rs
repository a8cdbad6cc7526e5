//! ORDER BY ... LIMIT, LIMIT alone, and rankings with a condition.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use datafusion::logical_expr::{Expr as DfExpr, Limit, LogicalPlan, SortExpr};
use streaming::expr::Expr;
use streaming::operators::TopN;
use streaming::operators::top_n::{Rank, RankKind, SortKey};

use super::{Lowering, Node, expr, field, unsupported};
use crate::error::Result;
use crate::expr::integer;
use crate::nodes;

impl Lowering {
    pub(super) fn limit_node(&mut self, limit: &Limit) -> Result<Node> {
        let number = |e: &Option<Box<DfExpr>>| match e {
            None => Ok(None),
            Some(e) if matches!(**e, DfExpr::Literal(ref v, _) if v.is_null()) => Ok(None),
            Some(e) => integer(e).map(|n| Some(n.max(0) as u64)).ok_or_else(|| unsupported("LIMIT without a constant")),
        };
        let (skip, fetch) = (number(&limit.skip)?.unwrap_or(0), number(&limit.fetch)?);
        self.limit_over(&limit.input, skip, fetch)
    }

    /// A limit over projections over a sort keeps the sort's order: it goes below the projections.
    fn limit_over(&mut self, input: &LogicalPlan, skip: u64, fetch: Option<u64>) -> Result<Node> {
        match input {
            LogicalPlan::Projection(p) if leads_to_sort(&p.input) => {
                let limited = self.limit_over(&p.input, skip, fetch)?;
                let exprs = super::all(&p.expr, &p.input)?;
                let fields: Vec<Field> = (exprs.iter().zip(&p.expr))
                    .zip(p.schema.fields())
                    .map(|((lowered, e), f)| field(&expr::name(lowered, e, &limited), f.data_type().clone()))
                    .collect();
                Ok(self.project(&limited, exprs, Arc::new(Schema::new(fields))))
            }
            LogicalPlan::SubqueryAlias(alias) => self.limit_over(&alias.input, skip, fetch),
            LogicalPlan::Sort(sort) => {
                let fetch = match (fetch, sort.fetch) {
                    (Some(a), Some(b)) => Some(a.min((b as u64).saturating_sub(skip))),
                    (a, b) => a.or(b.map(|b| (b as u64).saturating_sub(skip))),
                };
                self.limit(&sort.input, &sort.expr, skip, fetch)
            }
            other => self.limit(other, &[], skip, fetch),
        }
    }

    pub(super) fn limit(
        &mut self,
        input: &LogicalPlan,
        order: &[SortExpr],
        offset: u64,
        limit: Option<u64>,
    ) -> Result<Node> {
        if offset == 0 && limit.is_none() {
            return self.lower(input);
        }
        let n = input.schema().fields().len();
        let (node, _, order) = self.ordered(input, &[], order)?;
        let operator = TopN {
            partition: vec![],
            order,
            offset,
            limit,
            rank: Rank { kind: RankKind::RowNumber, output: false },
            append_only: node.append_only,
            schema: node.schema.clone(),
        };
        let kept = self.add(operator, &[node.index], false);
        Ok(self.exactly(kept, n))
    }

    pub(super) fn top_n(&mut self, top_n: &nodes::TopN) -> Result<Node> {
        let n = top_n.input.schema().fields().len();
        let (node, partition, order) = self.ordered(&top_n.input, &top_n.partition, &top_n.order)?;
        let Some(rank_type) = top_n.rank_type() else {
            let operator = TopN {
                partition,
                order,
                offset: top_n.offset,
                limit: top_n.limit,
                rank: Rank { kind: top_n.kind, output: false },
                append_only: node.append_only,
                schema: node.schema.clone(),
            };
            let kept = self.add(operator, &[node.index], false);
            return Ok(self.exactly(kept, n));
        };
        let mut fields = node.schema.fields().to_vec();
        fields.push(Arc::new(field(rank_name(top_n.kind), DataType::Int64)));
        let operator = TopN {
            partition,
            order,
            offset: top_n.offset,
            limit: top_n.limit,
            rank: Rank { kind: top_n.kind, output: true },
            append_only: node.append_only,
            schema: Arc::new(Schema::new(fields)),
        };
        let ranked = self.add(operator, &[node.index], false);
        // The input's columns and the rank, in the type that the window function gave it.
        let rank = Expr::Column(node.width());
        let rank = if rank_type == DataType::Int64 {
            rank
        } else {
            Expr::Cast { expr: Box::new(rank), to: rank_type.clone() }
        };
        let exprs = (0..n).map(Expr::Column).chain([rank]).collect();
        let mut fields: Vec<Field> = node.schema.fields().iter().take(n).map(|f| f.as_ref().clone()).collect();
        fields.push(field(rank_name(top_n.kind), rank_type));
        Ok(self.project(&ranked, exprs, Arc::new(Schema::new(fields))))
    }

    /// The input with the expressions of a partition and an order as columns, and where they stand.
    pub(super) fn ordered(
        &mut self,
        input: &LogicalPlan,
        partition: &[DfExpr],
        order: &[SortExpr],
    ) -> Result<(Node, Vec<usize>, Vec<SortKey>)> {
        let node = self.lower(input)?;
        let n = input.schema().fields().len();
        let node = self.exactly(node, n);
        let mut exprs: Vec<Expr> = (0..node.width()).map(Expr::Column).collect();
        let mut fields: Vec<Field> = node.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut column = |e: &DfExpr| -> Result<usize> {
            let lowered = expr::lower(e, input.schema())?;
            if let Some(known) = exprs.iter().position(|known| *known == lowered) {
                return Ok(known);
            }
            let data_type = datafusion::logical_expr::ExprSchemable::get_type(e, input.schema())?;
            fields.push(field(&expr::label(e), data_type));
            exprs.push(lowered);
            Ok(exprs.len() - 1)
        };
        let partition = partition.iter().map(&mut column).collect::<Result<Vec<_>>>()?;
        let mut keys: Vec<SortKey> = Vec::with_capacity(order.len());
        for sort in order {
            let key = SortKey { column: column(&sort.expr)?, descending: !sort.asc, nulls_first: sort.nulls_first };
            // A column that was compared decides nothing more. The only one stays: a frame may be bounded by its values.
            let decided = keys.iter().any(|k| k.column == key.column) || partition.contains(&key.column);
            if !decided || order.len() == 1 {
                keys.push(key);
            }
        }
        let node = self.project(&node, exprs, Arc::new(Schema::new(fields)));
        Ok((node, partition, keys))
    }
}

fn leads_to_sort(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(p) => leads_to_sort(&p.input),
        LogicalPlan::SubqueryAlias(a) => leads_to_sort(&a.input),
        _ => false,
    }
}

fn rank_name(kind: RankKind) -> &'static str {
    match kind {
        RankKind::RowNumber => "row_number",
        RankKind::Rank => "rank",
        RankKind::DenseRank => "dense_rank",
    }
}
