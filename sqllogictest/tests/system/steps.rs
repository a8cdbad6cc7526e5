//! The server is ended before and after every step on its way to the disk and to a sink's target, and started again: what
//! was acknowledged is there once, every view equals its query, and a sink's files hold the rows of its table once.
//!
//! `storage/src/failpoint.rs` lists the steps. One directory lives through all of them, so that each start also recovers
//! from what the ones before left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use slt::process::Start;
use slt::run::{Answer, Failure, ask};
use storage::failpoint::STEPS;
use tokio_postgres::Client;

use crate::orders::{rows, run, same};

/// Rounds of work in which a step must come, and how long a start may take that is to end at a step.
const ROUNDS_MAX: usize = 40;
/// Rounds that follow each other at once.
const QUICK_ROUNDS: usize = 4;
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Steps that come again and again: the server ends at the third time as well.
const AGAIN: [&str; 4] = ["checkpoint/write", "log/write", "log/sync", "sink/deliver"];
/// Rows that make a checkpoint a large one.
const LARGE: usize = 110_000;

/// Steps that this test does not come to: where they are ended instead, or why nothing ends there.
const ELSEWHERE: [(&str, &str); 7] = [
    ("retry/keep", "retries.rs, which has records that fail"),
    ("retry/enter", "the same"),
    ("kafka/commit", "crash.rs, which has a broker"),
    ("postgres/commit", "crash.rs, which has a PostgreSQL"),
    ("mysql/commit", "mariadb.rs, which has a MariaDB"),
    ("purge/write", "what is in no catalog enters no checkpoint: only a start after a bug has something to remove"),
    ("visible/cut", "a note is torn by a full disk only: visible.rs tears one"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_at_any_step_recovers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut world = World::new(directory.path())?;
    world.create().await?;
    let mut slowest = Duration::ZERO;
    let points = points()?;
    for point in &points {
        let recovery = world.end_at(point).await.with_context(|| format!("ended at {point}"))?;
        slowest = slowest.max(recovery);
    }
    eprintln!(
        "ended at {} points; {} rows acknowledged, {} sent; slowest recovery {slowest:?}",
        points.len(),
        world.acknowledged.len(),
        world.sent
    );
    Ok(())
}

/// Both sides of every step, or those of `HEADWATER_TEST_STEP`.
fn points() -> Result<Vec<String>> {
    let only = std::env::var("HEADWATER_TEST_STEP").unwrap_or_default();
    for (name, _) in ELSEWHERE {
        ensure!(STEPS.iter().any(|(step, _)| *step == name), "there is no step {name}");
    }
    let here = STEPS.iter().map(|(step, _)| *step).filter(|step| ELSEWHERE.iter().all(|(name, _)| name != step));
    let here = here.filter(|step| step.starts_with(&only));
    let times = |step: &str| if AGAIN.contains(&step) { &["", "@3"][..] } else { &[""] };
    let sides = ["before", "after"];
    Ok(here
        .flat_map(|step| {
            sides.iter().flat_map(move |side| times(step).iter().map(move |n| format!("{step}:{side}=abort{n}")))
        })
        .collect())
}

/// One directory and what its clients know.
struct World {
    folder: PathBuf,
    start: Start,
    /// Rows that the server said are written.
    acknowledged: BTreeSet<u64>,
    /// Rows that it was told to write: 1 up to here.
    sent: u64,
    n_copies: usize,
}

impl World {
    fn new(folder: &Path) -> Result<World> {
        let mut start = Start::new(folder.join("data"));
        // Checkpoints come when a statement asks for one, and seldom by themselves.
        start.arguments = vec!["--checkpoint-interval-ms".into(), "30000".into()];
        std::fs::create_dir(folder.join("source"))?;
        Ok(World { folder: folder.to_owned(), start, acknowledged: BTreeSet::new(), sent: 0, n_copies: 0 })
    }

    async fn create(&mut self) -> Result<()> {
        let server = self.start.start().await?;
        let client = server.connect().await?;
        let folder = self.folder.display();
        for statement in [
            "CREATE TABLE keyed (id bigint PRIMARY KEY, v int)".to_owned(),
            "CREATE TABLE plain (id bigint, v int) APPEND ONLY".to_owned(),
            "CREATE TABLE spare (id bigint, v int)".to_owned(),
            format!("CREATE SOURCE line (k bigint) WITH (connector = 'file', path = '{folder}/source/*.json')"),
            "CREATE MATERIALIZED VIEW lines AS SELECT count(*) AS n, sum(k) AS s FROM line".to_owned(),
            "CREATE MATERIALIZED VIEW sums AS SELECT v, count(*) AS n, sum(id) AS s FROM keyed GROUP BY v".to_owned(),
            "CREATE MATERIALIZED VIEW in_both AS SELECT p.v, count(*) AS n FROM plain p JOIN keyed k ON p.id = k.id GROUP BY p.v"
                .to_owned(),
            "CREATE MATERIALIZED VIEW large AS SELECT id % 1000 AS m, count(*) AS n FROM spare GROUP BY id % 1000".to_owned(),
            format!("CREATE SINK files FROM plain WITH (connector = 'file', path = '{folder}/sink', type = 'append-only')"),
        ] {
            run(&client, &statement).await?;
        }
        drop(client);
        server.stop().await
    }

    /// Starts a server that ends at a point, works until it does, and checks what the next one has.
    async fn end_at(&mut self, armed: &str) -> Result<Duration> {
        let point = armed.split('=').next().unwrap_or_default();
        let armed = match point.split_once(':') {
            // A write that cannot be synced is undone.
            Some(("log/undo", _)) => format!("log/sync:before=fail,{armed}"),
            // What a transaction that was never told of left.
            Some(("file/remove", _)) => {
                std::fs::write(self.folder.join("sink/.tmp-0-0-0"), "")?;
                armed.to_owned()
            }
            _ => armed.to_owned(),
        };
        if point.starts_with("format/") {
            return self.new_directory(&armed).await;
        }
        self.grow_source()?;
        let mut server = self.start.clone().env("HEADWATER_FAILPOINTS", &armed).spawn()?;
        match server.answers(END_TIMEOUT).await? {
            Some(client) => {
                self.work(&client, point).await?;
                drop(client);
                server.ended(END_TIMEOUT).await.with_context(|| format!("{armed}\n{}", server.log_tail()))?;
            }
            None => server.ended(END_TIMEOUT).await?,
        }
        ensure!(server.log_tail().contains(&format!("fail point {point}")), "{}", server.log_tail());
        drop(server);
        let begun = Instant::now();
        let server = self.start.start().await?;
        let client = server.connect().await?;
        self.check(&client).await?;
        let recovery = begun.elapsed();
        self.check_sink(&client).await?;
        // The next one recovers once more, with something that only the log has.
        self.sent += 1;
        run(&client, &format!("INSERT INTO keyed VALUES ({}, 0)", self.sent)).await?;
        self.acknowledged.insert(self.sent);
        drop(client);
        drop(server);
        Ok(recovery)
    }

    /// A new directory is made in steps of its own.
    async fn new_directory(&mut self, armed: &str) -> Result<Duration> {
        let directory = tempfile::tempdir()?;
        let start = Start::new(directory.path().join("data"));
        let mut server = start.clone().env("HEADWATER_FAILPOINTS", armed).spawn()?;
        ensure!(server.answers(END_TIMEOUT).await?.is_none(), "it answers before {armed}");
        server.ended(END_TIMEOUT).await?;
        let begun = Instant::now();
        let server = start.start().await?;
        let client = server.connect().await?;
        run(&client, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await?;
        ensure!(rows(&client, "SELECT a FROM t").await? == ["1"]);
        let recovery = begun.elapsed();
        drop(client);
        server.stop().await?;
        Ok(recovery)
    }

    fn grow_source(&mut self) -> Result<()> {
        let line = format!("{{\"k\": {}}}\n", self.sent);
        Ok(std::fs::write(self.folder.join(format!("source/{}.json", self.sent)), line.repeat(3))?)
    }

    /// Everything that takes a step, until the server is gone.
    async fn work(&mut self, client: &Client, point: &str) -> Result<()> {
        for round in 0..ROUNDS_MAX {
            // Sources look for files by themselves, now and then: quick rounds may be over before they do.
            if round >= QUICK_ROUNDS {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            if self.round(client, point).await?.is_none() {
                return Ok(());
            }
        }
        bail!("the step does not come")
    }

    /// `None` when the server has ended.
    async fn round(&mut self, client: &Client, point: &str) -> Result<Option<()>> {
        for table in ["keyed", "plain"] {
            let ids: Vec<u64> = (self.sent + 1..self.sent + 4).collect();
            self.sent += 3;
            let values: Vec<String> = ids.iter().map(|id| format!("({id}, {})", id % 5)).collect();
            // One is in both tables.
            let both = if table == "plain" { format!(", ({}, 9)", ids[0] - 3) } else { String::new() };
            match said(ask(client, &format!("INSERT INTO {table} VALUES {}{both}", values.join(", "))).await)? {
                Said::Done => self.acknowledged.extend(ids),
                Said::Gone => return Ok(None),
                Said::Refused => {}
            }
        }
        self.grow_source()?;
        let change = format!("UPDATE keyed SET v = v + 1 WHERE id % 7 = {}", self.sent % 7);
        let name = format!("extra_{}", self.sent);
        let mut statements = vec![
            change,
            format!("CREATE MATERIALIZED VIEW {name} AS SELECT DISTINCT v FROM keyed"),
            "FLUSH".to_owned(),
            format!("DROP MATERIALIZED VIEW {name}"),
        ];
        let copies = point.starts_with("copy/");
        if point.starts_with("file/create") {
            let path = self.folder.join(format!("sink_{}", self.sent));
            let path = path.display();
            statements
                .push(format!("CREATE SINK s{} FROM plain WITH (connector = 'file', path = '{path}')", self.sent));
        }
        if copies {
            self.n_copies += 1;
            let backup = self.folder.join(format!("backup_{}", self.n_copies));
            statements.push(format!("BACKUP TO '{}'", backup.display()));
            statements.push(format!("CREATE SAVEPOINT POINT p{}", self.n_copies));
            statements.push(format!("DROP SAVEPOINT POINT p{}", self.n_copies));
        }
        if ["checkpoint/file", "checkpoint/ingest", "drop/write"].iter().any(|s| point.starts_with(s)) {
            statements.push("CREATE TABLE doomed (a int)".to_owned());
            statements.push(format!("INSERT INTO spare SELECT i, i FROM generate_series(1, {LARGE}) AS g(i)"));
            // The checkpoint that drops it is the large one.
            statements.push("DROP TABLE doomed".to_owned());
            statements.push("DELETE FROM spare; FLUSH".to_owned());
        }
        for statement in statements {
            for part in statement.split("; ") {
                if let Said::Gone = said(ask(client, part).await)? {
                    return Ok(None);
                }
            }
        }
        // A sink delivers by itself.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(if said(ask(client, "SELECT 1").await)? == Said::Gone { None } else { Some(()) })
    }

    /// What was acknowledged is there once, nothing that was never sent, and views equal their queries.
    async fn check(&self, client: &Client) -> Result<()> {
        let mut there = BTreeSet::new();
        for id in rows(client, "SELECT id FROM keyed UNION ALL SELECT id FROM plain WHERE v <> 9").await? {
            let id: u64 = id.parse()?;
            ensure!(there.insert(id), "row {id} is there twice");
            ensure!(id <= self.sent, "row {id} was never sent");
        }
        let lost: Vec<_> = self.acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        let sums = "SELECT v, count(*), sum(id) FROM keyed GROUP BY v ORDER BY v";
        same(client, "SELECT v, n, s FROM sums ORDER BY v", sums).await?;
        let both = "SELECT p.v, count(*) FROM plain p JOIN keyed k ON p.id = k.id GROUP BY p.v ORDER BY p.v";
        same(client, "SELECT v, n FROM in_both ORDER BY v", both).await?;
        let large = "SELECT id % 1000, count(*) FROM spare GROUP BY id % 1000 ORDER BY 1";
        same(client, "SELECT m, n FROM large ORDER BY m", large).await?;
        for name in rows(client, "SELECT name FROM headwater_catalog.jobs WHERE name LIKE 'extra%'").await? {
            let view = format!("SELECT v FROM {name} ORDER BY v");
            same(client, &view, "SELECT DISTINCT v FROM keyed ORDER BY v").await?;
            run(client, &format!("DROP MATERIALIZED VIEW {name}")).await?;
        }
        run(client, "DROP TABLE IF EXISTS doomed").await?;
        let (mut n, mut sum) = (0, 0u64);
        for entry in std::fs::read_dir(self.folder.join("source"))? {
            let name = entry?.file_name();
            let k: u64 = name.to_string_lossy().trim_end_matches(".json").parse()?;
            (n, sum) = (n + 3, sum + 3 * k);
        }
        crate::orders::eventually(client, "SELECT n, s FROM lines", &[&format!("{n}|{sum}")]).await?;
        // What is listed is whole.
        let damaged = "SELECT name, error FROM headwater_catalog.savepoint_points WHERE error IS NOT NULL";
        let damaged = rows(client, damaged).await?;
        ensure!(damaged.is_empty(), "{damaged:?}");
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("backup_")) {
                storage::store::copy::check(&path)?;
                std::fs::remove_dir_all(&path)?;
            }
        }
        for name in rows(client, "SELECT name FROM headwater_catalog.savepoint_points").await? {
            run(client, &format!("DROP SAVEPOINT POINT {name}")).await?;
        }
        Ok(())
    }

    /// The files that the manifest tells of hold the rows of the table, each once.
    async fn check_sink(&self, client: &Client) -> Result<()> {
        run(client, "FLUSH").await?;
        let waiting = "SELECT count(*) FROM headwater_catalog.sinks WHERE name = 'files' AND rows_waiting > 0";
        crate::orders::eventually(client, waiting, &["0"]).await?;
        let folder = self.folder.join("sink");
        let manifest = std::fs::read_to_string(folder.join("_manifest.jsonl"))?;
        let mut came = Vec::new();
        for line in manifest.lines().skip(1) {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let file = folder.join(line["file"].as_str().context("a file's name")?);
            for row in std::fs::read_to_string(&file).with_context(|| file.display().to_string())?.lines() {
                let row: serde_json::Value = serde_json::from_str(row)?;
                came.push(format!("{}|{}", row["id"], row["v"]));
            }
        }
        let mut expected = rows(client, "SELECT id, v FROM plain").await?;
        came.sort();
        expected.sort();
        ensure!(came == expected, "the sink's files hold {} rows, the table {}", came.len(), expected.len());
        Ok(())
    }
}

#[derive(PartialEq)]
enum Said {
    Done,
    /// An answer, and the answer was no.
    Refused,
    /// The server has ended.
    Gone,
}

fn said(answer: std::result::Result<Answer, Failure>) -> Result<Said> {
    match answer {
        Ok(_) => Ok(Said::Done),
        Err(failure) if failure.code.is_empty() || failure.code.starts_with("57") => Ok(Said::Gone),
        // What a step was made to answer, and what an earlier life has made already.
        Err(failure) if failure.code.starts_with("58") || failure.code == "42P07" => Ok(Said::Refused),
        Err(failure) => Err(anyhow!("{} {}", failure.code, failure.message)),
    }
}

/// What a restore does in steps can be done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_ends_at_any_step_can_be_done_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").await?;
    let backup = directory.path().join("backup");
    run(&client, &format!("BACKUP TO '{}'", backup.display())).await?;
    drop(client);
    server.stop().await?;
    for (n, point) in [
        "copy/folder:before",
        "copy/folder:after",
        "copy/store:before",
        "copy/store:after",
        "copy/rename:before",
        "copy/rename:after",
    ]
    .iter()
    .enumerate()
    {
        let to = directory.path().join(format!("restored_{n}"));
        let restore = |armed: Option<String>| {
            let mut command = std::process::Command::new(slt::process::binary()?);
            command.arg("restore").arg(&backup).arg("--data-dir").arg(&to);
            command.envs(armed.map(|armed| ("HEADWATER_FAILPOINTS", armed)));
            anyhow::Ok(command.output()?)
        };
        let ended = restore(Some(format!("{point}=abort")))?;
        ensure!(
            !ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains(point),
            "{point}: {ended:?}"
        );
        if !to.exists() {
            let again = restore(None)?;
            ensure!(again.status.success(), "{point}: {again:?}");
        }
        let server = Start::new(&to).start().await.with_context(|| point.to_string())?;
        let client = server.connect().await?;
        ensure!(rows(&client, "SELECT a FROM t ORDER BY a").await? == ["1", "2"], "{point}");
        drop(client);
        server.stop().await?;
    }
    Ok(())
}
