//! A directory of every format that a server has ever written is opened by this one, answers as it did, and goes on.
//!
//! `sqllogictest/formats/N.tar.gz` is a directory of format N whose server was killed, and `N.expected` what it answered.
//! `HEADWATER_MAKE_FORMAT=1 cargo test -p slt --test system formats` makes those of this version, and is run once per format.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use slt::process::Start;
use tokio_postgres::Client;

use crate::orders::{eventually, rows, run};

/// What a directory is made of: types, operators with state, a source with offsets, an index, a view over a view.
const STATEMENTS: [&str; 18] = [
    "CREATE TABLE kinds (id int PRIMARY KEY, b boolean, s smallint, l bigint, r real, d double precision, n numeric, \
     m numeric(12,2), t text, v varchar(9), y bytea, da date, ti time, ts timestamp, tz timestamptz, i interval, u uuid, \
     j jsonb, a int[])",
    "INSERT INTO kinds VALUES (1, true, -3, 9007199254740993, 0.5, '1e300', 12345678901234567890.123, 10.5, 'text', 'nine', \
     '\\xdeadbeef', '2024-02-29', '23:59:59.5', '2024-02-29 12:00:00', '2024-02-29 12:00:00+02', '1 mon 2 days 3 hours', \
     '00000000-0000-4000-8000-000000000001', '{\"b\": [1, null], \"a\": \"x\"}', '{1,NULL,3}')",
    "INSERT INTO kinds (id) VALUES (2)",
    "CREATE TABLE sales (region text, amount numeric(10,2), at timestamp)",
    "CREATE TABLE regions (region text PRIMARY KEY, country text NOT NULL)",
    "CREATE INDEX sales_by_region ON sales (region)",
    "CREATE SOURCE numbers (k bigint) WITH (connector = 'datagen', fields.k.kind = 'sequence', fields.k.start = '1', \
     fields.k.end = '200', datagen.rows.per.second = '0')",
    "CREATE MATERIALIZED VIEW all_kinds AS SELECT * FROM kinds",
    "CREATE MATERIALIZED VIEW per_region AS SELECT region, count(*) AS n, sum(amount) AS s, max(at) AS newest FROM sales GROUP BY region",
    "CREATE MATERIALIZED VIEW per_country AS SELECT country, sum(s) AS s FROM per_region JOIN regions USING (region) GROUP BY country",
    "CREATE MATERIALIZED VIEW ranked AS SELECT region, amount, rank() OVER (PARTITION BY region ORDER BY amount DESC) AS r FROM sales",
    "CREATE MATERIALIZED VIEW best AS SELECT region, amount FROM sales ORDER BY amount DESC, region LIMIT 3",
    "CREATE MATERIALIZED VIEW days AS SELECT window_start, count(*) AS n FROM TUMBLE(sales, at, INTERVAL '1 day') GROUP BY window_start",
    "CREATE MATERIALIZED VIEW number_sums AS SELECT k % 7 AS g, count(*) AS n, sum(k) AS s FROM numbers GROUP BY k % 7",
    "INSERT INTO regions VALUES ('north', 'A'), ('south', 'A'), ('east', 'B')",
    "INSERT INTO sales SELECT (ARRAY['north', 'south', 'east', 'west'])[i % 4 + 1], i * 1.25, \
     timestamp '2024-01-01' + i * interval '5 hours' FROM generate_series(1, 40) AS g(i)",
    "UPDATE sales SET amount = amount + 100 WHERE amount > 45",
    "DELETE FROM sales WHERE region = 'south' AND amount < 10",
];

/// What only the log of table writes has.
const UNFLUSHED: [&str; 2] = [
    "INSERT INTO sales VALUES ('west', 1000, '2024-01-05 00:00:00'), ('north', NULL, NULL)",
    "DELETE FROM sales WHERE region = 'east' AND amount > 140",
];

/// Asked when the directory is made and when it is opened.
const QUERIES: [&str; 9] = [
    "SELECT * FROM all_kinds ORDER BY id",
    "SELECT * FROM per_region ORDER BY region",
    "SELECT * FROM per_country ORDER BY country",
    "SELECT * FROM ranked ORDER BY region, r, amount",
    "SELECT * FROM best ORDER BY amount DESC NULLS FIRST, region",
    "SELECT * FROM days ORDER BY window_start",
    "SELECT * FROM number_sums ORDER BY g",
    "SELECT region, amount, at FROM sales ORDER BY region, amount, at",
    "SELECT count(*) FROM sales WHERE region = 'north'",
];

/// The same questions of the views, put to the tables.
const VIEWS: [(&str, &str); 4] = [
    ("per_region", "SELECT region, count(*) AS n, sum(amount) AS s, max(at) AS newest FROM sales GROUP BY region"),
    ("per_country", "SELECT country, sum(s) AS s FROM per_region JOIN regions USING (region) GROUP BY country"),
    ("ranked", "SELECT region, amount, rank() OVER (PARTITION BY region ORDER BY amount DESC) AS r FROM sales"),
    ("days", "SELECT window_start, count(*) AS n FROM TUMBLE(sales, at, INTERVAL '1 day') GROUP BY window_start"),
];

fn folder() -> PathBuf {
    slt::repository().join("sqllogictest/formats")
}

/// All questions with their answers, as text.
async fn answers(client: &Client) -> Result<String> {
    let mut text = String::new();
    for query in QUERIES {
        text += &format!("{query}\n----\n");
        for row in rows(client, query).await? {
            text += &format!("{row}\n");
        }
        text.push('\n');
    }
    Ok(text)
}

/// Makes the directory of this version's format.
async fn make() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.arguments = vec!["--checkpoint-interval-ms".into(), "600000".into()];
    let mut server = start.start().await?;
    let client = server.connect().await?;
    for statement in STATEMENTS {
        run(&client, statement).await?;
    }
    eventually(&client, "SELECT sum(n) FROM number_sums", &["200"]).await?;
    run(&client, "FLUSH").await?;
    for statement in UNFLUSHED {
        run(&client, statement).await?;
    }
    let text = answers(&client).await?;
    drop(client);
    server.kill()?;
    std::fs::create_dir_all(folder())?;
    let version = storage::store::FORMAT;
    std::fs::write(folder().join(format!("{version}.expected")), text)?;
    let archive = folder().join(format!("{version}.tar.gz"));
    // RocksDB's messages and the lock are nobody's state.
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "--sort=name", "--exclude=db/LOG*", "--exclude=LOCK", "--exclude=tmp", "-czf"])
        .arg(&archive)
        .arg("-C")
        .arg(&start.data_dir)
        .arg(".")
        .status()?;
    ensure!(status.success(), "tar: {status}");
    let bytes = archive.metadata()?.len();
    ensure!(bytes < 200_000, "{} has {bytes} bytes", archive.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_every_format_opens_and_goes_on() -> Result<()> {
    if std::env::var_os("HEADWATER_MAKE_FORMAT").is_some() {
        make().await?;
    }
    for version in 1..=storage::store::FORMAT {
        let archive = folder().join(format!("{version}.tar.gz"));
        let expected = std::fs::read_to_string(folder().join(format!("{version}.expected")))
            .with_context(|| format!("format {version} has no directory: HEADWATER_MAKE_FORMAT=1 makes it"))?;
        for workers in [1, 3] {
            let directory = tempfile::tempdir()?;
            let mut start = Start::new(directory.path().join("data"));
            start.workers = workers;
            std::fs::create_dir(&start.data_dir)?;
            let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&start.data_dir).status()?;
            ensure!(status.success(), "tar: {status}");
            let mut server = start.start().await?;
            let mut client = server.connect().await?;
            let came = answers(&client).await?;
            ensure!(
                came == expected,
                "format {version}, {workers} workers: it answers\n{came}\nand answered\n{expected}"
            );
            // It goes on: the state of every operator takes changes.
            run(&client, "UPDATE sales SET amount = 7 WHERE amount > 1000 OR amount < 20").await?;
            run(&client, "INSERT INTO sales VALUES ('south', 3, '2024-01-02 01:00:00')").await?;
            run(&client, "DELETE FROM sales WHERE region = 'west'").await?;
            for life in 0..2 {
                for (view, query) in VIEWS {
                    let (mut stored, mut computed) =
                        (rows(&client, &format!("SELECT * FROM {view}")).await?, rows(&client, query).await?);
                    stored.sort();
                    computed.sort();
                    ensure!(
                        stored == computed,
                        "format {version}, life {life}: {view} has {stored:?}, not {computed:?}"
                    );
                }
                server.kill()?;
                server = start.start().await?;
                client = server.connect().await?;
            }
        }
    }
    Ok(())
}
