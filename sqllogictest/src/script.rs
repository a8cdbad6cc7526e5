//! The text of a suite, and how it is read.
//!
//! ```text
//! # A comment.
//! statement ok                         the statement succeeds
//! CREATE TABLE t (a int)
//!
//! statement count 2                    and changes two rows
//! INSERT INTO t VALUES (1), (2)
//!
//! statement error 42703@8: column "b" does not exist      SQLSTATE, position, message; each part may be left out;
//! SELECT b FROM t                                         `/../` is a pattern that the message matches
//!
//! query I rowsort                      a letter per column; nosort (default), rowsort, valuesort;
//! SELECT a FROM t                      `header`: column names first; `eventually`: asked again until it is so
//! ----
//! 1                                    as `psql -At -P null=NULL` shows it; an empty text is (empty), a newline \n
//! 2
//!
//! only headwater                       the whole suite is of things that Postgres does not have
//! onlyif headwater                     for the next record: headwater, postgres, or a mode
//! skipif crash
//! flush                                FLUSH; in the mode `crash` the server crashes then and recovers
//! restart                              the server stops in order and starts again; `restart workers=2` with so many
//! crash                                the server crashes and recovers, in every mode
//! connection other                     what follows is sent by this client; the first is called `default`
//! views on                             every query is run as a materialized view as well, until `views off`
//! file orders.jsonl                    writes a file into ${DIR}, up to the line `end`; `file NAME append` appends
//! loop i 0 3                           repeats up to `endloop`, with ${i}
//! ```

use anyhow::{Context, Result, bail};

/// The line of a suite that does not run on Postgres.
const ONLY_HEADWATER: &str = "only headwater";

/// Whether a suite is of things that Postgres does not have.
pub fn is_only_headwater(text: &str) -> bool {
    text.lines().any(|line| line == ONLY_HEADWATER)
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The first line, counted from 1.
    pub line: usize,
    /// `onlyif` labels.
    pub only: Vec<String>,
    /// `skipif` labels.
    pub skip: Vec<String>,
    /// What to do.
    pub step: Step,
}

/// What a record does.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A statement and what it must come to.
    Statement {
        /// The text.
        sql: String,
        /// What it must come to.
        expect: Expect,
        /// The line with the expectation, counted from 1.
        header: usize,
    },
    /// A query and its rows.
    Query {
        /// The text.
        sql: String,
        /// A letter per column.
        types: String,
        /// How rows are put in order before they are compared.
        sort: Sort,
        /// Whether the column names are the first row.
        header: bool,
        /// Whether it is asked again until it is so.
        eventually: bool,
        /// The rows.
        expected: Vec<String>,
        /// The lines of the rows: from, up to (exclusive), counted from 1; `from` is the line after `----`.
        lines: (usize, usize),
        /// Whether a `----` was there.
        separator: bool,
    },
    /// `FLUSH`.
    Flush,
    /// Stop in order and start again, maybe with another number of workers.
    Restart(Option<usize>),
    /// Crash and recover.
    Crash,
    /// Another client speaks.
    Connection(String),
    /// Whether queries are run as views as well.
    Views(bool),
    /// Write or append to a file.
    File {
        /// Its name.
        name: String,
        /// Whether it is appended to.
        append: bool,
        /// What is written.
        text: String,
    },
    /// Repeat.
    Loop {
        /// The name of the number.
        variable: String,
        /// The first number and the end (exclusive).
        range: (i64, i64),
        /// What is repeated.
        body: Vec<Record>,
    },
}

/// What a statement must come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// It succeeds.
    Ok,
    /// It succeeds and changes so many rows.
    Count(u64),
    /// It fails.
    Error {
        /// With this SQLSTATE.
        code: Option<String>,
        /// At this character.
        position: Option<u32>,
        /// With this message, or one that matches `/pattern/`.
        message: Option<String>,
    },
}

/// How rows are put in order before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// As they come.
    None,
    /// Whole rows.
    Rows,
    /// All values, one per line.
    Values,
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Record>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    let records = parse_until(&lines, &mut at, None)?;
    Ok(records)
}

fn parse_until(lines: &[&str], at: &mut usize, end: Option<&str>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let (mut only, mut skip) = (Vec::new(), Vec::new());
    while *at < lines.len() {
        let line = *at + 1;
        let text = lines[*at].trim_end();
        *at += 1;
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if Some(text) == end {
            return Ok(records);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let step = match words[0] {
            // Who lists the suites looks for it: see `is_only_headwater`.
            "only" => {
                anyhow::ensure!(text == ONLY_HEADWATER, "line {line}: it is `{ONLY_HEADWATER}` or nothing");
                continue;
            }
            "onlyif" => {
                only.push(words.get(1).context("onlyif needs a label")?.to_string());
                continue;
            }
            "skipif" => {
                skip.push(words.get(1).context("skipif needs a label")?.to_string());
                continue;
            }
            "statement" => {
                let expect = parse_expectation(&text["statement".len()..]).with_context(|| format!("line {line}"))?;
                Step::Statement { sql: take_sql(lines, at), expect, header: line }
            }
            "query" => parse_query(&words[1..], lines, at).with_context(|| format!("line {line}"))?,
            "flush" => Step::Flush,
            "restart" => {
                Step::Restart(words.get(1).and_then(|word| word.strip_prefix("workers=")).map(str::parse).transpose()?)
            }
            "crash" => Step::Crash,
            "connection" => Step::Connection(words.get(1).context("connection needs a name")?.to_string()),
            "views" => Step::Views(words.get(1) == Some(&"on")),
            "file" => {
                let mut content = String::new();
                while *at < lines.len() && lines[*at] != "end" {
                    content.push_str(lines[*at]);
                    content.push('\n');
                    *at += 1;
                }
                *at += 1;
                let name = words.get(1).context("file needs a name")?.to_string();
                Step::File { name, append: words.get(2) == Some(&"append"), text: content }
            }
            "loop" => {
                let [variable, from, to] = words[1..] else { bail!("line {line}: loop needs a name and two numbers") };
                let body = parse_until(lines, at, Some("endloop"))?;
                Step::Loop { variable: variable.to_string(), range: (from.parse()?, to.parse()?), body }
            }
            other => bail!("line {line}: {other:?} is not a kind of record"),
        };
        records.push(Record { line, only: std::mem::take(&mut only), skip: std::mem::take(&mut skip), step });
    }
    if let Some(end) = end {
        bail!("{end} is missing");
    }
    Ok(records)
}

/// The lines up to an empty one.
fn take_sql(lines: &[&str], at: &mut usize) -> String {
    let start = *at;
    while *at < lines.len() && !lines[*at].trim().is_empty() && lines[*at] != "----" {
        *at += 1;
    }
    lines[start..*at].join("\n")
}

fn parse_expectation(text: &str) -> Result<Expect> {
    let text = text.trim();
    if text == "ok" {
        return Ok(Expect::Ok);
    }
    if let Some(count) = text.strip_prefix("count ") {
        return Ok(Expect::Count(count.trim().parse()?));
    }
    let Some(rest) = text.strip_prefix("error") else { bail!("a statement is ok, count N or error") };
    let rest = rest.trim();
    let (head, message) = match rest.split_once(": ") {
        Some((head, message)) if is_code(head) => (head, Some(message.to_string())),
        _ if is_code(rest) => (rest, None),
        _ if rest.is_empty() => ("", None),
        _ => ("", Some(rest.to_string())),
    };
    let (code, position) = match head.split_once('@') {
        Some((code, position)) => (code, Some(position.parse()?)),
        None => (head, None),
    };
    Ok(Expect::Error { code: (!code.is_empty()).then(|| code.to_string()), position, message })
}

/// `42703` or `42703@8`.
fn is_code(text: &str) -> bool {
    let code = text.split('@').next().unwrap_or_default();
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn parse_query(words: &[&str], lines: &[&str], at: &mut usize) -> Result<Step> {
    let (mut types, mut sort, mut header, mut eventually) = (String::new(), Sort::None, false, false);
    for word in words {
        match *word {
            "nosort" => sort = Sort::None,
            "rowsort" => sort = Sort::Rows,
            "valuesort" => sort = Sort::Values,
            "header" => header = true,
            "eventually" => eventually = true,
            word if word.bytes().all(|byte| byte.is_ascii_uppercase()) => types = word.to_string(),
            word => bail!("a query does not know {word:?}"),
        }
    }
    let sql = take_sql(lines, at);
    let separator = *at < lines.len() && lines[*at] == "----";
    *at += usize::from(separator);
    let from = *at;
    while separator && *at < lines.len() && !lines[*at].is_empty() {
        *at += 1;
    }
    let expected = lines[from..*at].iter().map(|line| line.to_string()).collect();
    Ok(Step::Query { sql, types, sort, header, eventually, expected, lines: (from + 1, *at + 1), separator })
}

/// Puts rows in the order in which they are compared.
pub fn sorted(rows: &[Vec<String>], sort: Sort) -> Vec<String> {
    let mut lines: Vec<String> = match sort {
        Sort::Values => rows.iter().flatten().cloned().collect(),
        _ => rows.iter().map(|row| row.join("|")).collect(),
    };
    if sort != Sort::None {
        lines.sort();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_kind_of_record() {
        let text = "# c\nonlyif headwater\nstatement error 42703@8: column \"b\" does not exist\nSELECT b\n\n\
                    query IT rowsort header\nSELECT 1,\n  'x'\n----\n1|x\n\nflush\nloop i 0 2\nstatement ok\nSELECT ${i}\n\nendloop\n";
        let records = parse(text).unwrap();
        assert_eq!(records.len(), 4);
        assert_eq!(records[0].only, ["headwater"]);
        let Step::Statement { expect: Expect::Error { code, position, message }, .. } = &records[0].step else {
            panic!()
        };
        assert_eq!((code.as_deref(), *position), (Some("42703"), Some(8)));
        assert_eq!(message.as_deref(), Some("column \"b\" does not exist"));
        let Step::Query { sql, expected, lines, header, .. } = &records[1].step else { panic!() };
        assert_eq!(
            (sql.as_str(), expected.as_slice(), *lines, *header),
            ("SELECT 1,\n  'x'", &["1|x".to_string()][..], (10, 11), true)
        );
        let Step::Loop { body, range, .. } = &records[3].step else { panic!() };
        assert_eq!((body.len(), *range), (1, (0, 2)));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(parse("select 1\n").is_err());
        assert!(parse("loop i 0 1\nflush\n").is_err());
        assert!(parse("query I sideways\nSELECT 1\n").is_err());
    }
}
