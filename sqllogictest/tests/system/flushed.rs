//! What FLUSH waited for, everybody reads: over any connection, of any relations together, before and after a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use slt::run::ask;
use slt::target::{Local, Mode};
use tokio_postgres::Client;

use crate::orders::run;

/// Views of different cost, so that some take several epochs in one step while others take each.
const STATEMENTS: [&str; 7] = [
    "CREATE TABLE m (k int PRIMARY KEY, v int)",
    "CREATE TABLE noise (id int, v int)",
    "CREATE MATERIALIZED VIEW copied AS SELECT k, v FROM m",
    "CREATE MATERIALIZED VIEW ranked AS SELECT k, rank() OVER (ORDER BY v, k) AS r FROM m",
    "CREATE MATERIALIZED VIEW paired AS SELECT count(*) AS n FROM m a JOIN m b ON a.v % 3 = b.v % 3",
    "CREATE MATERIALIZED VIEW noisy AS SELECT v % 10 AS d, count(*) AS n FROM noise GROUP BY v % 10",
    "CREATE MATERIALIZED VIEW crossed AS SELECT count(*) AS n FROM noisy x JOIN noisy y ON x.n <= y.n JOIN m ON m.k = x.d",
];

/// All views over `m`, and one over the other table, as of one epoch.
const TOGETHER: &str = "SELECT (SELECT count(*) FROM m), (SELECT count(*) FROM copied), (SELECT max(r) FROM ranked), \
    (SELECT sum(c) FROM (SELECT count(*) * count(*) AS c FROM m GROUP BY v % 3) AS s) = (SELECT n FROM paired), \
    (SELECT count(*) >= 0 FROM crossed)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_flush_nobody_reads_what_was_before() -> Result<()> {
    let n_rounds = crate::number("HEADWATER_TEST_FLUSHES", 40);
    let directory = tempfile::tempdir()?;
    let mut local = Local::start(&directory.path().join("data"), Mode::TwoWorkers).await?;
    let client = local.connect().await?;
    for statement in STATEMENTS {
        run(&client, statement).await?;
    }
    run(&client, "INSERT INTO m SELECT i, i FROM generate_series(1, 60) AS g(i)").await?;
    drop(client);
    for round in 0..n_rounds {
        let crashes = round % 4 == 3;
        let stop = Arc::new(AtomicBool::new(false));
        let mut noise = Some(tokio::spawn(make_noise(local.connect().await?, stop.clone())));
        let writer = local.connect().await?;
        // Every other round takes a row away, the next brings it back.
        let n = if round % 2 == 0 {
            run(&writer, "DELETE FROM m WHERE k = 7").await?;
            59
        } else {
            run(&writer, "INSERT INTO m VALUES (7, 7)").await?;
            60
        };
        // After a crash the log brings back what no checkpoint had.
        if !crashes || round % 8 == 3 {
            run(&writer, "FLUSH").await?;
        } else {
            // Its own write is there for the one who wrote it.
            check(&writer, n).await.with_context(|| format!("round {round}, the writer"))?;
        }
        if crashes {
            stop.store(true, Ordering::SeqCst);
            if let Some(noise) = noise.take() {
                noise.await??;
            }
            drop(writer);
            local.crash().await?;
        }
        for reader in 0..3 {
            let client = local.connect().await?;
            check(&client, n).await.with_context(|| format!("round {round}, reader {reader}, crash: {crashes}"))?;
        }
        stop.store(true, Ordering::SeqCst);
        if let Some(noise) = noise {
            noise.await??;
        }
    }
    local.stop().await
}

async fn check(client: &Client, n: usize) -> Result<()> {
    let expected = format!("{n}|{n}|{n}|t|t");
    let answer = ask(client, TOGETHER).await.map_err(|failure| anyhow!("{} {}", failure.code, failure.message))?;
    let came = answer.rows[0].join("|");
    ensure!(came == expected, "{came} instead of {expected}");
    for view in ["copied", "ranked"] {
        let answer = ask(client, &format!("SELECT count(*) FROM {view}")).await;
        let answer = answer.map_err(|failure| anyhow!("{} {}", failure.code, failure.message))?;
        ensure!(answer.rows[0][0] == n.to_string(), "{view}: {} rows instead of {n}", answer.rows[0][0]);
    }
    Ok(())
}

/// Keeps epochs and views moving.
async fn make_noise(client: Client, stop: Arc<AtomicBool>) -> Result<()> {
    let mut at = 0;
    while !stop.load(Ordering::SeqCst) {
        at += 50;
        run(&client, &format!("INSERT INTO noise SELECT i, i FROM generate_series({at}, {}) AS g(i)", at + 49)).await?;
    }
    Ok(())
}
