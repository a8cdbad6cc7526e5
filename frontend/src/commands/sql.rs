//! `headwater sql`: a small SQL shell for where psql is not installed.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use clap::Args;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Where to connect and what to run.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Statements to run; without it they are read from the standard input
    #[arg(short, long, value_name = "TEXT")]
    command: Option<String>,
    /// Server
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "PGHOST")]
    host: String,
    /// Its port
    #[arg(short, long, value_name = "PORT", default_value_t = 4566, env = "PGPORT")]
    port: u16,
    /// Database
    #[arg(short, long, value_name = "NAME", default_value = "dev", env = "PGDATABASE")]
    database: String,
    /// User
    #[arg(short = 'U', long, value_name = "NAME", default_value = "root", env = "PGUSER")]
    user: String,
}

/// Runs the shell.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect(&arguments.host, arguments.port, &arguments.database, &arguments.user).await?;
        match &arguments.command {
            Some(text) => print(&client, text).await,
            None => interact(&client).await,
        }
    })
}

/// Connects, and prints notices from then on.
pub async fn connect(host: &str, port: u16, database: &str, user: &str) -> anyhow::Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).dbname(database).user(user).application_name("headwater sql");
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
    }
    let (client, mut connection) =
        config.connect(NoTls).await.with_context(|| format!("cannot connect to {host}:{port}"))?;
    tokio::spawn(async move {
        use tokio_postgres::AsyncMessage;
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => eprintln!("{}:  {}", notice.severity(), notice.message()),
                Ok(_) => (),
                Err(_) => return,
            }
        }
    });
    Ok(client)
}

/// Runs statements as they come, each when its semicolon stands at the end of a line.
async fn interact(client: &Client) -> anyhow::Result<()> {
    let terminal = std::io::stdin().is_terminal();
    let (mut text, mut failed) = (String::new(), None);
    let prompt = |text: &str| {
        if terminal {
            print!("{}", if text.is_empty() { "dev=> " } else { "dev-> " });
            let _ = std::io::stdout().flush();
        }
    };
    prompt(&text);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if text.is_empty() && matches!(line.trim(), "\\q" | "exit" | "quit") {
            return Ok(());
        }
        if text.is_empty()
            && let Some(command) = line.trim().strip_prefix('\\')
        {
            match statement_of(command) {
                Some(statement) => text = statement,
                None => {
                    print!("{HELP}");
                    prompt(&text);
                    continue;
                }
            }
            run_one(client, &mut text, terminal, &mut failed).await;
            prompt(&text);
            continue;
        }
        text.push_str(&line);
        text.push('\n');
        if text.trim().is_empty() || text.trim_end().ends_with(';') {
            run_one(client, &mut text, terminal, &mut failed).await;
        }
        prompt(&text);
    }
    run_one(client, &mut text, terminal, &mut failed).await;
    if terminal {
        println!();
    }
    failed.map_or(Ok(()), Err)
}

/// What a backslash command does; psql can more.
const HELP: &str = "\
statements end with ; at the end of a line

  \\d           tables, sources, views and indexes
  \\d NAME      the columns of one of them
  \\jobs        what is kept up to date, and how far it is
  \\?           this help
  \\q           leave
";

/// The statement behind a backslash command; `None` for help.
fn statement_of(command: &str) -> Option<String> {
    let (command, name) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let name = name.trim().trim_end_matches(';').replace('\'', "''");
    match (command, name.as_str()) {
        ("d", "") => Some(
            "SELECT n.nspname AS schema, c.relname AS name, \
             CASE c.relkind WHEN 'r' THEN 'table' WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' \
             WHEN 'i' THEN 'index' ELSE 'source' END AS type \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'headwater_catalog') ORDER BY 1, 2"
                .to_owned(),
        ),
        ("d", name) => Some(format!(
            "SELECT attname AS column, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null \
             FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )),
        ("jobs", _) => {
            Some("SELECT name, kind, state, progress, error FROM headwater_catalog.jobs ORDER BY name".into())
        }
        _ => None,
    }
}

/// At a terminal an error is shown and the next statement waited for; a script's exit code tells of the last one.
async fn run_one(client: &Client, text: &mut String, terminal: bool, failed: &mut Option<anyhow::Error>) {
    if !text.trim().is_empty()
        && let Err(error) = print(client, text).await
    {
        if terminal {
            eprintln!("{error:#}");
        } else if failed.replace(error).is_some() {
            eprintln!("{:#}", failed.as_ref().expect("just set"));
        }
    }
    text.clear();
}

/// Runs statements and prints what they return.
async fn print(client: &Client, text: &str) -> anyhow::Result<()> {
    let messages = client.simple_query(text).await.map_err(describe)?;
    let mut table: Option<(Vec<String>, Vec<Vec<Option<String>>>)> = None;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table = Some((columns.iter().map(|c| c.name().to_owned()).collect(), Vec::new()));
            }
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect();
                if let Some((_, rows)) = &mut table {
                    rows.push(values);
                }
            }
            SimpleQueryMessage::CommandComplete(rows) => match table.take() {
                Some((names, rows)) => print!("{}", aligned(&names, &rows)),
                None => println!("OK, {rows} rows"),
            },
            _ => (),
        }
    }
    Ok(())
}

/// An error as psql prints it.
pub fn describe(error: tokio_postgres::Error) -> anyhow::Error {
    let Some(db) = error.as_db_error() else { return error.into() };
    let mut text = format!("{}:  {} ({})", db.severity(), db.message(), db.code().code());
    if let Some(detail) = db.detail() {
        text += &format!("\nDETAIL:  {detail}");
    }
    if let Some(hint) = db.hint() {
        text += &format!("\nHINT:  {hint}");
    }
    anyhow::anyhow!(text)
}

/// Rows under their names, numbers to the right, as psql aligns them.
pub fn aligned(names: &[String], rows: &[Vec<Option<String>>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = names.iter().map(|n| width(n)).collect();
    let mut numeric = vec![!rows.is_empty(); names.len()];
    for row in rows {
        for (i, value) in row.iter().enumerate() {
            let text = value.as_deref().unwrap_or("");
            widths[i] = widths[i].max(width(text));
            numeric[i] &= value.is_none() || text.parse::<f64>().is_ok();
        }
    }
    let mut out = String::new();
    let head: Vec<String> = names.iter().zip(&widths).map(|(n, &w)| format!(" {n:^w$} ")).collect();
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
    out += &format!("{}\n{}\n", head.join("|"), rule.join("+"));
    for row in rows {
        let cells: Vec<String> = (row.iter().enumerate())
            .map(|(i, value)| {
                let (text, w) = (value.as_deref().unwrap_or(""), widths[i]);
                if numeric[i] { format!(" {text:>w$} ") } else { format!(" {text:<w$} ") }
            })
            .collect();
        out += &format!("{}\n", cells.join("|").trim_end());
    }
    out += &match rows.len() {
        1 => "(1 row)\n\n".to_owned(),
        n => format!("({n} rows)\n\n"),
    };
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn aligns_like_psql() {
        let names = ["id".to_owned(), "name".to_owned()];
        let rows = [vec![Some("1".into()), Some("ada".into())], vec![Some("22".into()), None]];
        let expected = " id | name \n----+------\n  1 | ada\n 22 |\n(2 rows)\n\n";
        assert_eq!(super::aligned(&names, &rows), expected);
    }
}
