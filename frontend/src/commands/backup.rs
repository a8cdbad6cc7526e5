//! `headwater backup DIR`: a copy of a running server's data directory, as of one checkpoint.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::commands::sql;

/// Where to, and of which server.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Directory that the server makes; it must not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Server
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "PGHOST")]
    host: String,
    /// Its port
    #[arg(short, long, value_name = "PORT", default_value_t = 4566, env = "PGPORT")]
    port: u16,
    /// User
    #[arg(short = 'U', long, value_name = "NAME", default_value = "root", env = "PGUSER")]
    user: String,
}

/// Asks the server for it.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let dir = std::path::absolute(&arguments.dir).context("the directory")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = sql::connect(&arguments.host, arguments.port, "dev", &arguments.user).await?;
        let text = dir.to_string_lossy().replace('\'', "''");
        client.batch_execute(&format!("BACKUP TO '{text}'")).await.map_err(|error| match error.as_db_error() {
            Some(refused) => anyhow::anyhow!("{}", refused.message()),
            None => error.into(),
        })
    })?;
    let info = storage::store::copy::check(&dir);
    match info {
        Ok(info) => println!("{}: epoch {}, {} bytes", dir.display(), info.epoch, info.bytes),
        // The server's machine is another one.
        Err(_) => println!("{}", dir.display()),
    }
    Ok(())
}
