//! Sources as Postgres' foreign tables: their connectors are the servers, their options those of the tables.

use planner::catalog::Object;

use crate::catalog::source_options;
use crate::error::Result;
use crate::pg_catalog::names::ROLE_OID;
use crate::pg_catalog::relation::{Context, Rows, SystemRelation, system};
use crate::row;

/// The oid of the first connector; they are numbered in the order of their list.
const FIRST_OID: u32 = 13_300;
/// The oid of what stands for all connectors together.
const WRAPPER_OID: u32 = 13_299;
/// What stands for the value of an option that is nobody's business.
const HIDDEN: &str = "********";

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    system(
        "pg_foreign_data_wrapper",
        2328,
        "oid:oid fdwname:name fdwowner:oid fdwhandler:oid fdwvalidator:oid fdwacl:text[] fdwoptions:text[]",
        |_, rows| {
            rows.push(row![WRAPPER_OID, "connectors", ROLE_OID, 0, 0]);
            Ok(())
        },
    ),
    system(
        "pg_foreign_server",
        1417,
        "oid:oid srvname:name srvowner:oid srvfdw:oid srvtype:text srvversion:text srvacl:text[] \
                  srvoptions:text[]",
        |_, rows| {
            for (oid, connector) in (FIRST_OID..).zip(connectors::ALL) {
                rows.push(row![oid, connector.name(), ROLE_OID, WRAPPER_OID]);
            }
            Ok(())
        },
    ),
    system("pg_foreign_table", 3118, "ftrelid:oid ftserver:oid ftoptions:text[]", pg_foreign_table),
];

fn pg_foreign_table(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    for object in context.catalog.objects() {
        if let Some((server, options)) = foreign(object) {
            rows.push(row![object.id.0, server, options]);
        }
    }
    Ok(())
}

/// The oid of a source's connector, and its other options as `name=value`.
fn foreign(source: &Object) -> Option<(u32, Vec<String>)> {
    let options = source_options(source)?;
    let name = &options.iter().find(|(name, _)| name == "connector")?.1;
    let (oid, _) = (FIRST_OID..).zip(connectors::ALL).find(|(_, c)| c.name().eq_ignore_ascii_case(name))?;
    let shown = |(name, value): &(String, String)| {
        let secret = ["password", "secret", "token", "credential", "private"].iter().any(|word| name.contains(word));
        format!("{name}={}", if secret { HIDDEN } else { value })
    };
    Some((oid, options.iter().filter(|(name, _)| name != "connector").map(shown).collect()))
}
