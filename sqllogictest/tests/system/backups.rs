//! Backups of a running server and savepoint points: what was acknowledged before is in them, nothing of what came later is,
//! and a server starts from each, with its sources where they were and its sinks held.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use slt::process::Start;
use slt::run::ask;
use tokio_postgres::Client;

use crate::orders::{eventually, rows, run, same};

fn headwater(arguments: &[&str]) -> Result<(bool, String)> {
    let output = std::process::Command::new(slt::process::binary()?).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said.into_owned()))
}

fn restore(from: &Path, to: &Path) -> Result<String> {
    let (done, said) = headwater(&["restore", &from.display().to_string(), "--data-dir", &to.display().to_string()])?;
    ensure!(done, "{said}");
    Ok(said)
}

/// Writes while backups are made, each row after the one before.
async fn write(client: Client, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut id = 0;
    while !stop.load(Ordering::SeqCst) {
        id += 1;
        run(&client, &format!("INSERT INTO t VALUES ({id}, {})", id % 3)).await?;
        run(&client, &format!("INSERT INTO plain VALUES ({id})")).await?;
    }
    Ok(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_server_is_one_moment_of_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    for statement in [
        "CREATE TABLE t (id bigint PRIMARY KEY, g int)",
        "CREATE TABLE plain (id bigint)",
        "CREATE MATERIALIZED VIEW groups AS SELECT g, count(*) AS n, sum(id) AS s FROM t GROUP BY g",
        "CREATE MATERIALIZED VIEW pairs AS SELECT t.id, t.g FROM t JOIN plain ON t.id = plain.id",
        "CREATE SOURCE made (a bigint) WITH (connector = 'datagen', fields.a.kind = 'sequence', fields.a.start = '1', \
         fields.a.end = '3000', datagen.rows.per.second = '1000')",
        "CREATE MATERIALIZED VIEW made_sum AS SELECT count(*) AS n, sum(a) AS s FROM made",
    ] {
        run(&client, statement).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(server.connect().await?, stop.clone()));
    let mut before = Vec::new();
    for n in 0..3 {
        let rows_before: u64 = rows(&client, "SELECT count(*) FROM plain").await?[0].parse()?;
        let to = directory.path().join(format!("backup_{n}"));
        let port = server.address().port().to_string();
        let (done, said) = headwater(&["backup", &to.display().to_string(), "--port", &port])?;
        ensure!(done && said.contains("epoch"), "{said}");
        before.push((to, rows_before));
    }
    let refused =
        headwater(&["backup", &before[0].0.display().to_string(), "--port", &server.address().port().to_string()])?;
    ensure!(!refused.0 && refused.1.contains("exists already"), "{refused:?}");
    stop.store(true, Ordering::SeqCst);
    let written = writer.await??;
    drop(client);
    server.stop().await?;

    for (n, (backup, rows_before)) in before.iter().enumerate() {
        // A backup is no data directory: a server that opened it would change it.
        let said = Start::new(backup).refused().await?;
        ensure!(said.contains("headwater restore"), "{said}");
        let (whole, said) = headwater(&["inspect", &backup.display().to_string()])?;
        ensure!(whole && said.contains("whole"), "{said}");
        let to = directory.path().join(format!("restored_{n}"));
        restore(backup, &to)?;
        let start = Start::new(&to);
        // It goes on, through a crash as well.
        for life in 0..2u64 {
            let mut server = start.start().await?;
            let client = server.connect().await?;
            let there: u64 = rows(&client, "SELECT count(*) FROM plain WHERE id > 0").await?[0].parse()?;
            ensure!(*rows_before <= there && there <= written, "{rows_before} <= {there} <= {written}");
            let ids = rows(&client, "SELECT max(id), count(DISTINCT id) FROM plain WHERE id > 0").await?;
            ensure!(ids == [format!("{there}|{there}")], "a beginning of what was written: {ids:?}");
            same(
                &client,
                "SELECT g, n, s FROM groups ORDER BY g",
                "SELECT g, count(*), sum(id) FROM t GROUP BY g ORDER BY g",
            )
            .await?;
            let pairs = "SELECT t.id, t.g FROM t JOIN plain ON t.id = plain.id ORDER BY 1";
            same(&client, "SELECT id, g FROM pairs ORDER BY id", pairs).await?;
            eventually(&client, "SELECT n, s FROM made_sum", &["3000|4501500"]).await?;
            ensure!(rows(&client, "SELECT count(*) FROM plain WHERE id < 0").await? == [life.to_string()]);
            run(&client, &format!("INSERT INTO plain VALUES (-{})", life + 1)).await?;
            drop(client);
            server.kill()?;
        }
    }
    // Nothing is overwritten.
    let to = directory.path().join("restored_0");
    let (done, said) =
        headwater(&["restore", &before[1].0.display().to_string(), "--data-dir", &to.display().to_string()])?;
    ensure!(!done && said.contains("not empty"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_from_a_savepoint_point_with_its_sinks_held() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let mut server = start.start().await?;
    let client = server.connect().await?;
    let sink = directory.path().join("sink");
    run(&client, "CREATE TABLE t (a int) APPEND ONLY").await?;
    let options = format!("connector = 'file', path = '{}', type = 'append-only'", sink.display());
    run(&client, &format!("CREATE SINK s FROM t WITH ({options})")).await?;
    run(&client, "INSERT INTO t VALUES (1), (2)").await?;
    run(&client, "CREATE SAVEPOINT POINT before_it").await?;
    let again = ask(&client, "CREATE SAVEPOINT POINT before_it").await.err().context("it is there")?;
    ensure!(again.code == "42710", "{} {}", again.code, again.message);
    run(&client, "CREATE SAVEPOINT POINT IF NOT EXISTS before_it").await?;
    run(&client, "INSERT INTO t VALUES (3)").await?;
    run(&client, "FLUSH").await?;
    run(&client, "CREATE SAVEPOINT POINT after_it").await?;
    let listed =
        "SELECT name, epoch > 0, bytes > 0, created <= now(), error FROM headwater_catalog.savepoint_points ORDER BY 1";
    let both = ["after_it|t|t|t|NULL", "before_it|t|t|t|NULL"];
    let came: Vec<String> = rows(&client, listed).await?;
    ensure!(came == both, "{came:?}");
    run(&client, "DROP SAVEPOINT POINT after_it").await?;
    let gone = ask(&client, "DROP SAVEPOINT POINT after_it").await.err().context("it is gone")?;
    ensure!(gone.code == "42704", "{} {}", gone.code, gone.message);
    run(&client, "DROP SAVEPOINT POINT IF EXISTS after_it").await?;
    for wrong in ["CREATE SAVEPOINT POINT \"../x\"", "BACKUP TO 'here'"] {
        let refused = ask(&client, wrong).await.err().context("refused")?;
        ensure!(refused.code == "42602", "{wrong}: {} {}", refused.code, refused.message);
    }
    drop(client);
    // It is kept over a crash.
    server.kill()?;
    let server = start.start().await?;
    let client = server.connect().await?;
    ensure!(rows(&client, "SELECT name FROM headwater_catalog.savepoint_points").await? == ["before_it"]);
    eventually(&client, "SELECT rows_waiting FROM headwater_catalog.sinks", &["0"]).await?;
    drop(client);
    server.stop().await?;

    // A server makes its directory of it by itself, and overwrites none.
    let savepoint = start.data_dir.join("savepoints/before_it").display().to_string();
    let begun = Start::new(directory.path().join("begun")).argument("--from-savepoint").argument(&savepoint);
    let server = begun.start().await?;
    let client = server.connect().await?;
    ensure!(rows(&client, "SELECT a FROM t ORDER BY a").await? == ["1", "2"]);
    drop(client);
    server.stop().await?;
    let said = begun.refused().await?;
    ensure!(said.contains("begun"), "{said}");

    let to = directory.path().join("rewound");
    let said = restore(&start.data_dir.join("savepoints/before_it"), &to)?;
    ensure!(said.contains("paused") && said.contains(": s (ALTER SINK"), "{said}");
    let server = Start::new(&to).start().await?;
    let client = server.connect().await?;
    ensure!(rows(&client, "SELECT a FROM t ORDER BY a").await? == ["1", "2"]);
    // What its target has of another life is not taken for what comes now.
    ensure!(rows(&client, "SELECT state FROM headwater_catalog.sinks").await? == ["paused"]);
    run(&client, "INSERT INTO t VALUES (4)").await?;
    run(&client, "FLUSH").await?;
    run(&client, "ALTER SINK s RESUME").await?;
    eventually(&client, "SELECT state, rows_waiting FROM headwater_catalog.sinks", &["running|0"]).await?;
    drop(client);
    server.stop().await?;
    let mut delivered = Vec::new();
    for entry in std::fs::read_dir(&sink)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
            delivered.extend(std::fs::read_to_string(&path)?.lines().map(str::to_owned));
        }
    }
    delivered.sort();
    ensure!(delivered == [1, 2, 3, 4].map(|a| format!("{{\"a\":{a}}}")), "{delivered:?}");
    Ok(())
}
