//! `docs/tutorial-kafka.md` as a test, and the same views under load: a real broker, three partitions, a producer that
//! writes while the views exist, a table that is updated meanwhile, and a broker that stops and starts in between.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use slt::markdown;
use slt::process::Start;
use slt::run::ask;

use crate::orders::{self, Broker, Orders};

/// The page's own commands and statements, in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorial_works_as_written() -> Result<()> {
    let broker = Broker::start().await?;
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let page = std::fs::read_to_string(slt::repository().join("docs/tutorial-kafka.md"))?;
    // The broker may remember the topic of an earlier run.
    let page = page.replace("shop-orders", &format!("shop-orders-{:08x}", rand::random::<u32>()));
    let client = server.connect().await?;
    let mut lines = page.lines().enumerate().peekable();
    let mut sql_blocks = markdown::blocks(&page).into_iter();
    while let Some((at, line)) = lines.next() {
        match line {
            "```bash" => {
                let mut text = String::new();
                for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "```") {
                    text.push_str(line);
                    text.push('\n');
                }
                if text.contains("headwater") && text.contains("serve")
                    || text.contains("make ")
                    || text.contains("psql")
                {
                    continue; // What the reader starts is already running here.
                }
                let text = text.replace("127.0.0.1:19092", broker.address());
                let mut command = Command::new("bash");
                command
                    .args(["-euo", "pipefail", "-c", &text])
                    .current_dir(slt::repository())
                    .envs(orders::environment());
                let status = command.status()?;
                if !status.success() {
                    bail!("line {}: {status}\n{text}", at + 1);
                }
            }
            "```sql" => {
                let block = sql_blocks.next().context("blocks are counted twice")?;
                for statement in &block.statements {
                    let sql = statement.sql.replace("127.0.0.1:19092", broker.address());
                    let shown =
                        block.result.as_ref().filter(|_| statement == block.statements.last().unwrap_or(statement));
                    let mut tries = 0;
                    loop {
                        let answer = ask(&client, &sql).await;
                        let answer =
                            answer.map_err(|f| anyhow::anyhow!("line {}: {} {}\n{sql}", at + 1, f.code, f.message))?;
                        let Some(shown) = shown else { break };
                        let table = markdown::table(&answer.names, &answer.rows);
                        if *shown == table {
                            break;
                        }
                        tries += 1;
                        if tries > 1500 {
                            bail!(
                                "line {}: the page shows\n{}\nbut it is\n{}",
                                at + 1,
                                shown.join("\n"),
                                table.join("\n")
                            );
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            _ => {}
        }
    }
    drop(client);
    server.stop().await
}

/// Every view equals the batch answer at the end, and agrees with the others at every moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_over_a_topic_are_right_at_every_moment() -> Result<()> {
    let broker = Broker::start().await?;
    let n_orders = crate::number("HEADWATER_TEST_ORDERS", 100_000);
    let topic = broker.topic(3).await?;
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    // A third is there before the source: the views have something to catch up with.
    let orders = Orders::new(crate::seed(), n_orders);
    orders.produce(broker.address(), &topic, 0..n_orders / 3).await?;
    orders::create(&client, broker.address(), &topic).await?;

    let producer = {
        let (orders, address, topic) = (orders.clone(), broker.address().to_string(), topic.clone());
        tokio::spawn(async move { orders.produce(&address, &topic, n_orders / 3..n_orders).await })
    };
    let checker = orders::check_always(server.address());
    let movers = orders::move_customers(server.address(), crate::seed());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    broker.stop()?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let away =
        format!("SELECT error LIKE '%{}%' FROM headwater_catalog.sources WHERE name = 'orders'", broker.address());
    orders::eventually(&client, &away, &["t"]).await.context("the catalog tells that the broker is away")?;
    // The broker is gone: what is there can still be read, and tables still work.
    client.simple_query("SELECT * FROM everything").await?;
    client.simple_query("CREATE TABLE meanwhile (a int); INSERT INTO meanwhile VALUES (1)").await?;
    broker.start_again()?;
    producer.await??;
    orders::wait_for(&client, n_orders).await.with_context(|| server.log_tail())?;
    let well = "SELECT error IS NULL FROM headwater_catalog.sources WHERE name = 'orders'";
    orders::eventually(&client, well, &["t"]).await.context("the catalog tells that the broker is back")?;
    let n_checks = checker.stop().await?;
    let cities = movers.stop().await?;
    orders.compare(&client, &cities).await?;
    eprintln!("{n_orders} orders, {n_checks} checks of the invariant");
    // A view that is made now sees the same, and so does a server that starts again.
    client
        .simple_query("CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n, sum(amount) AS total FROM orders")
        .await?;
    orders::same(&client, "SELECT * FROM later", "SELECT * FROM everything").await?;
    drop(client);
    server.stop().await?;
    let server = Start::new(directory.path().join("data")).start().await?;
    orders.compare(&server.connect().await?, &cities).await?;
    server.stop().await
}

/// A record that does not decode is kept apart, and stops nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_record_stops_nothing() -> Result<()> {
    let broker = Broker::start().await?;
    let topic = broker.topic(3).await?;
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    orders::create(&client, broker.address(), &topic).await?;
    let records = [
        "{\"id\": 1, \"customer\": 1, \"amount\": 1.50}",
        "not json",
        "{\"id\": 3, \"customer\": \"x\", \"amount\": 7}",
        "{\"id\": 2, \"customer\": 1, \"amount\": 2}",
    ];
    broker.produce(&topic, &records.map(String::from)).await?;
    orders::wait_for(&client, 2).await.with_context(|| server.log_tail())?;
    orders::eventually(&client, "SELECT count(*) FROM \"orders$errors\"", &["2"]).await?;
    let raw = ask(&client, "SELECT convert_from(raw, 'UTF8'), reason <> '' FROM \"orders$errors\" ORDER BY 1").await;
    let raw = raw.map_err(|failure| anyhow::anyhow!("{} {}", failure.code, failure.message))?;
    let bad = "{\"id\": 3, \"customer\": \"x\", \"amount\": 7}";
    assert_eq!(raw.rows, [["not json", "t"], [bad, "t"]]);
    // A view that is made later and does not read the bad column sees the same records as those that were there.
    client.batch_execute("CREATE MATERIALIZED VIEW amounts AS SELECT sum(amount) AS total FROM orders").await?;
    orders::same(&client, "SELECT total FROM amounts", "SELECT total FROM everything").await?;
    drop(client);
    server.stop().await
}

/// A broker that is not there is told at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_without_its_broker_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let nobody = slt::process::free_address()?.to_string();
    let error = orders::create(&client, &nobody, "orders").await.err().context("it should be refused")?;
    let text = format!("{error:#}");
    assert!(text.contains(&nobody), "the message names the broker: {text}");
    server.stop().await
}

/// New partitions are found and read from their beginning, and what was seen of them is there after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_partitions_are_read() -> Result<()> {
    let broker = Broker::start().await?;
    let topic = broker.topic(1).await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    let source = format!(
        "CREATE SOURCE numbers (n bigint) WITH (connector = 'kafka', topic = '{topic}', \
         properties.bootstrap.server = '{}', discovery.interval = '100ms')",
        broker.address()
    );
    client.batch_execute(&source).await?;
    client.batch_execute("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(n) AS s FROM numbers").await?;
    let mut n_records = 0;
    for partitions in [1, 3, 4] {
        if partitions > 1 {
            broker.grow(&topic, partitions).await?;
        }
        // Records are spread over the partitions that the producer knows.
        let records: Vec<String> = (n_records..n_records + 100).map(|n| format!("{{\"n\": {n}}}")).collect();
        broker.produce(&topic, &records).await?;
        n_records += 100;
        let client = server.connect().await?;
        let expected = format!("{n_records}|{}", n_records * (n_records - 1) / 2);
        orders::eventually(&client, "SELECT n, s FROM total", &[&expected]).await?;
        server.kill()?;
        start.workers = 1 + start.workers % 2;
        server = start.start().await?;
        let client = server.connect().await?;
        assert_eq!(orders::rows(&client, "SELECT n, s FROM total").await?, [expected]);
        let splits = "SELECT count(*) FROM headwater_catalog.splits WHERE source = 'numbers'";
        assert_eq!(orders::rows(&client, splits).await?, [partitions.to_string()]);
    }
    server.stop().await
}

/// A partition without records holds the watermark back, unless there is an idle timeout; over a crash, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_partition_is_waited_for_until_it_is_idle() -> Result<()> {
    let broker = Broker::start().await?;
    let topic = broker.topic(1).await?;
    let records =
        [r#"{"n": 1, "at": "2024-01-01 00:00:01"}"#, r#"{"n": 2, "at": "2024-01-01 00:00:15"}"#].map(String::from);
    broker.produce(&topic, &records).await?;
    broker.grow(&topic, 2).await?;
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    for (name, option) in [("patient", ""), ("quick", ", watermark.idle_timeout = '300ms'")] {
        let source = format!(
            "CREATE SOURCE {name} (n bigint, at timestamp, WATERMARK FOR at AS at) WITH (connector = 'kafka', \
             topic = '{topic}', properties.bootstrap.server = '{}', discovery.interval = '100ms'{option})",
            broker.address()
        );
        client.batch_execute(&source).await?;
        // A broker that has just made a partition may not tell of it yet.
        let splits = format!("SELECT count(*) FROM headwater_catalog.splits WHERE source = '{name}'");
        orders::eventually(&client, &splits, &["2"]).await?;
        let closed = format!(
            "CREATE MATERIALIZED VIEW {name}_closed AS SELECT window_start, count(*) AS n \
             FROM TUMBLE({name}, at, INTERVAL '10 seconds') GROUP BY window_start EMIT ON WINDOW CLOSE"
        );
        client.batch_execute(&closed).await?;
        let all = format!("CREATE MATERIALIZED VIEW {name}_all AS SELECT count(*) AS n FROM {name}");
        client.batch_execute(&all).await?;
    }
    let closed = ["2024-01-01 00:00:00|1"];
    orders::eventually(&client, "SELECT * FROM quick_closed", &closed).await.with_context(|| server.log_tail())?;
    orders::eventually(&client, "SELECT n FROM patient_all", &["2"]).await?;
    drop(client);
    server.kill()?;
    server = start.start().await?;
    let client = server.connect().await?;
    assert_eq!(orders::rows(&client, "SELECT * FROM quick_closed").await?, closed);
    assert_eq!(orders::rows(&client, "SELECT n FROM patient_all").await?, ["2"]);
    assert!(orders::rows(&client, "SELECT * FROM patient_closed").await?.is_empty());
    let known = "SELECT count(watermark) FROM headwater_catalog.watermarks WHERE name = 'patient' AND split IS NULL";
    assert_eq!(orders::rows(&client, known).await?, ["0"]);
    drop(client);
    server.stop().await
}
