//! `headwater inspect DIR`: what is in a data directory: catalog, tables, checkpoints, sizes.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::catalog;
use crate::commands::sql::aligned;
use crate::server::open_store;

/// Which directory.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The data directory of a server that does not run
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints what is in a directory.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !arguments.dir.is_dir() {
        anyhow::bail!("there is no directory {}", arguments.dir.display());
    }
    if arguments.dir.join("copy").is_file() {
        let info = storage::store::copy::check(&arguments.dir)?;
        println!(
            "backup           {}\nepoch            {}\nsize             {}",
            arguments.dir.display(),
            info.epoch,
            bytes(info.bytes)
        );
        println!("whole            yes; headwater restore makes a data directory of it");
        return Ok(());
    }
    if !arguments.dir.join("format").is_file() {
        anyhow::bail!("{} is not a data directory: it has no file \"format\"", arguments.dir.display());
    }
    print!("{}", report(&arguments.dir)?);
    Ok(())
}

/// The report.
pub fn report(dir: &Path) -> anyhow::Result<String> {
    let store = open_store(dir)?;
    let objects = catalog::stored_objects(&store)?;
    let sizes = store.relation_sizes()?;
    let starts = store.meta_get(crate::server::STARTS_KEY)?.and_then(|v| Some(u64::from_be_bytes(v.try_into().ok()?)));
    let mut out = format!("directory        {}\n", dir.display());
    out += &format!("format           {}\n", storage::store::FORMAT);
    out += &format!("last checkpoint  epoch {}\n", store.last_checkpoint());
    out += &format!("starts           {}\n", starts.unwrap_or(0));
    out += &format!("size             {}\n\n", bytes(size_of(dir)));
    let names = ["id", "kind", "name", "columns", "size", "depends on"].map(str::to_owned);
    let rows: Vec<_> = catalog::in_order(&objects)
        .into_iter()
        .map(|o| {
            let on: Vec<String> = o.depends_on.iter().map(|id| id.0.to_string()).collect();
            let size = sizes.iter().find(|(id, _)| *id == o.id).map(|(_, size)| bytes(*size));
            [
                Some(o.id.0.to_string()),
                Some(catalog::kind_name(o.kind).to_owned()),
                Some(format!("{}.{}", o.schema, o.name)),
                Some(o.columns.len().to_string()),
                size,
                Some(on.join(", ")),
            ]
            .to_vec()
        })
        .collect();
    out += &aligned(&names, &rows);
    for object in catalog::in_order(&objects) {
        out += &format!("{};\n", object.sql.trim().trim_end_matches(';'));
    }
    Ok(out)
}

/// All files below a directory.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A size as people read it.
fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 10_240.0 {
            return format!("{} {unit}", value.round());
        }
        value /= 1024.0;
    }
    format!("{} TB", value.round())
}
