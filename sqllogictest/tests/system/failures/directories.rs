//! Directories and addresses that a server must not take, damaged files, and what SIGTERM leaves behind.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use slt::process::Start;
use slt::run::ask;
use xxhash_rust::xxh3::xxh3_64;

use super::run;
use crate::orders::rows;

/// A directory or an address that another server has is not taken from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_has_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await?;

    let said = start.refused().await?;
    let expected = format!(
        "headwater: data directory \"{}\" is in use by another server (process {})",
        start.data_dir.display(),
        server.id()
    );
    assert!(said.contains(&expected), "{said}");

    let mut taken = Start::new(directory.path().join("other"));
    taken.listen = Some(server.address());
    let said = taken.refused().await?;
    let expected = format!("headwater: port {} of 127.0.0.1 is in use", server.address().port());
    assert!(said.contains(&expected), "{said}");
    assert!(!taken.data_dir.exists(), "a server that may not listen makes no directory");

    // The one that was there first has not noticed.
    run(&client, "INSERT INTO t VALUES (2)").await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, ["2"]);
    drop(client);
    server.stop().await?;
    start.start().await?.stop().await
}

/// Without authentication a server listens where only this machine can reach it, unless it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_address_needs_insecure() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut open = Start::new(directory.path().join("open"));
    open.listen = Some("0.0.0.0:0".parse()?);
    let said = open.refused().await?;
    assert!(said.contains("headwater: refusing to listen on 0.0.0.0:0") && said.contains("--insecure"), "{said}");
    let mut start = Start::new(directory.path().join("open")).argument("--insecure");
    let port = slt::process::free_address()?.port();
    start.listen = Some(std::net::SocketAddr::from(([0, 0, 0, 0], port)));
    start.start().await?.stop().await
}

/// The text of a format file as a server writes it that knows `version`.
fn format_file(version: u32) -> String {
    let head = format!("headwater data directory\nformat {version}\n");
    format!("{head}{:016x}\n", xxh3_64(head.as_bytes()))
}

/// What a newer version wrote is not touched: the version that wrote it opens it afterwards as it left it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_directory_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int); INSERT INTO t VALUES (7)").await?;
    drop(client);
    server.stop().await?;
    let format = start.data_dir.join("format");
    let ours = std::fs::read_to_string(&format)?;
    assert_eq!(ours, format_file(1), "the test knows how the file looks");
    std::fs::write(&format, format_file(999))?;
    let before = contents(&start.data_dir)?;
    let said = start.refused().await?;
    let expected = format!("data directory \"{}\" has format 999", start.data_dir.display());
    assert!(said.contains(&expected) && said.contains("it was written by a newer version"), "{said}");
    let after = contents(&start.data_dir)?;
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).map(|f| f.0).collect();
    assert!(changed.iter().all(|path| path.ends_with("LOCK")) && after.len() == before.len(), "{changed:?}");
    std::fs::write(&format, ours)?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT a FROM t").await?, ["7"]);
    drop(client);
    server.stop().await
}

/// Every file below a directory.
fn contents(dir: &Path) -> Result<std::collections::BTreeMap<PathBuf, Vec<u8>>> {
    let files =
        walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    files.map(|entry| Ok((entry.path().to_path_buf(), std::fs::read(entry.path())?))).collect()
}

/// The files of a directory with an extension, by name.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    Ok(files)
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    bytes[at] ^= 0x40;
    Ok(std::fs::write(path, bytes)?)
}

/// A damaged file is reported by its name, and its rows are never served: neither wrong ones nor fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_never_served() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    // Enough rows that a checkpoint is written as sorted files.
    run(&client, "CREATE TABLE t (id int PRIMARY KEY, pad text)").await?;
    run(&client, "INSERT INTO t SELECT x, md5(x::text) FROM generate_series(1, 150000) AS s(x)").await?;
    run(&client, "FLUSH").await?;
    // And some that only the log of table writes has.
    run(&client, "INSERT INTO t SELECT -x, md5(x::text) FROM generate_series(1, 100) AS s(x)").await?;
    drop(client);
    server.kill()?;
    let sum = "SELECT count(*), sum(id), min(length(pad)), max(length(pad)) FROM t";
    let right = ["150100|11250069950|32|32"];

    let sorted = files(&start.data_dir.join("db"), "sst")?;
    let largest = sorted.iter().max_by_key(|path| path.metadata().map_or(0, |m| m.len())).context("sorted files")?;
    let length = usize::try_from(largest.metadata()?.len())?;
    assert!(length > 1 << 20, "{} is small", largest.display());
    let mut refused = 0;
    for part in 1..4 {
        flip(largest, length * part / 4)?;
        let said = match start.start().await {
            // Damage that only a read can see: the read fails, and nothing else.
            Ok(server) => {
                let client = server.connect().await?;
                let said = match ask(&client, sum).await {
                    Ok(answer) => {
                        assert_eq!(answer.rows[0].join("|"), right[0]);
                        None
                    }
                    Err(failure) => {
                        assert_eq!(failure.code, "XX001", "{}", failure.message);
                        Some(failure.message)
                    }
                };
                assert_eq!(rows(&client, "SELECT 1").await?, ["1"]);
                drop(client);
                drop(server);
                said
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(said) = said {
            let name = largest.file_name().and_then(|name| name.to_str()).context("a name")?;
            assert!(said.contains(name) && said.to_lowercase().contains("damaged"), "{said}");
            refused += 1;
        }
        flip(largest, length * part / 4)?;
    }
    assert!(refused >= 2, "only {refused} of 3 damages were noticed");

    let logs = files(&start.data_dir.join("log"), "log")?;
    let log = logs.last().context("a log")?;
    flip(log, usize::try_from(log.metadata()?.len())? / 2)?;
    let said = start.refused().await?;
    assert!(said.contains(&format!("file \"{}\" is corrupt", log.display())), "{said}");
    flip(log, usize::try_from(log.metadata()?.len())? / 2)?;

    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, sum).await?, right);
    drop(client);
    server.stop().await
}

/// SIGTERM ends sessions, takes a last checkpoint and stops with success: the next start has nothing to replay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_takes_a_last_checkpoint() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // No checkpoint comes by itself.
    let start = Start::new(directory.path().join("data")).argument("--checkpoint-interval-ms").argument("3600000");
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int)").await?;
    run(&client, "CREATE MATERIALIZED VIEW summed AS SELECT sum(a) AS s FROM t").await?;
    run(&client, "INSERT INTO t SELECT x FROM generate_series(1, 1000) AS s(x)").await?;
    // A client in the middle of something is told why it ends.
    let sleeper = server.connect().await?;
    let sleeping = tokio::spawn(async move { ask(&sleeper, "SELECT pg_sleep(60)").await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let (status, log) = server.terminate().await?;
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("stopping") && log.contains("SIGTERM") && log.contains("stopped"), "{log}");
    let failure = sleeping.await?.err().context("the sleeper was ended")?;
    assert_eq!(failure.code, "57P01", "{}", failure.message);
    drop(client);
    // What the log of table writes had is in the checkpoint now: without it nothing is missing.
    for log in files(&start.data_dir.join("log"), "log")? {
        std::fs::remove_file(log)?;
    }
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT s FROM summed").await?, ["500500"]);
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, ["1000"]);
    drop(client);
    server.stop().await
}
