//! TPC-H's 22 queries as materialized views over tables, while orders and line items are inserted, updated and deleted: after
//! every step each view holds what a real Postgres answers to its query over the same tables.
//!
//! All queries stand over one pair of servers and go through the same steps; each is a test of its own, which tells the
//! first step after which its view was wrong. `HEADWATER_TEST_TPCH_SCALE` (0.01, at least: below, TPC-H's own keys are not
//! unique), `HEADWATER_TEST_TPCH_ORDERS` (one order of so many is used), `HEADWATER_TEST_TPCH_ROUNDS` and
//! `HEADWATER_TEST_SEED` change what is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use libtest_mimic::{Arguments, Failed, Trial};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::answers::Rows;
use slt::both::Both;
use slt::run::{ask, in_runtime};
use tpchgen::generators as made;

/// How TPC-H's own lines are read.
const BARS: &str = "DELIMITER '|'";
/// How many queries TPC-H has.
const QUERIES: usize = 22;

fn main() {
    let mut arguments = Arguments::from_args();
    // They all wait for the one run.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let wanted = |name: &str| {
        let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
        arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
    };
    let names: Vec<String> = (1..=QUERIES).map(|number| format!("q{number}")).collect();
    let selected: BTreeSet<String> = names.iter().filter(|name| wanted(name)).cloned().collect();
    let trials = names.iter().map(|name| {
        let (name, selected) = (name.clone(), selected.clone());
        Trial::test(name.clone(), move || {
            match outcomes(&selected).and_then(|all| {
                all.get(&name)
                    .cloned()
                    .with_context(|| format!("{name} did not run"))
                    .map_err(|error| format!("{error:#}"))
            }) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) | Err(error) => Err(Failed::from(error)),
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

type Outcomes = BTreeMap<String, std::result::Result<(), String>>;

/// What became of each query, or why nothing ran. The first that asks runs them all.
fn outcomes(selected: &BTreeSet<String>) -> std::result::Result<Outcomes, String> {
    static OUTCOMES: OnceLock<std::result::Result<Outcomes, String>> = OnceLock::new();
    OUTCOMES.get_or_init(|| in_runtime(run(selected)).map_err(|error| format!("{error:#}"))).clone()
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn text_of(file: &str) -> Result<String> {
    let path: PathBuf = slt::repository().join("bench/tpch").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The rows of a table as `COPY` reads them: TPC-H's own lines without the last bar.
fn lines(rows: impl Iterator<Item = String>) -> Bytes {
    let mut text = String::new();
    for row in rows {
        text.push_str(row.strip_suffix('|').unwrap_or(&row));
        text.push('\n');
    }
    text.into()
}

/// Orders and their line items: those that are there at first, and those that the refresh function brings.
struct Orders {
    scale: f64,
    every: i64,
}

impl Orders {
    /// The orders of one part in four: `part` 0 to 2 are there at first, 3 comes later.
    fn orders(&self, parts: &[i64]) -> Bytes {
        let generator = made::OrderGenerator::new(self.scale, 1, 1);
        let rows = generator.iter().filter(|row| self.is_in(row.o_orderkey, parts)).map(|row| row.to_string());
        lines(rows)
    }

    fn items(&self, parts: &[i64]) -> Bytes {
        let generator = made::LineItemGenerator::new(self.scale, 1, 1);
        let rows = generator.iter().filter(|row| self.is_in(row.l_orderkey, parts)).map(|row| row.to_string());
        lines(rows)
    }

    fn is_in(&self, key: i64, parts: &[i64]) -> bool {
        // Keys come eight at a time, then 24 are left out.
        let order = key / 32 * 8 + key % 8;
        order % self.every == 0 && parts.contains(&(order / self.every % 4))
    }
}

/// A view that is followed.
struct Followed {
    sql: String,
    outcome: std::result::Result<(), String>,
    /// Whether it ever held a row, and how often it changed.
    had_rows: bool,
    last: Option<Rows>,
    n_changes: usize,
}

async fn run(selected: &BTreeSet<String>) -> Result<Outcomes> {
    let scale = number("HEADWATER_TEST_TPCH_SCALE", 0.01);
    let seed: u64 = number("HEADWATER_TEST_SEED", 22);
    let rounds: usize = number("HEADWATER_TEST_TPCH_ROUNDS", 1);
    let orders = Orders { scale, every: number("HEADWATER_TEST_TPCH_ORDERS", 12) };
    let directory = tempfile::tempdir()?;
    let mut both = Both::start(directory.path(), "tpch").await?;
    for statement in slt::markdown::statements(&text_of("tables.sql")?) {
        both.both(&statement.sql).await?;
    }
    ask(&both.theirs, "CREATE INDEX ON lineitem (l_partkey)").await.map_err(|failure| anyhow!(failure.message))?;
    both.copy("region", BARS, lines(made::RegionGenerator::new(scale, 1, 1).iter().map(|row| row.to_string()))).await?;
    both.copy("nation", BARS, lines(made::NationGenerator::new(scale, 1, 1).iter().map(|row| row.to_string()))).await?;
    both.copy("supplier", BARS, lines(made::SupplierGenerator::new(scale, 1, 1).iter().map(|row| row.to_string())))
        .await?;
    both.copy("part", BARS, lines(made::PartGenerator::new(scale, 1, 1).iter().map(|row| row.to_string()))).await?;
    both.copy("partsupp", BARS, lines(made::PartSuppGenerator::new(scale, 1, 1).iter().map(|row| row.to_string())))
        .await?;
    both.copy("customer", BARS, lines(made::CustomerGenerator::new(scale, 1, 1).iter().map(|row| row.to_string())))
        .await?;
    both.copy("orders", BARS, orders.orders(&[0, 1])).await?;
    both.copy("lineitem", BARS, orders.items(&[0, 1])).await?;
    ask(&both.theirs, "ANALYZE").await.map_err(|failure| anyhow!(failure.message))?;

    let mut views: BTreeMap<String, Followed> = BTreeMap::new();
    for name in selected {
        let sql = text_of(&format!("{name}.sql"))?;
        let created = ask(&both.ours, &format!("CREATE MATERIALIZED VIEW {name} AS {sql}")).await;
        let outcome = created.map(|_| ()).map_err(|failure| format!("refused: {} {}", failure.code, failure.message));
        let (had_rows, last, n_changes) = (false, None, 0);
        views.insert(name.clone(), Followed { sql, outcome, had_rows, last, n_changes });
    }
    check(&both, &mut views, "the rows that were there").await?;
    check_reads(&both, &mut views).await;
    // The refresh functions: new orders with their items, then old ones leave.
    both.copy("orders", BARS, orders.orders(&[2])).await?;
    both.copy("lineitem", BARS, orders.items(&[2])).await?;
    check(&both, &mut views, "new orders").await?;
    both.both("DELETE FROM lineitem WHERE l_orderkey % 128 < 32").await?;
    both.both("DELETE FROM orders WHERE o_orderkey % 128 < 32").await?;
    check(&both, &mut views, "old orders that leave").await?;

    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..rounds {
        for (step, statements) in changes(&mut random, round).into_iter().enumerate() {
            for sql in &statements {
                both.both(sql).await?;
            }
            check(&both, &mut views, &format!("round {round}, step {step}: {}", statements.join("; "))).await?;
        }
        both.crash().await?;
        check(&both, &mut views, &format!("round {round}, a crash")).await?;
    }
    both.both("DELETE FROM lineitem").await?;
    check(&both, &mut views, "no items any more").await?;
    both.copy("lineitem", BARS, orders.items(&[1, 3])).await?;
    both.copy("orders", BARS, orders.orders(&[3])).await?;
    check(&both, &mut views, "items again, some without an order").await?;
    both.both("DELETE FROM supplier").await?;
    both.both("DELETE FROM customer WHERE c_custkey % 2 = 0").await?;
    check(&both, &mut views, "no suppliers, half of the customers").await?;
    both.stop().await?;

    let told = |(name, view): (String, Followed)| {
        let outcome = view.outcome.and_then(|()| {
            // A view that stays empty or as it was proves nothing.
            let moved = view.had_rows && view.n_changes >= 3;
            if moved { Ok(()) } else { Err(format!("its answer changed only {} times", view.n_changes)) }
        });
        (name, outcome)
    };
    Ok(views.into_iter().map(told).collect())
}

/// Compares every view that was right until now.
async fn check(both: &Both, views: &mut BTreeMap<String, Followed>, after: &str) -> Result<()> {
    let started = std::time::Instant::now();
    for (name, view) in views.iter_mut().filter(|(_, view)| view.outcome.is_ok()) {
        let expected = Rows::of(&both.theirs, &view.sql).await.context("Postgres")?;
        let outcome = match Rows::of(&both.ours, &format!("SELECT * FROM {name}")).await {
            Ok(came) => came.check_equal(&expected),
            Err(error) => Err(error),
        };
        view.outcome = outcome.map_err(|error| format!("after {after}: {error:#}"));
        view.had_rows |= !expected.is_empty();
        view.n_changes += usize::from(view.last.as_ref().is_some_and(|last| *last != expected));
        view.last = Some(expected);
    }
    if std::env::var_os("HEADWATER_TEST_VERBOSE").is_some() {
        eprintln!("checked in {:?} after {after}", started.elapsed());
    }
    Ok(())
}

/// A read of the query answers the same as the view.
async fn check_reads(both: &Both, views: &mut BTreeMap<String, Followed>) {
    for (name, view) in views.iter_mut().filter(|(_, view)| view.outcome.is_ok()) {
        let Some(expected) = &view.last else { continue };
        let outcome = match Rows::of(&both.ours, &view.sql).await {
            Ok(came) => came.check_equal(expected),
            Err(error) => Err(error),
        };
        view.outcome = outcome.map_err(|error| format!("{name} as a read: {error:#}"));
    }
}

/// A few random changes, in steps. A condition on a hash of the key picks the rows, the same ones on both servers.
fn changes(random: &mut StdRng, round: usize) -> Vec<Vec<String>> {
    let mut pick = |keys: &str, of: u32| -> String {
        let hash: Vec<String> =
            keys.split(' ').map(|key| format!("{key} * {}", random.random_range(1000..1_000_000) * 2 + 1)).collect();
        format!("({}) % {of} = {}", hash.join(" + "), random.random_range(0..of))
    };
    let item = "l_orderkey l_linenumber";
    let changes = [
        vec![
            format!("UPDATE lineitem SET l_quantity = 51 - l_quantity WHERE {}", pick(item, 5)),
            format!(
                "UPDATE lineitem SET l_discount = 0.1 - l_discount, l_tax = 0.08 - l_tax, l_extendedprice = l_extendedprice + 0.01 WHERE {}",
                pick(item, 5)
            ),
        ],
        vec![
            format!(
                "UPDATE lineitem SET l_shipdate = l_shipdate + 200, l_receiptdate = l_receiptdate + 170 WHERE {}",
                pick(item, 7)
            ),
            format!(
                "UPDATE lineitem SET l_commitdate = l_commitdate - 100, l_shipmode = 'MAIL' WHERE {}",
                pick(item, 7)
            ),
            format!(
                "UPDATE orders SET o_orderdate = o_orderdate - 90, o_orderpriority = '2-HIGH' WHERE {}",
                pick("o_orderkey", 4)
            ),
        ],
        vec![
            format!("UPDATE orders SET o_custkey = o_custkey % 300 + 1 WHERE {}", pick("o_orderkey", 6)),
            format!(
                "UPDATE orders SET o_comment = 'special packages requests', o_orderstatus = 'F' WHERE {}",
                pick("o_orderkey", 6)
            ),
            format!("UPDATE lineitem SET l_returnflag = 'R', l_linestatus = 'F' WHERE {}", pick(item, 9)),
            format!("DELETE FROM lineitem WHERE {}", pick(item, 11)),
        ],
        vec![
            format!(
                "INSERT INTO lineitem SELECT l_orderkey, l_partkey, l_suppkey, l_linenumber + {}, l_quantity + 1, l_extendedprice, l_discount, \
                 l_tax, l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate + 60, l_shipinstruct, l_shipmode, l_comment \
                 FROM lineitem WHERE l_linenumber < 100 AND {}",
                (round + 1) * 100,
                pick(item, 8)
            ),
            format!(
                "UPDATE lineitem SET l_suppkey = l_suppkey % 100 + 1, l_partkey = l_partkey % 200 + 1 WHERE {}",
                pick(item, 6)
            ),
            format!("DELETE FROM orders WHERE {}", pick("o_orderkey", 12)),
        ],
        vec![
            format!(
                "UPDATE customer SET c_acctbal = c_acctbal * -1, c_mktsegment = 'BUILDING' WHERE {}",
                pick("c_custkey", 5)
            ),
            format!(
                "UPDATE part SET p_brand = 'Brand#23', p_container = 'MED BOX', p_size = 9 WHERE {}",
                pick("p_partkey", 9)
            ),
            format!(
                "UPDATE part SET p_type = 'PROMO BURNISHED BRASS', p_name = 'forest green' WHERE {}",
                pick("p_partkey", 9)
            ),
            format!(
                "UPDATE partsupp SET ps_supplycost = ps_supplycost - 0.5, ps_availqty = ps_availqty % 20 WHERE {}",
                pick("ps_partkey ps_suppkey", 3)
            ),
            format!("UPDATE supplier SET s_nationkey = (s_nationkey + 1) % 25 WHERE {}", pick("s_suppkey", 4)),
            format!(
                "UPDATE supplier SET s_comment = 'Customer and Complaints', s_acctbal = s_acctbal + 7 WHERE {}",
                pick("s_suppkey", 9)
            ),
        ],
        vec![
            "UPDATE nation SET n_regionkey = (n_regionkey + 1) % 5 WHERE n_nationkey % 3 = 1".to_string(),
            format!("DELETE FROM partsupp WHERE {}", pick("ps_partkey ps_suppkey", 13)),
            format!("DELETE FROM customer WHERE {}", pick("c_custkey", 13)),
        ],
    ];
    changes.into()
}
