//! A sink into a real MariaDB: every type, rows that it refuses, and each change once while both are killed.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slt::process::Start;
use slt::run::ask;

use crate::facts::{self, TABLES, Written};
use crate::orders::rows;
use crate::sinks::{caught_up, end_in_step};

/// How often one of the two is killed.
const KILLS: u64 = 4;

/// The steps of this sink, in which the server ends.
const STEPS: [&str; 2] = ["mysql/commit:before", "mysql/commit:after"];

/// A MariaDB that only these tests talk to, one at a time.
pub struct Mariadb {
    port: String,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

fn script(argument: &str) -> Result<String> {
    slt::services::script("mariadb.sh", argument, &[])
}

impl Mariadb {
    /// Starts it, with an empty database.
    pub async fn start() -> Result<Mariadb> {
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let turn = TURN.lock().await;
        let address = tokio::task::block_in_place(|| script("start"))?;
        let (_, port) = address.split_once(':').context("an address has a port")?;
        let server = Mariadb { port: port.to_owned(), _turn: turn };
        server.ask("DROP DATABASE IF EXISTS shop; CREATE DATABASE shop")?;
        Ok(server)
    }

    /// What the command line client says, a line per row.
    pub fn ask(&self, sql: &str) -> Result<Vec<String>> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-h127.0.0.1", "-uroot", "--batch", "--raw", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "-P", &self.port, "-e", sql])
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(|line| line.replace('\t', "|")).collect())
    }

    /// The options of a sink into it.
    pub fn options(&self) -> String {
        format!("connector = 'mysql', host = '127.0.0.1', port = '{}', database = 'shop'", self.port)
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        if let Err(error) = script("stop") {
            eprintln!("{error:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_has_a_column_and_a_refused_row_a_reason() -> Result<()> {
    let target = Mariadb::start().await?;
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let options = target.options();
    client
        .batch_execute(&format!(
            "CREATE TABLE all_types (id bigint PRIMARY KEY, b boolean, s smallint, i int, r real, d double precision, n numeric,
                 m numeric(10,2), t text, v varchar(20), c char(3), y bytea, da date, ti time, ts timestamp, tz timestamptz,
                 iv interval, j jsonb, u uuid, a int[], ta text[]);
             CREATE SINK types FROM all_types WITH ({options}, table = 'all_types', type = 'upsert',
                 create_table_if_not_exists = 'true');
             INSERT INTO all_types VALUES
                 (9007199254740993, true, -1, 2, 0.1, 1e30, 12345678901234567890.123456789, 1.50, 'a\"b''\\ ü😀', 'Vv ', 'x',
                  '\\x00ff', '2026-11-21', '12:30:00.5', '2026-11-21 12:30:00.000001', '2026-11-21 12:30:00+02', '1 day 02:00:00',
                  '{{\"k\": [1, null]}}', '0b1c2d3e-0000-4000-8000-000000000001', '{{1,NULL,3}}', '{{a,\"b c\"}}'),
                 (9007199254740992, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                  NULL, NULL, NULL, NULL, NULL),
                 (3, NULL, 1, 1, 'NaN', 1, 1, 1, 'bad', 'v', 'c', NULL, 'infinity', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        ))
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let all = "SELECT id, b, s, i, r, d, n, m, t, v, c, HEX(y), da, ti, ts, tz, iv, j, u, a, ta FROM shop.all_types ORDER BY id DESC";
    let expected = [
        "9007199254740993|1|-1|2|0.1|1e30|12345678901234567890.123456789000000000000000000000|1.50|a\"b'\\ ü😀|Vv |x|00FF|\
         2026-11-21|12:30:00.500000|2026-11-21 12:30:00.000001|2026-11-21 10:30:00.000000|1 day 02:00:00|{\"k\": [1, null]}|\
         0b1c2d3e-0000-4000-8000-000000000001|[1,null,3]|[\"a\",\"b c\"]",
        "9007199254740992|0|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
    ];
    assert_eq!(target.ask(all)?, expected);
    let errors = "SELECT left(convert_from(raw, 'UTF8'), 8), length(reason) > 10 FROM \"types$errors\"";
    assert_eq!(rows(&client, errors).await?, ["{\"id\":3,|t"]);
    // Keys that are one as a double, and as a text of another case, are two.
    client
        .batch_execute(&format!(
            "DELETE FROM all_types WHERE id = 9007199254740993;
             CREATE TABLE words (w text, n numeric, y bytea, PRIMARY KEY (w, n, y));
             CREATE SINK words_there FROM words WITH ({options}, table = 'words', type = 'upsert', create_table_if_not_exists = 'true');
             INSERT INTO words VALUES ('a', 1.5, '\\x01'), ('A', 1.5, '\\x01'), ('a ', 1.5, '\\x01'), ('a', 1.50001, '\\x01'), ('a', 1.5, '\\x02')"
        ))
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(target.ask("SELECT id FROM shop.all_types")?, ["9007199254740992"]);
    client.batch_execute("DELETE FROM words WHERE w = 'a' AND n = 1.5").await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let words = target.ask("SELECT w, HEX(y) FROM shop.words ORDER BY w, n")?;
    assert_eq!(words, ["A|01", "a|01", "a |01"]);

    // A table that is there: what its constraints refuse is set aside, and what another sink could spoil is refused at once.
    target.ask(
        "CREATE TABLE shop.strict (id INT PRIMARY KEY, v VARCHAR(3) CHECK (v <> 'bad')) ENGINE = InnoDB;
         CREATE TABLE shop.two_keys (id INT PRIMARY KEY, v VARCHAR(3) UNIQUE) ENGINE = InnoDB;
         CREATE TABLE shop.flat (id INT PRIMARY KEY, v VARCHAR(3)) ENGINE = MyISAM",
    )?;
    client.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)").await?;
    let create = |table: &str| {
        format!("CREATE SINK {table} FROM t WITH ({options}, table = '{table}', type = 'upsert', primary_key = 'id')")
    };
    for (table, message) in [
        ("nowhere", "does not exist in MySQL"),
        ("flat", "has no transactions"),
        ("two_keys", "has another unique index, \"v\""),
    ] {
        let failure = ask(&client, &create(table)).await.err().context("it cannot be a target")?;
        assert!(failure.message.contains(message), "{}", failure.message);
    }
    client.batch_execute(&create("strict")).await?;
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'a'), (2, 'bad'), (3, 'too long'), (4000000000, 'b'), (5, 'c'), (6, NULL)",
        )
        .await?;
    caught_up(&client).await.with_context(|| server.log_tail())?;
    assert_eq!(target.ask("SELECT * FROM shop.strict ORDER BY id")?, ["1|a", "5|c", "6|NULL"]);
    let errors = "SELECT sqlstate FROM \"strict$errors\" ORDER BY sqlstate";
    assert_eq!(rows(&client, errors).await?, ["22001", "22003", "23000"]);
    client.batch_execute("DROP SINK strict, types, words_there").await?;
    for _ in 0..600 {
        if target.ask("SELECT count(*) FROM shop.headwater_progress")? == ["0"] {
            drop(client);
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("dropped sinks leave their progress behind")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_for_mariadb_arrives_once_through_kills() -> Result<()> {
    let target = Mariadb::start().await?;
    let directory = tempfile::tempdir()?;
    let mut start = Start::new(directory.path().join("data"));
    start.listen = Some(slt::process::free_address()?);
    let mut server = start.start().await?;
    let address = server.address();
    let client = server.connect().await?;
    let options = format!("{}, create_table_if_not_exists = 'true'", target.options());
    client
        .batch_execute(&format!(
            "{TABLES};
             CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v)::numeric(20,2) AS s FROM facts GROUP BY k;
             CREATE SINK sums_sink FROM sums WITH ({options}, table = 'sums', type = 'upsert', primary_key = 'k');
             CREATE SINK events_sink FROM events WITH ({options}, table = 'events')"
        ))
        .await?;
    drop(client);
    let written = Written::default();
    let writer = tokio::spawn(facts::write(address, written.clone()));
    for step in STEPS {
        server.kill()?;
        end_in_step(&start, step).await?;
        server = start.start().await?;
    }
    let mut random = StdRng::seed_from_u64(crate::seed() ^ 11);
    for n in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2000))).await;
        if n % 2 == 0 {
            server.kill()?;
            server = start.start().await?;
        } else {
            tokio::task::block_in_place(|| script("kill"))?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
            tokio::task::block_in_place(|| script("start"))?;
        }
    }
    written.stop.store(true, Ordering::SeqCst);
    writer.await??;
    let client = server.connect().await?;
    written.check_events(&client).await?;
    assert!(!written.ids.lock().await.acknowledged.is_empty(), "nothing was acknowledged");
    caught_up(&client).await.with_context(|| server.log_tail())?;
    let sums = "SELECT k, n, s FROM sums ORDER BY k";
    assert_eq!(target.ask(&format!("USE shop; {sums}"))?, rows(&client, sums).await?);
    let events = "SELECT id, note FROM events ORDER BY id";
    assert_eq!(target.ask(&format!("USE shop; {events}"))?, rows(&client, events).await?);
    drop(client);
    server.stop().await
}
