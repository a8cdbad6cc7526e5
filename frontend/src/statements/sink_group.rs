//! `CREATE SINK GROUP [IF NOT EXISTS] g WITH (...)`, `DROP SINK GROUP [IF EXISTS] g`: sinks whose changes of an epoch appear
//! in one transaction of their target, which the group names.

use crate::catalog::{self, Catalogs, SinkGroup};
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::shared::Shared;

/// Connectors whose transactions reach over several tables or topics.
const CONNECTORS: [&str; 3] = ["kafka", "mysql", "postgres"];

/// Options that say which target it is, and so are the group's.
const OF_THE_GROUP: [&str; 11] = [
    "connector",
    "host",
    "port",
    "user",
    "password",
    "database",
    "jdbc.url",
    "schema",
    "schema.name",
    "ssl.mode",
    "progress.topic",
];

/// Whether an option says which target it is.
fn is_of_the_group(name: &str) -> bool {
    OF_THE_GROUP.contains(&name) || name.starts_with("properties.")
}

/// Creates a group.
pub async fn create(
    session: &mut Session,
    name: &str,
    if_not_exists: bool,
    options: &[(String, String)],
) -> Result<Outcome> {
    const TAG: &str = "CREATE SINK GROUP";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    if shared.catalogs.sink_groups().contains_key(name) {
        let message = format!("sink group \"{name}\" already exists");
        if !if_not_exists {
            return Err(Error::new("42710", message));
        }
        session.notice(Error::notice(format!("{message}, skipping")));
        return Ok(Outcome::Done(TAG.into()));
    }
    let hint = format!("The connectors of groups are: {}.", CONNECTORS.join(", "));
    match options.iter().find(|(name, _)| name == "connector") {
        Some((_, connector)) if CONNECTORS.contains(&connector.to_lowercase().as_str()) => {}
        Some((_, connector)) => {
            return Err(
                Error::unsupported(format!("connector \"{connector}\" is not supported for a sink group")).hint(hint)
            );
        }
        None => return Err(Error::new("22023", "the option \"connector\" is missing").hint(hint)),
    }
    if let Some((option, _)) = options.iter().find(|(name, _)| !is_of_the_group(name)) {
        let error = Error::new("22023", format!("a sink group takes no option \"{option}\""));
        return Err(error.hint("It says where the target is; each of its sinks says the rest."));
    }
    let group = SinkGroup { name: name.to_owned(), id: new_id(), options: options.to_vec() };
    shared.engine()?.change_catalog(catalog::keep_sink_group(&group)?).await?;
    shared.catalogs.add_sink_group(group);
    Ok(Outcome::Done(TAG.into()))
}

/// Drops a group without sinks.
pub async fn drop(session: &mut Session, name: &str, if_exists: bool) -> Result<Outcome> {
    const TAG: &str = "DROP SINK GROUP";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let Some(group) = shared.catalogs.sink_groups().get(name).cloned() else {
        let message = format!("sink group \"{name}\" does not exist");
        if !if_exists {
            return Err(Error::new("42704", message));
        }
        session.notice(Error::notice(format!("{message}, skipping")));
        return Ok(Outcome::Done(TAG.into()));
    };
    let members = members(&shared.catalogs, &group);
    if !members.is_empty() {
        let lines: Vec<String> = members.iter().map(|sink| format!("sink {sink} is in sink group {name}")).collect();
        let error = Error::new("2BP01", format!("cannot drop sink group {name} because other objects depend on it"));
        return Err(error.detail(lines.join("\n")).hint("Drop its sinks first."));
    }
    shared.engine()?.change_catalog(catalog::forget_sink_group(name)).await?;
    shared.catalogs.remove_sink_group(name);
    Ok(Outcome::Done(TAG.into()))
}

/// The sinks of a group, and those on their way into it.
fn members(catalogs: &Catalogs, group: &SinkGroup) -> Vec<String> {
    let current = catalogs.current();
    let there =
        current.objects().filter(|object| catalog::is_in_group(object, group)).map(|object| object.name.clone());
    there.chain(catalogs.created_in(&group.id)).collect()
}

/// Before a sink is created `WITH (group = ...)`: a group without sinks begins anew, since its target may still be told to
/// forget the last ones. The catalog is locked.
pub async fn begin(shared: &Shared, options: &[(String, String)]) -> Result<()> {
    let Some((_, name)) = options.iter().find(|(name, _)| name == "group") else { return Ok(()) };
    let Some(group) = shared.catalogs.sink_groups().get(name).cloned() else { return Ok(()) };
    if !members(&shared.catalogs, &group).is_empty() {
        return Ok(());
    }
    let group = SinkGroup { id: new_id(), ..group };
    shared.engine()?.change_catalog(catalog::keep_sink_group(&group)?).await?;
    shared.catalogs.add_sink_group(group);
    Ok(())
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The options of a sink of `group`: what it says itself, and what the group says.
pub fn options_in(group: &SinkGroup, own: &[(String, String)]) -> Result<Vec<(String, String)>> {
    if let Some((option, _)) = own.iter().find(|(name, _)| is_of_the_group(name)) {
        let message = format!("option \"{option}\" is that of the sink group \"{}\"", group.name);
        return Err(Error::new("22023", message).hint("The sinks of a group have one target."));
    }
    Ok(group.options.iter().chain(own).cloned().collect())
}
