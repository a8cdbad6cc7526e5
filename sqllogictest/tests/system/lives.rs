//! The lives of a data directory: killed at random moments, with another number of workers each time, while clients write
//! and truncate a table, files grow, a generator runs, and views over all of them and over each other come and go.
//!
//! After every start, and again and again while everything moves, each view equals its own query in one SELECT.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::process::Start;
use slt::run::{Failure, ask};
use tokio_postgres::Client;

use crate::orders::{eventually, rows};

/// Events of the generator; 46 of 50 are bids.
const N_EVENTS: u64 = 40_000;
const N_BIDS: u64 = N_EVENTS / 50 * 46;

/// Views that come and go. `BID` and `LINE` stand for the source when the view is made, and for a view that keeps all its
/// rows when it is checked.
const VIEWS: &[(&str, &str)] = &[
    ("groups", "SELECT DISTINCT g FROM t"),
    ("pairs", "SELECT a.g, count(*) AS n FROM t a JOIN t b ON a.g = b.g GROUP BY a.g"),
    ("largest", "SELECT max(s) AS m, count(*) AS n FROM by_g"),
    ("best", "SELECT g, s FROM by_g ORDER BY s DESC NULLS LAST, g LIMIT 5"),
    ("by_auction", "SELECT auction % 50 AS a, count(*) AS n, sum(price) AS p FROM BID GROUP BY auction % 50"),
    ("lines", "SELECT k % 10 AS d, count(*) AS n, sum(k) AS s FROM LINE GROUP BY k % 10"),
    ("sides", "SELECT g, x.n AS rows, y.n AS bids FROM by_g x LEFT JOIN by_bidder y ON x.g = y.b"),
    ("three", "SELECT k % 10 AS d, count(*) AS n FROM LINE JOIN t ON k % 40 = g GROUP BY k % 10"),
];

/// Views that are always there.
const BASE: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, g int, v int)",
    "CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g",
    "CREATE MATERIALIZED VIEW bids AS SELECT auction, bidder, price FROM bid",
    "CREATE MATERIALIZED VIEW by_bidder AS SELECT bidder % 40 AS b, count(*) AS n FROM bid GROUP BY bidder % 40",
    "CREATE MATERIALIZED VIEW all_lines AS SELECT k FROM line",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_right_in_every_life() -> Result<()> {
    let n_lives = crate::number("HEADWATER_TEST_LIVES", 8);
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let address = server.address();
    let client = server.connect().await?;
    let files = Files { folder: directory.path().join("files"), n: 0 };
    std::fs::create_dir(&files.folder)?;
    run(
        &client,
        &format!(
            "CREATE SOURCE bid (auction bigint, bidder bigint, price bigint) WITH (connector = 'nexmark', \
         nexmark.table.type = 'Bid', nexmark.event.num = '{N_EVENTS}', nexmark.split.num = '3', \
         nexmark.events.per.second = '{}')",
            N_EVENTS / (n_lives + 2)
        ),
    )
    .await?;
    run(
        &client,
        &format!("CREATE SOURCE line (k bigint) WITH (connector = 'file', path = '{}/*.json')", files.folder.display()),
    )
    .await?;
    for statement in BASE {
        run(&client, statement).await?;
    }
    drop(client);

    let mut random = StdRng::seed_from_u64(crate::seed() ^ 3);
    let mut world = World { table: BTreeMap::new(), files, views: BTreeMap::new(), n_checks: 0 };
    let mut life = 0;
    loop {
        let stop = Arc::new(AtomicBool::new(false));
        let changer = tokio::spawn(change_views(address, random.random(), world.views.clone(), stop.clone()));
        let end = tokio::time::sleep(Duration::from_millis(random.random_range(200..2500)));
        let killer = tokio::spawn(async move {
            end.await;
            server.kill().map(|()| server)
        });
        let unsure = world.live(address, &mut random).await.with_context(|| format!("in life {life}"))?;
        drop(killer.await??);
        stop.store(true, Ordering::SeqCst);
        world.views = changer.await??;
        life += 1;
        start.workers = [1, 2, 4][random.random_range(0..3)];
        server = start.start().await.with_context(|| format!("life {life}"))?;
        let client = server.connect().await?;
        world.take_up(&client, unsure).await.with_context(|| format!("life {life}, {} workers", start.workers))?;
        world
            .check(&client)
            .await
            .with_context(|| format!("life {life}, {} workers\n{}", start.workers, server.log_tail()))?;
        if life == n_lives {
            break;
        }
    }
    let client = server.connect().await?;
    eventually(&client, "SELECT count(*) FROM bids", &[&N_BIDS.to_string()]).await?;
    let n = world.files.n;
    eventually(
        &client,
        "SELECT count(*), coalesce(sum(k), 0) FROM all_lines",
        &[&format!("{n}|{}", n * n.saturating_sub(1) / 2)],
    )
    .await?;
    world.check(&client).await?;
    eprintln!("{life} lives, {} checks, {} views at the end, {n} lines", world.n_checks, world.views.len());
    drop(client);
    server.stop().await
}

async fn run(client: &Client, sql: &str) -> Result<()> {
    ask(client, sql).await.map(drop).map_err(|failure| anyhow!("{} {}\n{sql}", failure.code, failure.message))
}

/// Whether the server was killed meanwhile.
fn is_gone(failure: &Failure) -> bool {
    failure.code.is_empty() || failure.code.starts_with("57") || failure.code.starts_with("08")
}

type Table = BTreeMap<i32, (i32, i32)>;

/// Files that grow: line `n` holds the number `n`.
struct Files {
    folder: PathBuf,
    n: u64,
}

impl Files {
    fn grow(&mut self, lines: u64) -> Result<()> {
        let path = self.folder.join(format!("{}.json", self.n / 700));
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        let text: String = (self.n..self.n + lines).map(|k| format!("{{\"k\": {k}}}\n")).collect();
        self.n += lines;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// What must be there.
struct World {
    table: Table,
    files: Files,
    /// Views by name; `None` for one of which it is not known whether it is there.
    views: BTreeMap<&'static str, Option<()>>,
    n_checks: u64,
}

impl World {
    /// Writes until the server is gone. Gives what the table holds if the last change, that nobody acknowledged, happened.
    async fn live(&mut self, address: SocketAddr, random: &mut StdRng) -> Result<Option<Table>> {
        let Ok(client) = slt::target::connect(address, "root", "dev").await else { return Ok(None) };
        loop {
            self.files.grow(random.random_range(0..60))?;
            let (sql, after) = self.change(random);
            match ask(&client, &sql).await {
                Ok(_) => self.table = after,
                Err(failure) if is_gone(&failure) => return Ok(Some(after)),
                Err(failure) => bail!("{} {}\n{sql:.300}", failure.code, failure.message),
            }
            if random.random_range(0..10) == 0 {
                match self.disagreements(&client, BASE_CHECKS).await {
                    Err(failure) if is_gone(&failure) => return Ok(None),
                    Err(failure) => bail!("{} {}", failure.code, failure.message),
                    Ok(wrong) if !wrong.is_empty() => bail!("while everything moves: {wrong:?}"),
                    Ok(_) => {}
                }
            }
        }
    }

    /// A statement, and the table after it.
    fn change(&self, random: &mut StdRng) -> (String, Table) {
        let mut after = self.table.clone();
        let sql = match random.random_range(0..20) {
            0 => {
                after.clear();
                "TRUNCATE t".to_string()
            }
            1..4 => {
                let g = random.random_range(0..40);
                after.retain(|_, row| row.0 != g);
                format!("DELETE FROM t WHERE g = {g}")
            }
            4..9 => {
                let (g, to) = (random.random_range(0..40), random.random_range(0..40));
                after.values_mut().filter(|row| row.0 == g).for_each(|row| *row = (to, row.1 + 1));
                format!("UPDATE t SET g = {to}, v = v + 1 WHERE g = {g}")
            }
            _ => {
                let first = after.keys().last().map_or(0, |id| id + 1);
                let new: Table = (first..first + random.random_range(1..50))
                    .map(|id| (id, (random.random_range(0..40), random.random_range(-1000..1000))))
                    .collect();
                let rows: Vec<String> = new.iter().map(|(id, (g, v))| format!("({id}, {g}, {v})")).collect();
                after.extend(new);
                format!("INSERT INTO t VALUES {}", rows.join(", "))
            }
        };
        (sql, after)
    }

    /// The table holds what was acknowledged; of the last change, all or nothing.
    async fn take_up(&mut self, client: &Client, unsure: Option<Table>) -> Result<()> {
        let there = rows(client, "SELECT id, g, v FROM t ORDER BY id").await?;
        let text = |table: &Table| table.iter().map(|(id, (g, v))| format!("{id}|{g}|{v}")).collect::<Vec<_>>();
        if there != text(&self.table) {
            match unsure {
                Some(unsure) if there == text(&unsure) => self.table = unsure,
                _ => bail!("the table has {} rows, not the {} that were acknowledged", there.len(), self.table.len()),
            }
        }
        let names = rows(client, "SELECT name FROM headwater_catalog.jobs WHERE kind LIKE 'materialized%'").await?;
        for (name, _) in VIEWS {
            let is_there = names.iter().any(|n| n == name);
            match self.views.get(name) {
                Some(Some(())) if !is_there => bail!("view {name} was created and is not there"),
                None if is_there => bail!("view {name} was dropped, or never created, and is there"),
                _ if is_there => drop(self.views.insert(name, Some(()))),
                _ => drop(self.views.remove(name)),
            }
        }
        Ok(())
    }

    /// Every view equals its query.
    async fn check(&mut self, client: &Client) -> Result<()> {
        let views: Vec<_> = VIEWS.iter().filter(|(name, _)| self.views.contains_key(name)).copied().collect();
        for checks in [BASE_CHECKS, &views] {
            let wrong = self.disagreements(client, checks).await;
            let wrong = wrong.map_err(|failure| anyhow!("{} {}", failure.code, failure.message))?;
            if !wrong.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let later =
                    self.disagreements(client, checks).await.map_err(|failure| anyhow!("{}", failure.message))?;
                bail!("{wrong:?}; and a second later: {later:?}");
            }
        }
        Ok(())
    }

    async fn disagreements(&mut self, client: &Client, views: &[(&str, &str)]) -> Result<Vec<String>, Failure> {
        let mut wrong = Vec::new();
        for (name, query) in views {
            let query = query.replace("BID", "bids").replace("LINE", "all_lines");
            let sql = format!(
                "SELECT count(*) FROM ((SELECT * FROM {name} EXCEPT ALL ({query})) \
                 UNION ALL (({query}) EXCEPT ALL SELECT * FROM {name})) AS d"
            );
            let answer = ask(client, &sql).await?;
            self.n_checks += 1;
            if answer.rows != [["0"]] {
                wrong.push(format!("{name} differs in {:?} rows", answer.rows));
            }
        }
        Ok(wrong)
    }
}

const BASE_CHECKS: &[(&str, &str)] = &[
    ("by_g", "SELECT g, count(*) AS n, sum(v) AS s FROM t GROUP BY g"),
    ("by_bidder", "SELECT bidder % 40 AS b, count(*) AS n FROM BID GROUP BY bidder % 40"),
];

/// Creates and drops views until told to stop, or the server is gone. Gives what is there then.
async fn change_views(
    address: SocketAddr,
    seed: u64,
    views: BTreeMap<&'static str, Option<()>>,
    stop: Arc<AtomicBool>,
) -> Result<BTreeMap<&'static str, Option<()>>> {
    let (mut views, mut random) = (views, StdRng::seed_from_u64(seed));
    let Ok(client) = slt::target::connect(address, "root", "dev").await else { return Ok(views) };
    let begun = Instant::now();
    while !stop.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(60) {
        let (name, query) = VIEWS[random.random_range(0..VIEWS.len())];
        let create = !views.contains_key(name);
        let sql = if create {
            format!("CREATE MATERIALIZED VIEW {name} AS {}", query.replace("BID", "bid").replace("LINE", "line"))
        } else {
            format!("DROP MATERIALIZED VIEW {name}")
        };
        match ask(&client, &sql).await {
            Ok(_) if create => drop(views.insert(name, Some(()))),
            Ok(_) => drop(views.remove(name)),
            Err(failure) if is_gone(&failure) => {
                views.insert(name, None);
                break;
            }
            Err(failure) => bail!("{} {}\n{sql}", failure.code, failure.message),
        }
    }
    Ok(views)
}
