//! The protocol under clients that do not keep to it, or that do not keep up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use slt::process::{Process, Start};
use slt::run::ask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::orders::{eventually, rows};

/// A length and the version 3.0, with user and database.
fn startup() -> Vec<u8> {
    let parameters = b"user\0root\0database\0dev\0\0";
    let mut bytes = (8 + parameters.len() as u32).to_be_bytes().to_vec();
    bytes.extend(196_608u32.to_be_bytes());
    bytes.extend(parameters);
    bytes
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((4 + body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Sends bytes, and gives everything that comes back until the server hangs up or says nothing more.
async fn say(server: &Process, bytes: &[u8], patience: Duration) -> Result<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect(server.address()).await?;
    // The server may hang up before everything is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        match tokio::time::timeout(patience, stream.read(&mut part)).await {
            Ok(Ok(0)) | Ok(Err(_)) => return Ok((answer, true)),
            Ok(Ok(n)) => answer.extend(&part[..n]),
            Err(_) => return Ok((answer, false)),
        }
    }
}

/// What is no message is answered with a FATAL error, and the connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_ends_the_connection() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let after = |bytes: &[u8]| [startup(), bytes.to_vec()].concat();
    for (bytes, sqlstate) in [
        (vec![0xff; 64], "08P01"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01"),
        ([8u32.to_be_bytes(), (7u32 << 16).to_be_bytes()].concat(), "0A000"),
        (after(&[b'Q', 0, 0, 0, 3]), "08P01"),
        (after(&[b'Q', 0xff, 0xff, 0xff, 0xff]), "08P01"),
        (after(&message(b'~', b"what?")), "08P01"),
        (after(&message(b'B', b"no terminator")), "08P01"),
    ] {
        let (answer, closed) = say(&server, &bytes, Duration::from_secs(10)).await?;
        let text = String::from_utf8_lossy(&answer);
        assert!(closed, "{bytes:?}: the connection stays open after {text:?}");
        assert!(text.contains("FATAL") && text.contains(sqlstate), "{bytes:?}: {text:?}");
    }
    // A text that is no UTF-8 is the statement's error.
    let (answer, closed) = say(&server, &after(&message(b'Q', b"SELECT '\xff'\0")), Duration::from_millis(500)).await?;
    let text = String::from_utf8_lossy(&answer);
    assert!(!closed && text.contains("22021") && answer.ends_with(b"I"), "{text:?}");
    server.stop().await
}

/// Whatever bytes come in, whole or cut short: nothing panics, nothing is kept, and others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_bring_the_server_down() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let mut random = StdRng::seed_from_u64(crate::seed());
    let mut memory = 0;
    for round in 0..600 {
        if round == 100 {
            memory = server.memory_bytes()?;
        }
        let mut noise = vec![0; random.random_range(0..400)];
        random.fill_bytes(&mut noise);
        let kinds = b"PBDECSHQFdcfpX";
        let mut bytes = startup();
        match random.random_range(0..5) {
            0 => bytes = noise,
            1 => bytes.extend(noise),
            2 => {
                for _ in 0..random.random_range(1..8) {
                    let kind = kinds[random.random_range(0..kinds.len())];
                    let part = &noise[..random.random_range(0..=noise.len())];
                    bytes.extend(message(kind, part));
                }
            }
            3 => {
                // A message that is longer than what comes of it.
                bytes.push(kinds[random.random_range(0..kinds.len())]);
                bytes.extend(random.random_range(0..u32::MAX).to_be_bytes());
                bytes.extend(noise);
            }
            _ => bytes.truncate(random.random_range(0..bytes.len())),
        }
        say(&server, &bytes, Duration::from_millis(5)).await?;
        if round % 100 == 0 {
            assert_eq!(rows(&client, "SELECT 1").await?, ["1"]);
        }
    }
    assert!(server.is_running());
    let log = server.log()?;
    assert!(!log.contains("panicked"), "{log}");
    let grown = server.memory_bytes()?.saturating_sub(memory);
    assert!(grown < 32 << 20, "500 connections left {} kB", grown >> 10);
    eventually(&client, "SELECT count(*) FROM pg_stat_activity", &["1"]).await?;
    drop(client);
    server.stop().await
}

/// A million rows leave as they are computed: neither the server nor a client that does not read keeps them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_are_streamed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data")).argument("--write-timeout-ms").argument("1500");
    let server = start.start().await?;
    let client = server.connect().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await?;
    client.batch_execute("INSERT INTO t SELECT x, repeat('x', 100) FROM generate_series(1, 1000) AS s(x)").await?;
    let query = message(b'Q', b"SELECT a.id, b.id, a.pad FROM t AS a CROSS JOIN t AS b\0");
    // Warm, so that what is measured is the result.
    client.simple_query("SELECT a.id, b.id FROM t AS a CROSS JOIN t AS b WHERE a.id < 20").await?;

    let memory = server.memory_bytes()?;
    let mut stream = TcpStream::connect(server.address()).await?;
    stream.write_all(&startup()).await?;
    stream.write_all(&query).await?;
    let (mut bytes, mut largest, mut part) = (0u64, 0, vec![0; 1 << 20]);
    let mut tail = Vec::new();
    while !tail.ends_with(b"Z\0\0\0\x05I") || bytes < 1000 {
        let n = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut part)).await.context("rows")??;
        ensure!(n > 0, "the server hung up after {bytes} bytes");
        bytes += n as u64;
        tail = part[n.saturating_sub(64)..n].to_vec();
        largest = largest.max(server.memory_bytes()?.saturating_sub(memory));
    }
    assert!(bytes > 110_000_000, "{bytes} bytes for a million rows");
    assert!(String::from_utf8_lossy(&tail).contains("SELECT 1000000"), "{tail:?}");
    eprintln!("{} MB of rows took {} MB of memory", bytes >> 20, largest >> 20);
    assert!(largest < 64 << 20, "the server grew by {} MB while it sent {} MB", largest >> 20, bytes >> 20);

    // Nobody reads: what waits is bounded, and after a while the client is let go.
    let mut stuck = TcpStream::connect(server.address()).await?;
    stuck.write_all(&startup()).await?;
    stuck.write_all(&query).await?;
    let begun = Instant::now();
    eventually(
        &client,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%CROSS JOIN%' AND pid <> pg_backend_pid()",
        &["1"],
    )
    .await
    .ok();
    drop(stream);
    eventually(&client, "SELECT count(*) FROM pg_stat_activity", &["1"]).await?;
    assert!(begun.elapsed() < Duration::from_secs(20), "a client that does not read was kept {:?}", begun.elapsed());
    let grown = server.memory_bytes()?.saturating_sub(memory);
    assert!(grown < 96 << 20, "a client that does not read cost {} MB", grown >> 20);
    drop(client);
    server.stop().await
}

/// Cancel requests by the thousand, right ones and wrong ones, stop what they are for and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cancel_requests_stops_what_it_is_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let mut statements = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..20 {
        let client = server.connect().await?;
        tokens.push(client.cancel_token());
        statements.push(tokio::spawn(async move {
            let failure = ask(&client, "SELECT pg_sleep(60)").await.err().map(|failure| failure.code);
            (failure, rows(&client, "SELECT 1").await)
        }));
    }
    let bystander = server.connect().await?;
    let watched = tokio::spawn(async move { ask(&bystander, "SELECT pg_sleep(3)").await });
    eventually(
        &server.connect().await?,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active'",
        &["22"],
    )
    .await
    .ok();
    // Wrong secrets for every connection there is.
    let wrong = (100_000..100_040u32).flat_map(|pid| (0..20u32).map(move |secret| (pid, secret)));
    let wrong = wrong.map(|(pid, secret)| {
        let bytes = [16u32, 80_877_102, pid, secret].map(u32::to_be_bytes).concat();
        let server = &server;
        async move { say(server, &bytes, Duration::from_secs(5)).await }
    });
    for outcome in futures::future::join_all(wrong).await {
        let (answer, closed) = outcome?;
        assert!(closed && answer.is_empty(), "a cancel request is not answered: {answer:?}");
    }
    assert!(statements.iter().all(|statement| !statement.is_finished()), "a wrong secret stopped a statement");
    let right = (0..10).flat_map(|_| &tokens).map(|token| token.cancel_query(tokio_postgres::NoTls));
    for outcome in futures::future::join_all(right).await {
        outcome?;
    }
    for statement in statements {
        let (failure, next) = tokio::time::timeout(Duration::from_secs(20), statement).await??;
        assert_eq!(failure.as_deref(), Some("57014"));
        // One that came late must not stop the next statement for ever; the connection works on.
        ensure!(next.is_ok() || format!("{next:?}").contains("57014"), "{next:?}");
    }
    watched.await?.map_err(|failure| anyhow::anyhow!("a bystander was stopped: {}", failure.message))?;
    server.stop().await
}
