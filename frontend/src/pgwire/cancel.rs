//! Cancel requests: who may stop which connection's statement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pgwire::messages::startup::SecretKey;
use tokio::sync::Notify;

use crate::error::{Error, Result};

/// Process ids begin here, so that nobody takes one for a real process of the machine.
const PID_FIRST: i32 = 100_000;

/// The wish of somebody else that a connection's statement stops, or the connection itself.
#[derive(Default)]
pub struct Cancel {
    running: AtomicBool,
    wanted: AtomicBool,
    leaving: AtomicBool,
    terminated: AtomicBool,
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
            self.wake();
        }
    }

    /// Asks the connection to end as soon as its statement, if there is one, is over.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Asks the connection to end now.
    pub fn terminate(&self) {
        self.terminated.store(true, Ordering::SeqCst);
        self.leave();
    }

    fn wake(&self) {
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// An error if the running statement is asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.terminated.load(Ordering::SeqCst) {
            return Err(Error::terminated());
        }
        if self.wanted.load(Ordering::SeqCst) { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Resolves when the running statement is asked to stop, with the error that it fails with.
    pub async fn wanted(&self) -> Error {
        loop {
            match self.check() {
                Ok(()) => self.wake.notified().await,
                Err(error) => return error,
            }
        }
    }

    /// Resolves when the connection is asked to end, with what it is told.
    pub async fn left(&self) -> Error {
        while !self.leaving.load(Ordering::SeqCst) {
            self.wake.notified().await;
        }
        Error::terminated()
    }
}

/// The next connection's id: one sequence for all servers of the process, so that an id names one connection.
static NEXT_PID: AtomicI32 = AtomicI32::new(PID_FIRST);
/// The servers of the process, for `pg_cancel_backend` and `pg_terminate_backend`.
static SERVERS: Mutex<Vec<Weak<Connections>>> = Mutex::new(Vec::new());

/// All connections that may be cancelled.
pub struct Connections {
    by_pid: Mutex<HashMap<i32, (SecretKey, Arc<Cancel>)>>,
}

impl Connections {
    /// A server without connections.
    pub fn new() -> Arc<Connections> {
        planner::functions::backends::set_signal(signal);
        let connections = Arc::new(Connections { by_pid: Mutex::default() });
        let mut servers = SERVERS.lock();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(&connections));
        connections
    }

    /// A new connection's id and secret.
    pub fn register(self: &Arc<Self>) -> Registered {
        let pid = NEXT_PID.fetch_add(1, Ordering::Relaxed);
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

    /// Asks every connection for something.
    pub fn each(&self, ask: fn(&Cancel)) {
        self.by_pid.lock().values().for_each(|(_, cancel)| ask(cancel));
    }
}

/// `pg_cancel_backend`, and `pg_terminate_backend`: whether there is such a connection.
fn signal(pid: i32, terminate: bool) -> bool {
    let servers: Vec<_> = SERVERS.lock().iter().filter_map(Weak::upgrade).collect();
    let found = servers.iter().find_map(|server| Some(server.by_pid.lock().get(&pid)?.1.clone()));
    match &found {
        Some(cancel) if terminate => cancel.terminate(),
        Some(cancel) => cancel.request(),
        None => (),
    }
    found.is_some()
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
