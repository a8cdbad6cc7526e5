//! What leaves arrives once: the server, a Kafka broker and a Postgres are killed at random moments, and in the end topics
//! (read committed) and tables are equal to the views.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use slt::process::Start;
use slt::run::ask;
use tokio_postgres::Client;

use crate::orders::{self, Broker};

/// How long targets may take to catch up after the last kill.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Names its own Postgres, which other tests must not miss.
const POSTGRES: [(&str, &str); 1] = [("HEADWATER_POSTGRES_PORT", "25493")];

/// A Postgres that only this test kills.
struct Postgres {
    address: String,
}

impl Postgres {
    async fn start() -> Result<Postgres> {
        let address = tokio::task::spawn_blocking(|| postgres("start")).await??;
        let server = Postgres { address };
        // What an earlier run left.
        let client = server.connect().await?;
        client.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await?;
        Ok(server)
    }

    async fn connect(&self) -> Result<Client> {
        slt::target::connect(self.address.parse()?, "postgres", "postgres").await
    }

    fn options(&self) -> String {
        let (host, port) = self.address.split_once(':').unwrap_or((&self.address, "5432"));
        format!("host = '{host}', port = '{port}', database = 'postgres', create_table_if_not_exists = 'true'")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = postgres("stop") {
            eprintln!("{error:#}");
        }
    }
}

fn postgres(argument: &str) -> Result<String> {
    let path = slt::repository().join("bench/services/postgres.sh");
    let output = tempfile::NamedTempFile::new()?;
    let status = std::process::Command::new(&path)
        .arg(argument)
        .envs(POSTGRES)
        .stdin(std::process::Stdio::null())
        .stdout(output.reopen()?)
        .status()?;
    let text = std::fs::read_to_string(output.path())?;
    if !status.success() {
        bail!("postgres.sh {argument}: {status}\n{text}");
    }
    Ok(text.trim().lines().last().unwrap_or_default().to_string())
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server,
    Broker,
    Postgres,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_arrives_once_through_kills() -> Result<()> {
    let broker = Broker::start().await?;
    let postgres_server = Postgres::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let address = server.address();
    let client = server.connect().await?;
    client
        .batch_execute(
            "CREATE TABLE facts (id int PRIMARY KEY, k int, v numeric(10,2));
             CREATE TABLE events (id bigint, note text) APPEND ONLY;
             INSERT INTO facts SELECT i, i % 10, i FROM generate_series(1, 200) AS g(i);
             INSERT INTO events VALUES (0, 'the \"first\"');
             CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v) AS s FROM facts GROUP BY k",
        )
        .await?;
    let (sums, log) = (topic("sums"), topic("events"));
    let kafka = format!("connector = 'kafka', properties.bootstrap.server = '{}'", broker.address());
    let create = "create_topic_if_not_exists = 'true'";
    let table = postgres_server.options();
    client
        .batch_execute(&format!(
            "CREATE SINK kafka_sums FROM sums WITH ({kafka}, topic = '{sums}', topic.partitions = 3, {create})
                 FORMAT UPSERT ENCODE JSON;
             CREATE SINK kafka_events FROM events WITH ({kafka}, topic = '{log}', topic.partitions = 2, {create});
             CREATE SINK postgres_sums FROM sums
                 WITH (connector = 'postgres', {table}, table = 'sums', type = 'upsert', primary_key = 'k');
             CREATE SINK postgres_events FROM events WITH (connector = 'postgres', {table}, table = 'events')"
        ))
        .await?;
    drop(client);

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(address, stop.clone()));
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 5);
    let n_kills = crate::number("HEADWATER_TEST_SINK_KILLS", 8);
    let mut victims: Vec<Victim> = (0..n_kills)
        .map(|n| match n % 4 {
            0 | 1 => Victim::Server,
            2 => Victim::Broker,
            _ => Victim::Postgres,
        })
        .collect();
    victims.shuffle(&mut random);
    for (n, victim) in victims.into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2500))).await;
        match victim {
            Victim::Server => {
                server.kill()?;
                start.workers = 1 + n % 3;
                server = start.start().await.with_context(|| format!("after kill {}", n + 1))?;
            }
            Victim::Broker => {
                broker.kill()?;
                // Meanwhile nobody else waits.
                let client = server.connect().await?;
                client.simple_query("INSERT INTO facts VALUES (0, 0, 0) ON CONFLICT (id) DO NOTHING").await?;
                tokio::task::block_in_place(|| broker.start_again())?;
            }
            Victim::Postgres => {
                postgres("kill")?;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
                postgres("start")?;
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    let n_events = writer.await??;

    let client = server.connect().await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let expected_sums = orders::rows(&client, "SELECT k, n, s FROM sums ORDER BY k").await?;
    let expected_events = orders::rows(&client, "SELECT id, note FROM events ORDER BY id").await?;
    assert!(expected_events.len() as u64 > n_events / 2, "{n_events} events were acknowledged");

    let target = postgres_server.connect().await?;
    assert_eq!(orders::rows(&target, "SELECT k, n, s FROM sums ORDER BY k").await?, expected_sums);
    assert_eq!(orders::rows(&target, "SELECT id, note FROM events ORDER BY id").await?, expected_events);
    let address = broker.address().to_owned();
    let (sums, log) =
        tokio::task::spawn_blocking(move || anyhow::Ok((read(&address, &sums)?, read(&address, &log)?))).await??;
    let mut newest: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (key, value) in sums {
        newest.insert(key.context("an upsert has a key")?, value);
    }
    let mut kept: Vec<String> = newest.into_values().flatten().map(|row| fields(&row, &["k", "n", "s"])).collect();
    kept.sort_by_key(|row| row.split('|').next().and_then(|k| k.parse::<i64>().ok()));
    assert_eq!(kept, expected_sums);
    let mut arrived: Vec<String> =
        log.into_iter().filter_map(|(_, row)| Some(fields(&row?, &["id", "note"]))).collect();
    arrived.sort_by_key(|row| row.split('|').next().and_then(|id| id.parse::<i64>().ok()));
    assert_eq!(arrived, expected_events);

    // A dropped sink leaves nothing behind but the rows.
    client.batch_execute("DROP SINK postgres_sums, postgres_events").await?;
    orders::eventually(&target, "SELECT count(*) FROM headwater_progress", &["0"]).await?;
    eprintln!("{} events", expected_events.len());
    drop(client);
    server.stop().await
}

/// A target that is down delays nobody, is told, and is caught up when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down_delays_nobody() -> Result<()> {
    let broker = Broker::start().await?;
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let topic = topic("down");
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await?;
    let options = format!(
        "connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{}', type = 'debezium'",
        broker.address()
    );
    let missing = ask(&client, &format!("CREATE SINK s FROM t WITH ({options})")).await.err();
    let missing = missing.context("the topic is not there")?;
    assert!(missing.message.contains("does not exist"), "{}", missing.message);
    let create = format!("CREATE SINK s FROM t WITH ({options}, create_topic_if_not_exists = 'true')");
    client.batch_execute(&create).await?;
    broker.kill()?;
    for id in 0..50 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 'a')")).await?;
    }
    client.batch_execute("FLUSH").await?;
    let status = "SELECT state, rows_waiting, last_error IS NOT NULL FROM headwater_catalog.sinks";
    orders::eventually(&client, status, &["retrying|50|t"]).await?;
    client.batch_execute("UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2; FLUSH").await?;
    tokio::task::block_in_place(|| broker.start_again())?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let address = broker.address().to_owned();
    let records = tokio::task::spawn_blocking(move || read(&address, &topic)).await??;
    let ops = |op: &str| records.iter().filter(|(_, v)| v.as_ref().is_some_and(|v| v.contains(op))).count();
    assert_eq!((ops("\"op\":\"c\""), ops("\"op\":\"u\""), ops("\"op\":\"d\"")), (50, 1, 1));
    let tombstones = records.iter().filter(|(_, value)| value.is_none()).count();
    assert_eq!(tombstones, 1);
    let update = records.iter().find_map(|(_, v)| v.as_ref().filter(|v| v.contains("\"op\":\"u\"")));
    let update = update.context("counted above")?;
    assert!(update.starts_with(r#"{"before":{"id":1,"v":"a"},"after":{"id":1,"v":"b"}"#), "{update}");
    server.stop().await
}

/// Waits until every sink has delivered what is durable.
async fn caught_up(client: &Client) -> Result<()> {
    client.batch_execute("FLUSH").await?;
    let begun = Instant::now();
    loop {
        let sql = "SELECT name, state, rows_waiting, last_error FROM headwater_catalog.sinks";
        let rows = orders::rows(client, sql).await?;
        if rows.iter().all(|row| row.contains("|running|0|")) {
            return Ok(());
        }
        if begun.elapsed() > CATCH_UP {
            bail!("sinks do not catch up: {rows:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn topic(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

/// Changes facts and adds events until it is told to stop; tells how many events were acknowledged.
async fn write(address: SocketAddr, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 6);
    let (mut id, mut acknowledged) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let Ok(client) = slt::target::connect(address, "root", "dev").await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            id += 1;
            let (fact, k, v) = (random.random_range(1..400), random.random_range(0..12), random.random_range(0..1000));
            let change = match random.random_range(0..4) {
                0 => format!("DELETE FROM facts WHERE id = {fact}"),
                1 => format!("DELETE FROM facts WHERE k = {k}"),
                _ => format!(
                    "INSERT INTO facts VALUES ({fact}, {k}, {v}) ON CONFLICT (id) DO UPDATE SET k = EXCLUDED.k, v = EXCLUDED.v"
                ),
            };
            let event = format!("INSERT INTO events VALUES ({id}, 'event {id}')");
            for statement in [change, event] {
                match ask(&client, &statement).await {
                    Ok(_) => {}
                    Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => break,
                    Err(failure) => bail!("{} {}", failure.code, failure.message),
                }
            }
            if client.is_closed() {
                break;
            }
            acknowledged += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(acknowledged)
}

/// Some fields of a JSON object as a query shows them.
fn fields(row: &str, names: &[&str]) -> String {
    let row: serde_json::Value = serde_json::from_str(row).unwrap_or_default();
    let text = |name: &&str| match &row[*name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    names.iter().map(text).collect::<Vec<_>>().join("|")
}

/// All committed records of a topic: key and value.
fn read(address: &str, topic: &str) -> Result<Vec<(Option<String>, Option<String>)>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "reader")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30))?;
    let n_partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    for partition in 0..n_partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut records, mut ended) = (Vec::new(), 0);
    let begun = Instant::now();
    while ended < n_partitions {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(record)) => records.push((text(record.key()), text(record.payload()))),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) if begun.elapsed() > CATCH_UP => return Err(error.into()),
            None if begun.elapsed() > CATCH_UP => bail!("topic {topic} does not end"),
            _ => {}
        }
    }
    Ok(records)
}
