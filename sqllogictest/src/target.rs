//! What a suite is run against: a Headwater server inside this process, or a Postgres.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use frontend::{Server, ServerConfig};
use tokio_postgres::{Client, NoTls};

/// A server that takes longer to start or stop has hung.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);

/// How a Headwater server is treated during a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One worker thread.
    OneWorker,
    /// Two worker threads.
    TwoWorkers,
    /// Two worker threads, and a crash and recovery after every `FLUSH`.
    Crash,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::OneWorker, Mode::TwoWorkers, Mode::Crash];

    /// Its name in test names and labels.
    pub fn name(self) -> &'static str {
        match self {
            Mode::OneWorker => "one_worker",
            Mode::TwoWorkers => "two_workers",
            Mode::Crash => "crash",
        }
    }

    fn workers(self) -> usize {
        if self == Mode::OneWorker { 1 } else { 2 }
    }
}

/// Where statements go.
pub enum Target {
    /// A Headwater server in this process.
    Headwater(Box<Local>),
    /// A Postgres server, and the database that was made for this suite.
    Postgres {
        /// Where it listens.
        address: SocketAddr,
        /// The database.
        database: String,
    },
}

/// A Headwater server in this process, on a directory of its own.
pub struct Local {
    mode: Mode,
    config: ServerConfig,
    server: Option<Server>,
}

impl Local {
    /// Starts a server on an empty directory.
    pub async fn start(directory: &Path, mode: Mode) -> Result<Local> {
        let mut config = ServerConfig::new(directory).on_free_ports();
        config.workers = mode.workers();
        let mut local = Local { mode, config, server: None };
        local.open().await?;
        Ok(local)
    }

    /// How it is treated.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    async fn open(&mut self) -> Result<()> {
        let server = in_time(Server::start(self.config.clone())).await.context("the server does not start")?;
        self.server = Some(server);
        Ok(())
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.as_ref().context("the server is not running")?.address())
    }

    /// Where it answers HTTP.
    pub fn http_address(&self) -> Result<SocketAddr> {
        let server = self.server.as_ref().context("the server is not running")?;
        server.http_address().context("the server has no HTTP address")
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Client> {
        connect(self.address()?, "root", "dev").await
    }

    /// Stops in order and starts again, maybe with another number of workers.
    pub async fn restart(&mut self, workers: Option<usize>) -> Result<()> {
        if let Some(server) = self.server.take() {
            in_time(server.shutdown()).await.context("the server does not stop in order")?;
        }
        self.config.workers = workers.unwrap_or(self.config.workers);
        self.open().await
    }

    /// Lets everything go that is only in memory, and recovers.
    pub async fn crash(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            in_time(server.crash()).await.context("the server does not crash")?;
        }
        self.open().await.context("after a crash")
    }

    /// Stops it.
    pub async fn stop(mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => in_time(server.shutdown()).await.context("the server does not stop in order"),
            None => Ok(()),
        }
    }
}

impl Target {
    /// A database of its own on a Postgres.
    pub async fn postgres(address: SocketAddr, name: &str) -> Result<Target> {
        let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let database = format!("slt_{}_{}", std::process::id(), clean.to_lowercase());
        let admin = connect(address, "postgres", "postgres").await?;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database}")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        Ok(Target::Postgres { address, database })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Client> {
        match self {
            Target::Headwater(local) => connect(local.address()?, "root", "dev").await,
            Target::Postgres { address, database } => {
                let client = connect(*address, "postgres", database).await?;
                client.batch_execute("SET timezone = 'UTC'; SET client_min_messages = error").await?;
                Ok(client)
            }
        }
    }

    /// Whether records with this label run here.
    pub fn has_label(&self, label: &str) -> bool {
        match self {
            Target::Headwater(local) => label == "headwater" || label == local.mode.name(),
            Target::Postgres { .. } => label == "postgres",
        }
    }

    /// Stops what was started for the suite.
    pub async fn stop(self) -> Result<()> {
        match self {
            Target::Headwater(local) => local.stop().await,
            Target::Postgres { address, database } => {
                let admin = connect(address, "postgres", "postgres").await?;
                admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
                Ok(())
            }
        }
    }
}

async fn in_time<T>(turn: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TURN_TIMEOUT, turn).await.context("it takes more than a minute")?
}

/// Connects, and lets the connection run by itself.
pub async fn connect(address: SocketAddr, user: &str, database: &str) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(address.ip().to_string()).port(address.port()).user(user).dbname(database);
    let (client, connection) = config.connect(NoTls).await.with_context(|| format!("cannot connect to {address}"))?;
    tokio::spawn(async move {
        // The client sees the error at its next statement.
        let _ = connection.await;
    });
    Ok(client)
}

/// Where the suites are.
pub fn suites_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suites")
}
