//! `pg_stat_activity`: who is connected and what they do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::error::Result;
use crate::pg_catalog::{Context, Rows, SystemRelation, system};
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
            super::objects::DATABASE_OID,
            super::objects::DATABASE,
            activity.pid,
            None::<i64>,
            super::objects::ROLE_OID,
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

/// One connection. Times are microseconds since 1970.
#[derive(Clone, Debug)]
pub struct Activity {
    /// Its id.
    pub pid: i32,
    /// Its user.
    pub user: String,
    /// What it calls itself.
    pub application_name: String,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// Since when.
    pub connected: i64,
    /// When its transaction began.
    pub transaction: Option<i64>,
    /// When its last statement began.
    pub statement: Option<i64>,
    /// As Postgres words it.
    pub state: &'static str,
    /// The last statement's text.
    pub query: String,
}

/// All connections.
#[derive(Default)]
pub struct Activities {
    by_pid: Mutex<BTreeMap<i32, Activity>>,
}

impl Activities {
    /// A connection begins.
    pub fn begin(&self, activity: Activity) {
        self.by_pid.lock().insert(activity.pid, activity);
    }

    /// A connection does something else.
    pub fn update(&self, pid: i32, change: impl FnOnce(&mut Activity)) {
        if let Some(activity) = self.by_pid.lock().get_mut(&pid) {
            change(activity);
        }
    }

    /// A connection ends.
    pub fn end(&self, pid: i32) {
        self.by_pid.lock().remove(&pid);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_pid.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn all(&self) -> Vec<Activity> {
        self.by_pid.lock().values().cloned().collect()
    }
}

/// The wall clock in microseconds since 1970.
pub fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// A connection's entry; gone when dropped.
pub struct Entry {
    shared: Arc<crate::server::Shared>,
    pid: i32,
}

impl Entry {
    /// Enters a connection.
    pub fn new(shared: Arc<crate::server::Shared>, activity: Activity) -> Entry {
        let pid = activity.pid;
        shared.activities.begin(activity);
        Entry { shared, pid }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.activities.end(self.pid);
    }
}
