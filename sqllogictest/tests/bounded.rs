//! State that must be bounded is: an hour of event time goes through each query over watermarks, and what its operators keep is the
//! same in the last twenty minutes as it was in an earlier twenty.
//!
//! Counts, not clocks: after each simulated minute everything is flushed, and the rows and bytes of state of every operator
//! are read from `headwater_catalog.operators`. The view's own rows (`Materialize`) are the result, which may grow. Queries
//! without a bound run along and must be seen to grow, so that a measure that shows nothing is noticed.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use slt::answers::Rows;
use slt::run::{ask, in_runtime};
use slt::target::{Local, Mode, Target};
use tokio_postgres::Client;

/// Simulated minutes. Everything repeats itself after ten of them.
const MINUTES: usize = 60;
/// The minutes whose largest state is the measure, and those that may not be larger.
const EARLIER: std::ops::Range<usize> = 10..30;
const LATER: std::ops::Range<usize> = 40..60;
/// Rows of each table in a minute.
const ROWS: usize = 60;

const TABLES: &[&str] = &[
    "CREATE TABLE bids (id bigint, auction bigint, burst bigint, price bigint, at timestamp, WATERMARK FOR at AS at - INTERVAL '5 seconds') APPEND ONLY",
    "CREATE TABLE clicks (id bigint, auction bigint, at timestamp, WATERMARK FOR at AS at - INTERVAL '5 seconds') APPEND ONLY",
    "CREATE TABLE rates (auction bigint PRIMARY KEY, rate bigint, at timestamp, WATERMARK FOR at AS at)",
];

/// The queries whose state a watermark or their own nature bounds.
const BOUNDED: &[(&str, &str)] = &[
    (
        "tumble",
        "SELECT window_start, auction, count(*) AS n, max(price) AS top FROM TUMBLE(bids, at, INTERVAL '1 minute') GROUP BY window_start, auction",
    ),
    (
        "tumble_on_close",
        "SELECT window_start, auction, sum(price) AS total FROM TUMBLE(bids, at, INTERVAL '1 minute') GROUP BY window_start, auction \
         EMIT ON WINDOW CLOSE",
    ),
    (
        "distinct_of_tumble",
        "SELECT window_start, count(DISTINCT price) AS n FROM TUMBLE(bids, at, INTERVAL '2 minutes') GROUP BY window_start",
    ),
    (
        "hop",
        "SELECT window_start, window_end, auction, avg(price) AS mean FROM HOP(bids, at, INTERVAL '1 minute', INTERVAL '5 minutes') \
         GROUP BY window_start, window_end, auction",
    ),
    (
        "cumulate",
        "SELECT window_start, window_end, min(price) AS low FROM CUMULATE(bids, at, INTERVAL '1 minute', INTERVAL '5 minutes') \
         GROUP BY window_start, window_end",
    ),
    ("by_time", "SELECT date_trunc('minute', at) AS minute, count(*) AS n FROM bids GROUP BY 1"),
    ("distinct_times", "SELECT DISTINCT auction, date_trunc('minute', at) AS minute FROM bids"),
    (
        "interval_join",
        "SELECT b.id, c.id AS click FROM bids b JOIN clicks c ON b.auction = c.auction \
         AND c.at BETWEEN b.at - INTERVAL '30 seconds' AND b.at + INTERVAL '1 minute'",
    ),
    (
        "window_join",
        "SELECT b.id, c.id AS click FROM TUMBLE(bids, at, INTERVAL '1 minute') b JOIN TUMBLE(clicks, at, INTERVAL '1 minute') c \
         ON b.auction = c.auction AND b.window_start = c.window_start AND b.window_end = c.window_end",
    ),
    (
        "processing_time_join",
        "SELECT b.id, b.price * r.rate AS worth FROM bids b JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON b.auction = r.auction",
    ),
    (
        "event_time_join",
        "SELECT b.id, b.price * r.rate AS worth FROM bids b JOIN rates FOR SYSTEM_TIME AS OF b.at AS r ON b.auction = r.auction",
    ),
    (
        "session",
        "SELECT burst, window_start, window_end, count(*) AS n FROM SESSION(bids, at, INTERVAL '10 seconds' PARTITION BY burst) \
         GROUP BY burst, window_start, window_end",
    ),
    (
        "session_on_close",
        "SELECT burst, window_start, window_end, sum(price) AS total FROM SESSION(bids, at, INTERVAL '10 seconds' PARTITION BY burst) \
         GROUP BY burst, window_start, window_end EMIT ON WINDOW CLOSE",
    ),
    (
        "top_of_window",
        "SELECT window_start, id, price FROM (SELECT window_start, id, price, row_number() OVER (PARTITION BY window_start ORDER BY price DESC, id) AS n \
         FROM TUMBLE(bids, at, INTERVAL '1 minute')) AS ranked WHERE n <= 3",
    ),
    (
        "ranks_in_window",
        "SELECT window_start, id, rank() OVER (PARTITION BY window_start ORDER BY price), sum(price) OVER (PARTITION BY window_start, auction) AS total \
         FROM TUMBLE(bids, at, INTERVAL '1 minute')",
    ),
    (
        "first_of_time",
        "SELECT DISTINCT ON (date_trunc('minute', at)) date_trunc('minute', at) AS minute, id FROM bids ORDER BY date_trunc('minute', at), id",
    ),
    (
        "minus",
        "SELECT auction, date_trunc('minute', at) AS minute FROM bids EXCEPT SELECT auction, date_trunc('minute', at) FROM clicks",
    ),
    (
        "intersect_all",
        "SELECT auction, date_trunc('minute', at) AS minute FROM bids INTERSECT ALL SELECT auction, date_trunc('minute', at) FROM clicks",
    ),
    ("top", "SELECT id, price FROM bids ORDER BY price DESC, id LIMIT 10"),
    (
        "top_of_each",
        "SELECT auction, id, price FROM (SELECT auction, id, price, row_number() OVER (PARTITION BY auction ORDER BY price DESC, id) AS n \
         FROM bids) AS ranked WHERE n <= 3",
    ),
    ("first_of_each", "SELECT DISTINCT ON (auction) auction, id, at FROM bids ORDER BY auction, at, id"),
];

/// Queries that nothing bounds.
const GROWING: &[(&str, &str)] = &[
    ("any_join", "SELECT b.id, c.id AS click FROM bids b JOIN clicks c ON b.id = c.id"),
    ("all_prices", "SELECT id, count(*) AS n FROM bids GROUP BY id"),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // They wait for the same run.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let names = BOUNDED.iter().chain(GROWING).map(|(name, _)| *name);
    let trials = names.map(|name| {
        Trial::test(name, move || match outcomes() {
            Ok(all) => all[name].clone().map_err(Failed::from),
            Err(error) => Err(Failed::from(error)),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

type Outcomes = BTreeMap<&'static str, std::result::Result<(), String>>;

fn outcomes() -> std::result::Result<Outcomes, String> {
    static OUTCOMES: OnceLock<std::result::Result<Outcomes, String>> = OnceLock::new();
    OUTCOMES.get_or_init(|| in_runtime(run()).map_err(|error| format!("{error:#}"))).clone()
}

/// Rows and bytes of state.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    rows: i64,
    bytes: i64,
}

impl Size {
    fn max(self, other: Size) -> Size {
        Size { rows: self.rows.max(other.rows), bytes: self.bytes.max(other.bytes) }
    }
}

/// What each operator of each view kept, minute by minute: view, then number and name of the operator.
type History = BTreeMap<String, BTreeMap<(i32, String), Vec<Size>>>;

async fn say(client: &Client, sql: &str) -> Result<()> {
    ask(client, sql).await.map_err(|failure| anyhow!("{} {}: {sql}", failure.code, failure.message))?;
    Ok(())
}

async fn run() -> Result<Outcomes> {
    let directory = tempfile::tempdir()?;
    let target = Target::Headwater(Box::new(Local::start(&directory.path().join("data"), Mode::TwoWorkers).await?));
    let client = target.connect().await?;
    for table in TABLES {
        say(&client, table).await?;
    }
    let mut outcomes = Outcomes::new();
    for (name, query) in BOUNDED.iter().chain(GROWING) {
        let created = say(&client, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
        outcomes.insert(name, created.map_err(|error| format!("{error:#}")));
    }
    let mut history = History::new();
    for minute in 0..MINUTES {
        a_minute(&client, minute).await?;
        measure(&client, &mut history, minute).await?;
    }
    let bounded = BOUNDED.iter().map(|query| (query, true)).chain(GROWING.iter().map(|query| (query, false)));
    for ((name, query), bounded) in bounded {
        let Some(outcome) = outcomes.get_mut(name).filter(|outcome| outcome.is_ok()) else { continue };
        let checked = match history.get(*name) {
            None => Err(anyhow!("it has no operators")),
            Some(operators) if bounded => flat(operators),
            Some(operators) => grows(operators),
        };
        let checked = match checked {
            Ok(()) => same_as_read(&client, name, query).await,
            failed => failed,
        };
        *outcome = checked.map_err(|error| format!("{error:#}"));
    }
    drop(client);
    target.stop().await?;
    Ok(outcomes)
}

/// What happens in one minute: rows half a second to a second apart, each table in turn, some out of order; all of it is visible
/// at the end.
async fn a_minute(client: &Client, minute: usize) -> Result<()> {
    for half in [2 * minute, 2 * minute + 1] {
        let (first, last) = (half * ROWS / 2, (half + 1) * ROWS / 2 - 1);
        let at = "TIMESTAMP '2024-03-31 00:30:00' + n * INTERVAL '1 second' - (n % 3) * INTERVAL '1 second'";
        say(
            client,
            &format!(
                "INSERT INTO bids SELECT n, n % 7, n / 20 % 10, n * 7919 % 600 % 101, {at} FROM generate_series({first}, {last}) AS s(n)"
            ),
        )
        .await?;
        say(client, &format!("INSERT INTO clicks SELECT n, n % 5, {at} FROM generate_series({first}, {last}) AS s(n)"))
            .await?;
        let changes = if half == 0 {
            "INSERT INTO rates SELECT n, n, TIMESTAMP '2024-03-31 00:00:00' FROM generate_series(0, 6) AS s(n)"
                .to_string()
        } else {
            format!(
                "UPDATE rates SET rate = rate % 100 + 1, at = TIMESTAMP '2024-03-31 00:30:00' + {last} * INTERVAL '1 second' \
                 WHERE auction = {} OR auction = {}",
                half % 7,
                (half + 3) % 7
            )
        };
        say(client, &changes).await?;
    }
    say(client, "FLUSH").await
}

async fn measure(client: &Client, history: &mut History, minute: usize) -> Result<()> {
    let sql = "SELECT name, node, operator, state_rows, state_bytes FROM headwater_catalog.operators WHERE operator <> 'Materialize'";
    for row in client.query(sql, &[]).await? {
        let operators = history.entry(row.get(0)).or_default();
        let sizes = operators.entry((row.get(1), row.get(2))).or_default();
        ensure!(sizes.len() == minute, "an operator of {} was not there all the time", row.get::<_, String>(0));
        sizes.push(Size { rows: row.get(3), bytes: row.get(4) });
    }
    Ok(())
}

fn largest(sizes: &[Size]) -> Size {
    sizes.iter().fold(Size::default(), |largest, size| largest.max(*size))
}

/// Every operator keeps no more at the end than it did; some operator keeps something.
fn flat(operators: &BTreeMap<(i32, String), Vec<Size>>) -> Result<()> {
    let mut n_rows = 0;
    for ((node, operator), sizes) in operators {
        let (earlier, later) = (largest(&sizes[EARLIER]), largest(&sizes[LATER]));
        let told = || {
            let rows: Vec<i64> = sizes.iter().map(|size| size.rows).collect();
            format!("{operator} (node {node}): {earlier:?}, then {later:?}; rows by minute {rows:?}")
        };
        ensure!(later.rows <= earlier.rows, "the rows of state grow: {}", told());
        // Tables in memory grow by doubling: one more step is no growth, an hour of rows would be several.
        ensure!(later.bytes <= earlier.bytes * 2, "the bytes of state grow: {}", told());
        n_rows += later.rows;
    }
    let all = (MINUTES * ROWS) as i64;
    ensure!(n_rows > 0, "no operator keeps anything, so there is nothing to bound");
    ensure!(n_rows < all / 2, "its operators keep {n_rows} rows of {all} that came: that is no bound");
    Ok(())
}

/// Some operator keeps all the time more.
fn grows(operators: &BTreeMap<(i32, String), Vec<Size>>) -> Result<()> {
    let grew = operators.values().any(|sizes| largest(&sizes[LATER]).rows > largest(&sizes[EARLIER]).rows * 3 / 2);
    ensure!(grew, "nothing is seen to grow: {operators:?}");
    Ok(())
}

/// What was dropped is not missed: the view is what a read of its query answers now.
async fn same_as_read(client: &Client, name: &str, query: &str) -> Result<()> {
    let came = Rows::of(client, &format!("SELECT * FROM {name}")).await?;
    ensure!(!came.is_empty(), "it is empty, which proves nothing");
    // What a window's close or the moment decides, a read of the query does not know.
    if query.contains("EMIT") || query.contains("SYSTEM_TIME") {
        return Ok(());
    }
    came.check_equal(&Rows::of(client, query).await.context("as a read")?)
}
