//! Orders on a topic, the views over them, and what they must come to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use slt::run::ask;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Customers that orders come from.
const N_CUSTOMERS: u64 = 500;
/// Where they live.
const CITIES: [&str; 7] = ["Bergen", "Cork", "Graz", "Lyon", "Porto", "Siena", "Turku"];

/// A real broker on ports of its own; one test at a time has it.
pub struct Broker {
    address: String,
    _turn: MutexGuard<'static, ()>,
}

/// Waits until the broker tells everybody of a topic's partitions, which may be a while after it has made them.
async fn tells_of(admin: &AdminClient<DefaultClientContext>, topic: &str, n_partitions: usize) -> Result<()> {
    for _ in 0..600 {
        let metadata = admin.inner().fetch_metadata(Some(topic), Duration::from_secs(30))?;
        if metadata.topics().iter().any(|told| told.error().is_none() && told.partitions().len() == n_partitions) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(anyhow!("the broker does not tell of {topic}"))
}

impl Broker {
    /// Starts it, or takes the one that runs.
    pub async fn start() -> Result<Broker> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let address = tokio::task::spawn_blocking(|| script("start")).await??;
        Ok(Broker { address, _turn: turn })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops it, as an operator would.
    pub fn stop(&self) -> Result<()> {
        script("stop").map(|_| ())
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        script("kill").map(|_| ())
    }

    /// Starts it again with the same data.
    pub fn start_again(&self) -> Result<()> {
        script("start").map(|_| ())
    }

    /// A new topic of its own name.
    pub async fn topic(&self, n_partitions: i32) -> Result<String> {
        let name = format!("orders-{}", uuid());
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.address).create()?;
        let topic = NewTopic::new(&name, n_partitions, TopicReplication::Fixed(1));
        let done = admin.create_topics([&topic], &AdminOptions::new()).await?;
        for outcome in done {
            outcome.map_err(|(name, code)| anyhow!("cannot create topic {name}: {code}"))?;
        }
        tells_of(&admin, &name, n_partitions as usize).await?;
        Ok(name)
    }

    /// Gives a topic more partitions.
    pub async fn grow(&self, topic: &str, n_partitions: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.address).create()?;
        let done = admin.create_partitions([&NewPartitions::new(topic, n_partitions)], &AdminOptions::new()).await?;
        for outcome in done {
            outcome.map_err(|(name, code)| anyhow!("cannot grow topic {name}: {code}"))?;
        }
        tells_of(&admin, topic, n_partitions).await
    }

    /// Writes records without a key.
    pub async fn produce(&self, topic: &str, records: &[String]) -> Result<()> {
        let producer = producer(&self.address)?;
        for record in records {
            let record = FutureRecord::<(), _>::to(topic).payload(record);
            producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = script("stop") {
            eprintln!("{error:#}");
        }
    }
}

/// What the scripts in `bench/services` are told.
pub fn environment() -> [(&'static str, &'static str); 1] {
    [("HEADWATER_KAFKA_PORT", "19292")]
}

/// The broker of these tests has a port of its own, so that stopping it disturbs nobody.
fn script(argument: &str) -> Result<String> {
    slt::services::script("kafka.sh", argument, &environment())
}

fn uuid() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn producer(address: &str) -> Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "120000")
        .create()?)
}

/// Orders as a seed gives them: the same every time.
#[derive(Clone)]
pub struct Orders {
    orders: Arc<Vec<Order>>,
    /// Orders per second; 0 is as fast as it goes.
    pub rate: u64,
    produced: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
struct Order {
    customer: u64,
    cents: u64,
}

impl Orders {
    /// So many orders.
    pub fn new(seed: u64, n: u64) -> Orders {
        let mut random = StdRng::seed_from_u64(seed);
        let order = |_| Order { customer: random.random_range(0..N_CUSTOMERS), cents: random.random_range(1..100_000) };
        Orders { orders: Arc::new((0..n).map(order).collect()), rate: 0, produced: Arc::default() }
    }

    /// Writes some of them, spread over all partitions, and waits until the broker has them.
    pub async fn produce(&self, address: &str, topic: &str, range: Range<u64>) -> Result<()> {
        let producer = producer(address)?;
        let started = Instant::now();
        let mut pending = std::collections::VecDeque::new();
        for (at, id) in range.enumerate() {
            let Order { customer, cents } = self.orders[id as usize];
            let payload = format!(
                "{{\"id\": {id}, \"customer\": {customer}, \"amount\": {}.{:02}, \"note\": \"not read by anybody\", \"placed_at\": \"2024-05-06 07:08:09.{:06}\"}}",
                cents / 100,
                cents % 100,
                id % 1_000_000
            );
            let key = id.to_string();
            let mut record = FutureRecord::to(topic).payload(&payload).key(&key);
            loop {
                match producer.send_result(record) {
                    Ok(delivery) => break pending.push_back(delivery),
                    // The queue is full: the broker is slow or away.
                    Err((_, refused)) => {
                        record = refused;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            if pending.len() > 20_000
                && let Some(delivery) = pending.pop_front()
            {
                delivery.await?.map_err(|(error, _)| error)?;
            }
            if self.rate > 0 && at % 100 == 99 {
                let due = Duration::from_secs_f64((at + 1) as f64 / self.rate as f64);
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
            }
            self.produced.fetch_add(1, Ordering::Relaxed);
        }
        for delivery in pending {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(120))).await??;
        Ok(())
    }

    /// All views hold what the orders come to, computed here.
    pub async fn compare(&self, client: &Client, cities: &BTreeMap<u64, &'static str>) -> Result<()> {
        // What other clients changed is in the views too.
        client.simple_query("FLUSH").await?;
        let mut per_customer: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut per_city: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for order in self.orders.iter() {
            for (n, cents) in
                [per_customer.entry(order.customer).or_default(), per_city.entry(cities[&order.customer]).or_default()]
            {
                *n += 1;
                *cents += order.cents;
            }
        }
        let money = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let expected: Vec<String> =
            per_customer.iter().map(|(customer, (n, cents))| format!("{customer}|{n}|{}", money(*cents))).collect();
        rows_are(client, "SELECT customer, n, total FROM per_customer ORDER BY customer", &expected).await?;
        let expected: Vec<String> =
            per_city.iter().map(|(city, (n, cents))| format!("{city}|{n}|{}", money(*cents))).collect();
        rows_are(client, "SELECT city, n, total FROM per_city ORDER BY city", &expected).await?;
        let mut best: Vec<(u64, u64)> = per_customer.iter().map(|(customer, (_, cents))| (*cents, *customer)).collect();
        best.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let expected: Vec<String> = best[..10.min(best.len())]
            .iter()
            .map(|(cents, customer)| format!("{customer}|{}", money(*cents)))
            .collect();
        rows_are(client, "SELECT customer, total FROM best_customers ORDER BY total DESC, customer", &expected).await
    }
}

/// The source, the table and the views.
pub async fn create(client: &Client, broker: &str, topic: &str) -> Result<()> {
    let statements = [
        format!(
            "CREATE SOURCE orders (id bigint, customer int, amount numeric(12,2), placed_at timestamp) \
             WITH (connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{broker}', \
             scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON"
        ),
        "CREATE TABLE customers (id int PRIMARY KEY, city text NOT NULL)".to_string(),
        format!("INSERT INTO customers VALUES {}", {
            let rows = (0..N_CUSTOMERS).map(|id| format!("({id}, '{}')", home(id)));
            rows.collect::<Vec<_>>().join(", ")
        }),
        "CREATE MATERIALIZED VIEW everything AS SELECT count(*) AS n, sum(amount) AS total FROM orders".to_string(),
        "CREATE MATERIALIZED VIEW per_customer AS \
         SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer"
            .to_string(),
        "CREATE MATERIALIZED VIEW per_city AS SELECT city, count(*) AS n, sum(amount) AS total \
         FROM orders JOIN customers ON orders.customer = customers.id GROUP BY city"
            .to_string(),
        "CREATE MATERIALIZED VIEW best_customers AS \
         SELECT customer, total FROM per_customer ORDER BY total DESC, customer LIMIT 10"
            .to_string(),
    ];
    for statement in &statements {
        let answer = ask(client, statement).await;
        answer.map_err(|failure| anyhow!("{} {}\n{statement:.200}", failure.code, failure.message))?;
    }
    Ok(())
}

fn home(customer: u64) -> &'static str {
    CITIES[(customer % CITIES.len() as u64) as usize]
}

/// Something that goes on in the background until it is told to stop.
pub struct Background<T> {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<T>>,
}

impl<T> Background<T> {
    fn start<F: Future<Output = Result<T>> + Send + 'static>(run: impl FnOnce(Arc<AtomicBool>) -> F) -> Background<T>
    where
        T: Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        Background { stop: stop.clone(), task: tokio::spawn(run(stop)) }
    }

    /// Tells it to stop and gives what it found.
    pub async fn stop(self) -> Result<T> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

/// What holds for all views at every moment, asked in one SELECT.
pub const INVARIANT: &str = "SELECT \
    (SELECT coalesce(sum(n), 0) FROM per_customer) = (SELECT n FROM everything), \
    (SELECT sum(total) FROM per_customer) IS NOT DISTINCT FROM (SELECT total FROM everything), \
    (SELECT coalesce(sum(n), 0) FROM per_city) = (SELECT n FROM everything), \
    (SELECT sum(total) FROM per_city) IS NOT DISTINCT FROM (SELECT total FROM everything), \
    (SELECT max(total) FROM best_customers) IS NOT DISTINCT FROM (SELECT max(total) FROM per_customer), \
    (SELECT n FROM everything)";

/// Checks the invariant again and again; connections that a kill breaks are made anew. Gives how often it was checked.
pub fn check_always(address: SocketAddr) -> Background<u64> {
    Background::start(move |stop| async move {
        let (mut n_checks, mut client, mut seen) = (0, None, 0u64);
        while !stop.load(Ordering::SeqCst) {
            let connected = match client.take() {
                Some(client) => client,
                None => match slt::target::connect(address, "root", "dev").await {
                    Ok(client) => client,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
            };
            match ask(&connected, INVARIANT).await {
                Ok(answer) => {
                    let row = &answer.rows[0];
                    if row[..5].iter().any(|value| value != "t") {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        let later = rows(&connected, INVARIANT).await;
                        bail!("the views do not agree: {}; and two seconds later: {later:?}", row.join("|"));
                    }
                    // A read never goes back, not even over a crash.
                    let n: u64 = row[5].parse()?;
                    if n < seen {
                        bail!("a read went back from {seen} to {n} orders");
                    }
                    seen = n;
                    n_checks += 1;
                    client = Some(connected);
                }
                // The server was killed or is stopping.
                Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => {}
                Err(failure) => bail!("{} {}", failure.code, failure.message),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(n_checks)
    })
}

/// Moves customers to other cities again and again. Gives where they live in the end.
pub fn move_customers(address: SocketAddr, seed: u64) -> Background<BTreeMap<u64, &'static str>> {
    Background::start(move |stop| async move {
        let mut random = StdRng::seed_from_u64(seed ^ 1);
        let mut cities: BTreeMap<u64, &'static str> = (0..N_CUSTOMERS).map(|id| (id, home(id))).collect();
        let mut client = None;
        while !stop.load(Ordering::SeqCst) {
            let (id, city) = (random.random_range(0..N_CUSTOMERS), CITIES[random.random_range(0..CITIES.len())]);
            // An update that was not acknowledged may have happened or not: it is sent until it is.
            loop {
                let connected = match client.take() {
                    Some(client) => client,
                    None => match slt::target::connect(address, "root", "dev").await {
                        Ok(client) => client,
                        Err(_) => {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                            continue;
                        }
                    },
                };
                match ask(&connected, &format!("UPDATE customers SET city = '{city}' WHERE id = {id}")).await {
                    Ok(answer) if answer.count == 1 => {
                        client = Some(connected);
                        break;
                    }
                    Ok(answer) => bail!("UPDATE of one customer changed {} rows", answer.count),
                    Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => {}
                    Err(failure) => bail!("{} {}", failure.code, failure.message),
                }
            }
            cities.insert(id, city);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(cities)
    })
}

/// Waits until so many orders are in the views.
pub async fn wait_for(client: &Client, n_orders: u64) -> Result<()> {
    let started = Instant::now();
    let mut last = (String::new(), Instant::now());
    loop {
        // All views as of one epoch: the slowest has them too.
        let answer = ask(client, INVARIANT).await;
        let n = answer.map_err(|failure| anyhow!("{} {}", failure.code, failure.message))?.rows[0][5].clone();
        if n == n_orders.to_string() {
            return Ok(());
        }
        if n.parse::<u64>()? > n_orders {
            bail!("{n} orders were counted, but only {n_orders} were made");
        }
        if n != last.0 {
            last = (n.clone(), Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(60) {
            bail!("{n} of {n_orders} orders after {:?}, and no more come", started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks until the rows are as they should be.
pub async fn eventually(client: &Client, sql: &str, expected: &[&str]) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer =
            ask(client, sql).await.map_err(|failure| anyhow!("{} {}\n{sql}", failure.code, failure.message))?;
        let rows: Vec<String> = answer.rows.iter().map(|row| row.join("|")).collect();
        if rows == expected {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(30) {
            bail!("{sql}\n{rows:?} is not {expected:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a statement.
pub async fn run(client: &Client, sql: &str) -> Result<()> {
    ask(client, sql).await.map(drop).map_err(|failure| anyhow!("{} {}\n{sql}", failure.code, failure.message))
}

/// The rows of a query.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<String>> {
    let answer = ask(client, sql).await.map_err(|failure| anyhow!("{} {}\n{sql}", failure.code, failure.message))?;
    Ok(answer.rows.iter().map(|row| row.join("|")).collect())
}

/// Two queries give the same rows.
pub async fn same(client: &Client, one: &str, other: &str) -> Result<()> {
    let expected = rows(client, other).await?;
    rows_are(client, one, &expected).await
}

async fn rows_are(client: &Client, sql: &str, expected: &[String]) -> Result<()> {
    let came = rows(client, sql).await?;
    if came != expected {
        let differ = came.iter().zip(expected).find(|(came, expected)| came != expected);
        bail!("{sql}\n{} rows, expected {}; first difference: {differ:?}", came.len(), expected.len());
    }
    Ok(())
}
