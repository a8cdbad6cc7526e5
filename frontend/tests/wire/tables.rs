//! What tables, views and transactions do, and what is said when they cannot.

use futures::StreamExt;

use crate::{Running, one, rows, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_a_view_and_what_they_show() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n int DEFAULT 7)").await.unwrap();
    client.batch_execute("INSERT INTO t (id, name) VALUES (1, 'ada'), (2, 'bob')").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW v AS SELECT sum(n) AS s, count(*) AS c FROM t").await.unwrap();
    assert_eq!(rows(&client, "SELECT s, c FROM v").await, [[Some("14".into()), Some("2".into())]]);
    client.batch_execute("UPDATE t SET n = 10 WHERE id = 2; DELETE FROM t WHERE id = 1").await.unwrap();
    assert_eq!(rows(&client, "SELECT s, c FROM v").await, [[Some("10".into()), Some("1".into())]]);

    let error = client.batch_execute("INSERT INTO t VALUES (2, 'eve')").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23505");
    let db = error.as_db_error().unwrap();
    assert_eq!(db.message(), "duplicate key value violates unique constraint \"t_pkey\"");
    assert_eq!(db.detail(), Some("Key (id)=(2) already exists."));
    assert_eq!(db.constraint(), Some("t_pkey"));
    let error = client.batch_execute("INSERT INTO t VALUES (3, NULL)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23502");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("Failing row contains (3, null, 7)."));

    let error = client.batch_execute("DROP TABLE t").await.unwrap_err();
    assert_eq!(sqlstate(&error), "2BP01");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("materialized view v depends on table t"));
    client.batch_execute("DROP TABLE t CASCADE").await.unwrap();
    assert_eq!(sqlstate(&client.batch_execute("SELECT * FROM v").await.unwrap_err()), "42P01");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_atomic_and_see_themselves() {
    let running = Running::start().await;
    let (a, b) = (running.connect().await, running.connect().await);
    a.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    a.batch_execute("BEGIN; INSERT INTO t VALUES (1), (2)").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    assert_eq!(one(&b, "SELECT count(*) FROM t").await, "0");
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&b, "SELECT count(*) FROM t").await, "2");

    // After an error nothing is accepted but the end.
    a.batch_execute("BEGIN; INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(sqlstate(&a.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err()), "23505");
    assert_eq!(sqlstate(&a.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    a.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");

    // Several statements of one string are one transaction.
    let error = a.batch_execute("INSERT INTO t VALUES (4); INSERT INTO t VALUES (4)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "23505");
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");

    // All reads of a block are as of one moment.
    a.batch_execute("BEGIN").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    b.batch_execute("INSERT INTO t VALUES (9)").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "2");
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&a, "SELECT count(*) FROM t").await, "3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_and_out() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let sink = client.copy_in("COPY t FROM STDIN (FORMAT csv)").await.unwrap();
    tokio::pin!(sink);
    use futures::SinkExt;
    sink.send(bytes::Bytes::from_static(b"1,\"a,\"\"b\"\n2,\n3,\"\"\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 3);
    let out = client.copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT").await.unwrap();
    let out: Vec<_> = out.map(|b| String::from_utf8(b.unwrap().to_vec()).unwrap()).collect().await;
    assert_eq!(out.concat(), "1\ta,\"b\n2\t\\N\n3\t\n");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start_on(dir.path()).await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await.unwrap();
    for i in 0..20 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({i})")).await.unwrap();
    }
    running.server.take().unwrap().crash().await.unwrap();
    let running = Running::start_on(dir.path()).await;
    let client = running.connect().await;
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "20");
    assert_eq!(one(&client, "SELECT n FROM v").await, "20");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_names_what_depends_and_what_goes_with_it() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("CREATE VIEW v AS SELECT id FROM t").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM v").await.unwrap();
    let error = client.batch_execute("DROP TABLE t").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "2BP01");
    assert_eq!(error.message(), "cannot drop table t because other objects depend on it");
    assert_eq!(error.detail(), Some("view v depends on table t\nmaterialized view m depends on view v"));
    assert_eq!(error.hint(), Some("Use DROP ... CASCADE to drop the dependent objects too."));
    let out = running.psql("DROP TABLE t CASCADE").await;
    assert_eq!(
        out,
        "NOTICE:  drop cascades to 2 other objects\nDETAIL:  drop cascades to view v\n\
         drop cascades to materialized view m\n"
    );
    assert_eq!(running.psql("DROP TABLE IF EXISTS t").await, "NOTICE:  table \"t\" does not exist, skipping\n");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_process_share_nothing() {
    let (first, second) = (Running::start().await, Running::start().await);
    let sorted = "SELECT max(x) FROM (SELECT x FROM generate_series(1, 1000) AS s(x) ORDER BY x DESC) AS t";
    assert_eq!(one(&first.connect().await, sorted).await, "1000");
    first.stop().await;
    // The first one's directory is gone, and with it where its reads spilled to.
    assert_eq!(one(&second.connect().await, sorted).await, "1000");
    second.stop().await;
}
