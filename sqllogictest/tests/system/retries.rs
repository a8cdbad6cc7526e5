//! `RETRY ERRORS` while the server is ended: each record is an error or a row, at every epoch, and in the end a row once.

use anyhow::{Context, Result, ensure};
use slt::process::Start;
use slt::run::ask;
use std::time::Duration;
use tokio_postgres::Client;

use crate::orders::{eventually, rows, run};

/// Records that fail in the source's first format.
const BAD: usize = 15;
/// Where a server ends; the last two are killed from outside, a moment after the statement has begun.
const ENDS: [&str; 6] = [
    "retry/keep:before=abort",
    "retry/keep:after=abort",
    "retry/enter:before=abort",
    "retry/enter:after=abort",
    "1",
    "30",
];
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// As of one epoch: no record is both or neither, and none is there twice.
async fn check(client: &Client) -> Result<usize> {
    let counts = "SELECT (SELECT count(*) FROM v), (SELECT count(DISTINCT id) FROM v), (SELECT count(*) FROM \"s$errors\"), \
                  (SELECT n FROM counted)";
    let counts = rows(client, counts).await?;
    let numbers: Vec<usize> = counts[0].split('|').map(|n| n.parse().unwrap_or(usize::MAX)).collect();
    let [n, distinct, errors, counted] = numbers[..] else { anyhow::bail!("{counts:?}") };
    ensure!(n == distinct && n == counted && n + errors == BAD + 1, "rows|different|errors|counted: {counts:?}");
    Ok(n)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_once_however_the_server_ends() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("records.json");
    let bad: String = (0..BAD).map(|id| format!("{{\"id\": {id}, \"at\": 1714979289000}}\n")).collect();
    std::fs::write(&file, format!("{{\"id\": -1, \"at\": \"2024-05-06 07:08:09\"}}\n{bad}"))?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    let create =
        format!("CREATE SOURCE s (id int, at timestamp) WITH (connector = 'file', path = '{}')", file.display());
    run(&client, &create).await?;
    run(&client, "CREATE MATERIALIZED VIEW v AS SELECT id, at FROM s").await?;
    run(&client, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM s").await?;
    eventually(&client, "SELECT count(*) FROM \"s$errors\"", &[&BAD.to_string()]).await?;
    run(&client, "ALTER SOURCE s FORMAT PLAIN ENCODE JSON (timestamp.handling.mode = 'milli')").await?;
    assert_eq!(check(&client).await?, 1);
    drop(client);
    server.stop().await?;
    for (round, end) in ENDS.into_iter().enumerate() {
        let chosen = format!("convert_from(raw, 'UTF8')::jsonb ->> 'id' IN ('{}', '{}')", 2 * round, 2 * round + 1);
        let retry = format!("RETRY ERRORS FROM s WHERE {chosen}");
        let armed = end.contains('/');
        let mut server = start.clone().env("HEADWATER_FAILPOINTS", if armed { end } else { "" }).start().await?;
        let client = server.connect().await?;
        match end.parse() {
            Err(_) => {
                ensure!(ask(&client, &retry).await.is_err(), "{end}: the server ends");
                server.ended(END_TIMEOUT).await.with_context(|| format!("{end}\n{}", server.log_tail()))?;
            }
            Ok(moment) => {
                let asked = tokio::spawn(async move { ask(&client, &retry).await.is_ok() });
                tokio::time::sleep(Duration::from_millis(moment)).await;
                server.kill()?;
                // It was told of or not.
                asked.await?;
            }
        }
        let server = start.start().await?;
        let client = server.connect().await?;
        check(&client).await.with_context(|| format!("ended at {end}"))?;
        // Whatever became of it, saying it again makes rows of them, once.
        run(&client, &format!("RETRY ERRORS FROM s WHERE {chosen}")).await?;
        let there = rows(&client, &format!("SELECT id FROM v WHERE id / 2 = {round} AND id >= 0 ORDER BY id")).await?;
        assert_eq!(there, [(2 * round).to_string(), (2 * round + 1).to_string()], "{end}");
        assert_eq!(check(&client).await?, 3 + 2 * round, "{end}");
        drop(client);
        server.stop().await?;
    }
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "RETRY ERRORS FROM s").await?;
    assert_eq!(check(&client).await?, BAD + 1);
    run(&client, "CREATE MATERIALIZED VIEW later AS SELECT id FROM s").await?;
    let later = "SELECT count(*), count(DISTINCT id) FROM later";
    // The first record is a text in a format of numbers, which is as good.
    assert_eq!(rows(&client, later).await?, [format!("{0}|{0}", BAD + 1)]);
    drop(client);
    server.stop().await
}
