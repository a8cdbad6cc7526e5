//! What all sessions share: the engine, the catalog, who is connected, and how the server was started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;
use storage::{Epoch, Store};
use streaming::engine::{Engine, EngineConfig, ErrorsKept};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::activity::Activities;
use crate::catalog::Catalogs;
use crate::error::{Error, Result};
use crate::pgwire::cancel::Connections;
use crate::pgwire::tls::Tls;
use crate::roles::Roles;

/// A message that is larger takes memory that all clients share.
pub const LARGE_MESSAGE_BYTES: usize = 1 << 20;

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authenticate {
    /// Not at all.
    Trust,
    /// With a password, which does not travel.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
}

impl std::str::FromStr for Authenticate {
    type Err = String;

    fn from_str(text: &str) -> Result<Authenticate, String> {
        match text {
            "trust" => Ok(Authenticate::Trust),
            "scram-sha-256" => Ok(Authenticate::ScramSha256),
            _ => Err("possible methods: trust, scram-sha-256".into()),
        }
    }
}

/// Everything that can be chosen about a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where Postgres clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are; nowhere if absent.
    pub http_listen: Option<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// How clients prove who they are.
    pub authenticate: Authenticate,
    /// Root's password is the first line of this file.
    pub password_file: Option<PathBuf>,
    /// The certificate and its key; without them nothing is encrypted.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether anybody may connect from anywhere.
    pub insecure: bool,
    /// Client connections at the same time.
    pub connections_max: usize,
    /// The largest message that a client may send.
    pub message_bytes_max: usize,
    /// Memory of the server: the state of jobs, what waits for them, reads.
    pub memory_bytes: u64,
    /// Memory of all reads together; beyond it they spill. A quarter of `memory_bytes`, 1 GB at most, unless it is said.
    pub read_memory_bytes: Option<usize>,
    /// What a transaction may write.
    pub transaction_bytes_max: usize,
    /// Clients that may be connecting at the same time.
    pub connecting_max: usize,
    /// How long they may take over that.
    pub connect_timeout: Duration,
    /// How long a client may leave what it is sent unread, or a message unended.
    pub write_timeout: Duration,
    /// How often changes are made durable.
    pub checkpoint_interval: Duration,
    /// Epochs are never sealed closer than this.
    pub epoch_interval_min: Duration,
    /// How often a failed job starts again by itself.
    pub job_restarts_max: usize,
    /// The pause before the first of these starts.
    pub job_restart_pause: Duration,
    /// How many rows each `$errors` keeps, and for how long.
    pub errors_kept: ErrorsKept,
}

impl ServerConfig {
    /// A server over `data_dir` with all defaults.
    pub fn new(data_dir: impl Into<PathBuf>) -> ServerConfig {
        let engine = EngineConfig::default();
        ServerConfig {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 4566)),
            http_listen: Some(SocketAddr::from(([127, 0, 0, 1], 4567))),
            workers: engine.workers,
            authenticate: Authenticate::Trust,
            password_file: None,
            tls: None,
            insecure: false,
            connections_max: 1000,
            message_bytes_max: 256 << 20,
            memory_bytes: memory_of_machine() / 10 * 6,
            read_memory_bytes: None,
            transaction_bytes_max: 1 << 30,
            connecting_max: 4096,
            connect_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(300),
            checkpoint_interval: engine.checkpoint_interval,
            epoch_interval_min: engine.epoch_interval_min,
            job_restarts_max: engine.restarts_max,
            job_restart_pause: engine.restart_pause,
            errors_kept: engine.errors_kept,
        }
    }

    /// Memory of all reads together.
    pub fn read_memory(&self) -> usize {
        let part = self.memory_bytes / 4;
        self.read_memory_bytes.unwrap_or(usize::try_from(part).unwrap_or(usize::MAX).min(READ_MEMORY_MAX))
    }

    /// What is left of the memory for jobs.
    pub fn job_memory(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.read_memory() as u64).max(self.memory_bytes / 2)
    }

    /// The same on free ports of the loopback interface, as tests want it.
    pub fn on_free_ports(mut self) -> ServerConfig {
        self.listen.set_port(0);
        if let Some(http) = &mut self.http_listen {
            http.set_port(0);
        }
        self
    }
}

/// Memory of all reads together, unless somebody says another.
const READ_MEMORY_MAX: usize = 1 << 30;

/// The memory that the process may take: the machine's, or its control group's if that is less.
fn memory_of_machine() -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    });
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = groups.into_iter().filter_map(number).chain(machine);
    limits.min().unwrap_or(MEMORY_GUESS)
}

/// The memory of a machine that does not tell.
const MEMORY_GUESS: u64 = 4 << 30;

/// What all sessions share.
pub struct Shared {
    /// How the server was started.
    pub config: ServerConfig,
    /// Taken away when the server stops.
    engine: RwLock<Option<Arc<Engine>>>,
    /// The store below the engine, for reading what the catalog keeps.
    pub store: Arc<Store>,
    /// What reads share: memory, threads, where they spill to.
    pub reads: planner::batch::Reads,
    /// Who may log in.
    pub roles: Roles,
    /// What encrypts connections.
    pub tls: Option<Tls>,
    /// What strangers cannot know.
    pub seed: [u8; 32],
    /// The memory for large messages, in KiB.
    pub large_messages: Arc<Semaphore>,
    large_messages_max: usize,
    /// What exists.
    pub catalogs: Catalogs,
    /// Who may be cancelled.
    pub connections: Arc<Connections>,
    /// Who does what: `pg_stat_activity`.
    pub activities: Arc<Activities>,
    /// The newest epoch that any client's write was acknowledged with.
    last_write: AtomicU64,
    places: Arc<Semaphore>,
    knocking: Arc<Semaphore>,
    /// When the server started.
    pub started: SystemTime,
    /// The same by a clock that does not jump.
    pub started_at: Instant,
    /// How often a server was started on this directory.
    pub starts: u64,
}

impl Shared {
    /// What takes memory: its kind, its bytes, what it may take.
    ///
    /// # Errors
    /// While the server stops.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64, Option<u64>)>> {
        let jobs = self.engine()?.status().memory;
        let sum = jobs.state + jobs.inboxes + jobs.changes + jobs.checkpoint;
        let messages = self.large_messages_max.saturating_sub(self.large_messages.available_permits()) as u64;
        Ok(vec![
            ("state", jobs.state, None),
            ("inboxes", jobs.inboxes, None),
            ("changes", jobs.changes, None),
            ("checkpoint", jobs.checkpoint, None),
            ("jobs", sum, jobs.budget),
            ("reads", self.reads.memory() as u64, Some(self.config.read_memory() as u64)),
            ("messages", messages << 10, Some((self.large_messages_max as u64) << 10)),
            ("store", self.store.memory_bytes(), None),
            ("resident", crate::http::resident_bytes(), Some(self.config.memory_bytes)),
        ])
    }

    /// What a server shares that has just opened its directory.
    pub fn new(
        config: ServerConfig,
        engine: Engine,
        store: Arc<Store>,
        reads: planner::batch::Reads,
        (catalogs, roles, tls): (Catalogs, Roles, Option<Tls>),
        (started_at, starts): (Instant, u64),
    ) -> Shared {
        let large_messages_max = config.message_bytes_max.max(LARGE_MESSAGE_BYTES) >> 9;
        Shared {
            roles,
            tls,
            seed: rand::random(),
            large_messages: Arc::new(Semaphore::new(large_messages_max)),
            large_messages_max,
            knocking: Arc::new(Semaphore::new(config.connecting_max)),
            places: Arc::new(Semaphore::new(config.connections_max)),
            config,
            engine: RwLock::new(Some(Arc::new(engine))),
            store,
            reads,
            catalogs,
            connections: Connections::new(),
            activities: Arc::default(),
            last_write: AtomicU64::new(0),
            started: SystemTime::now(),
            started_at,
            starts,
        }
    }

    /// Takes the engine away from everybody: the server stops.
    pub fn take_engine(&self) -> Option<Arc<Engine>> {
        self.engine.write().take()
    }

    /// The engine.
    ///
    /// # Errors
    /// If the server is stopping.
    pub fn engine(&self) -> Result<Arc<Engine>> {
        self.engine
            .read()
            .clone()
            .ok_or_else(|| Error::fatal("57P01", "terminating connection due to administrator command"))
    }

    /// A place at the door for one more client, if there is one.
    pub fn knock(&self) -> Option<OwnedSemaphorePermit> {
        self.knocking.clone().try_acquire_owned().ok()
    }

    /// A place for one more client, if there is one.
    pub fn take_place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// The newest acknowledged write of anybody.
    pub fn last_write(&self) -> Epoch {
        Epoch(self.last_write.load(Ordering::SeqCst))
    }

    /// A write was acknowledged.
    pub fn wrote(&self, epoch: Epoch) {
        self.last_write.fetch_max(epoch.0, Ordering::SeqCst);
    }
}
