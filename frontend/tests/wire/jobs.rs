//! Views that take their time: progress, cancelling, and who is not held up by them.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::{Running, one, sqlstate};

/// A join that no machine finishes: every row of the one side meets every row of the other.
const ENDLESS: &str = "CREATE MATERIALIZED VIEW endless AS \
                       SELECT max(a.id + b.id * c.id) AS n FROM t AS a JOIN t AS b ON a.k = b.k JOIN t AS c ON b.k = c.k";

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_takes_long_tells_progress_and_can_be_cancelled() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int, k int)").await.unwrap();
    client.batch_execute("INSERT INTO t SELECT x, 1 FROM generate_series(1, 3000) AS s(x)").await.unwrap();
    client
        .batch_execute("CREATE TABLE other (id int); CREATE MATERIALIZED VIEW quick AS SELECT count(*) AS n FROM other")
        .await
        .unwrap();

    let text = format!("host=127.0.0.1 port={} user=root dbname=dev", running.port());
    let (creator, mut connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = tell.send(notice.message().to_owned());
            }
        }
    });
    let token = creator.cancel_token();
    let creating = tokio::spawn(async move { creator.batch_execute(ENDLESS).await });
    let mut notice = async || tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
    assert_eq!(notice().await, "rows that fail are kept in \"endless$errors\"");
    let progress = notice().await;
    assert!(progress.starts_with("creating \"endless\": "), "{progress}");
    let job = "SELECT state || ' ' || (rows_total > 0)::text FROM headwater_catalog.jobs WHERE name = 'endless'";
    assert_eq!(one(&client, job).await, "creating true");

    // Its inputs are taken, its name too; everybody else goes on.
    assert_eq!(sqlstate(&client.batch_execute("DROP TABLE t").await.unwrap_err()), "55006");
    assert_eq!(sqlstate(&client.batch_execute("CREATE TABLE endless (a int)").await.unwrap_err()), "42P07");
    let quickly = async {
        client.batch_execute("INSERT INTO other VALUES (1)").await.unwrap();
        assert_eq!(one(&client, "SELECT n FROM quick").await, "1");
    };
    tokio::time::timeout(Duration::from_secs(10), quickly).await.expect("another view is held up");

    token.cancel_query(NoTls).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(20), creating).await.unwrap().unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    let gone = async {
        while one(&client, "SELECT count(*) FROM headwater_catalog.jobs WHERE name = 'endless'").await != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the job goes on");
    client.batch_execute("CREATE TABLE endless (a int); DROP TABLE endless; DROP TABLE t").await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_known_or_refused() {
    let running = Running::start().await;
    let create = "CREATE MATERIALIZED VIEW v WITH (backfill_rate_limit = 10) AS SELECT 1 AS x";
    let out = running.psql(create).await;
    assert!(out.starts_with("NOTICE:  parameter \"backfill_rate_limit\" has no effect\n"), "{out}");
    let out = running.psql("CREATE TABLE t (a int) WITH (fillfactr = 70)").await;
    assert_eq!(out, "ERROR:  unrecognized parameter \"fillfactr\"\n");
    let out = running.psql("CREATE SOURCE s (a int) WITH (connector = 'datagen', datagen.rows.per.secnd = 1)").await;
    assert!(out.contains("has no option \"datagen.rows.per.secnd\"") && out.contains("Perhaps you meant"), "{out}");
    running.stop().await;
}
