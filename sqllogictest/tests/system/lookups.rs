//! Rows that are looked up in a Postgres, which changes, goes away and comes back.

use anyhow::{Context, Result};
use slt::process::Start;
use slt::run::ask;

use crate::orders::{eventually, rows};
use crate::sinks::Postgres;

/// The port of the Postgres that only this test kills.
const PORT: &str = "25494";

/// Each row keeps what it was told, over retractions and SIGKILL; while the Postgres is away its rows wait and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_keeps_what_the_postgres_said() -> Result<()> {
    let postgres = Postgres::start_at(PORT).await?;
    let there = postgres.connect().await?;
    there
        .batch_execute(
            "CREATE TABLE rates (currency text PRIMARY KEY, rate numeric(10, 2), note text, since timestamptz);
             INSERT INTO rates VALUES ('EUR', 1, 'first', '2026-01-01 00:00:00+00'), ('USD', 2, NULL, NULL);
             CREATE TABLE pairs (a smallint, b text, c real);
             INSERT INTO pairs VALUES (1, 'x', 0.5), (1, 'x', 1.5), (2, 'y', 'NaN')",
        )
        .await?;
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    let with = format!("WITH (connector = 'postgres-lookup', {}, table = 'rates')", postgres.place());
    let missing = ask(&client, &format!("CREATE SOURCE s (currency text, price numeric) {with}")).await.err();
    assert_eq!(missing.context("there is no such column")?.code, "42703");
    let pairs = format!(
        "CREATE SOURCE pairs (a bigint, b text, c real) WITH (connector = 'postgres-lookup', {}, table = 'pairs', \
         lookup.cache.max_rows = 1000, lookup.cache.ttl = '1h')",
        postgres.place()
    );
    client
        .batch_execute(&format!(
            "CREATE SOURCE rates (currency text PRIMARY KEY, rate numeric, note text, since timestamptz) {with};
             {pairs};
             CREATE TABLE orders (id int PRIMARY KEY, currency text, amount numeric);
             INSERT INTO orders VALUES (1, 'EUR', 10), (2, 'XXX', 10), (3, NULL, 10);
             CREATE MATERIALIZED VIEW priced AS SELECT o.id, o.amount * r.rate AS price, r.since FROM orders o
                 LEFT JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON r.currency = o.currency;
             CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM orders;
             CREATE MATERIALIZED VIEW paired AS SELECT o.id, p.c FROM orders o
                 JOIN pairs FOR SYSTEM_TIME AS OF PROCTIME() AS p ON p.a = o.id AND p.b = 'x' AND p.c > o.amount - 9"
        ))
        .await?;
    for sql in ["SELECT * FROM rates", "CREATE MATERIALIZED VIEW m AS SELECT * FROM rates"] {
        let refused = ask(&client, sql).await.err().context("it is only looked up")?;
        assert_eq!(
            (refused.code.as_str(), refused.message.as_str()),
            ("0A000", "\"rates\" is outside and is only looked up")
        );
    }
    let priced = "SELECT id, price FROM priced ORDER BY id";
    assert_eq!(rows(&client, priced).await?, ["1|10.00", "2|NULL", "3|NULL"]);
    assert_eq!(rows(&client, "SELECT since FROM priced WHERE id = 1").await?, ["2026-01-01 00:00:00+00"]);
    assert_eq!(rows(&client, "SELECT * FROM paired").await?, ["1|1.5"]);

    // What the Postgres says later is for later rows.
    there.batch_execute("UPDATE rates SET rate = 3 WHERE currency = 'EUR'").await?;
    client.batch_execute("INSERT INTO orders VALUES (4, 'EUR', 10); DELETE FROM orders WHERE id = 2").await?;
    assert_eq!(rows(&client, priced).await?, ["1|10.00", "3|NULL", "4|30.00"]);
    // Before the next checkpoint, mostly: what was visible is so again, though the Postgres would say something else now.
    client.batch_execute("FLUSH; INSERT INTO orders VALUES (5, 'EUR', 10); DELETE FROM orders WHERE id = 4").await?;
    client.batch_execute("INSERT INTO orders VALUES (4, 'EUR', 100)").await?;
    assert_eq!(rows(&client, priced).await?, ["1|10.00", "3|NULL", "4|300.00", "5|30.00"]);
    drop(client);
    server.kill()?;
    there.batch_execute("UPDATE rates SET rate = 4 WHERE currency = 'EUR'").await?;
    server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, priced).await?, ["1|10.00", "3|NULL", "4|300.00", "5|30.00"]);

    postgres.script("kill")?;
    client
        .batch_execute("INSERT INTO orders VALUES (6, 'EUR', 10), (7, 'EUR', 10); DELETE FROM orders WHERE id = 1")
        .await?;
    eventually(&client, priced, &["3|NULL", "4|300.00", "5|30.00"]).await?;
    let told = "SELECT state, error LIKE 'PostgreSQL%' FROM headwater_catalog.jobs WHERE name = 'priced'";
    eventually(&client, told, &["running|t"]).await?;
    // The others follow, checkpoints go on, and what waits outlives the server.
    client.batch_execute("DELETE FROM orders WHERE id = 7; FLUSH").await?;
    assert_eq!(rows(&client, "SELECT * FROM counted").await?, ["4"]);
    drop(client);
    server.kill()?;
    server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(rows(&client, priced).await?, ["3|NULL", "4|300.00", "5|30.00"]);
    postgres.script("start")?;
    eventually(&client, priced, &["3|NULL", "4|300.00", "5|30.00", "6|40.00"])
        .await
        .with_context(|| server.log_tail())?;
    eventually(&client, told, &["running|NULL"]).await?;

    // What cannot be read, or is no value of the table's type, is an error of its row.
    let there = postgres.connect().await?;
    there
        .batch_execute("ALTER TABLE rates ALTER rate TYPE text; UPDATE rates SET rate = 'much' WHERE currency = 'USD'")
        .await?;
    client.batch_execute("INSERT INTO orders VALUES (8, 'USD', 10), (9, 'EUR', 10), (100000, NULL, 1)").await?;
    eventually(&client, priced, &["3|NULL", "4|300.00", "5|30.00", "6|40.00", "9|40.00", "100000|NULL"]).await?;
    let errors = "SELECT reason FROM \"priced$errors\" UNION ALL SELECT reason FROM \"paired$errors\" ORDER BY 1";
    let expected = [
        "table \"pairs\": value \"100000\" is out of range for type smallint",
        "table \"rates\": field \"rate\": cannot read \"much\" as numeric",
    ];
    eventually(&client, errors, &expected).await?;
    client.batch_execute("DROP MATERIALIZED VIEW paired; DROP SOURCE pairs").await?;
    drop((client, there));
    server.stop().await
}
