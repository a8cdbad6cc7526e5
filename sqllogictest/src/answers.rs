//! Answers of two servers to the same question, compared row for row: a view of Headwater, and its query on a Postgres.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, TryStreamExt};
use tokio_postgres::Client;

/// Rows that differ are told up to this many on each side.
const SHOWN: usize = 10;

/// An answer: its rows as `COPY` writes them, sorted, because a view has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows(Vec<String>);

impl Rows {
    /// What a query answers.
    pub async fn of(client: &Client, sql: &str) -> Result<Rows> {
        let text = copy_out(client, sql).await?;
        let text = std::str::from_utf8(&text).context("an answer that is not UTF-8")?;
        let mut rows: Vec<String> = text.lines().map(str::to_string).collect();
        rows.sort_unstable();
        Ok(Rows(rows))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A fingerprint of all rows together.
    pub fn hash(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for row in &self.0 {
            hasher.update(row.as_bytes());
            hasher.update(b"\n");
        }
        hasher.digest()
    }

    /// Fails, and tells rows that differ, unless both are the same.
    pub fn check_equal(&self, expected: &Rows) -> Result<()> {
        if self == expected {
            return Ok(());
        }
        let (missing, extra) = differing(&expected.0, &self.0);
        let list = |sign: &str, rows: &[&String]| -> String {
            rows.iter().take(SHOWN).map(|row| format!("\n{sign} {row}")).collect()
        };
        bail!(
            "{} rows, {} were expected; {} are missing (-), {} are too much (+){}{}",
            self.len(),
            expected.len(),
            missing.len(),
            extra.len(),
            list("-", &missing),
            list("+", &extra)
        )
    }
}

/// Of two sorted lists: what only the first has, and what only the second has.
fn differing<'a>(expected: &'a [String], came: &'a [String]) -> (Vec<&'a String>, Vec<&'a String>) {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (expected.iter().peekable(), came.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if a == b => {
                left.next();
                right.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => missing.extend(left.next()),
            (None, None) => return (missing, extra),
            _ => extra.extend(right.next()),
        }
    }
}

/// The rows of a query as `COPY ... TO STDOUT` sends them.
pub async fn copy_out(client: &Client, sql: &str) -> Result<Bytes> {
    let sql = format!("COPY ({}) TO STDOUT", sql.trim().trim_end_matches(';'));
    let stream = client.copy_out(sql.as_str()).await.with_context(|| sql.clone())?;
    let parts: BytesMut = stream
        .try_fold(BytesMut::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .with_context(|| sql)?;
    Ok(parts.freeze())
}

/// Sends rows as `COPY` reads them into a table; `options` as they stand in `WITH (...)`, or nothing.
pub async fn copy_in(client: &Client, table: &str, options: &str, rows: Bytes) -> Result<u64> {
    let with = if options.is_empty() { String::new() } else { format!(" WITH ({options})") };
    let sink = client.copy_in::<_, Bytes>(&format!("COPY {table} FROM STDIN{with}")).await.context("COPY")?;
    let mut sink = std::pin::pin!(sink);
    let mut parts = futures::stream::iter(rows.chunks(1 << 16).map(|part| Ok(rows.slice_ref(part))));
    sink.send_all(&mut parts).await.with_context(|| format!("COPY {table}"))?;
    sink.finish().await.with_context(|| format!("COPY {table}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_differs() {
        let rows = |texts: &[&str]| Rows(texts.iter().map(|text| text.to_string()).collect());
        assert!(rows(&["a", "b"]).check_equal(&rows(&["a", "b"])).is_ok());
        let error = rows(&["a", "a", "d"]).check_equal(&rows(&["a", "b", "d", "e"])).unwrap_err().to_string();
        assert_eq!(error, "3 rows, 4 were expected; 2 are missing (-), 1 are too much (+)\n- b\n- e\n+ a");
        assert_ne!(rows(&["a", "b"]).hash(), rows(&["ab"]).hash());
    }
}
