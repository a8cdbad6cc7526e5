//! Nexmark q0 to q23, whose texts are in `bench/nexmark`: after the last event each view holds what a real Postgres answers over
//! the same rows, row for row, and both are the answers whose hashes are committed.
//!
//! `HEADWATER_TEST_NEXMARK_EVENTS` (20,000) is how many events there are; they always span 100 seconds, over the end of a
//! February; `HEADWATER_TEST_NEXMARK_QUERIES` (`q1 q5`) leaves the others out. A query whose text Postgres cannot read (windows, temporal joins) has a second text, in `bench/nexmark/batch`, that
//! says the same in plain SQL. `UPDATE_EXPECT=1` writes the hashes, once both agree.
//!
//! The trials `retracted::` keep bids in a table and delete the winning ones again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use slt::answers::{Rows, copy_in, copy_out};
use slt::both::Both;
use slt::run::in_runtime;
use tokio_postgres::Client;

/// Events unless another number is asked for.
const EVENTS: u64 = 20_000;
/// Nanoseconds of event time from the first event to the last.
const SPAN_NS: u64 = 100_000_000_000;
/// The events begin shortly before the end of a month.
const BASE_TIME: &str = "2026-02-28 23:59:20";
/// Until the last event is visible.
const PATIENCE: Duration = Duration::from_secs(1800);
/// The queries in which the highest bid wins.
const WINNING: [&str; 3] = ["q4", "q6", "q9"];
/// The relations: their names, what the generator calls them, and what a group of 50 events has of each.
const TABLES: [(&str, &str, u64); 3] = [("person", "Person", 1), ("auction", "Auction", 3), ("bid", "Bid", 46)];

fn main() {
    let mut arguments = Arguments::from_args();
    // They wait for the same runs.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let plain = queries().into_iter();
    let mut names: Vec<String> = plain.chain(WINNING.iter().map(|name| format!("retracted::{name}"))).collect();
    if let Ok(only) = std::env::var("HEADWATER_TEST_NEXMARK_QUERIES") {
        names.retain(|name| only.split_whitespace().any(|one| one == name));
    }
    let wanted = |name: &str| {
        let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
        arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
    };
    let selected: BTreeSet<String> = names.iter().filter(|name| wanted(name)).cloned().collect();
    let trials = names.iter().map(|name| {
        let (name, selected) = (name.clone(), selected.clone());
        Trial::test(name.clone(), move || match outcomes(&selected, name.starts_with("retracted::")) {
            Ok(all) => all[&name].clone().map_err(Failed::from),
            Err(error) => Err(Failed::from(error)),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

type Outcomes = BTreeMap<String, std::result::Result<(), String>>;

/// What became of each query, or why nothing ran. The first that asks runs them all.
fn outcomes(selected: &BTreeSet<String>, retracted: bool) -> std::result::Result<Outcomes, String> {
    static STREAMED: OnceLock<std::result::Result<Outcomes, String>> = OnceLock::new();
    static RETRACTED: OnceLock<std::result::Result<Outcomes, String>> = OnceLock::new();
    let told = |outcome: Result<Outcomes>| outcome.map_err(|error| format!("{error:#}"));
    let (of_tables, of_sources): (BTreeSet<String>, BTreeSet<String>) =
        selected.iter().cloned().partition(|name| name.starts_with("retracted::"));
    if retracted {
        RETRACTED.get_or_init(|| told(in_runtime(retract(&of_tables)))).clone()
    } else {
        STREAMED.get_or_init(|| told(in_runtime(stream(&of_sources)))).clone()
    }
}

fn events() -> u64 {
    std::env::var("HEADWATER_TEST_NEXMARK_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(EVENTS)
}

fn folder() -> PathBuf {
    slt::repository().join("bench/nexmark")
}

/// The names of the queries, in their order.
fn queries() -> Vec<String> {
    let number = |path: &Path| path.file_stem()?.to_str()?.strip_prefix('q')?.parse::<u32>().ok();
    let entries = std::fs::read_dir(folder()).expect("bench/nexmark can be read");
    let mut numbers: Vec<u32> = entries.filter_map(|entry| number(&entry.expect("an entry").path())).collect();
    numbers.sort_unstable();
    numbers.iter().map(|number| format!("q{number}")).collect()
}

fn text_of(file: &str) -> Result<String> {
    let path = folder().join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The text that Postgres answers.
fn batch_text_of(query: &str) -> Result<String> {
    let own = format!("batch/{query}.sql");
    if folder().join(&own).exists() { text_of(&own) } else { text_of(&format!("{query}.sql")) }
}

/// However long it takes: a million events may take minutes.
async fn say(client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|error| match error.as_db_error() {
        Some(told) => anyhow!("{} {}: {sql}", told.code().code(), told.message()),
        None => anyhow!("{error}: {sql}"),
    })
}

/// The statements of `tables.sql`, with our events instead of endless ones.
fn sources() -> Result<Vec<String>> {
    let events = events();
    ensure!(events.is_multiple_of(50) && events > 0, "events come in groups of 50");
    let options = format!(
        "nexmark.event.num = '{events}', nexmark.min.event.gap.in.ns = '{}', nexmark.base.time = '{BASE_TIME}', nexmark.split.num = '3', \
         nexmark.events.per.second = '0'",
        SPAN_NS / events
    );
    let statements = slt::markdown::statements(&text_of("tables.sql")?);
    Ok(statements.into_iter().map(|it| it.sql.replace("nexmark.events.per.second = '0'", &options)).collect())
}

/// The same relations on Postgres.
fn plain_tables() -> Result<Vec<String>> {
    let plain = |statement: String| match statement.split_once("\nWITH (connector") {
        Some((columns, _)) => columns.replace("CREATE SOURCE", "CREATE TABLE"),
        None => statement,
    };
    Ok(sources()?.into_iter().map(plain).collect())
}

/// Both servers, and Postgres with tables for the events.
async fn start(directory: &Path, name: &str) -> Result<Both> {
    let both = Both::start(directory, name).await?;
    for statement in plain_tables()? {
        say(&both.theirs, &statement).await?;
    }
    Ok(both)
}

/// Views over sources, which only ever add rows.
async fn stream(selected: &BTreeSet<String>) -> Result<Outcomes> {
    let directory = tempfile::tempdir()?;
    let both = start(directory.path(), "nexmark").await?;
    for statement in sources()? {
        say(&both.ours, &statement).await?;
    }
    let mut outcomes = Outcomes::new();
    for query in selected {
        let text = text_of(&format!("{query}.sql"))?;
        let created = say(&both.ours, &format!("CREATE MATERIALIZED VIEW {query} AS {text}")).await;
        outcomes.insert(query.clone(), created.map_err(|error| format!("refused: {error}")));
    }
    for (table, _, share) in TABLES {
        say(&both.ours, &format!("CREATE MATERIALIZED VIEW all_{table} AS SELECT * FROM {table}")).await?;
        wait_for(&both.ours, &format!("all_{table}"), events() / 50 * share).await?;
    }
    // All that was read is now visible everywhere.
    say(&both.ours, "FLUSH").await?;
    for (table, ..) in TABLES {
        let rows = copy_out(&both.ours, &format!("SELECT * FROM all_{table}")).await?;
        copy_in(&both.theirs, table, "", rows).await?;
    }
    say(&both.theirs, "CREATE INDEX ON bid (auction); CREATE INDEX ON bid (bidder); ANALYZE").await?;
    let mut known = Known::read()?;
    for (query, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.is_ok()) {
        let checked = compare(&both, query).await.and_then(|rows| known.check(query, &rows));
        *outcome = checked.map_err(|error| format!("{error:#}"));
    }
    known.write()?;
    both.stop().await?;
    Ok(outcomes)
}

async fn wait_for(client: &Client, relation: &str, n_rows: u64) -> Result<()> {
    let started = Instant::now();
    loop {
        let n = client.query_one(&format!("SELECT count(*) FROM {relation}"), &[]).await?.get::<_, i64>(0) as u64;
        if n == n_rows {
            return Ok(());
        }
        ensure!(n < n_rows && started.elapsed() < PATIENCE, "{relation} has {n} rows of {n_rows}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn compare(both: &Both, query: &str) -> Result<Rows> {
    let expected = Rows::of(&both.theirs, &batch_text_of(query)?).await.context("Postgres")?;
    let came = Rows::of(&both.ours, &format!("SELECT * FROM {query}")).await?;
    came.check_equal(&expected)?;
    if came.is_empty() {
        bail!("the answer is empty, which proves nothing");
    }
    Ok(came)
}

/// The committed answers: `events query rows hash`, one per line.
struct Known {
    lines: BTreeMap<(u64, u32), (usize, String)>,
    changed: bool,
}

impl Known {
    fn path() -> PathBuf {
        folder().join("answers.txt")
    }

    fn read() -> Result<Known> {
        let mut lines = BTreeMap::new();
        for line in std::fs::read_to_string(Known::path())?.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [events, query, rows, hash] = words[..] else { bail!("answers.txt: {line:?}") };
            lines.insert((events.parse()?, query[1..].parse()?), (rows.parse()?, hash.to_string()));
        }
        Ok(Known { lines, changed: false })
    }

    fn check(&mut self, query: &str, rows: &Rows) -> Result<()> {
        let key = (events(), query[1..].parse()?);
        let found = (rows.len(), format!("{:016x}", rows.hash()));
        match self.lines.get(&key) {
            Some(known) if *known == found => return Ok(()),
            _ if std::env::var_os("UPDATE_EXPECT").is_some() => {}
            // Any number of events can be tried; what is committed must stay as it is.
            None if events() != EVENTS => return Ok(()),
            known => {
                bail!("the answer is no longer the committed one: {found:?}, {known:?} (see bench/nexmark/answers.txt)")
            }
        }
        self.lines.insert(key, found);
        self.changed = true;
        Ok(())
    }

    fn write(&self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut text = String::from("# events query rows hash: xxh3 of the sorted rows, as COPY writes them\n");
        for ((events, query), (rows, hash)) in &self.lines {
            text.push_str(&format!("{events} q{query} {rows} {hash}\n"));
        }
        Ok(std::fs::write(Known::path(), text)?)
    }
}

/// Views over tables, from which the winning bids are deleted.
async fn retract(selected: &BTreeSet<String>) -> Result<Outcomes> {
    let directory = tempfile::tempdir()?;
    let both = start(directory.path(), "nexmark_retracted").await?;
    for statement in sources()?.iter().filter(|statement| statement.starts_with("CREATE SOURCE")) {
        say(&both.ours, &statement.replacen("CREATE SOURCE ", "CREATE SOURCE made_", 1)).await?;
    }
    for (table, _, share) in TABLES {
        say(&both.ours, &format!("CREATE MATERIALIZED VIEW all_{table} AS SELECT * FROM made_{table}")).await?;
        wait_for(&both.ours, &format!("all_{table}"), events() / 50 * share).await?;
    }
    for statement in plain_tables()?.iter().filter(|statement| statement.starts_with("CREATE TABLE")) {
        say(&both.ours, &statement.replace("CREATE TABLE bid (", "CREATE TABLE bid (number bigint PRIMARY KEY, "))
            .await?;
    }
    say(&both.theirs, "DROP TABLE bid; CREATE TABLE bid (number bigserial PRIMARY KEY, auction bigint, bidder bigint, price bigint, channel varchar, url varchar, date_time timestamp, extra varchar)").await?;
    for query in selected {
        let name = &query["retracted::".len()..];
        say(&both.ours, &format!("CREATE MATERIALIZED VIEW {name} AS {}", text_of(&format!("{name}.sql"))?)).await?;
    }
    let columns = "bid (auction, bidder, price, channel, url, date_time, extra)";
    for (table, into) in [("auction", "auction"), ("bid", columns)] {
        let rows = copy_out(&both.ours, &format!("SELECT * FROM all_{table}")).await?;
        copy_in(&both.theirs, into, "", rows).await?;
        copy_in(&both.ours, table, "", copy_out(&both.theirs, &format!("SELECT * FROM {table}")).await?).await?;
    }
    say(&both.theirs, "CREATE INDEX ON bid (auction); ANALYZE").await?;
    let mut outcomes: Outcomes = selected.iter().map(|query| (query.clone(), Ok(()))).collect();
    for round in 0..5 {
        for (query, outcome) in outcomes.iter_mut().filter(|(_, outcome)| outcome.is_ok()) {
            let checked = compare(&both, &query["retracted::".len()..]).await;
            *outcome = checked.map(|_| ()).map_err(|error| format!("round {round}: {error:#}"));
        }
        let winners = both
            .theirs
            .query(
                "SELECT DISTINCT ON (a.id) b.number FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires \
                 ORDER BY a.id, b.price DESC, b.date_time, b.bidder, b.extra",
                &[],
            )
            .await?;
        ensure!(!winners.is_empty(), "no bids are left to take back");
        let numbers: Vec<String> = winners.iter().map(|row| row.get::<_, i64>(0).to_string()).collect();
        for client in [&both.ours, &both.theirs] {
            say(client, &format!("DELETE FROM bid WHERE number IN ({})", numbers.join(", "))).await?;
        }
    }
    both.stop().await?;
    Ok(outcomes)
}
