//! A disk that fills up: a small one in memory, which only root may mount.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use slt::process::{Process, Start};
use slt::run::ask;
use tokio_postgres::Client;

use super::run;
use crate::orders::{eventually, rows};

/// A file system of its own.
struct Disk {
    // Unmounted before the folder goes.
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl Disk {
    /// Mounts one; `None`, with a word about it, if this user may not.
    fn mount(megabytes: u32) -> Result<Option<Disk>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("disk");
        std::fs::create_dir(&path)?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "headwater-test"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Ok(Some(Disk { path, directory }));
        }
        eprintln!("NOT RUN: only root may mount a small disk");
        Ok(None)
    }

    /// A server with its data on the disk, and what it logs elsewhere.
    fn server(&self) -> Start {
        let log = self.directory.path().join("server.log");
        Start { log, ..Start::new(self.path.join("data")) }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes room away, or gives it back.
    fn weigh(&self, megabytes: usize) -> Result<()> {
        Ok(std::fs::write(self.ballast(), vec![0u8; megabytes << 20])?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Inserts rows, one a statement, until checkpoints fail for want of room; gives the number of those acknowledged.
async fn fill(client: &Client) -> Result<u64> {
    let mut acknowledged = 0;
    let begun = Instant::now();
    loop {
        // From big to small: the log of writes may be full long before nothing fits any more.
        let parts = if acknowledged < 100 { 8000 } else { 4000 };
        // Digests do not compress.
        let sql = format!(
            "INSERT INTO t SELECT {acknowledged}, string_agg(md5(({acknowledged} * 10000 + x)::text), '') \
             FROM generate_series(1, {parts}) AS s(x)"
        );
        match ask(client, &sql).await {
            Ok(_) => acknowledged += 1,
            Err(failure) => {
                assert_eq!(failure.code, "53100", "{}", failure.message);
                let error = rows(client, "SELECT error FROM headwater_catalog.checkpoints").await?;
                if error != ["NULL"] {
                    assert!(error[0].contains("no space left on the device"), "{error:?}");
                    eprintln!("after {acknowledged} rows: {}", failure.message);
                    return Ok(acknowledged);
                }
            }
        }
        if begun.elapsed() > Duration::from_secs(90) {
            bail!("{acknowledged} rows went onto the disk");
        }
    }
}

/// What a server without room does: it says so, refuses what it could not keep, and answers reads.
async fn is_full(server: &Process, client: &Client, acknowledged: u64) -> Result<()> {
    for sql in [
        "INSERT INTO t VALUES (-1, 'small')",
        "DELETE FROM t",
        "CREATE TABLE u (a int)",
        "CREATE MATERIALIZED VIEW v AS SELECT id FROM t",
        "DROP MATERIALIZED VIEW counted",
        "FLUSH",
    ] {
        let failure = ask(client, sql).await.err().with_context(|| format!("{sql} should be refused"))?;
        assert_eq!(failure.code, "53100", "{sql}: {}", failure.message);
    }
    assert_eq!(rows(client, "SELECT count(*) FROM t").await?, [acknowledged.to_string()]);
    assert_eq!(rows(client, "SELECT n FROM counted").await?, [acknowledged.to_string()]);
    let (status, body) = server.get("/readyz").await?;
    assert!(status == 503 && body.contains("no space left"), "{status} {body}");
    assert_eq!(server.get("/healthz").await?.0, 200);
    let (_, metrics) = server.get("/metrics").await?;
    assert!(metrics.lines().any(|line| line == "headwater_checkpoint_failing 1"), "{metrics}");
    let log = server.log()?;
    assert!(log.contains("checkpoint failed") && log.contains("no space left"), "{log}");
    Ok(())
}

/// Full: checkpoints stop, writes are refused, reads go on. Room again: everything goes on by itself, and nothing that
/// was acknowledged is missing, not even after SIGKILL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for() -> Result<()> {
    let Some(disk) = Disk::mount(384)? else { return Ok(()) };
    disk.weigh(310)?;
    let start = disk.server();
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (id int PRIMARY KEY, pad text)").await?;
    run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t").await?;
    // As fast as it comes: what cannot be kept must not be read either.
    run(&client, "CREATE SOURCE bid WITH (connector = 'nexmark', nexmark.table.type = 'Bid')").await?;
    run(&client, "CREATE MATERIALIZED VIEW bids AS SELECT count(*) AS n FROM bid").await?;
    let acknowledged = fill(&client).await?;
    is_full(&server, &client, acknowledged).await?;

    let read: u64 = rows(&client, "SELECT n FROM bids").await?[0].parse()?;
    let memory = server.memory_bytes()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later: u64 = rows(&client, "SELECT n FROM bids").await?[0].parse()?;
    let grown = server.memory_bytes()?.saturating_sub(memory);
    assert!(later - read < 200_000, "{} rows were read while the disk was full", later - read);
    assert!(grown < 64 << 20, "the server grew by {} MB while the disk was full", grown >> 20);

    std::fs::remove_file(disk.ballast())?;
    let begun = Instant::now();
    eventually(&client, "SELECT error IS NULL FROM headwater_catalog.checkpoints", &["t"]).await?;
    eprintln!("checkpoints succeed again {:?} after there is room", begun.elapsed());
    run(&client, "INSERT INTO t VALUES (-1, 'room')").await?;
    run(&client, "FLUSH").await?;
    assert_eq!(server.get("/readyz").await?.0, 200);
    assert!(server.log()?.contains("checkpoints succeed again"));
    let there = [(acknowledged + 1).to_string()];
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, there);
    assert_eq!(rows(&client, "SELECT n FROM counted").await?, there);
    // The source goes on too.
    let begun = Instant::now();
    while rows(&client, "SELECT n FROM bids").await?[0].parse::<u64>()? <= later {
        assert!(begun.elapsed() < Duration::from_secs(20), "the source does not go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(&client, "DROP SOURCE bid CASCADE").await?;
    drop(client);
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, there);
    assert_eq!(rows(&client, "SELECT n FROM counted").await?, there);
    drop(client);
    server.stop().await
}

/// A server that ends while the disk is full, in order or not, has everything that it acknowledged when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_on_a_full_disk_loses_nothing() -> Result<()> {
    let Some(disk) = Disk::mount(384)? else { return Ok(()) };
    let start = disk.server();
    let mut acknowledged = 0;
    for kill in [true, false] {
        let mut server = start.start().await?;
        let client = server.connect().await?;
        run(&client, "DROP TABLE IF EXISTS t CASCADE; CREATE TABLE t (id int PRIMARY KEY, pad text)").await?;
        run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t; FLUSH").await?;
        let used = Command::new("df").args(["-BM", "--output=avail"]).arg(&disk.path).output()?;
        let free = String::from_utf8(used.stdout)?
            .lines()
            .nth(1)
            .context("df")?
            .trim()
            .trim_end_matches('M')
            .parse::<usize>()?;
        disk.weigh(free.saturating_sub(60))?;
        acknowledged = fill(&client).await?;
        is_full(&server, &client, acknowledged).await?;
        drop(client);
        if kill {
            server.kill()?;
        } else {
            let (status, log) = server.terminate().await?;
            assert!(!status.success() && log.contains("no space left"), "{status}\n{log}");
        }
        // No room even to open it: it says why.
        while std::fs::OpenOptions::new()
            .append(true)
            .open(disk.ballast())
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
            .is_ok()
        {}
        let said = start.refused().await?;
        assert!(said.to_lowercase().contains("no space left"), "{said}");
        std::fs::remove_file(disk.ballast())?;
        let server = start.start().await.context("with room again")?;
        let client = server.connect().await?;
        let there = [acknowledged.to_string()];
        assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, there);
        assert_eq!(rows(&client, "SELECT n FROM counted").await?, there);
        drop(client);
        server.stop().await?;
    }
    assert!(acknowledged > 0);
    Ok(())
}
