//! psql's own commands.

use crate::Running;

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_what_exists() {
    let running = Running::start().await;
    let client = running.connect().await;
    client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2) NOT NULL DEFAULT 0, note varchar(20))",
        )
        .await
        .unwrap();
    client.batch_execute("CREATE VIEW cheap AS SELECT id FROM orders WHERE total < 10").await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW sums AS SELECT sum(total) AS s FROM orders").await.unwrap();
    let out = running.psql("\\d").await;
    for (name, kind) in [("orders", "table"), ("cheap", "view"), ("sums", "materialized view")] {
        let line = out.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("no {name} in\n{out}"));
        assert!(line.contains(kind), "{line}");
    }
    assert!(running.psql("\\dt").await.contains("orders"));
    assert!(running.psql("\\dv").await.contains("cheap"));
    assert!(running.psql("\\dm").await.contains("sums"));
    assert!(running.psql("\\l").await.contains("dev"));
    assert!(running.psql("\\dn").await.contains("public"));
    assert!(running.psql("\\conninfo").await.contains("database \"dev\" as user \"root\""));
    let out = running.psql("\\d orders").await;
    for part in [
        "Table \"public.orders\"",
        "numeric(10,2)",
        "character varying(20)",
        "not null",
        "\"orders_pkey\" PRIMARY KEY, btree (id)",
    ] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
    let out = running.psql("SELECT 1/0").await;
    assert!(out.contains("ERROR:  division by zero"), "{out}");
    let out = running.psql("SELECT nothing").await;
    assert!(out.contains("LINE 1: SELECT nothing\n               ^"), "{out}");
    running.stop().await;
}
