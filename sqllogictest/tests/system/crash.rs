//! Nothing is lost and nothing is there twice, from a Kafka topic and DML through views to Kafka topics and Postgres tables:
//! the server, the broker and the Postgres are killed or stopped at random moments, and the server inside the commits of its
//! sinks. After each, what was acknowledged is there once, views equal the batch answer, and targets equal the views.
//!
//! `make crash` kills 1,000 times and prints how long recovery takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::process::{Process, Start};

use crate::facts::{self, TABLES, Written};
use crate::orders::{self, Broker, Orders};
use crate::sinks::{self, Postgres};

/// The steps of sinks that `steps.rs` does not come to.
const STEPS: [&str; 4] =
    ["kafka/commit:before", "kafka/commit:after", "postgres/commit:before", "postgres/commit:after"];
/// With more kills than this, topics are read from their beginning at every tenth only.
const ALWAYS_READ_MAX: u64 = 50;
/// `sums` equals its query, as of one epoch.
const SUMS_ARE_RIGHT: &str = "SELECT count(*) FROM (
    (SELECT k, n, s FROM sums EXCEPT SELECT k, count(*), sum(v) FROM facts GROUP BY k) UNION ALL
    (SELECT k, count(*), sum(v) FROM facts GROUP BY k EXCEPT SELECT k, n, s FROM sums)) AS differing";

/// Who is killed, or stopped for a while.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server,
    ServerStops,
    Broker,
    Postgres,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_there_twice_from_end_to_end() -> Result<()> {
    let n_kills = crate::number("HEADWATER_TEST_CRASHES", 16);
    let n_orders = (n_kills + 4) * 1000;
    let broker = Broker::start().await?;
    let postgres = Postgres::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let server = start.start().await?;
    let address = server.address();
    let mut world = World { broker, postgres, start, server, topics: Vec::new(), written: Written::default() };
    let topic = world.broker.topic(3).await?;
    world.create(&topic).await?;

    let mut orders = Orders::new(crate::seed(), n_orders);
    orders.rate = 500;
    let producer = {
        let (orders, broker) = (orders.clone(), world.broker.address().to_string());
        tokio::spawn(async move { orders.produce(&broker, &topic, 0..n_orders).await })
    };
    let checker = orders::check_always(address);
    let movers = orders::move_customers(address, crate::seed());
    let writer = tokio::spawn(facts::write(address, world.written.clone()));

    let mut recoveries = Vec::new();
    for step in STEPS {
        recoveries.push(world.end_at(step).await.with_context(|| step.to_string())?);
        world.check(true).await.with_context(|| format!("ended at {step}"))?;
    }
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 5);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for n in 1..=n_kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        let victim = match random.random_range(0..10) {
            0..6 => Victim::Server,
            6..8 => Victim::ServerStops,
            8 => Victim::Broker,
            _ => Victim::Postgres,
        };
        let context = || format!("kill {n} of {n_kills}: {victim:?}");
        *counts.entry(format!("{victim:?}")).or_default() += 1;
        recoveries.extend(world.kill(victim, &mut random).await.with_context(context)?);
        world.check(n_kills <= ALWAYS_READ_MAX || n % 10 == 0).await.with_context(context)?;
    }

    producer.await??;
    let client = world.server.connect().await?;
    orders::wait_for(&client, n_orders).await.with_context(|| world.server.log_tail())?;
    let n_checks = checker.stop().await?;
    let cities = movers.stop().await?;
    orders.compare(&client, &cities).await?;
    drop(client);
    world.check(true).await.context("in the end")?;
    world.check_cities().await?;
    world.written.stop.store(true, Ordering::SeqCst);
    writer.await??;
    let written = world.written.ids.lock().await;
    eprintln!(
        "{counts:?} and {} ends inside a sink's commit; {n_orders} orders, {} events acknowledged, {} sent, {n_checks} \
         checks of the invariant; SIGKILL to the first right answer: {}",
        STEPS.len(),
        written.acknowledged.len(),
        written.sent,
        distribution(&mut recoveries)
    );
    drop(written);
    world.server.stop().await
}

fn distribution(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: f64| times.get(((times.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or_default();
    let points = [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];
    points.map(|(name, part)| format!("{name} {:.3} s", at(part).as_secs_f64())).join(", ")
}

/// The server, what surrounds it, and what is known of it.
struct World {
    broker: Broker,
    postgres: Postgres,
    start: Start,
    server: Process,
    topics: Vec<String>,
    written: Written,
}

impl World {
    async fn create(&mut self, orders: &str) -> Result<()> {
        let client = self.server.connect().await?;
        orders::create(&client, self.broker.address(), orders).await?;
        let (sums, events) = (sinks::topic("sums"), sinks::topic("events"));
        let kafka = format!("connector = 'kafka', properties.bootstrap.server = '{}'", self.broker.address());
        let create = "create_topic_if_not_exists = 'true'";
        let table = format!("connector = 'postgres', {}", self.postgres.options());
        let statements = format!(
            "{TABLES};
             CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v) AS s FROM facts GROUP BY k;
             CREATE SINK kafka_sums FROM sums WITH ({kafka}, topic = '{sums}', topic.partitions = 3, {create})
                 FORMAT UPSERT ENCODE JSON;
             CREATE SINK kafka_events FROM events WITH ({kafka}, topic = '{events}', topic.partitions = 2, {create});
             CREATE SINK postgres_sums FROM sums WITH ({table}, table = 'sums', type = 'upsert', primary_key = 'k');
             CREATE SINK postgres_events FROM events WITH ({table}, table = 'events');
             CREATE SINK postgres_cities FROM per_city
                 WITH ({table}, table = 'cities', type = 'upsert', primary_key = 'city')"
        );
        client.batch_execute(&statements).await?;
        self.topics = vec![sums, events];
        Ok(())
    }

    /// The server ends inside a sink's commit, and is started again.
    async fn end_at(&mut self, step: &str) -> Result<Duration> {
        self.server.kill()?;
        sinks::end_in_step(&self.start, step).await?;
        self.recover().await
    }

    /// Starts the server; how long it takes until it answers, and rightly.
    async fn recover(&mut self) -> Result<Duration> {
        let killed = Instant::now();
        self.server = self.start.start().await?;
        let client = self.server.connect().await?;
        let answer = orders::rows(&client, orders::INVARIANT).await?;
        ensure!(answer[0].starts_with("t|t|t|t|t|"), "{answer:?}");
        Ok(killed.elapsed())
    }

    async fn kill(&mut self, victim: Victim, random: &mut StdRng) -> Result<Option<Duration>> {
        match victim {
            Victim::Server => {
                self.server.kill()?;
                self.start.workers = random.random_range(1..4);
                return self.recover().await.map(Some);
            }
            Victim::ServerStops => {
                self.server.signal("STOP")?;
                tokio::time::sleep(Duration::from_millis(random.random_range(10..1000))).await;
                // Stopped, it can be killed as well.
                if random.random_range(0..2) == 0 {
                    self.server.kill()?;
                    return self.recover().await.map(Some);
                }
                self.server.signal("CONT")?;
            }
            Victim::Broker => {
                self.broker.kill()?;
                // Meanwhile nobody else waits.
                let client = self.server.connect().await?;
                client.simple_query("INSERT INTO facts VALUES (0, 0, 0) ON CONFLICT (id) DO NOTHING").await?;
                tokio::task::block_in_place(|| self.broker.start_again())?;
            }
            Victim::Postgres => {
                sinks::postgres("kill")?;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
                sinks::postgres("start")?;
            }
        }
        Ok(None)
    }

    /// Holds the writer, and compares what it knows with the tables, the views with the tables, and the targets with both.
    async fn check(&self, topics: bool) -> Result<()> {
        let _quiet = self.written.gate.write().await;
        let client = self.server.connect().await?;
        self.written.check_events(&client).await?;
        ensure!(orders::rows(&client, SUMS_ARE_RIGHT).await? == ["0"], "sums is not what facts come to");

        sinks::caught_up(&client).await.with_context(|| self.server.log_tail())?;
        let sums = orders::rows(&client, "SELECT k, n, s FROM sums ORDER BY k").await?;
        let events = orders::rows(&client, "SELECT id, note FROM events ORDER BY id").await?;
        let target = self.postgres.connect().await?;
        same("sums in PostgreSQL", &orders::rows(&target, "SELECT k, n, s FROM sums ORDER BY k").await?, &sums)?;
        let arrived = orders::rows(&target, "SELECT id, note FROM events ORDER BY id").await?;
        same("events in PostgreSQL", &arrived, &events)?;
        if topics { self.check_topics(&sums, &events).await } else { Ok(()) }
    }

    async fn check_topics(&self, sums: &[String], events: &[String]) -> Result<()> {
        let (address, topics) = (self.broker.address().to_owned(), self.topics.clone());
        let records = tokio::task::spawn_blocking(move || {
            topics.iter().map(|topic| sinks::read(&address, topic)).collect::<Result<Vec<_>>>()
        });
        let mut records = records.await??;
        let mut newest: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (key, value) in records.remove(0) {
            newest.insert(key.context("an upsert has a key")?, value);
        }
        let number = |row: &String| row.split('|').next().and_then(|id| id.parse::<i64>().ok());
        let mut kept: Vec<String> =
            newest.into_values().flatten().map(|row| sinks::fields(&row, &["k", "n", "s"])).collect();
        kept.sort_by_key(number);
        same("sums on the topic", &kept, sums)?;
        let rows = records.remove(0).into_iter().filter_map(|(_, row)| Some(sinks::fields(&row?, &["id", "note"])));
        let mut arrived: Vec<String> = rows.collect();
        arrived.sort_by_key(number);
        same("events on the topic", &arrived, events)
    }

    /// What comes from the topic of orders goes to a table as well. Nobody changes it any more.
    async fn check_cities(&self) -> Result<()> {
        let client = self.server.connect().await?;
        sinks::caught_up(&client).await?;
        let query = |name: &str| format!("SELECT city, n, total FROM {name} ORDER BY city");
        let target = self.postgres.connect().await?;
        let cities = orders::rows(&target, &query("cities")).await?;
        same("cities in PostgreSQL", &cities, &orders::rows(&client, &query("per_city")).await?)
    }
}

fn same(what: &str, came: &[String], expected: &[String]) -> Result<()> {
    if came == expected {
        return Ok(());
    }
    let (have, want): (BTreeSet<_>, BTreeSet<_>) = (came.iter().collect(), expected.iter().collect());
    let lost: Vec<_> = want.difference(&have).take(5).collect();
    let more: Vec<_> = have.difference(&want).take(5).collect();
    bail!("{what}: {} rows instead of {}; lost {lost:?}, too many {more:?}", came.len(), expected.len())
}
