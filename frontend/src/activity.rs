//! Who is connected and what they do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

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

    /// Each of them.
    pub fn all(&self) -> Vec<Activity> {
        self.by_pid.lock().values().cloned().collect()
    }
}

/// The wall clock in microseconds since 1970.
pub fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// A connection's entry; gone when dropped.
pub struct Entry {
    activities: Arc<Activities>,
    pid: i32,
}

impl Entry {
    /// Enters a connection.
    pub fn new(activities: Arc<Activities>, activity: Activity) -> Entry {
        let pid = activity.pid;
        activities.begin(activity);
        Entry { activities, pid }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.activities.end(self.pid);
    }
}
