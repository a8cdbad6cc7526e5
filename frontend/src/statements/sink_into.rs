//! `CREATE SINK s INTO t [(columns)] ...`: what is written becomes rows of a table, as an INSERT would make them.

use std::sync::Arc;

use planner::catalog::{Catalog, Object, ObjectKind, quote_ident};
use planner::statement::{ObjectName, Query};
use planner::types::{CastContext, cast_context};
use storage::{Column, RelationId, SqlType};
use streaming::engine::{Engine, JobSpec};

use crate::error::{Error, Result};
use crate::session::Session;
use crate::statements::writing::check_is_table;

/// A table that a sink writes.
pub struct Into {
    /// The table.
    pub table: Arc<Object>,
    /// The query with the table's columns, in their order.
    pub query: Query,
}

/// The table `name`, and `query` cast to its columns; those that are left out have their defaults.
pub fn target(session: &Session, name: &ObjectName, columns: &[String], query: &Query) -> Result<Into> {
    let catalog = session.shared.catalogs.current();
    let settings = session.bind_settings();
    let table = catalog.expect(name, &settings)?.clone();
    check_is_table(&table, "insert into")?;
    if let Some(&column) = table.generated.first() {
        let message = format!(
            "a sink into a table with the generated column \"{}\" is not supported",
            table.columns[column].name
        );
        let hint = match column < table.visible().len() {
            true => "A row of a sink is written again after a crash: its time would not be the same.",
            false => "A table with a ttl can be written by a sink if a ttl_column says how old a row is.",
        };
        return Err(Error::unsupported(message).hint(hint));
    }
    let bound = planner::bind_view(&catalog, &settings, query)?;
    let positions = if columns.is_empty() {
        (0..table.visible().len().min(bound.columns.len())).collect()
    } else {
        let position = |column: &String| {
            table.column(column).ok_or_else(|| {
                let message = format!("column \"{column}\" of relation \"{}\" does not exist", table.name);
                Error::new("42703", message)
            })
        };
        columns.iter().map(position).collect::<Result<Vec<usize>>>()?
    };
    if bound.columns.len() > positions.len() {
        return Err(Error::new("42601", "CREATE SINK has more columns than target columns"));
    }
    if bound.columns.len() < positions.len() {
        return Err(Error::new("42601", "CREATE SINK has more target columns than columns"));
    }
    let mut items = Vec::new();
    for (at, column) in table.visible().iter().enumerate() {
        let wanted = planner::types::format(&column.ty, column.typmod);
        let item = match positions.iter().position(|&p| p == at) {
            Some(from) => {
                let have = &bound.columns[from];
                let value = format!("s.c{from}");
                let fits = have.ty == column.ty && (column.typmod == -1 || column.typmod == have.typmod);
                let casts = cast_context(&have.ty, &column.ty);
                match casts {
                    _ if fits => value,
                    Some(CastContext::Explicit) | None => {
                        let have = planner::types::name(&have.ty);
                        let message = format!(
                            "column \"{}\" is of type {} but expression is of type {have}",
                            column.name,
                            planner::types::name(&column.ty)
                        );
                        return Err(
                            Error::new("42804", message).hint("You will need to rewrite or cast the expression.")
                        );
                    }
                    _ => format!("CAST({value} AS {wanted})"),
                }
            }
            None => {
                let default = table.defaults.get(at).and_then(Option::as_deref).unwrap_or("NULL");
                format!("CAST({default} AS {wanted})")
            }
        };
        items.push(format!("{item} AS {}", quote_ident(&column.name)));
    }
    let names: Vec<String> = (0..bound.columns.len()).map(|i| format!("c{i}")).collect();
    let text = format!("SELECT {} FROM ({}) AS s({})", items.join(", "), query, names.join(", "));
    Ok(Into { table, query: planner::parser::parse_query(&text)? })
}

/// A sink must not read what it writes: it would never come to an end.
pub fn refuse_cycle(catalog: &Catalog, table: &Object, reads: &[RelationId]) -> Result<()> {
    let mut wanted = reads.to_vec();
    let mut at = 0;
    while at < wanted.len() {
        if wanted[at] == table.id {
            let message = format!("a sink into table \"{}\" cannot read it", table.name);
            return Err(Error::new("42P17", message));
        }
        let upstream = catalog.by_id(wanted[at]).map(|object| object.depends_on.clone()).unwrap_or_default();
        wanted.extend(upstream.into_iter().filter(|id| !wanted.contains(id)).collect::<Vec<_>>());
        // What other sinks write into it comes from there.
        let sinks = catalog.objects().filter(|o| o.kind == ObjectKind::Sink && writes(o, wanted[at]));
        wanted.extend(sinks.map(|sink| sink.id).filter(|id| !wanted.contains(id)).collect::<Vec<_>>());
        at += 1;
    }
    Ok(())
}

fn writes(sink: &Object, table: RelationId) -> bool {
    !sink.helpers.is_empty() && sink.depends_on.contains(&table)
}

/// The table beside the target that holds how far the sink is: written with the rows, in one step.
pub fn progress_table(engine: &Engine, name: &str) -> JobSpec {
    let columns = vec![Column::new("id", SqlType::BigInt), Column::new("position", SqlType::Text)];
    let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
    planner::lower::plan_table(&format!("{name}$progress"), id, errors, columns, vec![0])
}
