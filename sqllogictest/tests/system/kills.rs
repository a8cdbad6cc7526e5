//! SIGKILL at random moments: nothing is lost, nothing is there twice, every acknowledged INSERT is there once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::process::Start;
use slt::run::ask;

use crate::orders::{self, Broker, Orders};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_there_twice() -> Result<()> {
    let broker = Broker::start().await?;
    let (n_orders, n_kills) =
        (crate::number("HEADWATER_TEST_ORDERS", 100_000), crate::number("HEADWATER_TEST_KILLS", 20));
    let topic = broker.topic(3).await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    // The same address after every kill, so that clients find the server again.
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let address = server.address();
    let client = server.connect().await?;
    let mut orders = Orders::new(crate::seed(), n_orders);
    orders::create(&client, broker.address(), &topic).await?;
    client.batch_execute("CREATE TABLE ledger (id bigint PRIMARY KEY, v int)").await?;
    client
        .batch_execute("CREATE MATERIALIZED VIEW ledger_sum AS SELECT count(*) AS n, sum(v) AS s FROM ledger")
        .await?;
    drop(client);

    // The producer takes about as long as the kills.
    orders.rate = (n_orders / (n_kills + 1)).max(1000);
    let producer = {
        let (orders, broker, topic) = (orders.clone(), broker.address().to_string(), topic.clone());
        tokio::spawn(async move { orders.produce(&broker, &topic, 0..n_orders).await })
    };
    let checker = orders::check_always(address);
    let movers = orders::move_customers(address, crate::seed());
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(address, stop.clone()));

    let mut random = StdRng::seed_from_u64(crate::seed() ^ 2);
    let mut recoveries = Vec::new();
    for n in 0..n_kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(1..1200))).await;
        server.kill()?;
        let killed = Instant::now();
        server = start.start().await.with_context(|| format!("after kill {}", n + 1))?;
        let client = server.connect().await?;
        orders::rows(&client, orders::INVARIANT).await.with_context(|| format!("after kill {}", n + 1))?;
        recoveries.push(killed.elapsed());
    }
    producer.await??;
    stop.store(true, Ordering::SeqCst);
    let (acknowledged, sent) = writer.await??;
    let client = server.connect().await?;
    orders::wait_for(&client, n_orders).await.with_context(|| server.log_tail())?;
    let n_checks = checker.stop().await?;
    let cities = movers.stop().await?;
    orders.compare(&client, &cities).await?;

    let there: Vec<u64> = {
        let rows = orders::rows(&client, "SELECT id FROM ledger ORDER BY id").await?;
        rows.iter().map(|id| id.parse()).collect::<Result<_, _>>()?
    };
    let once: BTreeSet<u64> = there.iter().copied().collect();
    assert_eq!(once.len(), there.len(), "a row of the ledger is there twice");
    let lost: Vec<&u64> = acknowledged.difference(&once).collect();
    assert!(lost.is_empty(), "acknowledged but not there: {lost:?}");
    assert!(once.is_subset(&sent), "there but never sent");
    orders::same(&client, "SELECT * FROM ledger_sum", "SELECT count(*), sum(v) FROM ledger").await?;

    recoveries.sort();
    let [fastest, median, slowest] =
        [recoveries[0], recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]];
    eprintln!(
        "{n_kills} kills: SIGKILL to the first right answer {fastest:?} / {median:?} / {slowest:?} (min / median / max); \
         {} inserts acknowledged, {} sent; {n_checks} checks of the invariant",
        acknowledged.len(),
        sent.len()
    );
    drop(client);
    server.stop().await
}

/// Inserts one row after the other. Gives those that were acknowledged, and all that were sent.
async fn write(address: SocketAddr, stop: Arc<AtomicBool>) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut acknowledged, mut sent, mut id) = (BTreeSet::new(), BTreeSet::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        let Ok(client) = slt::target::connect(address, "root", "dev").await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            id += 1;
            sent.insert(id);
            match ask(&client, &format!("INSERT INTO ledger VALUES ({id}, {})", id % 7)).await {
                Ok(_) => acknowledged.insert(id),
                Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => break,
                Err(failure) => bail!("{} {}", failure.code, failure.message),
            };
            // What was acknowledged is there for the next read.
            if id % 10 == 0 {
                match ask(&client, &format!("SELECT v FROM ledger WHERE id = {id}")).await {
                    Ok(answer) if answer.rows == [[(id % 7).to_string()]] => {}
                    Ok(answer) => bail!("read after write: {:?}", answer.rows),
                    Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => break,
                    Err(failure) => bail!("{} {}", failure.code, failure.message),
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok((acknowledged, sent))
}
