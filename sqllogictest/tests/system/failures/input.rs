//! What clients send that no server can like: it ends the statement or the connection, never the server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use slt::process::Start;
use slt::run::ask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::run;
use crate::orders::rows;

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
