//! What a server answered, and whether two servers say the same.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, pin_mut};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::kind::Kind;
use crate::run::Failure;

/// A query that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How far apart two floating-point numbers may be, relative to the larger one.
const TOLERANCE: f64 = 1e-9;

/// The rows of a query, as text.
pub type Rows = Vec<Vec<Option<String>>>;
/// What a query came to.
pub type Outcome = std::result::Result<Rows, Failure>;

/// Sends queries, many in one round trip, and gives what each came to.
pub async fn ask_all(client: &Client, queries: &[String]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut alone = false;
    while outcomes.len() < queries.len() {
        let from = outcomes.len();
        let to = if alone { from + 1 } else { queries.len() };
        match ask_some(client, &queries[from..to].join(";\n"), &mut outcomes).await {
            // Who failed is only sure for a query alone: a syntax error anywhere refuses all of them.
            Err(_) if to - from > 1 => alone = true,
            Err(failure) => {
                outcomes.push(Err(failure));
                alone = false;
            }
            Ok(()) => {
                assert!(outcomes.len() == to, "{} answers to {to} queries", outcomes.len());
                alone = false;
            }
        }
    }
    outcomes
}

/// Sends one text and adds the rows of each query in it that is through.
async fn ask_some(client: &Client, sql: &str, outcomes: &mut Vec<Outcome>) -> std::result::Result<(), Failure> {
    let broken = |message: String| Failure { code: String::new(), message, position: None, hint: None };
    let work = async {
        let stream = client.simple_query_raw(sql).await?;
        pin_mut!(stream);
        let mut rows: Option<Rows> = None;
        while let Some(message) = stream.next().await {
            match message? {
                SimpleQueryMessage::RowDescription(_) => rows = Some(Vec::new()),
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|column| row.get(column).map(str::to_string)).collect();
                    rows.get_or_insert_default().push(values);
                }
                SimpleQueryMessage::CommandComplete(_) => outcomes.push(Ok(rows.take().unwrap_or_default())),
                _ => {}
            }
        }
        Ok::<(), tokio_postgres::Error>(())
    };
    match tokio::time::timeout(TIMEOUT, work).await {
        Err(_) => Err(broken(format!("no answer within {} s", TIMEOUT.as_secs()))),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(match error.as_db_error() {
            None => broken(format!("connection lost: {error}")),
            Some(db) => Failure {
                code: db.code().code().to_string(),
                message: db.message().to_string(),
                position: None,
                hint: db.hint().map(str::to_string),
            },
        }),
    }
}

/// How our answer stands to Postgres'.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It says the same.
    Same,
    /// Nothing can be said: Postgres cannot do it, or a view goes on without the rows that fail.
    Open,
    /// We say that we cannot do it: the message.
    Unsupported(String),
    /// It is wrong: in short, and in full.
    Wrong(String, String),
}

/// Compares what Postgres and we answered. A view has no rows for what fails.
pub fn judge(postgres: &Outcome, ours: &Outcome, kinds: &[Kind], view: bool) -> Verdict {
    let text = |failure: &Failure| format!("{}: {}", failure.code, failure.message);
    match (postgres, ours) {
        // Of an internal error nothing says what it had meant to answer.
        (Err(theirs), _) if matches!(theirs.code.as_str(), "0A000" | "57014" | "XX000") => Verdict::Open,
        (_, Err(failure)) if failure.code == "0A000" => Verdict::Unsupported(failure.message.clone()),
        (Ok(expected), Ok(came)) => match difference(expected, came, kinds) {
            None => Verdict::Same,
            Some(difference) => Verdict::Wrong("other rows".to_string(), difference),
        },
        (Err(theirs), Err(failure)) if theirs.code == failure.code => Verdict::Same,
        (Err(theirs), Err(failure)) => Verdict::Wrong(
            format!("{} for {}", failure.code, theirs.code),
            format!("Postgres: {}\ncame: {}", text(theirs), text(failure)),
        ),
        (Err(theirs), Ok(_)) if view && is_of_a_value(&theirs.code) => Verdict::Open,
        (Err(theirs), Ok(_)) => Verdict::Wrong(format!("no {}", theirs.code), format!("Postgres: {}", text(theirs))),
        (Ok(_), Err(failure)) => Verdict::Wrong(failure.code.clone(), text(failure)),
    }
}

/// Whether a code says that a value cannot be computed: it is out of range, or beyond a limit.
fn is_of_a_value(code: &str) -> bool {
    code.starts_with('2') || code == "54000"
}

/// What is missing and what is too much, if anything is.
pub fn difference(expected: &Rows, came: &Rows, kinds: &[Kind]) -> Option<String> {
    let mut missing: Vec<&Vec<Option<String>>> = expected.iter().collect();
    let mut extra: Vec<&Vec<Option<String>>> = came.iter().collect();
    missing.sort();
    extra.sort();
    if missing == extra {
        return None;
    }
    for equal in [|one: &_, other: &_, _: &[Kind]| one == other, about_equal] {
        extra.retain(|row| match missing.iter().position(|other| equal(*row, *other, kinds)) {
            Some(at) => {
                missing.remove(at);
                false
            }
            None => true,
        });
    }
    if missing.is_empty() && extra.is_empty() {
        return None;
    }
    let line = |sign: char, row: &Vec<Option<String>>| format!("{sign} {}", show(row));
    let lines =
        missing.iter().take(12).map(|row| line('-', row)).chain(extra.iter().take(12).map(|row| line('+', row)));
    Some(format!("(- expected, + came)\n{}", lines.collect::<Vec<_>>().join("\n")))
}

/// Whether two rows are the same but for the last digits of floating-point numbers.
fn about_equal(one: &Vec<Option<String>>, other: &Vec<Option<String>>, kinds: &[Kind]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).enumerate().all(|(at, (one, other))| {
            one == other
                || match (one, other, kinds.get(at)) {
                    (Some(one), Some(other), Some(Kind::Float)) => near(one, other),
                    _ => false,
                }
        })
}

fn near(one: &str, other: &str) -> bool {
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => (one - other).abs() <= TOLERANCE * one.abs().max(other.abs()).max(1.0),
        _ => false,
    }
}

/// A row as suites write it.
pub fn show(row: &[Option<String>]) -> String {
    let value = |value: &Option<String>| match value.as_deref() {
        None => "NULL".to_string(),
        Some("") => "(empty)".to_string(),
        Some(text) => text.replace('\n', "\\n"),
    };
    row.iter().map(value).collect::<Vec<_>>().join("|")
}

/// Runs one statement that gives no rows.
pub async fn run(client: &Client, sql: &str) -> Result<()> {
    crate::run::ask(client, sql)
        .await
        .map(|_| ())
        .map_err(|failure| anyhow::anyhow!("{}: {}\n{sql}", failure.code, failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Rows {
        rows.iter().map(|row| row.iter().map(|value| Some(value.to_string())).collect()).collect()
    }

    #[test]
    fn rows_are_multisets_and_floats_are_near() {
        let kinds = [Kind::Int, Kind::Float];
        let expected = rows(&[&["1", "0.1"], &["1", "0.1"], &["2", "3"]]);
        assert_eq!(
            difference(&expected, &rows(&[&["2", "3"], &["1", "0.10000000000001"], &["1", "0.1"]]), &kinds),
            None
        );
        assert!(difference(&expected, &rows(&[&["2", "3"], &["1", "0.1"]]), &kinds).is_some());
        assert!(difference(&expected, &rows(&[&["2", "3"], &["2", "3"], &["1", "0.1"]]), &kinds).is_some());
        assert!(difference(&expected, &rows(&[&["2", "3"], &["1", "0.11"], &["1", "0.1"]]), &kinds).is_some());
    }

    #[test]
    fn an_error_on_one_side_is_wrong_unless_it_says_that_we_cannot() {
        let failed = |code: &str| -> Outcome {
            Err(Failure { code: code.to_string(), message: "m".to_string(), position: None, hint: None })
        };
        let kinds = [Kind::Int];
        assert_eq!(judge(&Ok(vec![]), &failed("0A000"), &kinds, false), Verdict::Unsupported("m".to_string()));
        assert!(matches!(judge(&Ok(vec![]), &failed("XX000"), &kinds, false), Verdict::Wrong(..)));
        assert!(matches!(judge(&failed("22012"), &Ok(vec![]), &kinds, false), Verdict::Wrong(..)));
        assert_eq!(judge(&failed("22012"), &Ok(vec![]), &kinds, true), Verdict::Open);
        assert_eq!(judge(&failed("22012"), &failed("22012"), &kinds, false), Verdict::Same);
        assert_eq!(judge(&failed("0A000"), &Ok(vec![]), &kinds, false), Verdict::Open);
    }
}
