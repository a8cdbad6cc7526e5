//! Sinks whose target is away, and what tests of sinks share: a Postgres of their own, and the records of a topic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use slt::process::Start;
use slt::run::ask;
use tokio_postgres::Client;

use crate::orders::{self, Broker};

/// How long targets may take to catch up after the last kill.
const CATCH_UP: Duration = Duration::from_secs(120);
/// How long the server may take to come to a step of a sink in which it ends.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// The port of the Postgres of sinks, which other tests must not miss.
const POSTGRES_PORT: &str = "25493";

/// A Postgres that only this test kills.
pub struct Postgres {
    /// Where it is.
    pub address: String,
    port: &'static str,
}

impl Postgres {
    /// Starts it, empty.
    pub async fn start() -> Result<Postgres> {
        Postgres::start_at(POSTGRES_PORT).await
    }

    /// Starts another one, empty.
    pub async fn start_at(port: &'static str) -> Result<Postgres> {
        let address = tokio::task::spawn_blocking(move || postgres_at(port, "start")).await??;
        let server = Postgres { address, port };
        // What an earlier run left.
        let client = server.connect().await?;
        client.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await?;
        Ok(server)
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Client> {
        slt::target::connect(self.address.parse()?, "postgres", "postgres").await
    }

    /// The options of a sink into it.
    pub fn options(&self) -> String {
        format!("{}, create_table_if_not_exists = 'true'", self.place())
    }

    /// The options that say where it is.
    pub fn place(&self) -> String {
        let (host, port) = self.address.split_once(':').unwrap_or((&self.address, "5432"));
        format!("host = '{host}', port = '{port}', database = 'postgres'")
    }

    /// Runs its script.
    pub fn script(&self, argument: &str) -> Result<String> {
        tokio::task::block_in_place(|| postgres_at(self.port, argument))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = postgres_at(self.port, "stop") {
            eprintln!("{error:#}");
        }
    }
}

/// Runs its script.
pub fn postgres(argument: &str) -> Result<String> {
    postgres_at(POSTGRES_PORT, argument)
}

fn postgres_at(port: &str, argument: &str) -> Result<String> {
    slt::services::script("postgres.sh", argument, &[("HEADWATER_POSTGRES_PORT", port)])
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

/// Starts a server that ends when its sink comes to a step for the second time, and waits for that.
pub async fn end_in_step(start: &Start, step: &str) -> Result<()> {
    let mut server = start.clone().env("HEADWATER_FAILPOINTS", &format!("{step}=abort@2")).spawn()?;
    server.ended(STEP_TIMEOUT).await?;
    ensure!(server.log_tail().contains(&format!("fail point {step}")), "{}", server.log_tail());
    Ok(())
}

/// Waits until every sink has delivered what is durable.
pub async fn caught_up(client: &Client) -> Result<()> {
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

/// A topic's name that nobody else has.
pub fn topic(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

/// Some fields of a JSON object as a query shows them.
pub fn fields(row: &str, names: &[&str]) -> String {
    let row: serde_json::Value = serde_json::from_str(row).unwrap_or_default();
    let text = |name: &&str| match &row[*name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    names.iter().map(text).collect::<Vec<_>>().join("|")
}

/// All committed records of a topic: key and value.
pub fn read(address: &str, topic: &str) -> Result<Vec<(Option<String>, Option<String>)>> {
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
