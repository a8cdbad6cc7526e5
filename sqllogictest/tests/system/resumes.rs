//! Sources and sinks that fail and go on, and a server that ends while a job waits for its next start.

use std::io::Write;

use anyhow::Result;
use slt::process::Start;

use crate::orders::{eventually, rows, run};

const STATE: &str = "SELECT state FROM headwater_catalog.jobs WHERE name = ";

/// A source that stops at a record goes on behind what it has, and reads that record again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_source_goes_on_where_it_was() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("records.json");
    std::fs::write(&path, "{\"id\": 1}\n{\"id\": 2}\n")?;
    let start = Start::new(directory.path().join("data")).argument("--job-restart-pause-ms").argument("1");
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, &format!("CREATE SOURCE s (id int) WITH (connector = 'file', path = '{}')", path.display())).await?;
    run(&client, "CREATE MATERIALIZED VIEW v AS SELECT id FROM s").await?;
    run(&client, "CREATE TABLE t (a int)").await?;
    run(&client, "ALTER SOURCE s SET (on_error = 'fail')").await?;
    let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
    file.write_all(b"{\"id\": 3}\nnot json\n{\"id\": 4}\n")?;
    eventually(&client, &format!("{STATE}'s'"), &["failed"]).await?;
    let told = "SELECT last_error LIKE '%on_error%' FROM headwater_catalog.jobs WHERE name = 's'";
    assert_eq!(rows(&client, told).await?, ["t"]);
    // Nobody else is hurt, checkpoints included.
    run(&client, "INSERT INTO t VALUES (1)").await?;
    run(&client, "FLUSH").await?;
    drop(client);
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, &format!("{STATE}'s'")).await?, ["failed"]);
    assert_eq!(rows(&client, "SELECT a FROM t").await?, ["1"]);
    run(&client, "ALTER SOURCE s SET (on_error = 'table')").await?;
    run(&client, "ALTER SOURCE s RESUME").await?;
    eventually(&client, "SELECT id FROM v ORDER BY id", &["1", "2", "3", "4"]).await?;
    assert_eq!(rows(&client, "SELECT convert_from(raw, 'UTF8') FROM \"s$errors\"").await?, ["not json"]);
    file.write_all(b"{\"id\": 5}\n")?;
    eventually(&client, "SELECT count(*) FROM v", &["5"]).await?;
    drop(client);
    server.stop().await
}

/// A sink whose job fails delivers the rest once it goes on, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sink_goes_on_where_it_was() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data")).env("HEADWATER_TEST_FUNCTIONS", "1");
    let start = start.argument("--job-restart-pause-ms").argument("1");
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int PRIMARY KEY)").await?;
    run(&client, "CREATE TABLE there (a int PRIMARY KEY)").await?;
    run(&client, "CREATE SINK k INTO there AS SELECT headwater_test_panic(a) AS a FROM t").await?;
    run(&client, "INSERT INTO t VALUES (1), (2)").await?;
    eventually(&client, "SELECT count(*) FROM there", &["2"]).await?;
    run(&client, "INSERT INTO t VALUES (3), (13)").await?;
    eventually(&client, &format!("{STATE}'k'"), &["failed"]).await?;
    run(&client, "INSERT INTO t VALUES (4)").await?;
    run(&client, "FLUSH").await?;
    drop(client);
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, &format!("{STATE}'k'")).await?, ["failed"]);
    assert_eq!(rows(&client, "SELECT a FROM there ORDER BY a").await?, ["1", "2"]);
    run(&client, "DELETE FROM t WHERE a IN (13, 1)").await?;
    run(&client, "ALTER SINK k RESUME").await?;
    eventually(&client, "SELECT a FROM there ORDER BY a", &["2", "3", "4"]).await?;
    run(&client, "INSERT INTO t VALUES (5)").await?;
    eventually(&client, "SELECT a FROM there ORDER BY a", &["2", "3", "4", "5"]).await?;
    drop(client);
    server.stop().await
}

/// The server is killed while a job waits for its next start: it is as far as it was, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_a_job_waits_changes_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data")).env("HEADWATER_TEST_FUNCTIONS", "1");
    let start = start.argument("--job-restart-pause-ms").argument("60000");
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int)").await?;
    run(&client, "CREATE MATERIALIZED VIEW risky AS SELECT headwater_test_panic(a) AS a FROM t").await?;
    run(&client, "CREATE MATERIALIZED VIEW above AS SELECT count(*) AS n, sum(a) AS s FROM risky").await?;
    run(&client, "INSERT INTO t VALUES (1), (2)").await?;
    assert_eq!(rows(&client, "SELECT n, s FROM above").await?, ["2|3"]);
    run(&client, "INSERT INTO t VALUES (13)").await?;
    eventually(&client, &format!("{STATE}'risky'"), &["restarting"]).await?;
    run(&client, "INSERT INTO t VALUES (4)").await?;
    run(&client, "FLUSH").await?;
    drop(client);
    server.kill()?;
    // It fails again at the same row, and waits again.
    let mut server = start.start().await?;
    let client = server.connect().await?;
    eventually(&client, &format!("{STATE}'risky'"), &["restarting"]).await?;
    run(&client, "INSERT INTO t VALUES (5)").await?;
    drop(client);
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "DELETE FROM t WHERE a = 13").await?;
    run(&client, "ALTER MATERIALIZED VIEW risky RESUME").await?;
    assert_eq!(rows(&client, "SELECT a FROM risky ORDER BY a").await?, ["1", "2", "4", "5"]);
    assert_eq!(rows(&client, "SELECT n, s FROM above").await?, ["4|12"]);
    drop(client);
    server.stop().await
}
