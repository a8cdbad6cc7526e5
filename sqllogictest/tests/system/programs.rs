//! The program `headwater`: its commands, their flags, environment variables and config files, and what it says when it
//! cannot.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use slt::process::{Process, Start, binary};

use crate::orders::rows;

async fn run(arguments: &[&str], input: &str) -> Result<(bool, String, String)> {
    let mut command = Command::new(binary()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_string();
    let output: Output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn()?;
        child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())).transpose()?;
        child.wait_with_output()
    })
    .await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.success(), text(output.stdout), text(output.stderr)))
}

/// Every command explains itself, and a flag that is wrong is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_explain_themselves() -> Result<()> {
    let (ok, said, _) = run(&["--help"], "").await?;
    assert!(ok && ["serve", "demo", "sql", "inspect"].iter().all(|command| said.contains(command)), "{said}");
    for (command, flags) in [
        (
            "serve",
            &["--data-dir", "--listen", "--http-listen", "--workers", "--config", "--insecure", "HEADWATER_LISTEN"][..],
        ),
        ("demo", &["--seconds", "--port", "--rate"]),
        ("sql", &["--command", "--host", "--port", "PGHOST"]),
        ("inspect", &["<DIR>"]),
    ] {
        let (ok, said, _) = run(&[command, "--help"], "").await?;
        for flag in flags {
            assert!(ok && said.contains(flag), "{command}: no {flag} in\n{said}");
        }
    }
    for (arguments, expected) in [
        (&["serve", "--workers", "many"][..], "--workers"),
        (&["serve", "--listen", "nowhere"], "--listen"),
        (&["serve", "--lisen", "127.0.0.1:1"], "--lisen"),
        (&["serve", "--config", "/nowhere/headwater.toml"], "/nowhere/headwater.toml"),
        (
            &["serve", "--data-dir", "/proc/headwater", "--listen", "127.0.0.1:0", "--http-listen", "none"],
            "/proc/headwater",
        ),
        (&["serve", "--log-level", "no=such=level"], "log level"),
        (&["inspect", "/nowhere"], "/nowhere"),
        (&["sql", "--port", "1", "-c", "SELECT 1"], "127.0.0.1:1"),
    ] {
        let (ok, _, said) = run(arguments, "").await?;
        assert!(!ok && said.contains(expected), "{arguments:?}: {said}");
    }
    Ok(())
}

async fn connections_max(start: &Start) -> Result<String> {
    let server = start.start().await?;
    let client = server.connect().await?;
    let found = rows(&client, "SELECT setting FROM headwater_catalog.settings WHERE name = 'connections_max'").await?;
    drop(client);
    server.stop().await?;
    found.into_iter().next().context("no such setting")
}

/// The flag counts before the environment, that before the file, and the file before what is built in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_beat_the_environment_and_that_the_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("headwater.toml");
    std::fs::write(&file, "connections_max = 7\n")?;
    let built_in = Start::new(directory.path().join("data"));
    let by_file = built_in.clone().argument("--config").argument(file.to_str().context("a path")?);
    let by_environment = by_file.clone().env("HEADWATER_CONNECTIONS_MAX", "8");
    let by_flag = by_environment.clone().argument("--connections-max").argument("9");
    for (start, expected) in [(&built_in, "1000"), (&by_file, "7"), (&by_environment, "8"), (&by_flag, "9")] {
        assert_eq!(connections_max(start).await?, expected);
    }
    std::fs::write(&file, "conections_max = 7\n")?;
    let said = by_file.refused().await?;
    assert!(said.contains("headwater.toml") && said.contains("conections_max"), "{said}");
    Ok(())
}

/// `headwater sql` runs what it is given, tells errors by its exit code, and helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_runs_statements() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let port = server.address().port().to_string();
    let sql =
        async |arguments: &[&str], input: &str| run(&[&["sql", "--port", &port], arguments].concat(), input).await;
    let (ok, said, _) =
        sql(&["-c", "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'ada'), (22, NULL)"], "")
            .await?;
    assert!(ok, "{said}");
    let (ok, said, _) = sql(&["-c", "SELECT * FROM t ORDER BY id"], "").await?;
    assert!(ok && said == " id | name \n----+------\n  1 | ada\n 22 |\n(2 rows)\n\n", "{said:?}");
    let (ok, _, said) = sql(&["-c", "SELECT nope FROM t"], "").await?;
    assert!(!ok && said.contains("column \"nope\" does not exist") && said.contains("42703"), "{said}");
    let (ok, said, _) = sql(&[], "\\d\n\\d t\nSELECT count(*)\nFROM t;\n\\jobs\n\\?\n\\q\nSELECT 'not run';\n").await?;
    for expected in ["public | t      | table", "id     | integer | t", "     2", "running", "\\d NAME"] {
        assert!(ok && said.contains(expected), "no {expected:?} in\n{said}");
    }
    assert!(!said.contains("not run"), "{said}");
    let (ok, _, said) = sql(&[], "SELECT 1;\nSELECT nope;\nSELECT 2;\n").await?;
    assert!(!ok && said.contains("nope"), "{said}");
    server.stop().await
}

/// `headwater inspect` shows what is in a directory that no server has open, and says what is wrong with others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_shows_a_directory() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let server = start.start().await?;
    let client = server.connect().await?;
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, amount int)").await?;
    client.batch_execute("CREATE MATERIALIZED VIEW total AS SELECT sum(amount) AS s FROM orders").await?;
    client.batch_execute("INSERT INTO orders VALUES (1, 2); FLUSH").await?;
    drop(client);
    let dir = start.data_dir.to_str().context("a path")?;
    let (ok, _, said) = run(&["inspect", dir], "").await?;
    assert!(!ok && said.contains("is in use by another server"), "{said}");
    server.stop().await?;
    let (ok, said, _) = run(&["inspect", dir], "").await?;
    for expected in [
        "format           1",
        "last checkpoint  epoch ",
        "public.orders",
        "public.total",
        "CREATE MATERIALIZED VIEW total",
    ] {
        assert!(ok && said.contains(expected), "no {expected:?} in\n{said}");
    }
    let format = Path::new(dir).join("format");
    let text = std::fs::read_to_string(&format)?;
    std::fs::write(&format, text.replace("format 1", "format 2"))?;
    let (ok, _, said) = run(&["inspect", dir], "").await?;
    assert!(!ok && said.contains("format") && said.contains("damaged"), "{said}");
    std::fs::write(&format, text)?;
    // A directory of something else is left as it is.
    let other = directory.path().join("other");
    std::fs::create_dir(&other)?;
    let (ok, _, said) = run(&["inspect", other.to_str().context("a path")?], "").await?;
    assert!(!ok && said.contains("is not a data directory"), "{said}");
    assert_eq!(std::fs::read_dir(&other)?.count(), 0);
    Ok(())
}

/// Logs are lines for people or objects for machines, as much as is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_have_levels_and_forms() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = Start::new(directory.path().join("json")).argument("--log-format").argument("json");
    let server = json.env("HEADWATER_LOG_LEVEL", "debug").start().await?;
    let client = server.connect().await?;
    assert!(client.simple_query("SELECT nope").await.is_err());
    drop(client);
    let log = server.log()?;
    let lines: Vec<serde_json::Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(lines.iter().any(|line| line["level"] == "INFO" && line["message"] == "server ready"), "{log}");
    assert!(lines.iter().any(|line| line["level"] == "DEBUG" && line["sqlstate"] == "42703"), "{log}");
    server.stop().await?;
    let quiet = Start::new(directory.path().join("quiet")).argument("--log-level").argument("warn");
    let server = quiet.start().await?;
    assert_eq!(server.log()?, "");
    server.stop().await
}

/// A low limit of open files is told at the start, before clients find out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_limit_of_files_is_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = Start::new(directory.path().join("data"));
    let ample: Process = start.start().await?;
    assert!(!ample.log()?.contains("files may be open"), "{}", ample.log()?);
    ample.stop().await?;
    let log = directory.path().join("low.log");
    let serve = format!(
        "ulimit -n 1024 && exec {} serve --data-dir {} --listen 127.0.0.1:0 --http-listen none 2> {}",
        binary()?.display(),
        start.data_dir.display(),
        log.display()
    );
    let mut child = Command::new("bash").args(["-c", &serve]).spawn()?;
    let mut said = String::new();
    for _ in 0..200 {
        said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("server ready") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill()?;
    child.wait()?;
    assert!(said.contains("about 384 clients can connect"), "{said}");
    Ok(())
}
