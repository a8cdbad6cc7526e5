//! What goes wrong in the life of a server, and what it must do then.

mod directories;
mod disks;
mod input;

use anyhow::{Context, Result, anyhow};
use slt::process::Start;
use slt::run::ask;
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

/// A bug in one job fails that job, is told in the catalog, and it goes on where it was once the bug is out of the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_one_job_only() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data")).env("HEADWATER_TEST_FUNCTIONS", "1");
    let start = start.argument("--job-restart-pause-ms").argument("1");
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
    assert_eq!(failure.code, "55000");
    // In a plain statement a panic is the statement's error, and the connection's next one works.
    let failure = ask(&client, "SELECT headwater_test_panic(a) FROM t").await.err().context("it panics")?;
    assert_eq!(failure.code, "XX000", "{}", failure.message);
    assert_eq!(rows(&client, "SELECT headwater_test_panic(a) FROM t WHERE a = 1").await?, ["1"]);
    run(&client, "INSERT INTO t VALUES (4)").await?;
    assert_eq!(rows(&client, "SELECT n FROM steady").await?, ["4"]);
    // It stays failed over a restart, and the others run.
    drop(client);
    server.stop().await?;
    let server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, "SELECT n FROM steady").await?, ["4"]);
    assert_eq!(rows(&client, state).await?, ["failed"]);
    run(&client, "DELETE FROM t WHERE a = 13").await?;
    // What it had not seen yet comes and goes before it looks.
    run(&client, "ALTER MATERIALIZED VIEW risky RESUME").await?;
    assert_eq!(rows(&client, "SELECT a FROM risky ORDER BY a").await?, ["1", "2", "4"]);
    let told = "SELECT state, error IS NULL, last_error LIKE '%13%' FROM headwater_catalog.jobs WHERE name = 'risky'";
    assert_eq!(rows(&client, told).await?, ["running|t|t"]);
    run(&client, "INSERT INTO t VALUES (5)").await?;
    assert_eq!(rows(&client, "SELECT count(*) FROM risky").await?, ["4"]);
    drop(client);
    server.stop().await
}

/// A record that does not decode is set aside with the reason, and the records around it count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_record_is_set_aside() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("orders.json");
    std::fs::write(&file, "{\"id\": 1}\n{\"id\": \"two\"}\nnot json\n{\"id\": 3}\n")?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    let create = format!(
        "CREATE SOURCE orders (id int) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE JSON",
        file.display()
    );
    run(&client, &create).await?;
    run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n, sum(id) AS s FROM orders").await?;
    eventually(&client, "SELECT n, s FROM counted", &["2|4"]).await?;
    let bad = "SELECT convert_from(raw, 'UTF8'), split LIKE '%orders.json', \"offset\", reason <> '', at IS NOT NULL \
               FROM \"orders$errors\" ORDER BY \"offset\"";
    let expected = ["{\"id\": \"two\"}|t|10|t|t", "not json|t|24|t|t"];
    eventually(&client, bad, &expected).await?;
    // Neither a crash nor more records bring them twice.
    run(&client, "FLUSH").await?;
    drop(client);
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    let mut more = std::fs::OpenOptions::new().append(true).open(&file)?;
    std::io::Write::write_all(&mut more, b"{\"id\": 5}\n")?;
    eventually(&client, "SELECT n, s FROM counted", &["3|9"]).await?;
    assert_eq!(rows(&client, bad).await?, expected);
    drop(client);
    server.stop().await
}
