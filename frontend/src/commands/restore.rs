//! `headwater restore FROM`: a data directory of a backup or of a savepoint point.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use storage::store::copy;

use crate::catalog;
use crate::server::open_store;

/// From where, and where to.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A backup, or <data directory>/savepoints/<name>
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Directory to make; it must not exist or be empty [default: headwater-data]
    #[arg(long, value_name = "DIR", default_value = "headwater-data", env = "HEADWATER_DATA_DIR")]
    data_dir: PathBuf,
}

/// Makes the directory.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let paused = restore(&arguments.from, &arguments.data_dir)?;
    println!("restored {} to {}", arguments.from.display(), arguments.data_dir.display());
    if !paused.is_empty() {
        println!(
            "paused, since their targets may have what is made again: {} (ALTER SINK name RESUME)",
            paused.join(", ")
        );
    }
    Ok(())
}

/// Makes the directory; gives the names of the sinks that are paused in it.
pub fn restore(from: &Path, to: &Path) -> anyhow::Result<Vec<String>> {
    let (_, partial) = copy::unpack(from, to)?;
    let paused = {
        let store = open_store(&partial)?;
        let objects = catalog::stored_objects(&store).context("the backup's catalog")?;
        let jobs: Vec<_> = objects.into_iter().filter_map(|object| object.job).collect();
        streaming::engine::take_up(&store, &jobs)?
    };
    copy::place(&partial, to)?;
    Ok(paused)
}
