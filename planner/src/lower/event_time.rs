//! WATERMARK FOR: an expression over the rows of a source or table.

use storage::{Column, RelationId, SqlType};
use streaming::expr::Expr;
use streaming::operators::AnyOperator;

use super::lower;
use crate::bind::{Settings, bind_view};
use crate::catalog::{Catalog, Object, ObjectKind};
use crate::error::{Error, Result};
use crate::statement::{Statement, Watermark};

/// The column of a `WATERMARK FOR column AS expr` and its expression, over `columns` of the relation `name`.
///
/// # Errors
/// If there is no such column, if it is no time, or if the expression is none over one row.
pub fn plan_event_time(
    settings: &Settings,
    name: &str,
    columns: &[Column],
    watermark: &Watermark,
) -> Result<(usize, Expr)> {
    let at = |error: Error| error.at(watermark.position);
    let Some(column) = columns.iter().position(|c| c.name == watermark.column) else {
        return Err(at(Error::new("42703", format!("column \"{}\" does not exist", watermark.column))));
    };
    let ty = &columns[column].ty;
    if !matches!(ty, SqlType::Timestamp | SqlType::TimestampTz) {
        let message = format!("a column of type {} cannot have a watermark", crate::types::format(ty, -1));
        return Err(at(Error::new("42804", message)).with_hint("Declare it as timestamp or timestamptz."));
    }
    let mut catalog = Catalog::default();
    catalog.insert(Object {
        id: RelationId(crate::catalog::FIRST_USER_ID),
        name: name.to_string(),
        kind: ObjectKind::Source,
        columns: columns.to_vec(),
        append_only: true,
        ..Object::default()
    });
    const BEFORE: &str = "SELECT *, (";
    let table = crate::catalog::quote_ident(name);
    let text = format!("{BEFORE}{}) FROM public.{table}", watermark.expr);
    let moved = |error: Error| {
        let inside = error.position.and_then(|at| at.checked_sub(BEFORE.len() + 1));
        Error { position: None, ..error }.at(watermark.position + inside.unwrap_or(0))
    };
    let parsed = crate::parser::parse(&text).map_err(moved)?.pop().map(|parsed| parsed.statement);
    let Some(Statement::Query(query)) = parsed else {
        return Err(at(Error::new("42601", "a watermark is one expression over a row")));
    };
    let bound = bind_view(&catalog, settings, &query).map_err(moved)?;
    let said = bound.columns.last().map_or(SqlType::Unknown, |c| c.ty.clone());
    if said != *ty {
        let (is, wanted) = (crate::types::format(&said, -1), crate::types::format(ty, -1));
        let message = format!("the watermark of \"{}\" is of type {is}, not {wanted}", watermark.column);
        return Err(at(Error::new("42804", message)));
    }
    let names: Vec<String> = (0..bound.columns.len()).map(|i| format!("c{i}")).collect();
    let one_row = || {
        at(Error::new("42P17", "a watermark must be computed from one row alone")).with_hint(
            "Use no subquery, no aggregate and nothing that depends on the time, as ts - INTERVAL '5 seconds'.",
        )
    };
    let plan = lower(&bound.plan, &names, bound.switches).map_err(|_| one_row())?.plan;
    let expr = match plan.nodes.last().map(|node| (&node.operator, node.inputs.as_slice())) {
        Some((AnyOperator::TapReader(reader), _)) => reader.columns.last().map(|c| Expr::Column(*c)),
        Some((AnyOperator::Project(project), [input])) => match &plan.nodes[*input].operator {
            AnyOperator::TapReader(reader) => {
                project.exprs.last().map(|expr| expr.map_columns(&|column| reader.columns[column]))
            }
            _ => None,
        },
        _ => None,
    };
    expr.filter(|expr| is_immutable(expr)).map(|expr| (column, expr)).ok_or_else(one_row)
}

/// Whether an expression says the same of a row whenever it is asked.
fn is_immutable(expr: &Expr) -> bool {
    use datafusion::logical_expr::Volatility;
    match expr {
        Expr::Column(_) | Expr::Literal(_) => true,
        Expr::Call { function, args, .. } => {
            let function = crate::functions::engine().scalar(function);
            function.is_some_and(|f| f.signature().volatility == Volatility::Immutable) && args.iter().all(is_immutable)
        }
        Expr::Binary { left, right, .. } => is_immutable(left) && is_immutable(right),
        Expr::Not(e) | Expr::IsNull(e) | Expr::Cast { expr: e, .. } => is_immutable(e),
        Expr::Case { when, otherwise, .. } => {
            when.iter().all(|(c, r)| is_immutable(c) && is_immutable(r))
                && otherwise.as_deref().is_none_or(is_immutable)
        }
        Expr::InList { expr, list, .. } => is_immutable(expr) && list.iter().all(is_immutable),
    }
}
