//! `RETRY ERRORS FROM s [WHERE ...]` and what is to be mended before it: `ALTER SOURCE s FORMAT f ENCODE e (...)`

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use planner::catalog::{Object, ObjectKind};
use planner::statement::{Connection, ObjectName, Query};
use streaming::engine::JobSpec;
use streaming::operators::AnyOperator;
use streaming::source::SourceSpec;

use crate::catalog;
use crate::error::{Error, Result};
use crate::outcome::{Outcome, Parameters};
use crate::session::Session;
use crate::statements::select;

/// Puts records that could not be decoded through again.
pub async fn run(session: &mut Session, name: &ObjectName, query: &Query, parameters: &Parameters) -> Result<Outcome> {
    const TAG: &str = "RETRY ERRORS";
    session.check_may_write(TAG)?;
    session.before_ddl(TAG).await?;
    let object = session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    check(&object)?;
    let bound = select::bind(session, query, parameters)?;
    let mut ids = Vec::new();
    for batch in select::collect(session, bound, &parameters.values, false).await? {
        ids.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
    }
    let retried = session.shared.engine()?.retry_errors(object.id, ids).await?;
    session.saw(retried.epoch);
    if retried.failed > 0 {
        let message = format!("{} failed again and stayed in \"{}$errors\"", retried.failed, object.name);
        session.notice(Error::notice(message));
    }
    if retried.others > 0 {
        let message = format!("{} are of no record that could be decoded again, and stayed", retried.others);
        session.notice(Error::notice(message));
    }
    Ok(Outcome::Done(format!("{TAG} {}", retried.entered)))
}

/// Only records of a source can be put through again.
fn check(object: &Object) -> Result<()> {
    let (what, hint) = match object.kind {
        ObjectKind::Source => return Ok(()),
        ObjectKind::Sink => (
            "a sink",
            "Change the row, so that it leaves again, or create the sink anew; ALTER ... with on_error = 'fail' would hold it.",
        ),
        ObjectKind::MaterializedView | ObjectKind::Index => (
            "a view",
            "A row of it fails again for as long as the row and the view are as they are: change the row where it comes from, \
             or create the view anew, and it is evaluated again.",
        ),
        ObjectKind::Table => ("a table", "Rows that fail in an INSERT fail the INSERT: say it again."),
        ObjectKind::View | ObjectKind::System => {
            let message = format!("\"{}\" has no rows that could fail", object.name);
            return Err(Error::new("42809", message).hint("Name a source."));
        }
    };
    Err(Error::unsupported(format!("RETRY ERRORS of {what} is not supported")).hint(hint))
}

/// Reads on in another format, or with other options of it.
pub async fn reformat(session: &mut Session, name: &ObjectName, connection: &Connection) -> Result<Outcome> {
    const TAG: &str = "ALTER SOURCE";
    session.before_ddl(TAG).await?;
    if !connection.options.is_empty() || !connection.includes.is_empty() || connection.key_encode.is_some() {
        return Err(Error::unsupported("only FORMAT and ENCODE of a source can be altered")
            .hint("Create another source, and views over it."));
    }
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let mut object = Object::clone(shared.catalogs.current().expect(name, &session.bind_settings())?);
    super::drop::check_kind(&object, planner::statement::NamedKind::Relation(ObjectKind::Source))?;
    if let Some(creating) = shared.catalogs.created_over(object.id) {
        let message = format!("cannot alter \"{}\" because it is in use", object.name);
        return Err(Error::new("55006", message).detail(format!("{} reads it.", creating.name)));
    }
    let missing = || Error::new("XX000", "a source without its job");
    let mut job = object.job.clone().ok_or_else(missing)?;
    let operator = job.plan.nodes.first_mut().map(|node| &mut node.operator);
    let Some(AnyOperator::Source(source)) = operator else { return Err(missing()) };
    let spec = SourceSpec {
        format: connection.format.clone().unwrap_or_else(|| source.spec.format.clone()),
        encode: connection.encode.clone().unwrap_or_else(|| source.spec.encode.clone()),
        encode_options: connection.encode_options.clone(),
        ..source.spec.clone()
    };
    source.spec = spec.clone();
    // What is wrong with it is said before anything stops.
    let opened = streaming::source::Sources::open(&connectors::Connectors, &spec)?;
    if opened.columns() != spec.columns {
        return Err(Error::unsupported("a format that changes the columns of a source is not supported"));
    }
    object.sql = planner::rename::encoded(&object.sql, &clause(&spec))?;
    object.job = Some(JobSpec { ..job });
    let changes = catalog::keep(&object)?;
    shared.engine()?.reformat(object.id, spec, changes).await?;
    shared.catalogs.add(object);
    Ok(Outcome::Done(TAG.into()))
}

/// The format as a definition says it.
fn clause(spec: &SourceSpec) -> String {
    let option = |(name, value): &(String, String)| format!("{name} = '{}'", value.replace('\'', "''"));
    let options: Vec<String> = spec.encode_options.iter().map(option).collect();
    let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    format!("FORMAT {} ENCODE {}{options}", spec.format.to_uppercase(), spec.encode.to_uppercase())
}
