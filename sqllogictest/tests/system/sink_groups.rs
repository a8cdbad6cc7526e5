//! Sinks of a group: readers of the target see all of an epoch or nothing, through kills of the server and of the target.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::process::Start;
use slt::run::ask;

use crate::mariadb::Mariadb;
use crate::orders::{Broker, eventually, rows};
use crate::sinks::{Postgres, caught_up, postgres, read, topic};

/// How often the server, and in turn the target, is killed.
const KILLS: u64 = 2;

/// Each transaction moves an amount from one account to another and writes both tables: their sums agree in each snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_group_agree_in_every_snapshot() -> Result<()> {
    let target = Postgres::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let address = server.address();
    let client = server.connect().await?;
    let (to, create) = target
        .options()
        .split_once(", create")
        .map(|(to, _)| (to.to_owned(), "create_table_if_not_exists = 'true'"))
        .context("options")?;
    client
        .batch_execute(&format!(
            "CREATE TABLE accounts (id int PRIMARY KEY, amount bigint);
             CREATE TABLE moves (id int PRIMARY KEY, amount bigint);
             INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 50) AS g(i);
             CREATE MATERIALIZED VIEW totals AS SELECT id % 5 AS k, sum(amount) AS s, count(*) AS n FROM accounts GROUP BY id % 5;
             CREATE SINK GROUP bank WITH (connector = 'postgres', {to});
             CREATE SINK a FROM accounts WITH (group = 'bank', table = 'accounts', type = 'upsert', {create});
             CREATE SINK m FROM moves WITH (group = 'bank', table = 'moves', type = 'upsert', {create})"
        ))
        .await?;
    let failure = ask(&client, "DROP SINK GROUP bank").await.err().context("it has sinks")?;
    assert_eq!(failure.code, "2BP01");
    drop(client);

    let stop = Arc::new(AtomicBool::new(false));
    let (writes, stop_writer) = (Arc::new(AtomicU64::new(0)), stop.clone());
    let written = writes.clone();
    let writer = tokio::spawn(async move {
        let mut id = 0;
        while !stop_writer.load(Ordering::SeqCst) {
            let Ok(client) = slt::target::connect(address, "root", "dev").await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            while !stop_writer.load(Ordering::SeqCst) {
                id += 1;
                let amount = id % 7 + 1;
                // What one account gains is what the moves say.
                let sql = format!(
                    "BEGIN; UPDATE accounts SET amount = amount + {amount} WHERE id = {}; INSERT INTO moves VALUES ({id}, {amount}); COMMIT",
                    id % 50 + 1
                );
                if client.batch_execute(&sql).await.is_err() {
                    break;
                }
                written.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let stop_reader = stop.clone();
    let there = target.address.clone();
    // Every snapshot that anybody reads.
    let reader = tokio::spawn(async move {
        let (mut seen, mut last) = (0_u64, String::new());
        while !stop_reader.load(Ordering::SeqCst) {
            let Ok(client) = slt::target::connect(there.parse()?, "postgres", "postgres").await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let sql = "SELECT (SELECT sum(amount) FROM accounts) - coalesce((SELECT sum(amount) FROM moves), 0), (SELECT count(*) FROM moves)";
            while let Ok(came) = rows(&client, sql).await {
                let (rest, n) = came[0].split_once('|').context("two columns")?;
                assert!(rest == "50000" || rest == "NULL", "accounts and moves are of two epochs: {came:?}");
                if n != last {
                    (seen, last) = (seen + 1, n.to_owned());
                }
                if stop_reader.load(Ordering::SeqCst) {
                    break;
                }
            }
        }
        Ok::<_, anyhow::Error>(seen)
    });
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 21);
    for n in 0..crate::number("HEADWATER_TEST_SINK_KILLS", KILLS) {
        tokio::time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
        if n % 2 == 0 {
            server.kill()?;
            start.workers = 1 + n as usize % 3;
            server = start.start().await?;
        } else {
            tokio::task::block_in_place(|| postgres("kill"))?;
            tokio::task::block_in_place(|| postgres("start"))?;
        }
    }
    // One that joins while the others run, over a view, and one that leaves.
    let client = server.connect().await?;
    client
        .batch_execute(&format!(
            "CREATE SINK t FROM totals WITH (group = 'bank', table = 'totals', type = 'upsert', primary_key = 'k', {create})"
        ))
        .await?;
    eventually(
        &client,
        "SELECT name, sink_group FROM headwater_catalog.sinks ORDER BY name",
        &["a|bank", "m|bank", "t|bank"],
    )
    .await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    writer.await?;
    let seen = reader.await??;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let there = target.connect().await?;
    for relation in ["accounts", "moves", "totals"] {
        let all = format!("SELECT * FROM {relation} ORDER BY 1");
        assert_eq!(rows(&there, &all).await?, rows(&client, &all).await?, "{relation}");
    }
    eprintln!("{} writes, {seen} states seen", writes.load(Ordering::SeqCst));
    assert!(seen > 2, "the group delivers while it is written");
    // What one of them holds, none gets: while it is paused, and until what is refused of it is set aside.
    let held = rows(&there, "SELECT sum(amount) FROM accounts").await?;
    client
        .batch_execute("ALTER SINK m PAUSE; UPDATE accounts SET amount = amount + 5000 WHERE id = 2; FLUSH; FLUSH")
        .await?;
    eventually(&client, "SELECT rows_waiting > 0 FROM headwater_catalog.sinks WHERE name = 'a'", &["t"]).await?;
    assert_eq!(rows(&there, "SELECT sum(amount) FROM accounts").await?, held);
    there.batch_execute("ALTER TABLE moves ADD CHECK (amount < 1000)").await?;
    client.batch_execute("INSERT INTO moves VALUES (-1, 5000), (-2, 1); ALTER SINK m RESUME").await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(rows(&there, "SELECT id, amount FROM moves WHERE id < 0").await?, ["-2|1"]);
    assert_eq!(rows(&client, "SELECT sqlstate FROM \"m$errors\"").await?, ["23514"]);
    let amount = "SELECT sum(amount) FROM accounts";
    assert_eq!(rows(&there, amount).await?, rows(&client, amount).await?);
    client.batch_execute("DROP SINK m; UPDATE accounts SET amount = 1 WHERE id = 1").await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(rows(&there, "SELECT amount FROM accounts WHERE id = 1").await?, ["1"]);
    // The last one goes, and another first one comes at once: it begins anew.
    client
        .batch_execute(&format!(
            "DROP SINK a, t; CREATE SINK m FROM moves WITH (group = 'bank', table = 'again', type = 'upsert', {create})"
        ))
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let count = "SELECT count(*) FROM";
    assert_eq!(rows(&there, &format!("{count} again")).await?, rows(&client, &format!("{count} moves")).await?);
    client.batch_execute("DROP SINK m; DROP SINK GROUP bank").await?;
    eventually(&there, "SELECT count(*) FROM headwater_progress", &["0"]).await?;
    drop((client, there));
    server.stop().await
}

/// The same in MariaDB, with a kill in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_group_agree_in_mariadb() -> Result<()> {
    let target = Mariadb::start().await?;
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let mut client = server.connect().await?;
    let member = |table: &str| {
        format!(
            "CREATE SINK into_{table} FROM {table} WITH (group = 'bank', table = '{table}', type = 'upsert',
                 create_table_if_not_exists = 'true')"
        )
    };
    client
        .batch_execute(&format!(
            "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int);
             CREATE SINK GROUP bank WITH ({}); {}; {}",
            target.options(),
            member("a"),
            member("b")
        ))
        .await?;
    let sums = "SELECT (SELECT sum(v) FROM shop.a), (SELECT sum(v) FROM shop.b)";
    for round in 0..3 {
        for id in 0..20 {
            let row = format!("({}, {id})", round * 100 + id);
            client
                .batch_execute(&format!("BEGIN; INSERT INTO a VALUES {row}; INSERT INTO b VALUES {row}; COMMIT"))
                .await?;
            let seen = target.ask(sums)?;
            let (a, b) = seen[0].split_once('|').context("two columns")?;
            assert_eq!(a, b, "a and b are of two epochs");
        }
        if round == 1 {
            drop(client);
            server.kill()?;
            server = start.start().await?;
            client = server.connect().await?;
        }
        caught_up(&client).await.with_context(|| server.log_tail())?;
        let sum = 190 * (round + 1);
        assert_eq!(target.ask(sums)?, [format!("{sum}|{sum}")]);
    }
    // What one table refuses is set aside, and the other gets its rows.
    client
        .batch_execute("BEGIN; INSERT INTO a VALUES (1000, 1), (1001, 1); INSERT INTO b VALUES (1000, 7); COMMIT")
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    target.ask("ALTER TABLE shop.a ADD CONSTRAINT small CHECK (v < 1000)")?;
    client
        .batch_execute("BEGIN; INSERT INTO a VALUES (1002, 5000), (1003, 2); INSERT INTO b VALUES (1002, 8); COMMIT")
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(target.ask("SELECT id FROM shop.a WHERE id > 1001")?, ["1003"]);
    assert_eq!(target.ask("SELECT v FROM shop.b WHERE id = 1002")?, ["8"]);
    assert_eq!(rows(&client, "SELECT count(*) FROM \"into_a$errors\"").await?, ["1"]);
    drop(client);
    server.stop().await
}

/// Topics of a group: what one transaction of a table's writers changed is in all of them or in none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_a_group_have_the_same_epochs() -> Result<()> {
    let broker = Broker::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let client = server.connect().await?;
    let (one, other) = (topic("one"), topic("other"));
    let create = "create_topic_if_not_exists = 'true'";
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t;
             CREATE SINK GROUP g WITH (connector = 'kafka', properties.bootstrap.server = '{}');
             CREATE SINK one FROM t WITH (group = 'g', topic = '{one}', type = 'upsert', {create});
             CREATE SINK other FROM n WITH (group = 'g', topic = '{other}', type = 'upsert', primary_key = 'n', {create})",
            broker.address()
        ))
        .await?;
    let mut client = client;
    for round in 0..3 {
        client
            .batch_execute(&format!(
                "INSERT INTO t SELECT i, 'v' FROM generate_series({}, {}) AS g(i); FLUSH",
                round * 100,
                round * 100 + 99
            ))
            .await?;
        if round == 1 {
            drop(client);
            server.kill()?;
            server = start.start().await?;
            client = server.connect().await?;
        }
        caught_up(&client).await.with_context(|| server.log_tail())?;
        let (rows_there, counts) = tokio::task::block_in_place(|| {
            anyhow::Ok((read(broker.address(), &one)?, read(broker.address(), &other)?))
        })?;
        assert_eq!(rows_there.len(), (round + 1) * 100);
        let newest = counts.iter().rev().find_map(|(_, value)| value.clone()).unwrap_or_default();
        assert_eq!(newest, format!("{{\"n\":{}}}", (round + 1) * 100));
    }
    let transactions = rows(&client, "SELECT DISTINCT transactions FROM headwater_catalog.sinks").await?;
    assert_eq!(transactions.len(), 1, "they deliver together: {transactions:?}");
    client.batch_execute("DROP SINK one, other; DROP SINK GROUP g").await?;
    drop(client);
    server.stop().await
}
