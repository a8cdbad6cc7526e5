//! What a disk may do to files: a bit that turns, a tail that is gone or holds zeros, writes that no sync followed. It is told
//! by the file's name, or recovered from; no answer is ever wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use slt::process::{Process, Start};
use slt::run::ask;
use tokio_postgres::Client;

use crate::orders::{eventually, rows, run};

/// How long a server may take until it answers or refuses.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows of the large table: enough for sorted files.
const N_LARGE: u64 = 110_000;
/// Rows that are written one by one.
const N_ROWS: u64 = 40;

/// Every question, and what a server that lost nothing answers.
const QUESTIONS: [(&str, &str); 4] = [
    ("SELECT count(*), min(id), max(id), sum(v) FROM plain", "40|1|40|8200"),
    ("SELECT sum(n), sum(s) FROM sums", "40|8200"),
    ("SELECT count(*), sum(id), min(length(pad)), max(length(pad)) FROM large", "110000|6050055000|32|32"),
    ("SELECT n, s FROM lines", "30|435"),
];

/// A directory whose server was killed, with every kind of file in it.
async fn killed(folder: &Path) -> Result<Start> {
    let mut start = Start::new(folder.join("data"));
    start.arguments = vec!["--checkpoint-interval-ms".into(), "600000".into()];
    let source = folder.join("line.json");
    let lines: String = (0..30).map(|k| format!("{{\"k\": {k}}}\n")).collect();
    std::fs::write(&source, lines)?;
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE plain (id bigint, v bigint)").await?;
    run(&client, "CREATE TABLE large (id bigint PRIMARY KEY, pad text)").await?;
    run(
        &client,
        "CREATE MATERIALIZED VIEW sums AS SELECT id % 4 AS g, count(*) AS n, sum(v) AS s FROM plain GROUP BY id % 4",
    )
    .await?;
    run(&client, &format!("INSERT INTO large SELECT i, md5(i::text) FROM generate_series(1, {N_LARGE}) AS g(i)"))
        .await?;
    run(&client, "FLUSH").await?;
    for id in 1..=N_ROWS / 2 {
        run(&client, &format!("INSERT INTO plain VALUES ({id}, {})", id * 10)).await?;
    }
    run(&client, "CREATE SAVEPOINT POINT p").await?;
    let path = source.display();
    run(&client, &format!("CREATE SOURCE line (k bigint) WITH (connector = 'file', path = '{path}')")).await?;
    run(&client, "CREATE MATERIALIZED VIEW lines AS SELECT count(*) AS n, sum(k) AS s FROM line").await?;
    // What only the log has.
    for id in N_ROWS / 2 + 1..=N_ROWS {
        run(&client, &format!("INSERT INTO plain VALUES ({id}, {})", id * 10)).await?;
    }
    eventually(&client, "SELECT n FROM lines", &["30"]).await?;
    drop(client);
    server.kill()?;
    Ok(start)
}

/// The kinds of files, and those that are there.
fn kinds(data: &Path) -> Result<Vec<(&'static str, Vec<PathBuf>)>> {
    let mut kinds: Vec<(&str, Vec<PathBuf>)> = Vec::new();
    let mut add = |kind: &'static str, path: PathBuf| match kinds.iter_mut().find(|(k, _)| *k == kind) {
        Some((_, paths)) => paths.push(path),
        None => kinds.push((kind, vec![path])),
    };
    for entry in walkdir::WalkDir::new(data).sort_by_file_name() {
        let entry = entry?;
        let below = entry.path().strip_prefix(data)?.display().to_string();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().is_file() || entry.metadata()?.len() == 0 {
            continue;
        }
        let kind = match () {
            _ if below.starts_with("savepoints/") => "savepoint",
            _ if below.starts_with("log/") => "log",
            _ if name.starts_with("visible-") => "visible",
            _ if name == "format" => "format",
            _ if below.starts_with("db/") && name.ends_with(".sst") => "sorted",
            _ if below.starts_with("db/") && name.ends_with(".log") => "write-ahead",
            _ if name.starts_with("MANIFEST") => "manifest",
            _ if name.starts_with("OPTIONS") => "options",
            _ if name == "CURRENT" => "current",
            _ => continue,
        };
        add(kind, entry.path().to_owned());
    }
    Ok(kinds)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Changes a file; says how.
fn damage(path: &Path, random: &mut StdRng) -> Result<String> {
    let mut bytes = std::fs::read(path)?;
    let length = bytes.len();
    let said = match random.random_range(0..4) {
        0 | 1 => {
            let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {length} turned")
        }
        2 => {
            let gone = random.random_range(1..=length.min(4096));
            bytes.truncate(length - gone);
            format!("the last {gone} of {length} bytes are gone")
        }
        _ => {
            let zeros = random.random_range(1..=length.min(1024));
            bytes[length - zeros..].fill(0);
            format!("the last {zeros} of {length} bytes are zeros")
        }
    };
    std::fs::write(path, bytes)?;
    Ok(said)
}

/// What became of a damaged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Nothing is missing.
    Right,
    /// All is as of an earlier moment.
    Earlier,
    /// Somebody was told, by the name of the file or folder.
    Told,
}

/// Opens the directory; an error is a wrong answer.
async fn open(start: &Start, kind: &str) -> Result<Outcome> {
    // Only what this one says.
    let _ = std::fs::remove_file(&start.log);
    let mut server = start.spawn()?;
    let Some(client) = server.answers(OPEN_TIMEOUT).await? else {
        let said = server.log()?;
        let dir = start.data_dir.display().to_string();
        ensure!(said.contains("headwater: ") && said.contains(&dir), "it does not say which file: {said}");
        return Ok(Outcome::Told);
    };
    if kind == "visible" {
        // Told in the log, and read a moment later: how far it was visible is not known any more.
        eventually(&client, QUESTIONS[3].0, &[QUESTIONS[3].1]).await?;
    }
    let mut outcome = judge(&server, &client).await?;
    if kind == "savepoint" {
        let sql = "SELECT error LIKE '%savepoints/p%' FROM headwater_catalog.savepoint_points WHERE error IS NOT NULL";
        if rows(&client, sql).await? == ["t"] {
            outcome = outcome.max(Outcome::Told);
        }
    }
    drop(client);
    drop(server);
    Ok(outcome)
}

async fn judge(server: &Process, client: &Client) -> Result<Outcome> {
    let mut outcome = Outcome::Right;
    for (sql, right) in QUESTIONS {
        match ask(client, sql).await {
            Ok(answer) if answer.rows[0].join("|") == right => {}
            Ok(answer) => {
                let came = answer.rows[0].join("|");
                // A beginning of what was written, in the table and in its view.
                let n: u64 = came.split('|').next().unwrap_or_default().parse().unwrap_or(0);
                let sum = n * (n + 1) * 5;
                let earlier = match sql {
                    _ if sql.contains("FROM plain") && n > 0 => format!("{n}|1|{n}|{sum}"),
                    _ if sql.contains("FROM sums") && n > 0 => format!("{n}|{sum}"),
                    _ => bail!("{sql}: {came} instead of {right}\n{}", server.log_tail()),
                };
                ensure!(came == earlier, "{sql}: {came} instead of {right}\n{}", server.log_tail());
                outcome = outcome.max(Outcome::Earlier);
            }
            // A disk that forgot what it had synced: the catalog is as of an earlier moment too.
            Err(failure) if failure.code == "42P01" && sql.contains("FROM lines") => {
                outcome = outcome.max(Outcome::Earlier);
            }
            Err(failure) => {
                let named = failure.message.contains("/data/") || failure.message.contains("has failed");
                let code = ["XX001", "58030", "55000"].contains(&failure.code.as_str());
                ensure!(named && code, "{sql}: {} {}", failure.code, failure.message);
                outcome = Outcome::Told;
            }
        }
    }
    Ok(outcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damage_makes_an_answer_wrong() -> Result<()> {
    let n_damages = crate::number("HEADWATER_TEST_DAMAGES", 45);
    let directory = tempfile::tempdir()?;
    let good = killed(directory.path()).await?;
    let kept = directory.path().join("kept");
    std::fs::rename(&good.data_dir, &kept)?;
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 9);
    let mut outcomes: std::collections::BTreeMap<(&str, Outcome), u64> = std::collections::BTreeMap::new();
    for n in 0..n_damages {
        let _ = std::fs::remove_dir_all(&good.data_dir);
        copy(&kept, &good.data_dir)?;
        let kinds = kinds(&good.data_dir)?;
        ensure!(kinds.len() == 9, "every kind is there: {:?}", kinds.iter().map(|(kind, _)| kind).collect::<Vec<_>>());
        let (kind, paths) = &kinds[n as usize % kinds.len()];
        let path = paths.choose(&mut random).context("a file")?;
        let said = damage(path, &mut random)?;
        let context = || format!("{}: {said}", path.display());
        let outcome = open(&good, kind).await.with_context(context)?;
        // Only the end of a log can be one that was never written.
        let may_end_earlier = ["log", "write-ahead"].contains(kind) || outcome != Outcome::Earlier;
        ensure!(may_end_earlier, "{}: {outcome:?}", context());
        *outcomes.entry((kind, outcome)).or_default() += 1;
    }
    eprintln!("{n_damages} damages: {outcomes:?}");
    Ok(())
}

/// The log of table writes and RocksDB's own, cut anywhere behind what was synced, or with zeros there: every acknowledged
/// write is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_synced_may_be_lost() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let mut start = Start::new(&data);
    start.arguments = vec!["--checkpoint-interval-ms".into(), "600000".into()];
    let mut server = start.start().await?;
    let client = server.connect().await?;
    run(&client, "CREATE TABLE plain (id bigint, v bigint)").await?;
    run(&client, "CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n, sum(v) AS s FROM plain").await?;
    run(&client, "INSERT INTO plain SELECT i, i FROM generate_series(1, 10) AS g(i)").await?;
    // The checkpoint's last write has not been synced, or only in part.
    let before = ends(&data.join("db"))?;
    run(&client, "FLUSH").await?;
    drop(client);
    server.kill()?;
    let n = check_tails(&start, &before, "10|55").await?;
    // A write that was not acknowledged, since the server ended in its sync.
    let before = ends(&data.join("log"))?;
    let mut server = start.clone().env("HEADWATER_FAILPOINTS", "log/sync:before=abort").spawn()?;
    let client = server.answers(OPEN_TIMEOUT).await?.context("it starts")?;
    let lost = ask(&client, "INSERT INTO plain SELECT i, i FROM generate_series(11, 20) AS g(i)").await;
    ensure!(lost.is_err(), "it is not acknowledged");
    server.ended(OPEN_TIMEOUT).await?;
    let m = check_tails(&start, &before, "10|55").await?;
    ensure!(n > 2 && m > 2, "{n} and {m} tails");
    Ok(())
}

/// The sizes of the logs of a folder.
fn ends(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut ends = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            ends.push((path.clone(), path.metadata()?.len()));
        }
    }
    Ok(ends)
}

/// Opens the directory with every kind of tail behind what was there `before`.
async fn check_tails(start: &Start, before: &[(PathBuf, u64)], right: &str) -> Result<usize> {
    let kept = start.data_dir.with_extension("kept");
    let _ = std::fs::remove_dir_all(&kept);
    copy(&start.data_dir, &kept)?;
    let folder = before.first().and_then(|(path, _)| path.parent()).context("a log")?.to_owned();
    let mut n = 0;
    for (path, length) in ends(&folder)? {
        let synced = before.iter().find(|(known, _)| *known == path).map_or(0, |(_, length)| *length);
        if length <= synced {
            continue;
        }
        let cuts = [synced, synced + 1, synced + (length - synced) / 3, synced + (length - synced) / 2, length - 1];
        // A disk writes whole sectors; what it did not write of a file that grew is zeros.
        let sectors = cuts.iter().map(|cut| cut.next_multiple_of(512)).filter(|cut| length > cut + 32);
        for (cut, zeros) in cuts.iter().map(|cut| (*cut, false)).chain(sectors.map(|cut| (cut, true))) {
            std::fs::remove_dir_all(&start.data_dir)?;
            copy(&kept, &start.data_dir)?;
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(cut)?;
            if zeros {
                file.set_len(length)?;
            }
            let context =
                || format!("{} of {length} bytes, {synced} synced, cut at {cut}, zeros: {zeros}", path.display());
            let server = start.start().await.with_context(context)?;
            let client = server.connect().await?;
            let came = rows(&client, "SELECT count(*), sum(v) FROM plain").await?;
            // All that was sent may be there, and what was acknowledged must be.
            ensure!(came == [right] || came == ["20|210"], "{}: {came:?}", context());
            ensure!(rows(&client, "SELECT n, s FROM sums").await? == came, "{}: the view", context());
            n += 1;
        }
    }
    std::fs::remove_dir_all(&start.data_dir)?;
    std::fs::rename(&kept, &start.data_dir)?;
    Ok(n)
}
