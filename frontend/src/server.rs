//! The running server: its engine, its catalog, its doors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use parking_lot::RwLock;
use storage::{Epoch, Store};
use streaming::engine::{Engine, EngineConfig};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::catalog::Catalogs;
use crate::error::{Error, Result};
use crate::pg_catalog::activity::Activities;
use crate::pgwire::cancel::{Cancel, Connections};

/// How long statements get to finish when the server stops.
const STATEMENT_GRACE: Duration = Duration::from_secs(3);
/// How long clients get to hear that they are ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long everything that serves clients gets to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

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
    /// Whether anybody may connect from anywhere.
    pub insecure: bool,
    /// Client connections at the same time.
    pub connections_max: usize,
    /// The largest message that a client may send.
    pub message_bytes_max: usize,
    /// How long a client may leave what it is sent unread.
    pub write_timeout: Duration,
    /// How often changes are made durable.
    pub checkpoint_interval: Duration,
    /// Epochs are never sealed closer than this.
    pub epoch_interval_min: Duration,
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
            insecure: false,
            connections_max: 1000,
            message_bytes_max: 256 << 20,
            write_timeout: Duration::from_secs(300),
            checkpoint_interval: engine.checkpoint_interval,
            epoch_interval_min: engine.epoch_interval_min,
        }
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
    /// What exists.
    pub catalogs: Catalogs,
    /// Who may be cancelled.
    pub connections: Arc<Connections>,
    /// Who does what: `pg_stat_activity`.
    pub activities: Activities,
    /// The newest epoch that any client's write was acknowledged with.
    last_write: AtomicU64,
    places: Arc<Semaphore>,
    /// When the server started.
    pub started: SystemTime,
    /// The same by a clock that does not jump.
    pub started_at: Instant,
    /// How often a server was started on this directory.
    pub starts: u64,
}

impl Shared {
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

/// A server that runs in this process.
pub struct Server {
    shared: Arc<Shared>,
    listen: SocketAddr,
    http_listen: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    doors: JoinSet<()>,
}

impl Server {
    /// Opens the directory, takes up every job, and listens. Must be called within a tokio runtime.
    pub async fn start(config: ServerConfig) -> anyhow::Result<Server> {
        let started_at = Instant::now();
        for listen in [Some(config.listen), config.http_listen].into_iter().flatten() {
            if !listen.ip().is_loopback() && !config.insecure {
                anyhow::bail!(
                    "refusing to listen on {listen}: everybody who can reach it could do everything. \
                     Listen on a loopback address, or allow it with --insecure"
                );
            }
        }
        // The doors first: a second server fails before it touches the directory.
        let listener = bind(config.listen).await?;
        let listen = listener.local_addr()?;
        let http = match config.http_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let http_listen = http.as_ref().map(|l| l.local_addr()).transpose()?;

        let opening = config.clone();
        let shared = tokio::task::spawn_blocking(move || open(opening, started_at)).await??;
        let started = shared.clone();
        tokio::spawn(async move {
            let change = vec![(STARTS_KEY.to_vec(), Some(started.starts.to_be_bytes().to_vec()))];
            if let Ok(engine) = started.engine() {
                let _ = engine.change_catalog(change).await;
            }
        });
        let (stop, stopping) = watch::channel(false);
        let mut doors = JoinSet::new();
        doors.spawn(accept(shared.clone(), listener, stopping.clone()));
        if let Some(http) = http {
            doors.spawn(crate::http::serve(shared.clone(), http, stopping));
        }
        tracing::info!(
            %listen,
            http = http_listen.map(|a| a.to_string()),
            data_dir = %config.data_dir.display(),
            workers = config.workers,
            ready_ms = started_at.elapsed().as_millis() as u64,
            "server ready"
        );
        Ok(Server { shared, listen, http_listen, stop, doors })
    }

    /// Where Postgres clients connect.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics are.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_listen
    }

    /// What sessions share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Closes the doors and the connections, takes a last checkpoint and stops.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        let engine = self.close().await;
        match engine {
            Some(engine) => Ok(tokio::task::spawn_blocking(move || engine.shutdown()).await??),
            None => Ok(()),
        }
    }

    /// Stops at once and leaves the directory as `kill -9` would.
    pub async fn crash(self) -> anyhow::Result<()> {
        let engine = self.close().await;
        match engine {
            Some(engine) => Ok(tokio::task::spawn_blocking(move || engine.crash()).await?),
            None => Ok(()),
        }
    }

    /// Ends every session; then nobody else holds the engine.
    async fn close(mut self) -> Option<Engine> {
        let _ = self.stop.send(true);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while self.doors.join_next().await.is_some() {} });
        if drained.await.is_err() {
            self.doors.abort_all();
            while self.doors.join_next().await.is_some() {}
        }
        let mut engine = self.shared.engine.write().take()?;
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            match Arc::try_unwrap(engine) {
                Ok(engine) => return Some(engine),
                Err(held) if Instant::now() < deadline => {
                    engine = held;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(_) => {
                    tracing::error!("the engine is still in use: stopping without a last checkpoint");
                    return None;
                }
            }
        }
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("port {} of {} is in use: another server is running there", address.port(), address.ip())
        }
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!("no permission to listen on {address}"),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Makes a directory, without what an earlier server that was killed left in it.
fn empty(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            anyhow::bail!("cannot empty {}: {error}", dir.display())
        }
        _ => std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display())),
    }
}

/// Opens the store, loads the catalog, starts the engine.
fn open(config: ServerConfig, started_at: Instant) -> anyhow::Result<Arc<Shared>> {
    let store = open_store(&config.data_dir)?;
    let (catalogs, jobs) = Catalogs::load(&store)?;
    let starts = starts(&store)?;
    let engine_config = EngineConfig {
        workers: config.workers,
        epoch_interval_min: config.epoch_interval_min,
        checkpoint_interval: config.checkpoint_interval,
    };
    let spill_dir = config.data_dir.join("tmp");
    empty(&spill_dir)?;
    let limits =
        planner::batch::ReadLimits { spill_dir: Some(spill_dir), threads: config.workers, ..Default::default() };
    let reads = planner::batch::Reads::new(limits)?;
    let functions = Arc::new(planner::functions::Registry);
    let sources = Arc::new(connectors::Connectors);
    let engine = Engine::start(engine_config, store.clone(), functions, sources, jobs)
        .map_err(|error| anyhow::anyhow!("cannot start from {}: {error}", config.data_dir.display()))?;
    Ok(Arc::new(Shared {
        places: Arc::new(Semaphore::new(config.connections_max)),
        config,
        engine: RwLock::new(Some(Arc::new(engine))),
        store,
        reads,
        catalogs,
        connections: Connections::new(),
        activities: Activities::default(),
        last_write: AtomicU64::new(0),
        started: SystemTime::now(),
        started_at,
        starts,
    }))
}

/// Opens a data directory, with errors that say what to do.
pub fn open_store(dir: &Path) -> anyhow::Result<Arc<Store>> {
    std::fs::create_dir_all(dir).map_err(|e| anyhow::anyhow!("cannot create {}: {e}", dir.display()))?;
    Store::open(dir, storage::StoreOptions::default()).map_err(|error| anyhow::anyhow!("{error}"))
}

/// How often the directory was opened by a server, this time included.
fn starts(store: &Store) -> anyhow::Result<u64> {
    let before = store.meta_get(STARTS_KEY)?.and_then(|v| Some(u64::from_be_bytes(v.try_into().ok()?)));
    Ok(before.unwrap_or(0) + 1)
}

/// Where the number of starts is kept.
pub const STARTS_KEY: &[u8] = b"server/starts";

/// Takes up clients until the server stops, then ends them.
async fn accept(shared: Arc<Shared>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopping.changed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    sessions.spawn(crate::pgwire::serve(shared.clone(), stream));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: wait for somebody to leave.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a session panicked");
                }
            }
        }
    }
    // Who waits for a client ends at once, who runs a statement when it is over, if that is soon.
    drop(listener);
    for (ask, patience) in [(Cancel::leave as fn(&Cancel), STATEMENT_GRACE), (Cancel::terminate, FAREWELL_TIMEOUT)] {
        shared.connections.each(ask);
        let left = async { while sessions.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, left).await.is_ok() {
            return;
        }
    }
    sessions.shutdown().await;
}
