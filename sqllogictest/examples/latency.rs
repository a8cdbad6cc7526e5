//! Measures one client's latencies: `latency ADDRESS USER DATABASE insert|lookup N`.
//!
//! `insert`: an INSERT into `bench_insert` and the SELECT that must see it, each timed. `lookup`: a prepared point lookup of
//! random keys in `bench_lookup (k, v)`. Used by `bench/run.py` for Headwater and PostgreSQL alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::Rng;
use tokio_postgres::NoTls;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, user, database, what, n] = arguments.as_slice() else {
        bail!("usage: latency ADDRESS USER DATABASE insert|lookup N");
    };
    let (host, port) = address.split_once(':').context("ADDRESS is HOST:PORT")?;
    let n: i64 = n.parse()?;
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse()?).user(user).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    match what.as_str() {
        "insert" => {
            client.batch_execute("CREATE TABLE bench_insert (id bigint PRIMARY KEY, v text)").await?;
            let insert = client.prepare("INSERT INTO bench_insert VALUES ($1, 'some text of a usual length')").await?;
            let select = client.prepare("SELECT v FROM bench_insert WHERE id = $1").await?;
            let (mut inserts, mut both) = (Vec::new(), Vec::new());
            for id in 0..n {
                let started = Instant::now();
                client.execute(&insert, &[&id]).await?;
                inserts.push(started.elapsed());
                let rows = client.query(&select, &[&id]).await?;
                both.push(started.elapsed());
                if rows.len() != 1 {
                    bail!("row {id} is not visible after its INSERT was acknowledged");
                }
            }
            report("insert acknowledged", &inserts);
            report("insert acknowledged and seen by the next SELECT", &both);
        }
        "lookup" => {
            let lookup = client.prepare("SELECT v FROM bench_lookup WHERE k = $1").await?;
            let keys: i64 = client.query_one("SELECT count(*) FROM bench_lookup", &[]).await?.get(0);
            let mut random = rand::rng();
            let mut times = Vec::new();
            for round in 0..n + n / 10 {
                let k = random.random_range(0..keys);
                let started = Instant::now();
                let rows = client.query(&lookup, &[&k]).await?;
                let elapsed = started.elapsed();
                if rows.len() != 1 {
                    bail!("key {k} has {} rows", rows.len());
                }
                // The first tenth warms up.
                if round >= n / 10 {
                    times.push(elapsed);
                }
            }
            report("point lookup", &times);
        }
        other => bail!("{other:?} is neither insert nor lookup"),
    }
    Ok(())
}

/// One line of JSON: what was timed, and every time in milliseconds.
fn report(what: &str, times: &[Duration]) {
    let ms: Vec<String> = times.iter().map(|time| format!("{:.4}", time.as_secs_f64() * 1000.0)).collect();
    println!(r#"{{"what": "{what}", "ms": [{}]}}"#, ms.join(", "));
}
