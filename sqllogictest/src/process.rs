//! The server binary as a process of its own, for what a server inside the test cannot show: SIGKILL, start times, signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The server binary of this build: `HEADWATER_BIN`, or built beside the tests if need be.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn locate() -> Result<PathBuf> {
    if let Ok(path) = std::env::var("HEADWATER_BIN") {
        return Ok(path.into());
    }
    // target/<profile>/deps/<test> -> target/<profile>/headwater
    let test = std::env::current_exe()?;
    let deps = test.parent().context("the test has no folder")?;
    let folder = if deps.ends_with("deps") { deps.parent().context("no folder above deps")? } else { deps };
    // The binary is made current: a stale one would test yesterday's code.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--workspace", "--bin", "headwater"]).current_dir(crate::repository());
    if folder.ends_with("release") {
        build.arg("--release");
    }
    if let Some(target) = folder.parent() {
        build.env("CARGO_TARGET_DIR", target);
    }
    // What cargo sets for a running test would change fingerprints below.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_BIN_") {
            build.env_remove(name);
        }
    }
    let status = build.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the server binary does not build");
    }
    Ok(folder.join("headwater"))
}

/// A running server process on a data directory.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
    log: PathBuf,
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Start {
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--workers`.
    pub workers: usize,
    /// `--listen`; a free port if absent.
    pub listen: Option<SocketAddr>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Where what it says goes.
    pub log: PathBuf,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

impl Start {
    /// Two workers on a free port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Start {
        let data_dir = data_dir.into();
        let log = data_dir.with_extension("log");
        Start { data_dir, workers: 2, listen: None, arguments: Vec::new(), log, environment: Vec::new() }
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Start {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    /// With one more argument.
    pub fn argument(mut self, argument: &str) -> Start {
        self.arguments.push(argument.to_string());
        self
    }

    fn command(&self, listen: SocketAddr, http: SocketAddr, log: &Path) -> Result<Command> {
        let mut command = Command::new(binary()?);
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--listen", &listen.to_string(), "--http-listen", &http.to_string()])
            .args(["--workers", &self.workers.to_string()])
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(command)
    }

    /// Starts the server and waits until it answers.
    pub async fn start(&self) -> Result<Process> {
        let mut process = self.spawn()?;
        if process.answers(START_TIMEOUT).await?.is_none() {
            bail!("the server stopped with {}:\n{}", process.child.wait()?, process.log_tail());
        }
        Ok(process)
    }

    /// Starts the server and does not wait.
    pub fn spawn(&self) -> Result<Process> {
        let listen = self.listen.unwrap_or(free_address()?);
        let http = free_address()?;
        let log = self.log.clone();
        let child = self.command(listen, http, &log)?.spawn().context("cannot start the server")?;
        Ok(Process { child, address: listen, http, log })
    }

    /// Starts a server that must refuse, and gives what it said.
    pub async fn refused(&self) -> Result<String> {
        let listen = self.listen.unwrap_or(free_address()?);
        let log = self.log.with_extension("refused");
        // Only what this one says.
        std::fs::write(&log, "")?;
        let mut child = self.command(listen, free_address()?, &log)?.spawn().context("cannot start the server")?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    bail!("the server stopped without an error");
                }
                return Ok(std::fs::read_to_string(&log)?);
            }
            if started.elapsed() > START_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!("the server did not refuse:\n{}", std::fs::read_to_string(&log)?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Process {
    /// Waits until it answers, and gives a client; `None` if it ends before.
    pub async fn answers(&mut self, timeout: Duration) -> Result<Option<Client>> {
        let started = Instant::now();
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(None);
            }
            if let Ok(client) = self.connect().await
                && client.simple_query("SELECT 1").await.is_ok()
            {
                return Ok(Some(client));
            }
            if started.elapsed() > timeout {
                bail!("the server does not answer:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > timeout {
                bail!("the server does not end:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Sends it a signal by name: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if !status.success() {
            bail!("kill -{name}: {status}");
        }
        Ok(())
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/metrics` is.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Connects as `root` to `dev`.
    pub async fn connect(&self) -> Result<Client> {
        crate::target::connect(self.address, "root", "dev").await
    }

    /// What `GET` answers over HTTP: the status and the body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(self.http).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_string()))
    }

    /// Everything that the server logged.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The end of what the server logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(self) -> Result<()> {
        let (status, log) = self.terminate().await?;
        if !status.success() {
            bail!("the server stopped with {status}:\n{log}");
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end, whatever it is: how it ended, and the end of what it logged.
    pub async fn terminate(mut self) -> Result<(ExitStatus, String)> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.log_tail()));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("the server does not stop:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Memory that the process holds, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.kill();
        }
    }
}

/// A port of the loopback interface that is free now and was not given out before. Below the ports that the system
/// gives to outgoing connections: one of those could take it before the server does.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 10_000;
    const N: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..N {
        // Test programs that run beside each other begin far from each other.
        let at = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], (FIRST + at % N) as u16));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}
