//! The parts of pages that are made from a running server: what stands between `<!-- generated: NAME -->` and `<!-- end -->`.
//!
//! `UPDATE_EXPECT=1 cargo test -p slt --test docs` writes them. What people add to the tables (the example of a function, the
//! meaning of a column) is kept, and asked for where it is missing; examples are run, and their results are what came.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use planner::functions::{self, Definition, Param};
use slt::run::ask;
use slt::target::{Local, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

/// Where a part begins.
pub const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";
/// The family whose functions serve psql and drivers: listed, and without examples.
const FOR_CLIENTS: &str = "Session and system";
/// Overloads that are shown of one function.
const OVERLOADS_SHOWN: usize = 4;
/// What the syntax turns into: `x = ANY (a)`, `a[1]`, `x LIKE y ESCAPE z`.
const BEHIND_SYNTAX: &[&str] = &[
    "any_",
    "all_",
    "array_get",
    "array_slice",
    "like_escape",
    "similar_to_escape",
    "notlike",
    "array_subscripts",
    "_pg_",
];
/// Answered with an error that says what to use instead, or not reached by the parser yet.
const REFUSED: &[&str] = &["?", "?|", "?&"];
/// How long the end of a split may stay unknown.
const SPLIT_END_MAX: Duration = Duration::from_secs(60);
/// Stands for a result that is another one each time.
const VARIES: &str = "varies";

/// Makes the parts of a page and compares them with what it has.
pub async fn check(path: &Path) -> Result<()> {
    let page = std::fs::read_to_string(path)?;
    let directory = tempfile::tempdir()?;
    let local = Local::start(&directory.path().join("data"), Mode::OneWorker).await?;
    let fresh = made(&page, &local).await;
    local.stop().await?;
    let (fresh, left) = fresh?;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &fresh)?;
    } else if let Some((at, (have, want))) = page.lines().zip(fresh.lines()).enumerate().find(|(_, (a, b))| a != b) {
        bail!("line {} is stale (UPDATE_EXPECT=1 cargo test -p slt --test docs):\n{have}\nshould be\n{want}", at + 1);
    } else {
        ensure!(page == fresh, "the page is stale: UPDATE_EXPECT=1 cargo test -p slt --test docs");
    }
    ensure!(left.is_empty(), "cells that somebody has to fill in:\n{}", left.join("\n"));
    Ok(())
}

/// The page with its parts made anew, and the lines in which something is left to fill in.
async fn made(page: &str, local: &Local) -> Result<(String, Vec<String>)> {
    let client = local.connect().await?;
    let (mut out, mut left) = (String::new(), Vec::new());
    let mut rest = page;
    while let Some(at) = rest.find(BEGIN) {
        let name_at = at + BEGIN.len();
        let name_end = rest[name_at..].find(" -->").context("a part's name ends with -->")? + name_at;
        let end = rest[name_end..].find(END).context("a part ends with <!-- end -->")? + name_end;
        let name = &rest[name_at..name_end];
        let kept = Kept::new(&rest[name_end..end]);
        let part = match name {
            "functions" => functions_of_all_families(&client, &kept).await?,
            "aggregates" => aggregates(&client, &kept).await?,
            "settings" => settings(&client, false).await?,
            "accepted settings" => settings(&client, true).await?,
            "metrics" => metrics(local, &client, &kept).await?,
            relation => columns(&client, relation, &kept).await?,
        };
        let missing: Vec<&str> =
            part.lines().filter(|l| l.starts_with('|') && cells(l).contains(&String::new())).collect();
        if !missing.is_empty() {
            left.push(missing.join("\n"));
        }
        out += &rest[..name_end];
        out += &format!(" -->\n\n{}\n\n", part.trim());
        rest = &rest[end..];
    }
    Ok((out + rest, left))
}

/// The cells of a table's line.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
    line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

fn row(cells: &[&str]) -> String {
    format!(
        "| {} |\n",
        cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect::<Vec<_>>().join(" | ")
    )
}

/// What people wrote into the tables of a part: cells by heading and first cell.
struct Kept(BTreeMap<(String, String), Vec<String>>);

impl Kept {
    fn new(part: &str) -> Kept {
        let mut kept = BTreeMap::new();
        let mut heading = String::new();
        for line in part.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                heading = title.to_string();
            } else if line.starts_with('|') {
                let cells = cells(line);
                kept.insert((heading.clone(), cells[0].clone()), cells);
            }
        }
        Kept(kept)
    }

    /// The cell of a row, empty if there is none yet.
    fn cell(&self, heading: &str, first: &str, at: usize) -> &str {
        self.0.get(&(heading.to_string(), first.to_string())).and_then(|cells| cells.get(at)).map_or("", String::as_str)
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// A table of functions: names, signatures, examples and what they give.
async fn table(client: &Client, kept: &Kept, title: &str, rows: &BTreeMap<&str, Vec<String>>) -> Result<String> {
    let mut out = format!("## {title}\n\n| function | signature | example | gives |\n|---|---|---|---|\n");
    for (name, signatures) in rows {
        let name = code(name);
        let shown = signatures.iter().take(OVERLOADS_SHOWN).map(|signature| code(signature));
        let more = signatures.len().saturating_sub(OVERLOADS_SHOWN);
        let signatures: Vec<String> = shown.chain((more > 0).then(|| format!("and {more} more"))).collect();
        let example = kept.cell(title, &name, 2).to_string();
        let gives = if example.is_empty() {
            String::new()
        } else {
            let sql = format!("SELECT {}", example.trim_matches('`'));
            let answer = ask(client, &sql).await.map_err(|e| anyhow::anyhow!("{} {}\n{sql}", e.code, e.message))?;
            let values: Vec<String> = answer.rows.into_iter().flatten().collect();
            let values = values.join(", ").replace("(empty)", "");
            if kept.cell(title, &name, 3) == VARIES { VARIES.into() } else { code(&values) }
        };
        let gives = if gives.is_empty() && !example.is_empty() { "(empty)".into() } else { gives };
        out += &row(&[&name, &signatures.join("<br>"), &example, &gives]);
    }
    Ok(out)
}

async fn functions_of_all_families(client: &Client, kept: &Kept) -> Result<String> {
    let mut out = String::new();
    for (title, definitions) in functions::families() {
        let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let is_shown =
            |d: &&Definition| !REFUSED.contains(&d.name) && !BEHIND_SYNTAX.iter().any(|b| d.name.starts_with(b));
        for definition in definitions.iter().filter(is_shown) {
            rows.entry(definition.name).or_default().push(signature(definition));
        }
        if title == FOR_CLIENTS {
            out += &format!(
                "## {title}\n\nWhat psql, drivers and tools ask; the answers are Postgres' where there is something to tell.\n\n"
            );
            let names: Vec<String> = rows.values().flatten().map(|signature| code(signature)).collect();
            out += &format!("{}\n", names.join(" · "));
        } else if !rows.is_empty() {
            out += &table(client, kept, title, &rows).await?;
            out.push('\n');
        }
    }
    Ok(out)
}

async fn aggregates(client: &Client, kept: &Kept) -> Result<String> {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, signature) in functions::aggregate::signatures() {
        rows.entry(name).or_default().push(signature);
    }
    table(client, kept, "Aggregates", &rows).await
}

fn signature(definition: &Definition) -> String {
    let param = |param: &Param| match param {
        Param::Type(ty) => planner::types::format(ty, -1),
        Param::AnyElement => "anyelement".into(),
        Param::AnyNonArray => "anynonarray".into(),
        Param::AnyArray => "anyarray".into(),
        Param::Any => "any".into(),
    };
    let name = definition.name;
    let mut params: Vec<String> = definition.params.iter().map(param).collect();
    let returns = param(&definition.returns);
    if definition.variadic
        && let Some(last) = params.last_mut()
    {
        *last += ", ...";
    }
    match params.as_slice() {
        _ if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
            format!("{name}({}) → {returns}", params.join(", "))
        }
        [left, right] => format!("{left} {name} {right} → {returns}"),
        operands => format!("{name} {} → {returns}", operands.join(", ")),
    }
}

/// The settings that do something, or those that are accepted for the sake of scripts.
async fn settings(client: &Client, accepted: bool) -> Result<String> {
    let sql = "SELECT s.name, p.setting, s.description FROM headwater_catalog.settings s JOIN pg_settings p ON p.name = s.name \
               ORDER BY lower(s.name)";
    let answer = ask(client, sql).await.map_err(|e| anyhow::anyhow!("{} {}", e.code, e.message))?;
    let mut out = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for cells in answer.rows {
        let [name, default, description] = &cells[..] else { bail!("three columns") };
        let default = if name == "port" { "4566".into() } else { default.replace("(empty)", "''") };
        if description.starts_with("Accepted, without effect") == accepted {
            let description = if accepted { "Accepted, without effect.".into() } else { description.clone() };
            out += &row(&[&code(name), &code(&default), &description]);
        }
    }
    Ok(out)
}

/// The columns of a system relation.
async fn columns(client: &Client, relation: &str, kept: &Kept) -> Result<String> {
    let (schema, name) = relation.split_once('.').with_context(|| format!("nobody makes a part {relation:?}"))?;
    let sql = format!(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = '{schema}' AND table_name = '{name}' \
         ORDER BY ordinal_position"
    );
    let answer = ask(client, &sql).await.map_err(|e| anyhow::anyhow!("{} {}", e.code, e.message))?;
    ensure!(!answer.rows.is_empty(), "there is no relation {relation}");
    let mut out = String::from("| column | type | meaning |\n|---|---|---|\n");
    for cells in &answer.rows {
        let column = code(&cells[0]);
        out += &row(&[&column, &cells[1], kept.cell("", &column, 2)]);
    }
    Ok(out)
}

/// The metrics, from `/metrics`.
async fn metrics(local: &Local, client: &Client, kept: &Kept) -> Result<String> {
    // One of everything that has metrics.
    for sql in [
        "CREATE TABLE t (a int) WITH (ttl = '1 hour')",
        "CREATE TABLE e (at timestamp, WATERMARK FOR at AS at)",
        "INSERT INTO e VALUES ('2024-07-01')",
        "CREATE SOURCE s (a int) WITH (connector = 'datagen', datagen.rows = '1')",
        "CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a",
        "CREATE MATERIALIZED VIEW w AS SELECT a FROM s",
        "CREATE SINK k FROM v WITH (connector = 'blackhole', type = 'upsert', primary_key = 'a')",
        "INSERT INTO t VALUES (1)",
        "FLUSH",
    ] {
        ask(client, sql).await.map_err(|e| anyhow::anyhow!("{} {}\n{sql}", e.code, e.message))?;
    }
    // Where a split ends is asked for now and then: what follows from it comes last.
    let begun = Instant::now();
    let mut text = String::new();
    while !text.contains("headwater_split_lag{") {
        ensure!(begun.elapsed() < SPLIT_END_MAX, "the end of a split is not told:\n{text}");
        let mut stream = tokio::net::TcpStream::connect(local.http_address()?).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        text.clear();
        stream.read_to_string(&mut text).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut helps, mut types, mut labels) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::<String, String>::new());
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name.to_string(), help.trim_end_matches('.').to_string());
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            types.insert(name.to_string(), kind.to_string());
        } else if let Some((name, rest)) = line.split_once('{') {
            let pairs = rest.split('}').next().unwrap_or_default();
            let names: Vec<&str> = pairs.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            labels.insert(name.strip_suffix("_total").unwrap_or(name).to_string(), names.join(", "));
        }
    }
    ensure!(!helps.is_empty(), "no metrics came:\n{text}");
    let mut out = String::from("| metric | kind | labels | meaning | watch it because |\n|---|---|---|---|---|\n");
    for (name, help) in helps {
        let kind = types.get(&name).cloned().unwrap_or_default();
        let shown = code(&if kind == "counter" { format!("{name}_total") } else { name.clone() });
        let labels = labels.get(&name).map_or("none".to_string(), |labels| labels.clone());
        out += &row(&[&shown, &kind, &labels, &help, kept.cell("", &shown, 4)]);
    }
    Ok(out)
}
