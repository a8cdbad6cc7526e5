//! A case: tables, queries and changes, played on both servers and compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio_postgres::Client;

use super::answers::{Outcome, Verdict, ask_all, judge};
use super::queries::Query;
use super::schema::{Change, Table};
use super::subject::{Postgres, Subject, Treatment};
use crate::run::{Failure, ask};

/// A query of a case.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The query.
    pub query: Query,
    /// Before which batch of changes its view is made.
    pub born: usize,
    /// Under which name other queries read it, if they do.
    pub name: Option<String>,
    /// Whether it is a view that keeps no rows.
    pub plain: bool,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Case {
    /// The tables.
    pub tables: Vec<Table>,
    /// The queries. Those with names come first, and are made before all changes.
    pub queries: Vec<Asked>,
    /// The changes, batch by batch.
    pub batches: Vec<Vec<Change>>,
    /// What happens to the server after each batch.
    pub treatment: Treatment,
    /// Whether every query is read after every batch. Otherwise each is read after one of them.
    pub reads_all: bool,
}

/// How many connections make views: each waits for a checkpoint, and they wait for the same one.
const N_MAKERS: usize = 32;

/// How long what was done took, by what it was.
pub type Spent = BTreeMap<&'static str, Duration>;

/// Says what takes the time.
#[derive(Debug)]
struct Watch {
    since: Instant,
    spent: Spent,
}

impl Watch {
    fn start() -> Watch {
        Watch { since: Instant::now(), spent: Spent::new() }
    }

    /// All since the last time was this.
    fn was(&mut self, what: &'static str) {
        *self.spent.entry(what).or_default() += self.since.elapsed();
        self.since = Instant::now();
    }
}

/// What was answered on one side.
#[derive(Debug, Default)]
struct Played {
    /// How many rows each statement of each batch changed.
    changed: Vec<Vec<std::result::Result<u64, Failure>>>,
    /// After each batch, what each query answered, if it was asked.
    answers: Vec<Vec<Option<Outcome>>>,
    /// After each batch, what each view held, or how it could not be made.
    views: Vec<Vec<Option<Outcome>>>,
    /// How long it took.
    spent: Spent,
}

/// Where an answer was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a materialized view.
    View,
    /// In a read.
    Read,
    /// In a statement that changes a table.
    Change,
    /// The server did not go on.
    Server,
}

/// A wrong answer.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Where.
    pub place: Place,
    /// Which query, or which statement of the batch.
    pub at: usize,
    /// After which batch.
    pub batch: usize,
    /// What is wrong, in short: while a case is shrunk, this stays.
    pub kind: String,
    /// What is wrong.
    pub text: String,
    /// What Postgres answered.
    pub expected: Option<Outcome>,
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The first wrong answer to each query.
    pub mismatches: Vec<Mismatch>,
    /// What we said that we cannot do: the query, and the message.
    pub unsupported: Vec<(usize, String)>,
    /// How many views were made.
    pub n_views: usize,
    /// How many answers were compared.
    pub n_compared: usize,
    /// How long it took, on both sides beside each other.
    pub spent: Spent,
}

impl Case {
    fn statement(&self, at: usize) -> String {
        self.queries[at].query.sql.to_string()
    }

    fn view(&self, at: usize) -> String {
        self.queries[at].name.clone().unwrap_or_else(|| format!("v{at}"))
    }

    async fn on_postgres(&self, postgres: &Postgres) -> Result<Played> {
        let mut watch = Watch::start();
        postgres.clear().await?;
        let client = &postgres.client;
        let mut played = Played::default();
        for table in &self.tables {
            super::answers::run(client, &table.create()).await?;
        }
        for (at, asked) in self.queries.iter().enumerate() {
            if let Some(name) = &asked.name {
                // If it fails, what reads it does too.
                let _ = ask(client, &format!("CREATE VIEW {name} AS {}", self.statement(at))).await;
            }
        }
        for batch in &self.batches {
            played.changed.push(change(client, batch).await);
            let queries: Vec<String> = (0..self.queries.len()).map(|at| self.statement(at)).collect();
            played.answers.push(ask_all(client, &queries).await.into_iter().map(Some).collect());
        }
        watch.was("Postgres");
        played.spent = watch.spent;
        Ok(played)
    }

    /// Whether a query is read after a batch.
    fn reads(&self, at: usize, batch: usize) -> bool {
        self.reads_all || (at + batch) % self.batches.len() == 0
    }

    /// Makes the views that are born before a batch: those with names in their order, the others several at once.
    async fn make_views(
        &self,
        subject: &Subject,
        client: &Client,
        batch: usize,
        made: &mut [Option<Outcome>],
    ) -> Result<()> {
        let born: Vec<usize> = (0..self.queries.len()).filter(|at| self.queries[*at].born == batch).collect();
        let (named, others): (Vec<usize>, Vec<usize>) =
            born.into_iter().partition(|at| self.queries[*at].name.is_some());
        for at in named {
            made[at] = Some(self.make_view(client, at).await);
        }
        if others.len() < N_MAKERS {
            for at in others {
                made[at] = Some(self.make_view(client, at).await);
            }
            return Ok(());
        }
        let makers = futures::future::try_join_all((0..N_MAKERS).map(|_| subject.connect())).await?;
        let work = makers.iter().enumerate().map(async |(maker, client)| {
            let mut made = Vec::new();
            for at in others.iter().copied().skip(maker).step_by(N_MAKERS) {
                made.push((at, self.make_view(client, at).await));
            }
            made
        });
        for (at, outcome) in futures::future::join_all(work).await.into_iter().flatten() {
            made[at] = Some(outcome);
        }
        Ok(())
    }

    async fn make_view(&self, client: &Client, at: usize) -> Outcome {
        let kind = if self.queries[at].plain { "VIEW" } else { "MATERIALIZED VIEW" };
        let create = format!("CREATE {kind} {} AS {}", self.view(at), self.statement(at));
        ask(client, &create).await.map(|_| Vec::new())
    }

    async fn on_ours(&self, subject: &mut Subject) -> Result<Played> {
        let mut client = subject.connect().await?;
        let (mut played, mut watch) = (Played::default(), Watch::start());
        for table in &self.tables {
            super::answers::run(&client, &table.create()).await?;
        }
        watch.was("tables");
        let mut made: Vec<Option<Outcome>> = vec![None; self.queries.len()];
        for (number, batch) in self.batches.iter().enumerate() {
            self.make_views(subject, &client, number, &mut made).await?;
            watch.was("views");
            played.changed.push(change(&client, batch).await);
            watch.was("changes");
            let flush = ask(&client, "FLUSH").await;
            flush.map_err(|failure| anyhow::anyhow!("FLUSH: {}: {}", failure.code, failure.message))?;
            watch.was("flush");
            if self.treatment != Treatment::Runs {
                drop(client);
                subject.treat(self.treatment).await?;
                client = subject.connect().await?;
                watch.was("crashes");
            }
            let there: Vec<usize> = (0..made.len()).filter(|at| matches!(made[*at], Some(Ok(_)))).collect();
            let reads: Vec<String> = there.iter().map(|at| format!("SELECT * FROM {}", self.view(*at))).collect();
            let mut views: Vec<Option<Outcome>> = made.clone();
            for (at, outcome) in there.into_iter().zip(ask_all(&client, &reads).await) {
                views[at] = Some(outcome);
            }
            played.views.push(views);
            watch.was("read views");
            let asked: Vec<usize> = (0..self.queries.len()).filter(|at| self.reads(*at, number)).collect();
            let queries: Vec<String> = asked.iter().map(|at| self.statement(*at)).collect();
            let mut answers = vec![None; self.queries.len()];
            for (at, outcome) in asked.into_iter().zip(ask_all(&client, &queries).await) {
                answers[at] = Some(outcome);
            }
            played.answers.push(answers);
            watch.was("read queries");
        }
        self.drop_all(&client, &made).await?;
        watch.was("drop");
        played.spent = watch.spent;
        Ok(played)
    }

    /// Drops what was made, so that the server can be used again.
    async fn drop_all(&self, client: &Client, made: &[Option<Outcome>]) -> Result<()> {
        let tables: Vec<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        let mut drops = vec![("TABLE", tables.join(", "))];
        // Those that read no table are left.
        for (plain, kind) in [(true, "VIEW"), (false, "MATERIALIZED VIEW")] {
            let of_kind = |at: &usize| matches!(made[*at], Some(Ok(_))) && self.queries[*at].plain == plain;
            let names: Vec<String> = (0..made.len()).filter(of_kind).map(|at| self.view(at)).collect();
            drops.push((kind, names.join(", ")));
        }
        for (kind, names) in drops.into_iter().filter(|(_, names)| !names.is_empty()) {
            super::answers::run(client, &format!("DROP {kind} IF EXISTS {names} CASCADE")).await?;
        }
        Ok(())
    }

    /// Plays it on both and compares. A server of ours that does not go on is a wrong answer too.
    pub async fn play(&self, subject: &mut Subject, postgres: &Postgres) -> Result<Comparison> {
        let (theirs, ours) = tokio::join!(self.on_postgres(postgres), self.on_ours(subject));
        let theirs = theirs.context("on Postgres")?;
        let mut result = Comparison { spent: theirs.spent.clone(), ..Comparison::default() };
        match ours {
            Ok(ours) => {
                self.compare(&theirs, &ours, &mut result);
                result.spent.extend(ours.spent);
            }
            Err(error) => result.mismatches.push(Mismatch {
                place: Place::Server,
                at: 0,
                batch: self.batches.len() - 1,
                kind: "the server does not go on".to_string(),
                text: format!("{error:#}"),
                expected: None,
            }),
        }
        Ok(result)
    }

    fn compare(&self, theirs: &Played, ours: &Played, result: &mut Comparison) {
        let n_queries = self.queries.len();
        let mut wrong = vec![false; n_queries];
        let mut refused = vec![false; n_queries];
        let made = |at: usize| ours.views.last().is_some_and(|views| matches!(views[at], Some(Ok(_))));
        let lost = (0..n_queries).any(|at| self.queries[at].name.is_some() && !made(at));
        result.n_views =
            ours.views.last().map_or(0, |views| views.iter().flatten().filter(|view| view.is_ok()).count());
        for batch in 0..self.batches.len() {
            for (at, (theirs, ours)) in theirs.changed[batch].iter().zip(&ours.changed[batch]).enumerate() {
                let outcome = |changed: &std::result::Result<u64, Failure>| -> Outcome {
                    changed.clone().map(|n_rows| vec![vec![Some(n_rows.to_string())]])
                };
                if let Verdict::Wrong(kind, text) = judge(&outcome(theirs), &outcome(ours), &[], false) {
                    let (place, expected) = (Place::Change, Some(outcome(theirs)));
                    result.mismatches.push(Mismatch { place, at, batch, kind, text, expected });
                    // From here on the tables differ.
                    return;
                }
            }
            for at in 0..n_queries {
                let Some(expected) = &theirs.answers[batch][at] else { continue };
                let both =
                    [(Place::View, ours.views[batch][at].as_ref()), (Place::Read, ours.answers[batch][at].as_ref())];
                for (place, came) in both {
                    let Some(came) = came.filter(|_| !wrong[at]) else { continue };
                    // What reads a view that we cannot make, we cannot do either.
                    if lost && came.as_ref().is_err_and(|failure| failure.code == "42P01") {
                        continue;
                    }
                    result.n_compared += 1;
                    match judge(expected, came, &self.queries[at].query.kinds, place == Place::View) {
                        Verdict::Same | Verdict::Open => {}
                        Verdict::Unsupported(message) => {
                            if !refused[at] {
                                result.unsupported.push((at, message));
                            }
                            refused[at] = true;
                        }
                        Verdict::Wrong(kind, text) => {
                            wrong[at] = true;
                            let expected = Some(expected.clone());
                            result.mismatches.push(Mismatch { place, at, batch, kind, text, expected });
                        }
                    }
                }
            }
        }
    }

    /// Whether a smaller case still shows a wrong answer: the last query's, of the same kind.
    pub async fn shows(
        &self,
        mismatch: &Mismatch,
        subject: &mut Subject,
        postgres: &Postgres,
    ) -> Result<Option<Mismatch>> {
        let theirs = self.on_postgres(postgres).await?;
        let last = theirs.answers.last().and_then(|answers| answers.last()).and_then(Option::as_ref);
        if mismatch.place != Place::Change
            && let (Some(expected), Some(last)) = (&mismatch.expected, last)
        {
            let code = |outcome: &Outcome| outcome.as_ref().err().map(|failure| failure.code.clone());
            // It is about something else, or not even SQL.
            if code(expected) != code(last) {
                return Ok(None);
            }
        }
        let mut result = Comparison::default();
        self.compare(&theirs, &self.on_ours(subject).await?, &mut result);
        let same = |found: &&Mismatch| {
            let place = found.place == Place::Change || found.at + 1 == self.queries.len();
            found.place == mismatch.place && found.kind == mismatch.kind && place
        };
        Ok(result.mismatches.iter().find(same).cloned())
    }
}

async fn change(client: &Client, batch: &[Change]) -> Vec<std::result::Result<u64, Failure>> {
    let mut changed = Vec::new();
    for statement in batch {
        changed.push(ask(client, &statement.to_string()).await.map(|answer| answer.count));
    }
    changed
}
