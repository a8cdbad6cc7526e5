//! `headwater serve`: runs the server until it is told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::server::Server;
use crate::shared::{Authenticate, ServerConfig};

/// Flags, each with an environment variable and a key in the config file, in that order of precedence.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Directory where everything is kept [default: headwater-data]
    #[arg(long, value_name = "DIR", env = "HEADWATER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A backup, or <data directory>/savepoints/<name>, to make the data directory of first; it must not exist or be empty
    #[arg(long, value_name = "FROM", env = "HEADWATER_FROM_SAVEPOINT")]
    from_savepoint: Option<PathBuf>,
    /// Address for Postgres clients [default: 127.0.0.1:4566]
    #[arg(long, value_name = "ADDRESS", env = "HEADWATER_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address for /healthz, /readyz and /metrics; "none" for none [default: 127.0.0.1:4567]
    #[arg(long, value_name = "ADDRESS", env = "HEADWATER_HTTP_LISTEN")]
    http_listen: Option<HttpListen>,
    /// Worker threads [default: the number of cores, at most 16]
    #[arg(long, value_name = "N", env = "HEADWATER_WORKERS")]
    workers: Option<usize>,
    /// Client connections at the same time [default: 1000]
    #[arg(long, value_name = "N", env = "HEADWATER_CONNECTIONS_MAX")]
    connections_max: Option<usize>,
    /// Largest message that a client may send [default: 268435456]
    #[arg(long, value_name = "N", env = "HEADWATER_MESSAGE_BYTES_MAX")]
    message_bytes_max: Option<usize>,
    /// Memory of the state of jobs, of what waits for them and of reads [default: 60 % of the machine's or control group's]
    #[arg(long, value_name = "N", env = "HEADWATER_MEMORY_BYTES")]
    memory_bytes: Option<u64>,
    /// Memory of all reads together; beyond it they spill [default: a quarter of memory-bytes, at most 1073741824]
    #[arg(long, value_name = "N", env = "HEADWATER_READ_MEMORY_BYTES")]
    read_memory_bytes: Option<usize>,
    /// What one transaction may write [default: 1073741824]
    #[arg(long, value_name = "N", env = "HEADWATER_TRANSACTION_BYTES_MAX")]
    transaction_bytes_max: Option<usize>,
    /// How long a client may leave what it is sent unread, or a message unended [default: 300000]
    #[arg(long, value_name = "MS", env = "HEADWATER_WRITE_TIMEOUT_MS")]
    write_timeout_ms: Option<u64>,
    /// How often changes are made durable [default: 1000]
    #[arg(long, value_name = "MS", env = "HEADWATER_CHECKPOINT_INTERVAL_MS")]
    checkpoint_interval_ms: Option<u64>,
    /// Epochs are never sealed closer than this [default: 1]
    #[arg(long, value_name = "MS", env = "HEADWATER_EPOCH_INTERVAL_MIN_MS")]
    epoch_interval_min_ms: Option<u64>,
    /// How often a failed job starts again by itself within 10 minutes; then it waits for ALTER ... RESUME [default: 5]
    #[arg(long, value_name = "N", env = "HEADWATER_JOB_RESTARTS_MAX")]
    job_restarts_max: Option<usize>,
    /// The pause before the first of these starts; it doubles each time, up to a minute [default: 200]
    #[arg(long, value_name = "MS", env = "HEADWATER_JOB_RESTART_PAUSE_MS")]
    job_restart_pause_ms: Option<u64>,
    /// How many rows each $errors and $late keeps, the newest [default: 10000]
    #[arg(long, value_name = "N", env = "HEADWATER_ERRORS_KEPT_MAX")]
    errors_kept_max: Option<usize>,
    /// How long they are kept [default: 168]
    #[arg(long, value_name = "HOURS", env = "HEADWATER_ERRORS_KEPT_HOURS")]
    errors_kept_hours: Option<u32>,
    /// How clients prove who they are: trust, scram-sha-256 [default: trust]
    #[arg(long, value_name = "METHOD", env = "HEADWATER_AUTH")]
    auth: Option<Authenticate>,
    /// File whose first line is root's password, set at each start
    #[arg(long, value_name = "FILE", env = "HEADWATER_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// Certificate (PEM) to encrypt connections with, those that vouch for it behind it
    #[arg(long, value_name = "FILE", env = "HEADWATER_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", env = "HEADWATER_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let everybody who can reach the address in
    #[arg(long, env = "HEADWATER_INSECURE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    insecure: Option<bool>,
    /// Config file (TOML) with the names of these flags as keys, `-` written as `_`
    #[arg(long, value_name = "FILE", env = "HEADWATER_CONFIG")]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as info,frontend=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "HEADWATER_LOG_LEVEL")]
    log_level: Option<String>,
    /// How to log [default: text]
    #[arg(long, value_name = "FORMAT", env = "HEADWATER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

/// The config file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    from_savepoint: Option<PathBuf>,
    listen: Option<SocketAddr>,
    http_listen: Option<String>,
    workers: Option<usize>,
    connections_max: Option<usize>,
    message_bytes_max: Option<usize>,
    memory_bytes: Option<u64>,
    read_memory_bytes: Option<usize>,
    transaction_bytes_max: Option<usize>,
    write_timeout_ms: Option<u64>,
    checkpoint_interval_ms: Option<u64>,
    epoch_interval_min_ms: Option<u64>,
    job_restarts_max: Option<usize>,
    job_restart_pause_ms: Option<u64>,
    errors_kept_max: Option<usize>,
    errors_kept_hours: Option<u32>,
    auth: Option<Authenticate>,
    password_file: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    insecure: Option<bool>,
    log_level: Option<String>,
    log_format: Option<LogFormat>,
}

/// An address or nothing.
#[derive(Clone, Copy, Debug)]
struct HttpListen(Option<SocketAddr>);

impl std::str::FromStr for HttpListen {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(HttpListen(if text == "none" { None } else { Some(text.parse()?) }))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// An object per line.
    Json,
}

/// Runs the server.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = match &arguments.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let level = arguments.log_level.clone().or(file.log_level.clone()).unwrap_or_else(|| "info".into());
    log(&level, arguments.log_format.or(file.log_format).unwrap_or(LogFormat::Text))?;
    let from = arguments.from_savepoint.clone().or(file.from_savepoint.clone());
    let config = merge(arguments, file)?;
    if config.workers == 0 {
        anyhow::bail!("--workers must be at least 1");
    }
    if let Some(from) = from {
        let paused = super::restore::restore(&from, &config.data_dir)?.join(", ");
        tracing::info!(from = %from.display(), paused_sinks = paused, "made the data directory");
    }
    let files = raise_file_limit();
    if files < config.connections_max as u64 + FILES_OF_THE_STORE {
        let clients = files.saturating_sub(FILES_OF_THE_STORE);
        tracing::warn!(
            files,
            connections_max = config.connections_max,
            "only so many files may be open: about {clients} clients can connect; raise the limit (ulimit -n)"
        );
    }
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let server = Server::start(config).await?;
        let signal = stop_signal().await?;
        tracing::info!(signal, "stopping");
        server.shutdown().await?;
        tracing::info!("stopped");
        Ok(())
    });
    // What a client gave up may still be planned somewhere: nobody waits for that.
    runtime.shutdown_background();
    served
}

/// What the store, the logs and the threads keep open besides the clients.
const FILES_OF_THE_STORE: u64 = 640;

/// Every client and every file of the store is a file descriptor: takes as many as the system lets us have, and says
/// how many that is.
fn raise_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a valid struct that lives until they return, and touch nothing else.
    #[allow(unsafe_code)]
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    limit.rlim_cur
}

/// The threads that clients are served on.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().thread_name("session").thread_stack_size(planner::stack::THREAD_BYTES).build()?)
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in {}", path.display()))
}

/// The flag (or its environment variable, which clap has put in its place), else the file, else the default.
fn merge(arguments: Arguments, file: File) -> anyhow::Result<ServerConfig> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from).min(16);
    let data_dir = arguments.data_dir.or(file.data_dir).unwrap_or_else(|| "headwater-data".into());
    let mut config = ServerConfig::new(data_dir);
    let http = match (arguments.http_listen, file.http_listen) {
        (Some(flag), _) => Some(flag),
        (None, Some(text)) => Some(text.parse().with_context(|| format!("http_listen = {text:?}"))?),
        (None, None) => None,
    };
    fn choose<T>(target: &mut T, flag: Option<T>, file: Option<T>) {
        if let Some(value) = flag.or(file) {
            *target = value;
        }
    }
    config.workers = cores;
    choose(&mut config.listen, arguments.listen, file.listen);
    choose(&mut config.http_listen, http.map(|h: HttpListen| h.0), None);
    choose(&mut config.workers, arguments.workers, file.workers);
    choose(&mut config.connections_max, arguments.connections_max, file.connections_max);
    choose(&mut config.message_bytes_max, arguments.message_bytes_max, file.message_bytes_max);
    choose(&mut config.memory_bytes, arguments.memory_bytes, file.memory_bytes);
    config.read_memory_bytes = arguments.read_memory_bytes.or(file.read_memory_bytes);
    choose(&mut config.transaction_bytes_max, arguments.transaction_bytes_max, file.transaction_bytes_max);
    choose(&mut config.authenticate, arguments.auth, file.auth);
    config.password_file = arguments.password_file.or(file.password_file);
    config.tls = match (arguments.tls_cert.or(file.tls_cert), arguments.tls_key.or(file.tls_key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => anyhow::bail!("a certificate and its key go together: tls_cert and tls_key"),
    };
    choose(&mut config.insecure, arguments.insecure, file.insecure);
    let ms = |v: Option<u64>| v.map(Duration::from_millis);
    choose(&mut config.write_timeout, ms(arguments.write_timeout_ms), ms(file.write_timeout_ms));
    choose(&mut config.checkpoint_interval, ms(arguments.checkpoint_interval_ms), ms(file.checkpoint_interval_ms));
    choose(&mut config.epoch_interval_min, ms(arguments.epoch_interval_min_ms), ms(file.epoch_interval_min_ms));
    choose(&mut config.job_restarts_max, arguments.job_restarts_max, file.job_restarts_max);
    choose(&mut config.job_restart_pause, ms(arguments.job_restart_pause_ms), ms(file.job_restart_pause_ms));
    choose(&mut config.errors_kept.max, arguments.errors_kept_max, file.errors_kept_max);
    let hours = |v: Option<u32>| v.map(|hours| Duration::from_secs(u64::from(hours) * 3600));
    choose(&mut config.errors_kept.time, hours(arguments.errors_kept_hours), hours(file.errors_kept_hours));
    Ok(config)
}

/// Starts logging to the standard error.
pub fn log(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(level).with_context(|| format!("log level {level:?}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot log: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        use clap::Parser;
        let flags = ["headwater", "--listen", "127.0.0.1:1", "--http-listen", "none"];
        let arguments = Program::parse_from(flags).arguments;
        let file = toml::from_str("listen = \"127.0.0.1:2\"\nworkers = 7\nhttp_listen = \"127.0.0.1:3\"").unwrap();
        let config = merge(arguments, file).unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.http_listen, None);
        assert_eq!(config.workers, 7);
        assert_eq!(config.connections_max, 1000);
    }

    /// `UPDATE_EXPECT=1` writes the table.
    #[test]
    fn the_page_lists_every_flag() {
        use clap::CommandFactory;
        let mut table = String::from("| flag | environment | meaning |\n|---|---|---|\n");
        for flag in Program::command().get_arguments().filter(|flag| flag.get_id() != "help") {
            let value = match flag.get_value_names() {
                Some([name, ..]) if flag.get_num_args().is_none_or(|n| n.min_values() > 0) => format!(" {name}"),
                _ => String::new(),
            };
            let environment = flag.get_env().unwrap_or_default().to_string_lossy();
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            table += &format!("| `--{}{value}` | `{environment}` | {help} |\n", flag.get_long().unwrap_or_default());
        }
        let path = Path::new("../docs/commands.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once("<!-- flags:serve -->\n").expect("a mark");
        let (_, after) = rest.split_once("<!-- end -->").expect("an end");
        let fresh = format!("{before}<!-- flags:serve -->\n\n{table}\n<!-- end -->{after}");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, fresh).unwrap();
        } else {
            assert!(page == fresh, "docs/commands.md is stale: run the test with UPDATE_EXPECT=1");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<File>("lisen = \"127.0.0.1:2\"").is_err());
    }
}
