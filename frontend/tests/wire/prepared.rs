//! Prepared statements, parameters and portals.

use tokio_postgres::types::Type;

use crate::Running;

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_infer_their_parameters() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, name text, price numeric(10,2))").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2, 1.5)").await.unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::TEXT]);
    for (id, name) in [(1i64, "ada"), (2, "bob"), (3, "eve")] {
        assert_eq!(client.execute(&insert, &[&id, &name]).await.unwrap(), 1);
    }
    let select = client.prepare("SELECT name, id + 1 AS next FROM t WHERE id = $1").await.unwrap();
    assert_eq!(select.params(), [Type::INT8]);
    assert_eq!(select.columns()[1].name(), "next");
    let row = client.query_one(&select, &[&2i64]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("bob".into(), 3));
    assert_eq!(client.query("SELECT id FROM t ORDER BY id LIMIT $1", &[&2i64]).await.unwrap().len(), 2);
    let ids = vec![1i64, 3];
    assert_eq!(client.query("SELECT id FROM t WHERE id = ANY($1)", &[&ids]).await.unwrap().len(), 2);
    assert_eq!(client.execute("UPDATE t SET name = $1 WHERE id > $2", &[&"x", &1i64]).await.unwrap(), 2);
    assert_eq!(client.execute("DELETE FROM t WHERE name = $1", &[&"x"]).await.unwrap(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_hand_over_rows_in_pieces() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1), (2), (3)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    let first = transaction.query_portal(&portal, 2).await.unwrap();
    let rest = transaction.query_portal(&portal, 2).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    transaction.commit().await.unwrap();
    running.stop().await;
}
