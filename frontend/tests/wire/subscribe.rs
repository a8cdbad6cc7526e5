//! `SUBSCRIBE`.

use std::time::Duration;

use futures::StreamExt;

use crate::{Running, one, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_sends_each_change_at_once() {
    let running = Running::start().await;
    let (client, writer) = (running.connect().await, running.connect().await);
    writer.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let none: [&str; 0] = [];
    let stream = client.query_raw("SUBSCRIBE t", none).await.unwrap();
    tokio::pin!(stream);
    let mut next = async || {
        let row = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
        (row.get::<_, i64>(1), row.get::<_, i32>(2))
    };
    assert_eq!(next().await, (1, 1));
    writer.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(next().await, (1, 2));
    writer.batch_execute("DELETE FROM t WHERE id = 1").await.unwrap();
    assert_eq!(next().await, (-1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_views_can_be_subscribed_to() {
    let running = Running::start().await;
    let (client, writer) = (running.connect().await, running.connect().await);
    writer.batch_execute("CREATE TABLE t (id int PRIMARY KEY, k text)").await.unwrap();
    writer.batch_execute("INSERT INTO t VALUES (1, 'a'), (2, 'a'), (3, 'b')").await.unwrap();
    writer.batch_execute("CREATE VIEW v AS SELECT k AS key, count(*) AS n FROM t GROUP BY k").await.unwrap();
    let none: [&str; 0] = [];
    for what in ["v", "(SELECT k AS key, count(*) AS n FROM t GROUP BY k)"] {
        let stream = client.query_raw(&format!("SUBSCRIBE TO {what}"), none).await.unwrap();
        let mut stream = Box::pin(stream);
        let mut next = async || {
            let row = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(row.columns().iter().map(|c| c.name()).collect::<Vec<_>>(), ["epoch", "diff", "key", "n"]);
            (row.get::<_, i64>(1), row.get::<_, String>(2), row.get::<_, i64>(3))
        };
        let mut first = [next().await, next().await];
        first.sort();
        assert_eq!(first, [(1, "a".into(), 2), (1, "b".into(), 1)]);
        writer.batch_execute("DELETE FROM t WHERE id = 2").await.unwrap();
        let mut changes = [next().await, next().await];
        changes.sort();
        assert_eq!(changes, [(-1, "a".into(), 2), (1, "a".into(), 1)]);
        // What is subscribed to cannot go away.
        assert_eq!(sqlstate(&writer.batch_execute("DROP TABLE t CASCADE").await.unwrap_err()), "55006");
        client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(sqlstate(&error), "57014");
        drop(stream);
        writer.batch_execute("INSERT INTO t VALUES (2, 'a')").await.unwrap();
        // The job goes with the subscription.
        let jobs = "SELECT count(*) FROM headwater_catalog.jobs WHERE name LIKE 'subscription%'";
        let gone = async { while one(&writer, jobs).await != "0" {} };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the job goes on");
    }
    writer.batch_execute("DROP TABLE t CASCADE").await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_on_request_and_the_end_too() {
    let running = Running::start().await;
    let (client, writer) = (running.connect().await, running.connect().await);
    writer.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let none: [&str; 0] = [];
    let stream = client.query_raw("SUBSCRIBE TO t WITH (SNAPSHOT = false, PROGRESS = true)", none).await.unwrap();
    tokio::pin!(stream);
    let mut next = async || {
        let row = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap()?;
        let row = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok((row.get::<_, i64>(0), row.get::<_, Option<i64>>(1), row.get::<_, Option<i32>>(2))))
    };
    let (start, diff, id) = next().await.unwrap().unwrap();
    assert_eq!((diff, id), (None, None));
    writer.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    // Progress comes without changes too; the change comes before the progress of its epoch.
    let (epoch, ..) = loop {
        let (epoch, diff, id) = next().await.unwrap().unwrap();
        assert!(epoch >= start);
        if diff.is_some() {
            assert_eq!((diff, id), (Some(1), Some(2)));
            break (epoch, diff, id);
        }
    };
    assert_eq!(next().await.unwrap().unwrap(), (epoch, None, None));
    writer.batch_execute("DROP TABLE t").await.unwrap();
    let error = loop {
        match next().await {
            Some(Ok(_)) => (),
            Some(Err(error)) => break error,
            None => panic!("a subscription does not just end"),
        }
    };
    assert_eq!(sqlstate(&error), "55000");
    running.stop().await;
}
