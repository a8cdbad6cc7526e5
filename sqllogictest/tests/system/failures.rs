//! What goes wrong in the life of a server, and what it must do then.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use slt::process::Start;
use slt::run::ask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

use crate::orders::{eventually, rows};

async fn run(client: &Client, sql: &str) -> Result<()> {
    ask(client, sql).await.map(|_| ()).map_err(|failure| anyhow!("{} {}\n{sql}", failure.code, failure.message))
}

/// A division by zero concerns the rows and the views that divide, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_division_by_zero_stays_in_its_row() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (id int PRIMARY KEY, a int, b int)").await?;
    run(&client, "CREATE MATERIALIZED VIEW quotients AS SELECT id, a / b AS q FROM t").await?;
    run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t").await?;
    run(&client, "INSERT INTO t VALUES (1, 10, 2), (2, 10, 0), (3, 9, 3)").await?;
    assert_eq!(rows(&client, "SELECT * FROM quotients ORDER BY id").await?, ["1|5", "3|3"]);
    assert_eq!(rows(&client, "SELECT * FROM counted").await?, ["3"]);
    assert_eq!(rows(&client, "SELECT reason, sqlstate FROM \"quotients$errors\"").await?, ["division by zero|22012"]);
    run(&client, "INSERT INTO t VALUES (4, 8, 2)").await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM quotients").await?, ["3"]);
    drop(client);
    server.stop().await
}

/// A bug in one job fails that job, is told in the catalog, and can be dropped and tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_one_job_only() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data")).env("HEADWATER_TEST_FUNCTIONS", "1");
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int)").await?;
    run(&client, "CREATE MATERIALIZED VIEW risky AS SELECT headwater_test_panic(a) AS a FROM t").await?;
    run(&client, "CREATE MATERIALIZED VIEW steady AS SELECT count(*) AS n FROM t").await?;
    run(&client, "INSERT INTO t VALUES (1), (2)").await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM risky").await?, ["2"]);
    run(&client, "INSERT INTO t VALUES (13)").await?;
    assert_eq!(rows(&client, "SELECT n FROM steady").await?, ["3"]);
    let state = "SELECT state FROM headwater_catalog.jobs WHERE name = 'risky'";
    eventually(&client, state, &["failed"]).await?;
    let message = rows(&client, "SELECT error FROM headwater_catalog.jobs WHERE name = 'risky'").await?;
    assert!(message[0].contains("13"), "the message says what happened: {message:?}");
    let failure = ask(&client, "SELECT * FROM risky").await.err().context("a failed view does not answer")?;
    assert!(failure.message.contains("risky"), "{}", failure.message);
    run(&client, "INSERT INTO t VALUES (4)").await?;
    assert_eq!(rows(&client, "SELECT n FROM steady").await?, ["4"]);
    // It stays failed over a restart, and the others run.
    drop(client);
    server.stop().await?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT n FROM steady").await?, ["4"]);
    run(&client, "DROP MATERIALIZED VIEW risky").await?;
    run(&client, "DELETE FROM t WHERE a = 13").await?;
    run(&client, "CREATE MATERIALIZED VIEW risky AS SELECT headwater_test_panic(a) AS a FROM t").await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM risky").await?, ["3"]);
    drop(client);
    server.stop().await
}

/// A disk that is full refuses writes, loses nothing that was acknowledged, and is not the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "headwater-test"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not run: only root may mount a small disk");
        return Ok(());
    }
    let outcome = fill(&disk).await;
    Command::new("umount").arg("-l").arg(&disk).status()?;
    outcome
}

async fn fill(disk: &std::path::Path) -> Result<()> {
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![0u8; 40 << 20])?;
    let start = Start::new(disk.join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (id int PRIMARY KEY, pad text)").await?;
    run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t").await?;
    let mut acknowledged = 0;
    let failure = loop {
        let sql = format!("INSERT INTO t VALUES ({acknowledged}, '{}')", noise(acknowledged));
        match ask(&client, &sql).await {
            Ok(_) => acknowledged += 1,
            Err(failure) => break failure,
        }
        if acknowledged > 2000 {
            bail!("500 MB went onto a disk of 96 MB");
        }
    };
    eprintln!("after {acknowledged} rows: {} {}", failure.code, failure.message);
    assert!(["53100", "58030"].contains(&failure.code.as_str()), "{} {}", failure.code, failure.message);
    // Reads go on.
    let answer = rows(&client, "SELECT count(*) FROM t").await?;
    assert!(answer[0].parse::<u64>()? >= acknowledged, "{answer:?} of {acknowledged}");
    drop(client);
    std::fs::remove_file(&ballast)?;
    drop(server); // SIGKILL: a stop in order would want to write.
    let server = start.start().await.context("with room again")?;
    let client = server.connect().await?;
    let there: u64 = rows(&client, "SELECT count(*) FROM t").await?[0].parse()?;
    // The one that was refused may have reached the disk or not.
    assert!(there == acknowledged || there == acknowledged + 1, "{there} rows, {acknowledged} acknowledged");
    assert_eq!(rows(&client, "SELECT n FROM counted").await?, [there.to_string()]);
    run(&client, "INSERT INTO t VALUES (-1, 'room')").await?;
    drop(client);
    server.stop().await
}

/// A quarter of a megabyte that does not compress.
fn noise(seed: u64) -> String {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..256_000)
        .map(|_| char::from(random.random_range(b'0'..=b'z')))
        .map(|c| if c == '\\' { 'x' } else { c })
        .collect()
}

/// A directory that a newer server wrote, or that another server has open, is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_directories_and_ports_are_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;

    let said = start.refused().await?;
    assert!(said.contains("data") && (said.contains("lock") || said.contains("in use")), "{said}");

    let mut taken = Start::new(directory.path().join("other"));
    taken.listen = Some(server.address());
    let said = taken.refused().await?;
    assert!(said.contains(&server.address().to_string()) && said.to_lowercase().contains("in use"), "{said}");

    let mut open = Start::new(directory.path().join("open"));
    open.listen = Some("0.0.0.0:0".parse()?);
    let said = open.refused().await?;
    assert!(said.contains("--insecure"), "{said}");

    server.stop().await?;
    let format = directory.path().join("data/format");
    let text = std::fs::read_to_string(&format)?;
    std::fs::write(&format, text.replace("format 1\n", "format 999\n"))?;
    let said = start.refused().await?;
    assert!(said.contains("format"), "{said}");
    std::fs::write(&format, text)?;
    start.start().await?.stop().await
}

/// Texts and bytes that are not what they should be end the statement or the connection, never the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_input_ends_the_statement_or_the_connection() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    for sql in [
        "SELEC 1",
        "SELECT 'open",
        "CREATE TABLE (",
        ")",
        "SELECT \u{1F600}\u{0301} FROM",
        "\\",
        "'",
        "$1",
        "SELECT $$",
    ] {
        let failure = ask(&client, sql).await.err().with_context(|| format!("{sql} should fail"))?;
        assert_eq!(failure.code.len(), 5, "{sql}: {} {}", failure.code, failure.message);
        assert!(!failure.code.starts_with("XX"), "{sql}: {} {}", failure.code, failure.message);
    }
    let deep = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let failure = ask(&client, &deep).await.err().context("100,000 brackets should fail")?;
    assert!(failure.code == "54001" || failure.code.starts_with("42"), "{} {}", failure.code, failure.message);
    let long = format!("SELECT {}1", "1 + ".repeat(100_000));
    if let Err(failure) = ask(&client, &long).await {
        assert!(!failure.code.is_empty(), "the connection was lost");
    }
    // Garbage instead of a protocol.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64][..], &[0, 0, 0, 8, 0, 0, 0, 0][..], &[0, 0, 0, 4][..]] {
        let mut stream = tokio::net::TcpStream::connect(server.address()).await?;
        stream.write_all(garbage).await?;
        stream.shutdown().await?;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await?;
    }
    assert_eq!(rows(&client, "SELECT 1").await?, ["1"]);
    assert!(server.is_running());
    drop(client);
    server.stop().await
}

/// A gigabyte is refused, whether it is computed or sent, and costs nobody else anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let failure = ask(&client, "SELECT length(repeat('x', 1073741824))").await.err().context("repeat should fail")?;
    assert_eq!(failure.code, "54000", "{}", failure.message);
    run(&client, "CREATE TABLE t (a text)").await?;
    assert!(ask(&client, "INSERT INTO t SELECT repeat('x', 1073741824)").await.is_err());
    let before = server.memory_bytes()?;

    // A message that says it is a gigabyte long: it is not waited for.
    let mut stream = tokio::net::TcpStream::connect(server.address()).await?;
    let parameters = b"user\0root\0database\0dev\0\0";
    stream.write_all(&(8 + parameters.len() as u32).to_be_bytes()).await?;
    stream.write_all(&196_608u32.to_be_bytes()).await?;
    stream.write_all(parameters).await?;
    let mut answer = vec![0; 8192];
    while answer.last() != Some(&b'I') {
        let n = stream.read(&mut answer).await?;
        if n == 0 || answer[..n].ends_with(b"I") {
            break;
        }
    }
    stream.write_all(b"Q").await?;
    stream.write_all(&(1_073_741_830u32).to_be_bytes()).await?;
    let text = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // It may hang up at any time from now on.
    while sent < 1024 && stream.write_all(&text).await.is_ok() {
        sent += 1;
    }
    drop(stream);
    let grown = server.memory_bytes()?.saturating_sub(before);
    assert!(grown < 600 << 20, "the server grew by {} MB", grown >> 20);
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await?, ["0"]);
    drop(client);
    server.stop().await
}

/// A thousand clients work; the next is told so, in the protocol's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_are_served() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let program = slt::repository().join("sqllogictest/tests/clients/thousand.py");
    let port = server.address().port().to_string();
    let output = tokio::task::spawn_blocking(move || Command::new("python3").arg(program).arg(port).output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprint!("{said}");
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT 1").await?, ["1"]);
    drop(client);
    server.stop().await
}
