//! EXPLAIN: a stream's plan with the state that each operator keeps, and a read's plan, for people and as JSON.

mod bound;
mod growth;

use std::collections::HashSet;
use std::fmt::Write;

use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use serde_json::{Value, json};
use streaming::aggregates::AggregateCall;
use streaming::expr::Expr;
use streaming::operator::Operator;
use streaming::operators::hash_join::JoinKind;
use streaming::operators::set_operation::SetKind;
use streaming::operators::temporal_filter::now_schema;
use streaming::operators::time_window::Shape;
use streaming::operators::top_n::{RankKind, SortKey};
use streaming::operators::{AnyOperator, TimeWindow};
use streaming::plan::Plan;

use crate::batch::{Query, Reads, Tables};
use crate::error::Result;

/// A stream's plan as a tree, the root first: what each operator does, whether its output only ever grows, and what it
/// keeps.
pub fn explain_stream(plan: &Plan) -> String {
    let mut text = String::new();
    let mut seen = HashSet::new();
    let shared = shared(plan);
    if let Some(root) = plan.nodes.len().checked_sub(1) {
        write_node(plan, root, 0, &shared, &mut seen, &mut text);
    }
    text
}

fn write_node(
    plan: &Plan,
    i: usize,
    depth: usize,
    shared: &HashSet<usize>,
    seen: &mut HashSet<usize>,
    out: &mut String,
) {
    let node = &plan.nodes[i];
    let indent = "  ".repeat(depth);
    let arrow = if depth == 0 { "" } else { "-> " };
    let name = name(&node.operator);
    let tag = if shared.contains(&i) { format!(" #{i}") } else { String::new() };
    if !seen.insert(i) {
        let _ = writeln!(out, "{indent}{arrow}{name}{tag} (as above)");
        return;
    }
    let grows = if append_only(plan, i) { " (append-only)" } else { "" };
    let what = describe(plan, i);
    let space = if what.is_empty() { "" } else { " " };
    let _ = writeln!(out, "{indent}{arrow}{name}{tag}{space}{what}{grows}");
    if let Some(state) = state(plan, i) {
        let pad = if depth == 0 { "  " } else { "     " };
        let _ = writeln!(out, "{indent}{pad}state: {state}");
    }
    for &input in &node.inputs {
        write_node(plan, input, depth + 1, shared, seen, out);
    }
}

/// The same as nested objects: `operator`, `details`, `append_only`, `state`, `columns`, `inputs`.
pub fn explain_stream_json(plan: &Plan) -> String {
    let tree = plan.nodes.len().checked_sub(1).map_or(Value::Null, |root| json_node(plan, root));
    serde_json::to_string_pretty(&json!([{ "Plan": tree }])).expect("strings and numbers only")
}

fn json_node(plan: &Plan, i: usize) -> Value {
    let node = &plan.nodes[i];
    json!({
        "id": i,
        "operator": name(&node.operator),
        "details": describe(plan, i),
        "append_only": append_only(plan, i),
        "state": state(plan, i),
        "columns": node.operator.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>(),
        "inputs": node.inputs.iter().map(|&input| json_node(plan, input)).collect::<Vec<_>>(),
    })
}

/// What a node keeps and what bounds it.
fn state(plan: &Plan, i: usize) -> Option<String> {
    let state = plan.nodes[i].operator.state()?;
    Some(match bound::of(plan, i).or_else(|| growth::of(plan, i)) {
        Some(bound) => format!("{state}, {bound}"),
        None => state,
    })
}

/// What an operator is called. A join without keys is called by how it finds its pairs, an aggregation by its phase.
fn name(operator: &AnyOperator) -> &'static str {
    match operator {
        AnyOperator::HashJoin(join) if join.keys[0].is_empty() => match join.ranges.iter().any(Option::is_some) {
            true => "RangeJoin",
            false => "NestedLoopJoin",
        },
        AnyOperator::Aggregate(aggregate) if aggregate.partials.is_some() => "GlobalAggregate",
        operator => operator.name(),
    }
}

/// The nodes that feed several others.
fn shared(plan: &Plan) -> HashSet<usize> {
    let mut seen = HashSet::new();
    plan.nodes.iter().flat_map(|n| n.inputs.iter().copied()).filter(|i| !seen.insert(*i)).collect()
}

/// Whether a node never retracts.
fn append_only(plan: &Plan, i: usize) -> bool {
    let node = &plan.nodes[i];
    let inputs = || node.inputs.iter().all(|&input| append_only(plan, input));
    match &node.operator {
        AnyOperator::Source(_) | AnyOperator::Values(_) => true,
        AnyOperator::TapReader(reader) => reader.append_only,
        AnyOperator::Filter(_)
        | AnyOperator::Project(_)
        | AnyOperator::TimeWindow(_)
        | AnyOperator::Unnest(_)
        | AnyOperator::UnionAll(_)
        | AnyOperator::Distinct(_)
        | AnyOperator::LookupJoin(_)
        | AnyOperator::Materialize(_) => inputs(),
        AnyOperator::HashJoin(join) => matches!(join.kind, JoinKind::Inner | JoinKind::Semi) && inputs(),
        AnyOperator::TemporalJoin(_) | AnyOperator::VersionedJoin(_) => true,
        AnyOperator::WindowClose(close) => close.every.is_none() && !close.updates,
        AnyOperator::TemporalFilter(filter) => filter.rises && filter.comparison.enters() && inputs(),
        AnyOperator::SetOperation(operation) => operation.kind == SetKind::Intersect && inputs(),
        _ => false,
    }
}

/// The windows that rows are put into.
fn time_window(window: &TimeWindow, input: &SchemaRef) -> String {
    let time = input.field(window.time);
    let length = |n: i64| match time.data_type() {
        DataType::Int64 => format!("{n} rows"),
        _ => duration(n),
    };
    let shape = match window.windows.shape {
        Shape::Tumble { size } => format!("every {}", length(size)),
        Shape::Hop { slide, size } => format!("every {} for {}", length(slide), length(size)),
        Shape::Cumulate { step, size } => format!("by steps of {} up to {}", length(step), length(size)),
    };
    let offset = match (time.data_type(), window.windows.offset) {
        (DataType::Int64, _) | (_, 0) => String::new(),
        (_, offset) => format!(" offset {}", duration(offset)),
    };
    format!("{} {shape}{offset}", time.name())
}

/// What an operator does, with the names of its input's columns.
fn describe(plan: &Plan, i: usize) -> String {
    let node = &plan.nodes[i];
    let input = |n: usize| plan.nodes[node.inputs[n]].operator.schema();
    match &node.operator {
        AnyOperator::TapReader(reader) => {
            let history = if reader.history.is_some() { ", every version" } else { "" };
            format!("{} ({}){history}", reader.name, columns(&reader.schema))
        }
        AnyOperator::TableSource(table) => format!("({})", columns(&table.schema)),
        AnyOperator::Source(source) => {
            let connector = source.spec.options.iter().find(|(k, _)| k == "connector");
            let connector = connector.map_or("", |(_, v)| v.as_str());
            format!("{connector} ({})", columns(&source.schema))
        }
        AnyOperator::Values(values) => match values.rows.len() {
            1 => "1 row".to_string(),
            n => format!("{n} rows"),
        },
        AnyOperator::Filter(filter) => expr(&filter.predicate, &input(0)),
        AnyOperator::Project(project) => {
            let schema = input(0);
            let items = project.exprs.iter().zip(project.schema.fields()).map(|(e, f)| {
                let text = expr(e, &schema);
                if text == *f.name() { text } else { format!("{text} AS {}", f.name()) }
            });
            items.collect::<Vec<_>>().join(", ")
        }
        AnyOperator::TimeWindow(window) => time_window(window, &input(0)),
        AnyOperator::Aggregate(aggregate) => {
            let schema = input(0);
            let calls = match aggregate.partials {
                // The columns of partial results are called by their aggregates, behind the group's and the row count.
                Some(_) => schema.fields().iter().skip(aggregate.group.len() + 1).map(|f| f.name().clone()).collect(),
                None => aggregate.calls.iter().map(|c| call(c, &schema)).collect(),
            };
            grouped(&aggregate.group, calls, &schema)
        }
        AnyOperator::LocalAggregate(local) => {
            let schema = input(0);
            let rows = (local.counts_rows && local.calls.iter().all(Option::is_none)).then(|| "rows".to_string());
            let calls = local.calls.iter().flatten().map(|c| call(c, &schema)).chain(rows).collect();
            grouped(&local.group, calls, &schema)
        }
        AnyOperator::Distinct(distinct) => columns(&distinct.schema),
        AnyOperator::HashJoin(join) => {
            let (left, right) = (input(0), input(1));
            let kind = match join.kind {
                JoinKind::NullAwareAnti => "anti (NOT IN)".to_string(),
                kind => format!("{kind:?}").to_lowercase(),
            };
            let conditions = conditions(&join.keys, &join.null_equal, &join.condition, &left, &right);
            let ordered = [("left", &join.ranges[0], &left), ("right", &join.ranges[1], &right)];
            let ordered = ordered.into_iter().filter_map(|(side, range, schema)| {
                range.as_ref().map(|r| format!(", {side} ordered by {}", schema.field(r.column).name()))
            });
            let ordered: String = ordered.collect();
            if conditions.is_empty() {
                format!("{kind}, every pair")
            } else {
                format!("{kind} on {}{ordered}", conditions.join(" AND "))
            }
        }
        AnyOperator::TemporalFilter(filter) => {
            let column = input(0).field(filter.column).name().clone();
            format!("{column} {} {}", filter.comparison.sign(), expr(&filter.bound, &now_schema()))
        }
        AnyOperator::TemporalJoin(join) => {
            let conditions = conditions(&join.keys, &[], &join.condition, &input(0), &input(1));
            let kind = if join.outer { "left" } else { "inner" };
            format!("{kind} on {}, as of the row's epoch", conditions.join(" AND "))
        }
        AnyOperator::LookupJoin(join) => {
            let schema = node.operator.schema();
            let (left, n) = (input(0), input(0).fields().len());
            let table = &join.table;
            let mut conditions: Vec<String> = join
                .keys
                .iter()
                .zip(&join.table_keys)
                .map(|(l, r)| format!("{} = {}.{}", left.field(*l).name(), table.name, table.columns[*r].name))
                .collect();
            conditions.extend(join.condition.as_ref().map(|condition| expr(condition, &schema)));
            let kind = if join.outer { "left" } else { "inner" };
            let wanted: Vec<&str> = schema.fields()[n..].iter().map(|f| f.name().as_str()).collect();
            format!("{kind} on {}, asks {} for {}", conditions.join(" AND "), table.name, wanted.join(", "))
        }
        AnyOperator::VersionedJoin(join) => {
            let conditions = conditions(&join.keys, &[], &join.condition, &input(0), &input(1));
            let kind = if join.outer { "left" } else { "inner" };
            let time = input(0).field(join.times[0]).name().clone();
            format!("{kind} on {}, as of {time}", conditions.join(" AND "))
        }
        AnyOperator::AsofJoin(join) => {
            let (left, right) = (input(0), input(1));
            let mut conditions = conditions(&join.keys, &[], &None, &left, &right);
            let [l, r] = join.times;
            conditions.push(format!("{} {} {}", left.field(l).name(), join.sign(), right.field(r).name()));
            let kind = if join.outer { "left" } else { "inner" };
            format!("{kind} on {}, the nearest", conditions.join(" AND "))
        }
        AnyOperator::SetOperation(operation) => {
            let kind = format!("{:?}", operation.kind).to_lowercase();
            let all = if operation.all { " all" } else { "" };
            format!("{kind}{all} by {}", names(&operation.keys[0], &input(0)))
        }
        AnyOperator::Recursive(recursive) => {
            let kind = if recursive.distinct { "union" } else { "union all" };
            let steps = recursive.body.iter().rev().map(|node| name(&node.operator));
            format!("{kind}, each round: {}", steps.collect::<Vec<_>>().join(" of "))
        }
        AnyOperator::UnionAll(union) => format!("{} inputs", union.n_inputs),
        AnyOperator::TopN(top_n) => {
            let schema = input(0);
            let mut parts = vec![];
            if !top_n.partition.is_empty() {
                parts.push(format!("by {}", names(&top_n.partition, &schema)));
            }
            if !top_n.order.is_empty() {
                parts.push(format!("order {}", order(&top_n.order, &schema)));
            }
            match top_n.rank.kind {
                RankKind::RowNumber => {}
                RankKind::Rank => parts.push("rank".to_string()),
                RankKind::DenseRank => parts.push("dense rank".to_string()),
            }
            if let Some(limit) = top_n.limit {
                parts.push(format!("limit {limit}"));
            }
            if top_n.offset > 0 {
                parts.push(format!("offset {}", top_n.offset));
            }
            let one = top_n.limit == Some(1) && top_n.offset == 0 && top_n.rank.kind == RankKind::RowNumber;
            if let (true, false, Some(first)) = (one, top_n.partition.is_empty(), top_n.order.first()) {
                parts.push(format!("(keeps the {} of each)", if first.descending { "last" } else { "first" }));
            }
            parts.join(" ")
        }
        AnyOperator::Window(window) => {
            let schema = input(0);
            let mut parts = vec![];
            if !window.partition.is_empty() {
                parts.push(format!("by {}", names(&window.partition, &schema)));
            }
            if !window.order.is_empty() {
                parts.push(format!("order {}", order(&window.order, &schema)));
            }
            let calls = window.calls.iter().map(|c| {
                let filter = c.filter.map(|f| format!(" FILTER {}", schema.field(f).name())).unwrap_or_default();
                format!("{}({}){filter}", c.kind.name(), names(&c.args, &schema))
            });
            parts.push(calls.collect::<Vec<_>>().join(", "));
            parts.join(" ")
        }
        AnyOperator::SingleRow(_) => String::new(),
        AnyOperator::Materialize(materialize) => match (materialize.key.is_empty(), materialize.unique) {
            (true, true) => "one row".to_string(),
            (false, true) => format!("key {}", names(&materialize.key, &materialize.schema)),
            _ => "rows counted".to_string(),
        },
        #[allow(unreachable_patterns)]
        other => other.describe(),
    }
}

/// Aggregates and what they are grouped by.
fn grouped(group: &[usize], calls: Vec<String>, schema: &SchemaRef) -> String {
    match (calls.join(", "), group.is_empty()) {
        (calls, true) => calls,
        (calls, false) => format!("by {}: {calls}", names(group, schema)),
    }
}

/// The equalities of a join and what else it asks for.
fn conditions(
    keys: &[Vec<usize>; 2],
    null_equal: &[bool],
    condition: &Option<Expr>,
    left: &SchemaRef,
    right: &SchemaRef,
) -> Vec<String> {
    let pairs = keys[0].iter().zip(&keys[1]).enumerate().map(|(i, (&l, &r))| {
        let op = if null_equal.get(i) == Some(&true) { "IS NOT DISTINCT FROM" } else { "=" };
        format!("{} {op} {}", left.field(l).name(), right.field(r).name())
    });
    let mut conditions: Vec<String> = pairs.collect();
    if let Some(condition) = condition {
        let both = left.fields().iter().chain(right.fields().iter()).cloned().collect::<Vec<_>>();
        conditions.push(expr(condition, &std::sync::Arc::new(Schema::new(both))));
    }
    conditions
}

fn expr(e: &Expr, schema: &SchemaRef) -> String {
    e.display(schema).to_string()
}

fn columns(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

fn names(columns: &[usize], schema: &Schema) -> String {
    columns.iter().map(|&c| schema.field(c).name().as_str()).collect::<Vec<_>>().join(", ")
}

/// An aggregate as it is written.
pub(crate) fn call(call: &AggregateCall, schema: &Schema) -> String {
    let name = call.kind.name();
    let (args, by) = call.args.split_at(call.args.len() - call.order.len());
    let args = if args.is_empty() { "*".to_string() } else { names(args, schema) };
    let keys: Vec<SortKey> = (by.iter().zip(&call.order))
        .map(|(&column, o)| SortKey { column, descending: o.descending, nulls_first: o.nulls_first })
        .collect();
    let by = if keys.is_empty() { String::new() } else { format!(" ORDER BY {}", order(&keys, schema)) };
    let distinct = if call.distinct { "DISTINCT " } else { "" };
    let filter = call.filter.map(|f| format!(" FILTER {}", schema.field(f).name())).unwrap_or_default();
    format!("{name}({distinct}{args}{by}){filter}")
}

fn order(keys: &[SortKey], schema: &Schema) -> String {
    let one = |key: &SortKey| {
        let direction = if key.descending { " DESC" } else { "" };
        // Postgres' default: NULLs are larger than everything.
        let nulls = match (key.nulls_first, key.descending) {
            (true, false) => " NULLS FIRST",
            (false, true) => " NULLS LAST",
            _ => "",
        };
        format!("{}{direction}{nulls}", schema.field(key.column).name())
    };
    keys.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn duration(us: i64) -> String {
    for (unit, name) in
        [(86_400_000_000, "day"), (3_600_000_000, "hour"), (60_000_000, "minute"), (1_000_000, "second"), (1_000, "ms")]
    {
        if us % unit == 0 && us != 0 {
            let n = us / unit;
            let plural = if n == 1 || name == "ms" { "" } else { "s" };
            return format!("{n} {name}{plural}");
        }
    }
    format!("{us} us")
}

/// A read's plan: the lookup that it is, or what DataFusion would run over `tables`.
pub async fn explain_read(query: &Query, tables: &dyn Tables, reads: &Reads) -> Result<String> {
    if let Some(point) = query.point() {
        return Ok(format!("Lookup by key in {}\n", point.name()));
    }
    let (physical, _) = query.physical(&[], tables, reads).await?;
    Ok(tidy(&displayable(physical.as_ref()).indent(false).to_string()))
}

/// The same as nested objects.
pub async fn explain_read_json(query: &Query, tables: &dyn Tables, reads: &Reads) -> Result<String> {
    let tree = if let Some(point) = query.point() {
        json!({ "operator": "Lookup by key", "details": point.name(), "inputs": [] })
    } else {
        let (physical, _) = query.physical(&[], tables, reads).await?;
        json_physical(physical.as_ref())
    };
    Ok(serde_json::to_string_pretty(&json!([{ "Plan": tree }])).expect("strings only"))
}

fn json_physical(plan: &dyn ExecutionPlan) -> Value {
    let line = tidy(&displayable(plan).one_line().to_string());
    let (name, details) = line.trim_end().split_once(": ").unwrap_or((line.trim_end(), ""));
    let inputs: Vec<Value> = plan.children().into_iter().map(|child| json_physical(child.as_ref())).collect();
    json!({ "operator": name, "details": details, "inputs": inputs })
}

/// DataFusion's names without what is the same everywhere.
fn tidy(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let name_at = line.len() - line.trim_start().len();
        let arrow = if name_at == 0 { "" } else { "-> " };
        let line = line[name_at..].replace("StreamingTableExec", "ReadExec").replacen("Exec", "", 1);
        let _ = writeln!(out, "{}{arrow}{line}", " ".repeat(name_at));
    }
    out
}
