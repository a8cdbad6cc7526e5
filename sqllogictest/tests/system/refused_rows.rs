//! What a target refuses, and when it is away for longer than an outbox lasts: nothing is lost, nothing comes twice, and the
//! sink goes on by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use slt::process::Start;

use crate::orders::{Broker, eventually, rows};
use crate::sinks::{Postgres, caught_up, postgres, read, topic};

/// Rows that a table of Postgres refuses are set aside with its reasons, through a kill, and the others arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_postgres_refuses_are_set_aside() -> Result<()> {
    let target = Postgres::start().await?;
    let there = target.connect().await?;
    there
        .batch_execute(
            "CREATE TABLE strict (id int PRIMARY KEY, v text CHECK (v <> 'bad'), u int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        )
        .await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let client = server.connect().await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id bigint PRIMARY KEY, v text, u bigint);
             CREATE SINK s FROM t WITH (connector = 'postgres', {}, table = 'strict', type = 'upsert', primary_key = 'id');
             INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 3000) AS g(i)",
            target.options()
        ))
        .await?;
    // Who is there first is not refused.
    caught_up(&client).await.with_context(|| server.log_tail())?;
    client
        .batch_execute(
            "INSERT INTO t VALUES (5001, 'bad', 5001), (5002, 'x', 7), (5003, 'y', 3000000000), (5004, 'z', 5004)",
        )
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let count = "SELECT count(*), sum(id), count(*) FILTER (WHERE id > 5000) FROM strict";
    assert_eq!(rows(&there, count).await?, ["3001|4506504|1"]);
    let errors = "SELECT sqlstate, reason, convert_from(raw, 'UTF8') FROM \"s$errors\" ORDER BY sqlstate";
    let expected = [
        "22003|value \"3000000000\" is out of range for type integer|{\"id\":5003,\"v\":\"y\",\"u\":3000000000}",
        "23505|duplicate key value violates unique constraint \"strict_u_key\": Key (u)=(7) already exists.|{\"id\":5002,\"v\":\"x\",\"u\":7}",
        "23514|new row for relation \"strict\" violates check constraint \"strict_v_check\": Failing row contains (5001, bad, 5001).|{\"id\":5001,\"v\":\"bad\",\"u\":5001}",
    ];
    assert_eq!(rows(&client, errors).await?, expected);
    // What was refused may be mended, and what was delivered may be refused: the row before stays.
    client.batch_execute("UPDATE t SET v = 'good' WHERE id = 5001; UPDATE t SET v = 'bad' WHERE id = 1").await?;
    drop(client);
    server.kill()?;
    server = start.start().await?;
    let client = server.connect().await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(rows(&there, "SELECT v FROM strict WHERE id IN (1, 5001) ORDER BY id").await?, ["v1", "good"]);
    assert_eq!(rows(&client, "SELECT count(*) FROM \"s$errors\"").await?, ["4"]);
    drop((client, there));
    server.stop().await
}

/// A target that is away until the outbox is full: the sink says so, nobody waits, and when it is back nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_goes_on_by_itself() -> Result<()> {
    let target = Postgres::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let client = server.connect().await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE TABLE log (id int, v text) APPEND ONLY;
             CREATE MATERIALIZED VIEW sums AS SELECT id % 10 AS k, count(*) AS n, sum(id) AS s FROM t GROUP BY id % 10;
             CREATE SINK a FROM t WITH (connector = 'postgres', {0}, table = 't', type = 'upsert', outbox.limit = '16kB');
             CREATE SINK b FROM sums WITH (connector = 'postgres', {0}, table = 'sums', type = 'upsert', primary_key = 'k');
             CREATE SINK c FROM log WITH (connector = 'postgres', {0}, table = 'log', outbox.limit = '16kB')",
            target.options()
        ))
        .await?;
    tokio::task::block_in_place(|| postgres("kill"))?;
    let states = "SELECT name, state, last_error IS NOT NULL FROM headwater_catalog.sinks ORDER BY name";
    for round in 0..6 {
        let (from, to) = (round * 1000 + 1, round * 1000 + 1000);
        client
            .batch_execute(&format!(
                "INSERT INTO t SELECT i, 'row ' || i FROM generate_series({from}, {to}) AS g(i);
                 INSERT INTO log SELECT i, 'event ' || i FROM generate_series({from}, {to}) AS g(i);
                 DELETE FROM t WHERE id % 3 = 0 AND id < {from}; FLUSH"
            ))
            .await?;
        assert_eq!(rows(&client, "SELECT sum(n) FROM sums").await?, rows(&client, "SELECT count(*) FROM t").await?);
    }
    eventually(&client, states, &["a|full|t", "b|retrying|t", "c|full|t"]).await?;
    drop(client);
    server.kill()?;
    server = start.start().await?;
    let client = server.connect().await?;
    client.batch_execute("UPDATE t SET v = 'new' WHERE id % 7 = 0; INSERT INTO log VALUES (0, 'last'); FLUSH").await?;
    eventually(&client, states, &["a|full|t", "b|retrying|t", "c|full|t"]).await?;
    tokio::task::block_in_place(|| postgres("start"))?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let there = target.connect().await?;
    for relation in ["t", "sums", "log"] {
        let all = format!("SELECT * FROM {relation} ORDER BY 1, 2");
        assert_eq!(rows(&there, &all).await?, rows(&client, &all).await?, "{relation}");
    }
    drop((client, there));
    server.stop().await
}

/// Records that are too large for their topic are set aside; a producer that somebody fences is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_and_fenced_producers_hold_no_sink() -> Result<()> {
    let broker = Broker::start().await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.address()).create()?;
    let small = topic("small");
    let new = NewTopic::new(&small, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "10000");
    for outcome in admin.create_topics([&new], &AdminOptions::new()).await? {
        outcome.map_err(|(name, code)| anyhow!("cannot create topic {name}: {code}"))?;
    }
    // A topic that was made a moment ago is not known at once.
    let made = Instant::now();
    while !topics(&broker)?.contains(&small) {
        ensure!(made.elapsed() < Duration::from_secs(30), "topic {small} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let before = topics(&broker)?;
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE SINK s FROM t WITH (connector = 'kafka', topic = '{small}', type = 'upsert', primary_key = 'id',
                 properties.compression.type = 'none', properties.bootstrap.server = '{}');
             INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 500) AS g(i);
             INSERT INTO t VALUES (1001, repeat('y', 9000)), (1002, repeat('z', 10000))",
            broker.address()
        ))
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let arrived = tokio::task::block_in_place(|| read(broker.address(), &small))?;
    assert_eq!(arrived.len(), 501);
    let errors = "SELECT sqlstate, reason, length(raw) FROM \"s$errors\"";
    let reason = "a record of 10029 bytes is too large for the topic: its max.message.bytes is 10000";
    assert_eq!(rows(&client, errors).await?, [format!("54000|{reason}|10018")]);

    // Somebody takes the sink's transactional id, begins a transaction and lets it be.
    let after = topics(&broker)?;
    let id = after.difference(&before).find_map(|name| name.strip_prefix("headwater.sink."));
    let id = id.context("the sink has a progress topic")?;
    let zombie: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("transactional.id", format!("headwater-{id}"))
        .create()?;
    tokio::task::block_in_place(|| {
        zombie.init_transactions(Duration::from_secs(30))?;
        zombie.begin_transaction()?;
        zombie.send(BaseRecord::to(&small).key("1").payload("poison")).map_err(|(error, _)| error)?;
        zombie.flush(Duration::from_secs(30))
    })?;
    client.batch_execute("UPDATE t SET v = 'after' WHERE id <= 10").await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let told = "SELECT retries > 0, last_error IS NOT NULL, state FROM headwater_catalog.sinks";
    assert_eq!(rows(&client, told).await?, ["t|t|running"]);
    let arrived = tokio::task::block_in_place(|| read(broker.address(), &small))?;
    assert_eq!(arrived.len(), 511);
    let of_zombie = arrived.iter().filter(|(_, value)| value.as_deref() == Some("poison")).count();
    assert_eq!(of_zombie, 0);
    assert!(zombie.commit_transaction(Duration::from_secs(10)).is_err(), "the sink has fenced it");
    client.batch_execute("DROP SINK s").await?;
    drop(client);
    server.stop().await
}

/// The topics that there are.
fn topics(broker: &Broker) -> Result<BTreeSet<String>> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker.address()).create()?;
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(30))?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}
