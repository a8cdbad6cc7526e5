//! The clients that people use, each with a small program of DDL, DML, parameters, all types and a cancel.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use slt::process::{Process, Start};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

async fn server() -> Result<(tempfile::TempDir, Process)> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    Ok((directory, server))
}

/// Runs a program to its end; it fails with all that it said.
async fn run(mut command: Command) -> Result<String> {
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}\n{text}", output.status);
    }
    Ok(text)
}

fn programs() -> PathBuf {
    slt::repository().join("sqllogictest/tests/clients")
}

fn cache() -> Result<PathBuf> {
    Ok(PathBuf::from(std::env::var("HOME").context("HOME is not set")?).join(".cache/headwater"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg_works() -> Result<()> {
    let (_directory, server) = server().await?;
    let mut command = Command::new(cache()?.join("venv/bin/python3"));
    command.arg(programs().join("psycopg_program.py")).arg(server.address().port().to_string());
    eprint!("{}", run(command).await?);
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jdbc_works() -> Result<()> {
    let (_directory, server) = server().await?;
    let mut command = Command::new("java");
    command
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(cache()?.join("jdbc/postgresql-42.7.7.jar"))
        .arg(programs().join("JdbcProgram.java"))
        .arg(server.address().port().to_string());
    eprint!("{}", run(command).await?);
    server.stop().await
}

fn psql(server: &Process, arguments: &[&str]) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["-X", "-h", "127.0.0.1", "-p", &server.address().port().to_string(), "-U", "root", "-d", "dev"])
        .args(arguments)
        .env("PGCLIENTENCODING", "UTF8")
        .env("PAGER", "");
    command
}

/// psql shows the same as over a real Postgres, but for what [`psql_program.sql`] marks with a variable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_shows_what_it_shows_over_postgres() -> Result<()> {
    let (_directory, server) = server().await?;
    // Postgres keeps a materialized view as it was, and counts its rows when it makes it.
    let ours = psql_program(server.address(), "dev", "").await?;
    let postgres = tokio::task::spawn_blocking(slt::services::postgres).await??;
    let database = format!("psql_{}", std::process::id());
    let admin = slt::target::connect(postgres, "postgres", "postgres").await?;
    // The names of owners are part of what is shown, and so is the database's.
    if let Err(error) = admin.batch_execute("CREATE ROLE root SUPERUSER LOGIN").await
        && error.code().is_none_or(|code| code.code() != "42710")
    {
        bail!(error);
    }
    admin.batch_execute(&format!("CREATE DATABASE {database} OWNER root")).await?;
    let theirs = psql_program(postgres, &database, "REFRESH MATERIALIZED VIEW per_city").await;
    admin.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    let theirs =
        theirs?.replacen("SELECT 2\n", "CREATE MATERIALIZED VIEW\n", 1).replace("REFRESH MATERIALIZED VIEW\n", "");
    if ours != theirs {
        let (mine, other) = (std::env::temp_dir().join("psql.ours"), std::env::temp_dir().join("psql.postgres"));
        std::fs::write(&mine, &ours)?;
        std::fs::write(&other, &theirs)?;
        let first = ours.lines().zip(theirs.lines()).enumerate().find(|(_, (ours, theirs))| ours != theirs);
        bail!("psql shows something else (all of it: {}, {}): {first:#?}", mine.display(), other.display());
    }
    // That it is what it should be is seen by eye once; that it is not nothing, here.
    assert!(ours.lines().count() > 200 && ours.contains("Indexes:") && ours.contains("(2 rows)"), "{ours}");
    server.stop().await
}

/// What psql shows, without what differs between two runs: ports, databases and times.
async fn psql_program(address: std::net::SocketAddr, database: &str, refresh: &str) -> Result<String> {
    // One stream for results and messages, so that their order is seen.
    let mut command = Command::new("bash");
    let psql = "psql -X -h 127.0.0.1 -p $PORT -U root -d $DATABASE -v ON_ERROR_STOP=0 -v \"refresh=$REFRESH\" \
                -f psql_program.sql 2>&1";
    command
        .current_dir(programs())
        .args(["-c", psql])
        .env("PORT", address.port().to_string())
        .env("DATABASE", database)
        .env("REFRESH", refresh)
        .env("PGCLIENTENCODING", "UTF8")
        .env("LC_ALL", "C.UTF-8");
    let said = run(command).await?;
    let said = said.replace(&address.port().to_string(), "PORT").replace(&format!("\"{database}\""), "DATABASE");
    let lines = said.lines().map(|line| if line.starts_with("Time: ") { "Time: T" } else { line });
    Ok(lines.flat_map(|line| [line, "\n"]).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_watches_and_cancels() -> Result<()> {
    let (_directory, server) = server().await?;
    run(psql(&server, &["-c", "CREATE TABLE t (a int)"])).await?;
    // \watch runs until it is interrupted: SIGINT after two seconds.
    let port = server.address().port().to_string();
    let mut command = Command::new("bash");
    command.args(["-c", &format!(
        "timeout -s INT 2 psql -X -h 127.0.0.1 -p {port} -U root -d dev -c 'INSERT INTO t VALUES (1)' -f <(echo 'SELECT count(*) FROM t \\watch 0.2') | grep -c '(1 row)'"
    )]);
    let shown: u32 = run(command).await?.trim().lines().last().unwrap_or_default().parse()?;
    assert!(shown >= 3, "\\watch showed the result {shown} times");
    // SIGINT in the middle of a statement cancels it.
    let mut command = Command::new("bash");
    command.args([
        "-c",
        &format!("timeout -s INT 1 psql -X -h 127.0.0.1 -p {port} -U root -d dev -c 'SELECT pg_sleep(60)' 2>&1; true"),
    ]);
    let said = run(command).await?;
    assert!(said.contains("canceling statement due to user request"), "{said}");
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_postgres_works() -> Result<()> {
    let (_directory, server) = server().await?;
    let mut client = server.connect().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, score double precision)").await?;
    let n = client.execute("INSERT INTO t VALUES ($1, $2, $3), (2, 'b', NULL)", &[&1i32, &"a", &1.5f64]).await?;
    assert_eq!(n, 2);

    // A prepared statement knows its types, and can be run again with other values.
    let select = client.prepare("SELECT name, score FROM t WHERE id = $1").await?;
    assert_eq!(select.params(), &[Type::INT4]);
    assert_eq!(
        select.columns().iter().map(|column| column.type_().clone()).collect::<Vec<_>>(),
        [Type::TEXT, Type::FLOAT8]
    );
    let row = client.query_one(&select, &[&1i32]).await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, Option<f64>>(1)), ("a", Some(1.5)));
    let row = client.query_one(&select, &[&2i32]).await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, Option<f64>>(1)), ("b", None));
    assert!(client.query_opt(&select, &[&3i32]).await?.is_none());

    // All types in binary, there and back.
    let row = client
        .query_one(
            "SELECT $1::boolean, $2::smallint, $3::int, $4::bigint, $5::real, $6::double precision, $7::text, $8::bytea, \
             $9::date, $10::time, $11::timestamp, $12::timestamptz, $13::jsonb, $14::varchar, $15::int[], $16::text[]",
            &[
                &true,
                &-2i16,
                &3i32,
                &-4i64,
                &0.1f32,
                &f64::INFINITY,
                &"grüße",
                &&[0u8, 255, 1][..],
                &date(2024, 2, 29),
                &chrono_time(),
                &date(1999, 12, 31).and_time(chrono_time()),
                &date(2024, 7, 1).and_time(chrono_time()).and_utc(),
                &serde_json::json!({"a": [1, null, "x"]}),
                &"v",
                &vec![Some(1i32), None, Some(3)],
                &vec!["a", "b c", ""],
            ],
        )
        .await?;
    assert!(row.get::<_, bool>(0));
    assert_eq!((row.get::<_, i16>(1), row.get::<_, i32>(2), row.get::<_, i64>(3)), (-2, 3, -4));
    assert_eq!((row.get::<_, f32>(4), row.get::<_, f64>(5)), (0.1, f64::INFINITY));
    assert_eq!((row.get::<_, &str>(6), row.get::<_, &[u8]>(7)), ("grüße", &[0u8, 255, 1][..]));
    assert_eq!(
        (row.get::<_, chrono::NaiveDate>(8), row.get::<_, chrono::NaiveTime>(9)),
        (date(2024, 2, 29), chrono_time())
    );
    assert_eq!(row.get::<_, chrono::NaiveDateTime>(10), date(1999, 12, 31).and_time(chrono_time()));
    assert_eq!(row.get::<_, chrono::DateTime<chrono::Utc>>(11), date(2024, 7, 1).and_time(chrono_time()).and_utc());
    assert_eq!(row.get::<_, serde_json::Value>(12), serde_json::json!({"a": [1, null, "x"]}));
    assert_eq!(row.get::<_, &str>(13), "v");
    assert_eq!(row.get::<_, Vec<Option<i32>>>(14), [Some(1), None, Some(3)]);
    assert_eq!(row.get::<_, Vec<&str>>(15), ["a", "b c", ""]);

    // A transaction, and what an error leaves of it.
    let transaction = client.transaction().await?;
    transaction.execute("UPDATE t SET score = 9 WHERE id = 1", &[]).await?;
    assert!(transaction.query("SELECT 1 / 0", &[]).await.is_err());
    let aborted = transaction.query("SELECT 1", &[]).await.err().context("the transaction is aborted")?;
    assert_eq!(aborted.code().map(|code| code.code()), Some("25P02"));
    transaction.rollback().await?;
    let transaction = client.transaction().await?;
    transaction.execute("UPDATE t SET score = 7 WHERE id = 1", &[]).await?;
    // A portal in steps of two rows.
    let portal = transaction.bind("SELECT x FROM generate_series(1, 5) AS s(x)", &[]).await?;
    let mut steps = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 2).await?;
        if rows.is_empty() {
            break;
        }
        steps.push(rows.len());
    }
    assert_eq!(steps, [2, 2, 1]);
    transaction.commit().await?;
    assert_eq!(client.query_one("SELECT score FROM t WHERE id = 1", &[]).await?.get::<_, f64>(0), 7.0);

    // Errors carry their fields.
    let error = client.prepare("SELECT nope FROM t").await.err().context("should fail")?;
    let fields = error.as_db_error().context("should come from the server")?;
    assert_eq!((fields.code().code(), fields.message()), ("42703", "column \"nope\" does not exist"));
    assert_eq!(fields.position(), Some(&tokio_postgres::error::ErrorPosition::Original(8)));

    // Cancel.
    let token = client.cancel_token();
    let canceller = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await
    });
    let error = client.query("SELECT pg_sleep(60)", &[]).await.err().context("should be cancelled")?;
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    canceller.await??;

    // Many statements at once on one connection.
    let ids: Vec<i32> = (10..110).collect();
    let insert = client.prepare("INSERT INTO t VALUES ($1, 'x', 0)").await?;
    futures::future::try_join_all(ids.iter().map(|id| {
        let (client, insert) = (&client, &insert);
        async move { client.execute(insert, &[id]).await }
    }))
    .await?;
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await?.get::<_, i64>(0), 102);

    // COPY TO STDOUT is refused or works, but answers.
    drop(client);
    subscribe(&server).await?;
    server.stop().await
}

/// SUBSCRIBE: the snapshot, then each change with its epoch and diff, at once.
async fn subscribe(server: &Process) -> Result<()> {
    let (writer, reader) = (server.connect().await?, server.connect().await?);
    writer.batch_execute("CREATE TABLE s (a int); INSERT INTO s VALUES (1)").await?;
    writer.batch_execute("CREATE MATERIALIZED VIEW s2 AS SELECT a * 2 AS b FROM s").await?;
    let stream = reader.simple_query_raw("SUBSCRIBE TO s2").await?;
    let rows = stream.try_filter_map(|message| async move {
        Ok(match message {
            SimpleQueryMessage::Row(row) => {
                let columns: Vec<String> = row.columns().iter().map(|column| column.name().to_string()).collect();
                Some((columns, (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect::<Vec<_>>()))
            }
            _ => None,
        })
    });
    let mut rows = std::pin::pin!(rows);
    let mut next = async || -> Result<(i64, i64)> {
        let row = tokio::time::timeout(Duration::from_secs(10), rows.next()).await.context("no row came")?;
        let (columns, values) = row.context("the subscription ended")??;
        let value = |name: &str| -> Result<i64> {
            let at = columns
                .iter()
                .position(|column| column == name)
                .with_context(|| format!("no {name} in {columns:?}"))?;
            Ok(values[at].as_deref().unwrap_or_default().parse()?)
        };
        Ok((value("diff")?, value("b")?))
    };
    assert_eq!(next().await?, (1, 2));
    writer.batch_execute("INSERT INTO s VALUES (5)").await?;
    assert_eq!(next().await?, (1, 10));
    writer.batch_execute("UPDATE s SET a = 6 WHERE a = 5").await?;
    let mut changes = [next().await?, next().await?];
    changes.sort();
    assert_eq!(changes, [(-1, 10), (1, 12)]);
    Ok(())
}

fn date(year: i32, month: u32, day: u32) -> chrono::NaiveDate {
    chrono::NaiveDate::from_ymd_opt(year, month, day).expect("a valid date")
}

fn chrono_time() -> chrono::NaiveTime {
    chrono::NaiveTime::from_hms_micro_opt(12, 34, 56, 789_000).expect("a valid time")
}
