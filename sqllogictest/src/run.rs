//! Runs a script against a target.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use regex::Regex;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::script::{self, Expect, Record, Sort, Step};
use crate::target::{Local, Mode, Target};

/// A statement that takes longer has hung.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(90);
/// How long `eventually` waits.
const EVENTUALLY_TIMEOUT: Duration = Duration::from_secs(40);

/// What a statement answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Column names of the last result.
    pub names: Vec<String>,
    /// Its rows, as text.
    pub rows: Vec<Vec<String>>,
    /// Rows that the last command tag counts.
    pub count: u64,
}

/// How a statement failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The SQLSTATE; empty if the connection broke.
    pub code: String,
    /// The message.
    pub message: String,
    /// The character, counted from 1.
    pub position: Option<u32>,
    /// The hint.
    pub hint: Option<String>,
}

impl Failure {
    fn expectation(&self) -> String {
        let position = self.position.map(|position| format!("@{position}")).unwrap_or_default();
        format!("{}{position}: {}", self.code, self.message.replace('\n', "\\n"))
    }
}

/// Sends one text by the simple protocol.
pub async fn ask(client: &Client, sql: &str) -> std::result::Result<Answer, Failure> {
    let broken = |message: String| Failure { code: String::new(), message, position: None, hint: None };
    let messages = match tokio::time::timeout(STATEMENT_TIMEOUT, client.simple_query(sql)).await {
        Err(_) => return Err(broken(format!("no answer within {} s", STATEMENT_TIMEOUT.as_secs()))),
        Ok(Ok(messages)) => messages,
        Ok(Err(error)) => {
            let Some(db) = error.as_db_error() else { return Err(broken(format!("connection lost: {error}"))) };
            let position = match db.position() {
                Some(tokio_postgres::error::ErrorPosition::Original(position)) => Some(*position),
                _ => None,
            };
            return Err(Failure {
                code: db.code().code().to_string(),
                message: db.message().to_string(),
                position,
                hint: db.hint().map(str::to_string),
            });
        }
    };
    let mut answer = Answer::default();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                answer.names = columns.iter().map(|column| column.name().to_string()).collect();
                answer.rows.clear();
            }
            SimpleQueryMessage::Row(row) => {
                answer.rows.push((0..row.len()).map(|column| show(row.get(column))).collect());
            }
            SimpleQueryMessage::CommandComplete(count) => answer.count = count,
            _ => {}
        }
    }
    Ok(answer)
}

/// A value as `psql -At -P null=NULL` shows it, on one line.
fn show(value: Option<&str>) -> String {
    match value {
        None => "NULL".to_string(),
        Some("") => "(empty)".to_string(),
        Some(text) => text.replace('\n', "\\n"),
    }
}

/// One script on its way through one target.
pub struct Runner {
    target: Option<Target>,
    directory: std::path::PathBuf,
    connections: HashMap<String, Client>,
    current: String,
    variables: BTreeMap<String, String>,
    /// Whether queries are run as views as well, and how many were.
    views_on: bool,
    n_views: usize,
    /// Materialized views that can be compared with their query: name -> query.
    views: BTreeMap<String, String>,
    /// Relations whose content a batch query cannot be asked for at the same moment.
    moving: BTreeSet<String>,
    /// If set, a record that fails does not end the script: what went wrong is collected.
    keep_going: Option<Vec<String>>,
    /// If set, expectations are not checked but collected: line -> new lines (`from..to` replaced).
    complete: Option<Vec<(usize, usize, Vec<String>)>>,
}

impl Runner {
    /// A runner over a target; files that the script writes go to `directory`.
    pub fn new(target: Target, directory: &Path) -> Runner {
        let variables = BTreeMap::from([
            ("DIR".to_string(), directory.display().to_string()),
            ("SUITES".to_string(), crate::target::suites_folder().display().to_string()),
        ]);
        Runner {
            target: Some(target),
            directory: directory.to_path_buf(),
            connections: HashMap::new(),
            current: "default".to_string(),
            variables,
            views_on: false,
            n_views: 0,
            views: BTreeMap::new(),
            moving: BTreeSet::new(),
            keep_going: None,
            complete: None,
        }
    }

    fn target(&self) -> Result<&Target> {
        self.target.as_ref().context("the target was stopped")
    }

    fn local(&mut self) -> Option<&mut Local> {
        match self.target.as_mut() {
            Some(Target::Headwater(local)) => Some(local),
            _ => None,
        }
    }

    async fn client(&mut self) -> Result<&Client> {
        if self.connections.get(&self.current).is_none_or(Client::is_closed) {
            let client = self.target()?.connect().await?;
            self.connections.insert(self.current.clone(), client);
        }
        Ok(&self.connections[&self.current])
    }

    /// Sends a text from the current connection.
    pub async fn ask(&mut self, sql: &str) -> Result<std::result::Result<Answer, Failure>> {
        let sql = if self.local().is_some() { sql.to_string() } else { as_views(sql) };
        let client = self.client().await?;
        Ok(ask(client, &sql).await)
    }

    /// Runs all records, checks the views a last time, and stops the target.
    pub async fn run(&mut self, records: &[Record]) -> Result<()> {
        let outcome = async {
            self.steps(records).await?;
            self.check_views().await.context("at the end")
        }
        .await;
        self.connections.clear();
        let stopped = match self.target.take() {
            Some(target) => target.stop().await,
            None => Ok(()),
        };
        outcome.and(stopped)
    }

    fn steps<'a>(&'a mut self, records: &'a [Record]) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>> {
        Box::pin(async move {
            for record in records {
                let target = self.target()?;
                if record.only.iter().any(|label| !target.has_label(label))
                    || record.skip.iter().any(|label| target.has_label(label))
                {
                    continue;
                }
                let outcome = self.step(record).await.with_context(|| format!("line {}", record.line));
                match (outcome, &mut self.keep_going) {
                    (Err(error), Some(problems)) => problems.push(format!("{error:#}")),
                    (outcome, _) => outcome?,
                }
            }
            Ok(())
        })
    }

    fn substitute(&self, text: &str) -> String {
        let mut text = text.to_string();
        for (name, value) in &self.variables {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        text
    }

    async fn step(&mut self, record: &Record) -> Result<()> {
        match &record.step {
            Step::Statement { sql, expect, header } => {
                let sql = self.substitute(sql);
                if sql.trim().trim_end_matches(';').eq_ignore_ascii_case("flush") {
                    return self.flush().await;
                }
                self.statement(&sql, expect, *header).await
            }
            Step::Query { sql, types, sort, header, eventually, expected, lines, separator } => {
                let sql = self.substitute(sql);
                let expected: Vec<String> = expected.iter().map(|line| self.substitute(line)).collect();
                let question = Question { sql, types, sort: *sort, header: *header, eventually: *eventually };
                self.query(&question, &expected, *lines, *separator).await
            }
            Step::Flush => self.flush().await,
            Step::Restart(workers) => {
                self.connections.clear();
                if let Some(local) = self.local() {
                    local.restart(*workers).await?;
                }
                self.check_views().await.context("after a restart")
            }
            Step::Crash => self.crash().await,
            Step::Connection(name) => {
                self.current = name.clone();
                Ok(())
            }
            Step::Views(on) => {
                self.views_on = *on;
                Ok(())
            }
            Step::File { name, append, text } => {
                let text = self.substitute(text);
                let path = self.directory.join(name);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                if *append {
                    // The same file, which a reader may have open, and in one piece.
                    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
                    return Ok(std::io::Write::write_all(&mut file, text.as_bytes())?);
                }
                // A reader must not see half a file: it appears under its name when it is whole.
                let partial = self.directory.join(".partial");
                std::fs::write(&partial, &text)?;
                Ok(std::fs::rename(partial, path)?)
            }
            Step::Loop { variable, range, body } => {
                for value in range.0..range.1 {
                    self.variables.insert(variable.clone(), value.to_string());
                    self.steps(body).await.with_context(|| format!("with {variable} = {value}"))?;
                }
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        if self.local().is_none() {
            return Ok(());
        }
        self.ask("FLUSH").await?.map_err(|failure| anyhow!("FLUSH: {}", failure.expectation()))?;
        if self.local().is_some_and(|local| local.mode() == Mode::Crash) {
            return self.crash().await;
        }
        self.check_views().await.context("after FLUSH")
    }

    async fn crash(&mut self) -> Result<()> {
        self.connections.clear();
        if let Some(local) = self.local() {
            local.crash().await?;
        }
        self.check_views().await.context("after a crash and recovery")
    }

    async fn statement(&mut self, sql: &str, expect: &Expect, header: usize) -> Result<()> {
        let outcome = self.ask(sql).await?;
        self.remember(sql, outcome.is_ok());
        match (expect, outcome) {
            (Expect::Ok, Ok(_)) => Ok(()),
            (Expect::Count(expected), Ok(answer)) => {
                if answer.count != *expected {
                    bail!("{} rows were changed, not {expected}\n{sql}", answer.count);
                }
                Ok(())
            }
            (Expect::Ok | Expect::Count(_), Err(failure)) => {
                let hint = failure.hint.as_deref().map(|hint| format!("\nHINT: {hint}")).unwrap_or_default();
                bail!("failed: {}{hint}\n{sql}", failure.expectation())
            }
            (Expect::Error { .. }, Ok(_)) => bail!("should have failed\n{sql}"),
            (Expect::Error { code, position, message }, Err(failure)) => {
                if let Some(edits) = &mut self.complete {
                    if !message.as_deref().is_some_and(|message| message.starts_with('/')) {
                        edits.push((header, header + 1, vec![format!("statement error {}", failure.expectation())]));
                    }
                    return Ok(());
                }
                let said = failure.message.replace('\n', "\\n");
                let same = match message.as_deref() {
                    None => true,
                    Some(pattern) if pattern.len() > 1 && pattern.starts_with('/') && pattern.ends_with('/') => {
                        Regex::new(&pattern[1..pattern.len() - 1])?.is_match(&said)
                    }
                    Some(text) => *text == said,
                };
                let code_same = code.as_ref().is_none_or(|code| *code == failure.code);
                if !same || !code_same || position.is_some_and(|at| failure.position != Some(at)) {
                    bail!("failed in another way: {}\n{sql}", failure.expectation());
                }
                Ok(())
            }
        }
    }

    async fn query(
        &mut self,
        question: &Question<'_>,
        expected: &[String],
        lines: (usize, usize),
        separator: bool,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = self
                .ask(&question.sql)
                .await?
                .map_err(|failure| anyhow!("failed: {}\n{}", failure.expectation(), question.sql))?;
            let mut actual = script::sorted(&answer.rows, question.sort);
            if question.header {
                actual.insert(0, answer.names.join("|"));
            }
            if let Some(edits) = &mut self.complete {
                let mut new = actual;
                if !separator {
                    new.insert(0, "----".to_string());
                }
                edits.push((lines.0, lines.1, new));
                return Ok(());
            }
            let n_columns = answer.names.len();
            if !question.types.is_empty() && question.types.len() != n_columns {
                bail!("{n_columns} columns came, {} were expected\n{}", question.types.len(), question.sql);
            }
            let expected = sort_expected(expected, question);
            if actual == expected {
                break;
            }
            if !question.eventually || started.elapsed() > EVENTUALLY_TIMEOUT {
                bail!("{}\n{}", question.sql, difference(&expected, &actual));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.views_on && self.local().is_some() {
            self.query_as_view(question).await?;
        }
        Ok(())
    }

    /// A materialized view over the same query holds the same rows.
    async fn query_as_view(&mut self, question: &Question<'_>) -> Result<()> {
        let sql = question.sql.trim().trim_end_matches(';');
        self.n_views += 1;
        let name = format!("slt_view_{}", self.n_views);
        match self.ask(&format!("CREATE MATERIALIZED VIEW {name} AS {sql}")).await? {
            Ok(_) => {}
            // Names that a view cannot have twice: as in Postgres, only a query can show them.
            Err(failure) if failure.code == "42701" => return Ok(()),
            Err(failure) => bail!("as a materialized view: {}\n{sql}", failure.expectation()),
        }
        self.check_view(&name, sql).await?;
        self.views.insert(name, sql.to_string());
        Ok(())
    }

    /// Notes what exists, so that views can be checked.
    fn remember(&mut self, sql: &str, succeeded: bool) {
        if !succeeded {
            return;
        }
        let text = sql.trim().trim_end_matches(';');
        let lower = text.to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let name_at = |at: usize| {
            let skip =
                if words.get(at) == Some(&"if") { if words.get(at + 1) == Some(&"not") { 3 } else { 2 } } else { 0 };
            let word = words.get(at + skip).copied().unwrap_or_default();
            word.split('(').next().unwrap_or_default().trim_matches(|c| c == '"' || c == ',').to_string()
        };
        match words.as_slice() {
            ["create", "source", ..] => {
                self.moving.insert(name_at(2));
            }
            ["create", "table", ..] if lower.contains("connector") => {
                self.moving.insert(name_at(2));
            }
            ["create", "materialized", "view", ..] => {
                let name = name_at(3);
                // IF NOT EXISTS leaves the view that is there.
                if words.get(3) == Some(&"if") && (self.views.contains_key(&name) || self.moving.contains(&name)) {
                    return;
                }
                let Some(at) = [" as ", "\nas ", " as\n"].iter().filter_map(|word| lower.find(word)).min() else {
                    return;
                };
                let query = &text[at + 4..];
                let mentioned: BTreeSet<String> =
                    lower[at..].split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_string).collect();
                // What a view shows with EMIT, or as of a time, depends on when its rows came, and not on which there are.
                let clock = ["now", "system_time", "current_timestamp", "emit"];
                let clock = clock.iter().any(|word| mentioned.contains(*word));
                if clock || mentioned.iter().any(|word| self.moving.contains(word)) {
                    self.moving.insert(name);
                } else if !lower[..at].contains('(') {
                    self.views.insert(name, query.to_string());
                }
            }
            ["create", "view", ..] => {
                let mentioned = lower.split(|c: char| !c.is_alphanumeric() && c != '_');
                if mentioned.into_iter().any(|word| self.moving.contains(word)) {
                    self.moving.insert(name_at(2));
                }
            }
            ["drop", "materialized", "view", ..] if !lower.contains("cascade") => {
                for name in lower.split(',') {
                    let name = name.split_whitespace().find(|word| self.views.contains_key(*word)).map(str::to_string);
                    name.map(|name| self.views.remove(&name));
                }
            }
            // What went along is not known here.
            ["drop", ..] => self.views.clear(),
            _ => {}
        }
    }

    /// Every view equals its query run in batch.
    async fn check_views(&mut self) -> Result<()> {
        if self.local().is_none() || self.complete.is_some() {
            return Ok(());
        }
        let views = self.views.clone();
        // A connection of its own: the script's may be inside a transaction.
        let current = std::mem::replace(&mut self.current, "views".to_string());
        let outcome = self.check_each(&views).await;
        self.current = current;
        outcome
    }

    async fn check_each(&mut self, views: &BTreeMap<String, String>) -> Result<()> {
        // What one client wrote, another sees a moment later, one relation before the other: unless it waits for all.
        self.ask("FLUSH").await?.map_err(|failure| anyhow!("FLUSH: {}", failure.expectation()))?;
        for (name, query) in views {
            self.check_view(name, query).await?;
        }
        Ok(())
    }

    async fn check_view(&mut self, name: &str, query: &str) -> Result<()> {
        let stored = self.ask(&format!("SELECT * FROM {name}")).await?;
        let stored = stored.map_err(|failure| anyhow!("view {name}: {}", failure.expectation()))?;
        let computed = self.ask(query).await?;
        // A row that has no answer fails a query; a view goes on without it and keeps it in `name$errors`.
        if computed.as_ref().is_err_and(|failure| failure.code.starts_with("22")) {
            return Ok(());
        }
        let computed =
            computed.map_err(|failure| anyhow!("the query of {name}: {}\n{query}", failure.expectation()))?;
        let stored = script::sorted(&stored.rows, Sort::Rows);
        let computed = script::sorted(&computed.rows, Sort::Rows);
        if stored != computed {
            bail!("view {name} differs from its query\n{query}\n{}", difference(&computed, &stored));
        }
        Ok(())
    }
}

/// On Postgres a materialized view would be a still picture: a view gives what ours must show.
fn as_views(sql: &str) -> String {
    static MATERIALIZED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)^\s*(create|drop)\s+materialized\s+view\b").expect("a valid pattern"));
    MATERIALIZED.replace(sql, "$1 VIEW").into_owned()
}

/// A query of a script.
struct Question<'a> {
    sql: String,
    types: &'a str,
    sort: Sort,
    header: bool,
    eventually: bool,
}

fn sort_expected(expected: &[String], question: &Question<'_>) -> Vec<String> {
    let (head, rows) = expected.split_at(usize::from(question.header && !expected.is_empty()));
    let mut rows = rows.to_vec();
    if question.sort != Sort::None {
        rows.sort();
    }
    [head.to_vec(), rows].concat()
}

/// What is missing and what is too much, line by line.
fn difference(expected: &[String], actual: &[String]) -> String {
    let mut text = String::from("(- expected, + came)\n");
    let mut rest: Vec<&String> = actual.iter().collect();
    let mut n_lines = 0;
    for line in expected {
        match rest.iter().position(|other| *other == line) {
            Some(at) => {
                rest.remove(at);
            }
            None => {
                n_lines += 1;
                if n_lines < 40 {
                    text.push_str(&format!("- {line}\n"));
                }
            }
        }
    }
    for line in rest.iter().take(40) {
        text.push_str(&format!("+ {line}\n"));
    }
    if n_lines == 0 && rest.is_empty() {
        text.push_str(&format!("the same rows in another order:\n{}\n", actual.join("\n")));
    }
    text
}

/// Runs one suite on a fresh server in this process.
pub fn run_file(path: &Path, mode: Mode) -> Result<()> {
    let records = read(path)?;
    in_runtime(async {
        let directory = tempfile::tempdir()?;
        let local = Local::start(&directory.path().join("data"), mode).await?;
        let mut runner = Runner::new(Target::Headwater(Box::new(local)), directory.path());
        runner.run(&records).await
    })
}

/// The same, but goes on after a record that fails, and tells all that do.
pub fn run_whole_file(path: &Path, mode: Mode) -> Result<()> {
    let records = read(path)?;
    in_runtime(async {
        let directory = tempfile::tempdir()?;
        let local = Local::start(&directory.path().join("data"), mode).await?;
        let mut runner = Runner::new(Target::Headwater(Box::new(local)), directory.path());
        runner.keep_going = Some(Vec::new());
        let outcome = runner.run(&records).await;
        let problems = runner.keep_going.take().unwrap_or_default();
        if problems.is_empty() { outcome } else { bail!("{}", problems.join("\n\n")) }
    })
}

/// Runs one suite in a fresh database of a Postgres.
pub fn run_file_on_postgres(path: &Path, address: std::net::SocketAddr) -> Result<()> {
    let records = read(path)?;
    in_runtime(async {
        let directory = tempfile::tempdir()?;
        let mut runner = Runner::new(Target::postgres(address, &suite_name(path)).await?, directory.path());
        runner.run(&records).await
    })
}

/// Runs one suite and writes what came as what is expected. On Postgres if an address is given.
pub fn complete_file(path: &Path, postgres: Option<std::net::SocketAddr>) -> Result<()> {
    let records = read(path)?;
    let edits = in_runtime(async {
        let directory = tempfile::tempdir()?;
        let target = match postgres {
            Some(address) => Target::postgres(address, &suite_name(path)).await?,
            None => {
                let local = Local::start(&directory.path().join("data"), Mode::OneWorker).await?;
                Target::Headwater(Box::new(local))
            }
        };
        let mut runner = Runner::new(target, directory.path());
        runner.complete = Some(Vec::new());
        runner.run(&records).await?;
        Ok(runner.complete.take().unwrap_or_default())
    })?;
    let text = std::fs::read_to_string(path)?;
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    let in_loops = loop_lines(&records);
    for (from, to, new) in edits.into_iter().rev().filter(|(from, ..)| !in_loops.contains(from)) {
        lines.splice(from - 1..to - 1, new);
    }
    Ok(std::fs::write(path, lines.join("\n") + "\n")?)
}

/// Lines inside loops answer differently each time: they stay as written.
fn loop_lines(records: &[Record]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for record in records {
        let Step::Loop { body, .. } = &record.step else { continue };
        for inner in body {
            match &inner.step {
                Step::Statement { header, .. } => found.insert(*header),
                Step::Query { lines, .. } => found.insert(lines.0),
                _ => false,
            };
        }
        found.extend(loop_lines(body));
    }
    found
}

fn read(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    script::parse(&text).with_context(|| path.display().to_string())
}

/// `stream/join/inner` for `suites/stream/join/inner.slt`.
pub fn suite_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.strip_prefix(crate::target::suites_folder()).unwrap_or(&path).with_extension("").display().to_string()
}

/// Runs a future on a runtime of its own.
pub fn in_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_stack_size(planner::stack::THREAD_BYTES)
        .build()?;
    let outcome = runtime.block_on(future);
    // A thread that is stuck must not keep the other tests from running.
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}
