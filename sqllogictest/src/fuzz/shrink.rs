//! Cuts a case with a wrong answer down to a small one, and writes it as a suite.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::answers::show;
use super::case::{Case, Mismatch, Place};
use super::subject::{Postgres, Subject, Treatment};

/// Tries smaller cases until none is wrong in the same way, or the time is over.
pub struct Shrinker<'a> {
    postgres: &'a Postgres,
    subject: Option<Subject>,
    kill: bool,
    mismatch: Mismatch,
    end: Instant,
}

impl<'a> Shrinker<'a> {
    /// For one wrong answer.
    pub fn new(postgres: &'a Postgres, kill: bool, mismatch: &Mismatch, time: Duration) -> Shrinker<'a> {
        Shrinker { postgres, subject: None, kill, mismatch: mismatch.clone(), end: Instant::now() + time }
    }

    /// Whether the case is wrong in the same way.
    async fn shows(&mut self, case: &Case) -> Result<bool> {
        if Instant::now() > self.end {
            return Ok(false);
        }
        let mut subject = match self.subject.take() {
            Some(subject) => subject,
            None => Subject::start(self.kill, 2).await?,
        };
        let found = case.shows(&self.mismatch, &mut subject, self.postgres).await;
        match found {
            Ok(found) => {
                self.subject = Some(subject);
                if let Some(found) = &found {
                    self.mismatch = found.clone();
                }
                Ok(found.is_some())
            }
            // The server fell over: the next one is tried on a new one.
            Err(_) => {
                let _ = subject.stop().await;
                Ok(false)
            }
        }
    }

    /// Shrinks a case; nothing, if it is not wrong when it is played alone.
    pub async fn shrink(mut self, case: &Case) -> Result<Option<(Case, Mismatch)>> {
        let mut case = alone(case, &self.mismatch);
        if !self.shows(&case).await? {
            // Maybe only on an empty server.
            if let Some(subject) = self.subject.take() {
                subject.stop().await?;
            }
            if !self.shows(&case).await? {
                return Ok(None);
            }
        }
        loop {
            let before = size(&case);
            let calm = Case { treatment: Treatment::Runs, ..case.clone() };
            if case.treatment != Treatment::Runs && self.shows(&calm).await? {
                case = calm;
            }
            self.cut(&mut case, changes).await?;
            self.cut(&mut case, queries).await?;
            self.cut(&mut case, tables).await?;
            if size(&case) >= before || Instant::now() > self.end {
                break;
            }
        }
        if let Some(subject) = self.subject.take() {
            subject.stop().await?;
        }
        Ok(Some((case, self.mismatch)))
    }

    /// Takes the first smaller case that is still wrong, as long as there is one.
    async fn cut(&mut self, case: &mut Case, smaller: fn(&Case) -> Vec<Case>) -> Result<()> {
        let mut from = 0;
        loop {
            let found = smaller(case);
            let n_found = found.len();
            let mut taken = false;
            for (at, candidate) in found.into_iter().enumerate().skip(from) {
                if size(&candidate) < size(case) && self.shows(&candidate).await? {
                    *case = candidate;
                    // What was before it did not help a moment ago.
                    from = at;
                    taken = true;
                    break;
                }
            }
            if !taken && (from == 0 || n_found == 0) {
                return Ok(());
            }
            if !taken {
                from = 0;
            }
            if Instant::now() > self.end {
                return Ok(());
            }
        }
    }
}

/// Only the query that is wrong and what it reads, up to the batch after which it is wrong.
pub fn alone(case: &Case, mismatch: &Mismatch) -> Case {
    let mut case = Case { reads_all: true, ..case.clone() };
    case.batches.truncate(mismatch.batch + 1);
    if mismatch.place == Place::Change {
        case.batches[mismatch.batch].truncate(mismatch.at + 1);
        case.queries.clear();
    } else {
        let query = case.queries[mismatch.at].clone();
        case.queries.truncate(mismatch.at);
        case.queries.retain(|asked| asked.name.is_some());
        case.queries.push(query);
    }
    case
}

/// The length of everything in it: what shrinks.
fn size(case: &Case) -> usize {
    let queries: usize = case.queries.iter().map(|asked| asked.query.sql.to_string().len() + 10).sum();
    let changes: usize = case.batches.iter().flatten().map(|change| change.to_string().len() + 10).sum();
    let tables: usize = case.tables.iter().map(|table| table.create().len()).sum();
    queries + changes + tables + case.batches.len() + case.queries.last().map_or(0, |asked| asked.born)
}

/// Fewer batches, statements and rows.
fn changes(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    let n_batches = case.batches.len();
    let with = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        let last = case.batches.len() - 1;
        case.queries.iter_mut().for_each(|asked| asked.born = asked.born.min(last));
        case
    };
    for batch in 0..n_batches {
        if n_batches > 1 {
            found.push(with(&|case| {
                case.batches.remove(batch);
            }));
            if batch > 0 {
                found.push(with(&|case| {
                    let moved = case.batches.remove(batch);
                    case.batches[batch - 1].extend(moved);
                }));
            }
        }
        for at in 0..case.batches[batch].len() {
            found.push(with(&|case| {
                case.batches[batch].remove(at);
            }));
            for cut in case.batches[batch][at].cuts() {
                found.push(with(&|case| case.batches[batch][at] = cut.clone()));
            }
        }
    }
    if let Some(asked) = case.queries.last()
        && asked.born > 0
    {
        found.push(with(&|case| case.queries.last_mut().expect("a query").born = 0));
    }
    found
}

/// Smaller queries, and fewer of them.
fn queries(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    for at in (0..case.queries.len()).rev() {
        if case.queries[at].name.is_some() {
            let mut fewer = case.clone();
            fewer.queries.remove(at);
            found.push(fewer);
        }
        for cut in case.queries[at].query.sql.cuts() {
            let mut smaller = case.clone();
            smaller.queries[at].query.sql = cut;
            found.push(smaller);
        }
    }
    found
}

/// Fewer tables and columns.
fn tables(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    for (at, table) in case.tables.iter().enumerate() {
        let mut fewer = case.clone();
        fewer.tables.remove(at);
        for batch in &mut fewer.batches {
            batch.retain(|change| !change.changes(&table.name));
        }
        found.push(fewer);
        for column in (0..table.columns.len()).filter(|_| table.columns.len() > 1) {
            let mut narrower = case.clone();
            narrower.tables[at].columns.remove(column);
            for change in narrower.batches.iter_mut().flatten() {
                change.drop_column(&table.name, column);
            }
            found.push(narrower);
        }
    }
    found
}

/// The case as a suite.
pub fn suite(case: &Case, mismatch: &Mismatch, title: &str) -> String {
    let mut text = format!("# {title}\n# {:?}: {}\n", mismatch.place, mismatch.kind);
    for line in mismatch.text.lines() {
        text.push_str(&format!("#   {line}\n"));
    }
    let mut record = |head: &str, sql: &str| text.push_str(&format!("\n{head}\n{sql}\n"));
    for table in &case.tables {
        record("statement ok", &table.create());
    }
    let last = case.queries.len().saturating_sub(1);
    for (number, batch) in case.batches.iter().enumerate() {
        for (at, asked) in case.queries.iter().enumerate().filter(|(_, asked)| asked.born == number) {
            let name = asked.name.clone().unwrap_or_else(|| "v".to_string());
            if asked.name.is_some() || (at == last && mismatch.place == Place::View) {
                let kind = if asked.plain { "VIEW" } else { "MATERIALIZED VIEW" };
                record("statement ok", &format!("CREATE {kind} {name} AS {}", asked.query.sql));
            }
        }
        for change in batch {
            record("statement ok", &change.to_string());
        }
        record("flush", "");
        match case.treatment {
            Treatment::Runs => {}
            Treatment::Crashes => record("crash", ""),
            Treatment::Restarts => record("restart", ""),
        }
    }
    if let Some(asked) = case.queries.last()
        && mismatch.place != Place::Change
    {
        let sql = match mismatch.place {
            Place::View => "SELECT * FROM v".to_string(),
            _ => asked.query.sql.to_string(),
        };
        match &mismatch.expected {
            Some(Ok(rows)) => {
                let mut lines: Vec<String> = rows.iter().map(|row| show(row)).collect();
                lines.sort();
                record("query rowsort", &[vec![sql, "----".to_string()], lines].concat().join("\n"));
            }
            Some(Err(failure)) => record(&format!("statement error {}", failure.code), &sql),
            None => record("query rowsort", &sql),
        }
    }
    text
}
