//! The running server: its engine, its catalog, its doors.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use planner::batch::ReadLimits;
use storage::Store;
use streaming::engine::{Engine, EngineConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::catalog::Catalogs;
use crate::pgwire::cancel::Cancel;
use crate::pgwire::password::verifier;
use crate::pgwire::tls::Tls;
use crate::roles::{ROOT, Role, Roles};
use crate::shared::{Authenticate, ServerConfig, Shared};

/// How long statements get to finish when the server stops.
const STATEMENT_GRACE: Duration = Duration::from_secs(3);
/// How long clients get to hear that they are ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long everything that serves clients gets to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

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
        if !config.listen.ip().is_loopback() && !config.insecure && config.authenticate == Authenticate::Trust {
            anyhow::bail!(
                "refusing to listen on {}: everybody who can reach it could do everything. Listen on a loopback \
                 address, ask for passwords with --auth scram-sha-256, or allow it with --insecure",
                config.listen
            );
        }
        if let Some(listen) = config.http_listen.filter(|l| !l.ip().is_loopback() && !config.insecure) {
            anyhow::bail!(
                "refusing to listen on {listen}: everybody who can reach it could read the metrics. Listen on a \
                 loopback address, or allow it with --insecure"
            );
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
        let mut engine = self.shared.take_engine()?;
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
    let (catalogs, jobs) = Catalogs::load(&store, crate::pg_catalog::objects_of_all())?;
    let roles = roles(&store, &config)?;
    let tls = config.tls.as_ref().map(|(certificate, key)| Tls::read(certificate, key)).transpose()?;
    let starts = starts(&store)?;
    let engine_config = EngineConfig {
        workers: config.workers,
        epoch_interval_min: config.epoch_interval_min,
        checkpoint_interval: config.checkpoint_interval,
        restarts_max: config.job_restarts_max,
        restart_pause: config.job_restart_pause,
        errors_kept: config.errors_kept,
        memory_bytes: config.job_memory(),
        ..EngineConfig::default()
    };
    let spill_dir = config.data_dir.join("tmp");
    empty(&spill_dir)?;
    let limits = ReadLimits { memory_bytes: config.read_memory(), spill_dir: Some(spill_dir), threads: config.workers };
    let reads = planner::batch::Reads::new(limits)?;
    let functions = Arc::new(planner::functions::Registry);
    let sources = Arc::new(connectors::Connectors);
    let engine = Engine::start(engine_config, store.clone(), functions, sources, jobs)
        .map_err(|error| anyhow::anyhow!("cannot start from {}: {error}", config.data_dir.display()))?;
    Ok(Arc::new(Shared::new(config, engine, store, reads, (catalogs, roles, tls), (started_at, starts))))
}

/// The roles, with root's password if it is given.
fn roles(store: &Store, config: &ServerConfig) -> anyhow::Result<Roles> {
    let roles = Roles::load(store)?;
    if let (Some(file), Some(root)) = (&config.password_file, roles.get(ROOT)) {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() {
            anyhow::bail!("the first line of {} is no password", file.display());
        }
        roles.put(Role { password: Some(verifier(password)), ..root });
    }
    if config.authenticate == Authenticate::ScramSha256 && !roles.has_passwords() {
        anyhow::bail!(
            "nobody could log in: no role has a password. Give root one with --password-file, or start without --auth \
             and say ALTER ROLE root PASSWORD '...'"
        );
    }
    Ok(roles)
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
                Ok((stream, _)) => match shared.knock() {
                    Some(knocking) => {
                        sessions.spawn(crate::pgwire::serve(shared.clone(), stream, knocking));
                    }
                    None => crate::pgwire::turn_away(&stream),
                },
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
