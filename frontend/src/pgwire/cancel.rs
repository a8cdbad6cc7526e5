//! Cancel requests: who may stop which connection's statement.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use parking_lot::Mutex;
use pgwire::messages::startup::SecretKey;
use tokio::sync::Notify;

/// Process ids begin here, so that nobody takes one for a real process of the machine.
const PID_FIRST: i32 = 100_000;

/// The wish of somebody else that a connection's statement stops.
#[derive(Default)]
pub struct Cancel {
    running: AtomicBool,
    wanted: AtomicBool,
    wake: Notify,
}

impl Cancel {
    /// A statement begins. A wish from before it is void, as in Postgres.
    pub fn begin(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.running.store(true, Ordering::SeqCst);
    }

    /// The statement is over.
    pub fn end(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// Asks the running statement, if there is one, to stop.
    pub fn request(&self) {
        if self.running.load(Ordering::SeqCst) {
            self.wanted.store(true, Ordering::SeqCst);
            self.wake.notify_waiters();
            self.wake.notify_one();
        }
    }

    /// Whether the running statement is asked to stop.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Resolves when the running statement is asked to stop.
    pub async fn wanted(&self) {
        while !self.is_wanted() {
            self.wake.notified().await;
        }
    }
}

/// All connections that may be cancelled.
pub struct Connections {
    next_pid: AtomicI32,
    by_pid: Mutex<HashMap<i32, (SecretKey, Arc<Cancel>)>>,
}

impl Default for Connections {
    fn default() -> Self {
        Connections { next_pid: AtomicI32::new(PID_FIRST), by_pid: Mutex::default() }
    }
}

impl Connections {
    /// A new connection's id and secret.
    pub fn register(self: &Arc<Self>) -> Registered {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        let secret = SecretKey::I32(rand::random());
        let cancel = Arc::new(Cancel::default());
        self.by_pid.lock().insert(pid, (secret.clone(), cancel.clone()));
        Registered { pid, secret, cancel, all: self.clone() }
    }

    /// Asks the connection `pid` to stop what it is doing, if the secret is right.
    pub fn request(&self, pid: i32, secret: &SecretKey) {
        if let Some((key, cancel)) = self.by_pid.lock().get(&pid)
            && key.eq_value(secret)
        {
            cancel.request();
        }
    }

    /// Asks the connection `pid` to stop: `pg_cancel_backend`.
    pub fn cancel_backend(&self, pid: i32) -> bool {
        self.by_pid.lock().get(&pid).map(|(_, cancel)| cancel.request()).is_some()
    }
}

/// A connection's entry; gone when dropped.
pub struct Registered {
    /// The "process id" that the client is told.
    pub pid: i32,
    /// What a cancel request must show.
    pub secret: SecretKey,
    /// The wish.
    pub cancel: Arc<Cancel>,
    all: Arc<Connections>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.all.by_pid.lock().remove(&self.pid);
    }
}
