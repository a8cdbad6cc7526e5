//! The real outside systems that tests talk to, started by the scripts in `bench/services`. A Postgres serves many test
//! programs: it goes on until `make test` ends.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// A Postgres for comparisons: `HEADWATER_TEST_POSTGRES` (address), or a private one that is started here.
pub fn postgres() -> Result<SocketAddr> {
    static ADDRESS: OnceLock<std::result::Result<SocketAddr, String>> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| {
        let text = match std::env::var("HEADWATER_TEST_POSTGRES") {
            Ok(text) => text,
            Err(_) => script("postgres.sh", "start", &[]).map_err(|error| format!("{error:#}"))?,
        };
        text.trim().parse().map_err(|error| format!("{text:?} is not an address: {error}"))
    });
    address.clone().map_err(anyhow::Error::msg)
}

/// Runs one of the scripts in `bench/services`, with variables such as a port of one's own, and gives what it printed last.
pub fn script(name: &str, argument: &str, environment: &[(&str, &str)]) -> Result<String> {
    let path = crate::repository().join("bench/services").join(name);
    // What is printed goes to a file: a server that stays would hold a pipe open.
    let file = tempfile::NamedTempFile::new()?;
    let status = Command::new(&path)
        .arg(argument)
        .envs(environment.iter().copied())
        .stdout(file.reopen()?)
        .stdin(std::process::Stdio::null())
        .status()
        .with_context(|| path.display().to_string())?;
    let text = std::fs::read_to_string(file.path())?;
    if !status.success() {
        bail!("{} {argument} failed: {status}\n{text}", path.display());
    }
    Ok(text.trim().lines().last().unwrap_or_default().to_string())
}
