//! `CREATE INDEX [IF NOT EXISTS] [i] ON rel (column [ASC | DESC] [NULLS FIRST | LAST], ...)`: the relation's rows once
//! more, kept and found by other columns. Reads choose it by themselves.

use planner::catalog::{Object, ObjectKind};
use planner::lower::{Indexed, plan_index};
use planner::statement::CreateIndex;
use storage::keys::SortOption;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{create, exists};

/// Creates an index.
pub async fn run(session: &mut Session, statement: &CreateIndex, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE INDEX";
    session.before_ddl(TAG).await?;
    if statement.unique {
        return Err(
            Error::unsupported("a unique index is not supported yet").hint("A primary key of a table is enforced.")
        );
    }
    if let Some(method) = statement.using.as_deref().filter(|m| !m.eq_ignore_ascii_case("btree")) {
        return Err(Error::new("42704", format!("access method \"{method}\" does not exist")));
    }
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let catalog = shared.catalogs.current();
    let relation = catalog.expect(&statement.relation, &session.bind_settings())?.clone();
    if !matches!(relation.kind, ObjectKind::Table | ObjectKind::MaterializedView) {
        let message =
            format!("cannot create an index on {} \"{}\"", crate::catalog::kind_name(relation.kind), relation.name);
        return Err(Error::new("42809", message));
    }
    let mut columns = Vec::new();
    for column in &statement.columns {
        let at = relation.column(&column.name).ok_or_else(|| {
            Error::new("42703", format!("column \"{}\" does not exist", column.name)).position(Some(column.position))
        })?;
        columns.push((at, SortOption { descending: column.descending, nulls_first: column.nulls_first }));
    }
    let name = match &statement.name {
        Some(name) => name.last().to_owned(),
        None => free_name(&catalog, &relation, &columns),
    };
    if exists(session, &relation.schema, &name, statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    let engine = shared.engine()?;
    let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
    let indexed = Indexed {
        relation: relation.id,
        name: &relation.name,
        columns: &relation.columns,
        key: &relation.stream_key,
        unique: relation.unique,
        append_only: relation.append_only,
    };
    let plan = plan_index(&name, id, errors, &indexed, &columns);
    let object = Object {
        id,
        schema: relation.schema.clone(),
        name,
        kind: ObjectKind::Index,
        columns: plan.job.columns.clone(),
        hidden: relation.hidden,
        sql: text.to_owned(),
        depends_on: vec![relation.id],
        job: Some(plan.job),
        errors: Some(errors),
        append_only: relation.append_only,
        stream_key: plan.key,
        unique: relation.unique,
        source_columns: plan.source_columns,
        ..Default::default()
    };
    create(&shared, object, Some(session.notices())).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// `t_a_b_idx`, with a number if that is taken, as Postgres makes names up.
fn free_name(catalog: &planner::catalog::Catalog, relation: &Object, columns: &[(usize, SortOption)]) -> String {
    let names: Vec<&str> = columns.iter().map(|&(at, _)| relation.columns[at].name.as_str()).collect();
    let base = format!("{}_{}_idx", relation.name, names.join("_"));
    let free = |name: &String| catalog.get(&relation.schema, name).is_none();
    std::iter::once(base.clone()).chain((1..).map(|n| format!("{base}{n}"))).find(free).unwrap_or(base)
}
