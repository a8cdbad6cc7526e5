//! `pg_stat_activity`: who is connected and what they do.

use crate::error::Result;
use crate::pg_catalog::names::{DATABASE, DATABASE_OID, ROLE_OID};
use crate::pg_catalog::relation::{Context, Rows, SystemRelation, system};
use crate::row;

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[system(
    "pg_stat_activity",
    12_200,
    "datid:oid datname:name pid:int4 leader_pid:int4 usesysid:oid usename:name application_name:text \
              client_addr:text client_hostname:text client_port:int4 backend_start:timestamptz xact_start:timestamptz \
              query_start:timestamptz state_change:timestamptz wait_event_type:text wait_event:text state:text \
              backend_xid:int8 backend_xmin:int8 query_id:int8 query:text backend_type:text",
    fill,
)];

fn fill(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    for activity in context.shared.activities.all() {
        rows.push(row![
            DATABASE_OID,
            DATABASE,
            activity.pid,
            None::<i64>,
            ROLE_OID,
            &activity.user,
            &activity.application_name,
            activity.peer.map(|p| p.ip().to_string()),
            None::<&str>,
            activity.peer.map(|p| i64::from(p.port())),
            activity.connected,
            activity.transaction,
            activity.statement,
            activity.statement,
            None::<&str>,
            None::<&str>,
            activity.state,
            None::<i64>,
            None::<i64>,
            None::<i64>,
            &activity.query,
            "client backend",
        ]);
    }
    Ok(())
}
