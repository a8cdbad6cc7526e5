//! Random queries over random tables, compared with a real Postgres while the tables change.
//!
//! A round is a [`case`]: some tables, some fifty random [queries](queries) over them, and a few batches of random changes. After each batch every
//! query is asked three times: of Postgres, of the materialized view over it, and as a read. All three answers are the same rows, floating-point
//! numbers within 1e-9; or both servers refuse with the same SQLSTATE; or we say 0A000, which is counted. In some rounds the server
//! crashes or restarts after each batch. What is wrong is [shrunk](shrink) to a small suite.
//!
//! All of a round follows from its seed: round `i` of `--seed S` is round 0 of `--seed S+i`. Queries whose answer Postgres does not determine
//! (the first rows of an order with ties, `array_agg` without an order) are not made.

pub mod answers;
pub mod case;
pub mod expressions;
pub mod grammar;
pub mod kind;
pub mod queries;
pub mod relations;
pub mod schema;
pub mod shrink;
pub mod sql;
pub mod subject;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use parking_lot::Mutex;

use case::{Asked, Case, Comparison, Mismatch, Place, Spent};
use expressions::Generator;
use queries::Query;
use schema::Table;
use sql::text;
use subject::{Postgres, Subject, Treatment};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How many batches of changes a round has, each as often as it stands here.
const N_BATCHES: [usize; 5] = [2, 2, 2, 3, 4];
/// How many rounds a server is used for: starting one takes longer than dropping what a round made.
const ROUNDS_ON_ONE_SERVER: usize = 8;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of the first round.
    pub seed: u64,
    /// Stop after so many queries.
    pub n_queries: u64,
    /// Stop after this time.
    pub time: Duration,
    /// Queries in a round.
    pub n_per_round: usize,
    /// Stop after so many wrong answers.
    pub n_mismatches: usize,
    /// How long one wrong answer is shrunk.
    pub shrink: Duration,
    /// A process of its own for the server, killed where it would crash.
    pub kill: bool,
    /// So many rounds are played beside each other.
    pub lanes: usize,
    /// Whether progress is told.
    pub tells: bool,
    /// Where the suites of wrong answers go.
    pub folder: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            n_queries: u64::MAX,
            time: Duration::MAX,
            n_per_round: 50,
            n_mismatches: 10,
            shrink: Duration::from_secs(90),
            kill: false,
            lanes: 1,
            tells: true,
            folder: std::env::temp_dir().join("headwater-fuzz"),
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Figures {
    /// Queries that were asked.
    pub n_queries: u64,
    /// How many of them were made as materialized views.
    pub n_views: u64,
    /// Answers that were compared.
    pub n_compared: u64,
    /// Rounds that were played.
    pub n_rounds: u64,
    distinct: HashSet<u64>,
    shapes: HashSet<u64>,
    /// What we said that we cannot do: the message without its particulars, how often, and one query.
    pub unsupported: BTreeMap<String, (u64, String)>,
    /// Wrong answers, as suites.
    pub mismatches: Vec<String>,
    /// How long what was done took, in all lanes.
    pub spent: Spent,
}

impl Figures {
    /// How many different queries were asked.
    pub fn n_distinct(&self) -> usize {
        self.distinct.len()
    }

    /// How many of them differ in more than the values of their literals.
    pub fn n_shapes(&self) -> usize {
        self.shapes.len()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_unsupported: u64 = self.unsupported.values().map(|(count, _)| count).sum();
        write!(
            f,
            "{} rounds, {} queries ({} distinct, {} but for literals), {} views, {} answers compared, {n_unsupported} refused with 0A000, {} mismatches",
            self.n_rounds,
            self.n_queries,
            self.n_distinct(),
            self.n_shapes(),
            self.n_views,
            self.n_compared,
            self.mismatches.len()
        )
    }
}

/// The round of a seed.
pub fn round(seed: u64, n_queries: usize) -> Case {
    let mut generator = Generator::new(seed);
    let tables = generator.make_tables();
    let n_batches = *generator.pick(&N_BATCHES);
    let mut queries = Vec::new();
    for at in 0..generator.up_to(3) {
        let query = generator.query();
        let (name, plain) = (format!("m{at}"), generator.chance(30));
        generator.tables.push(Table::of_query(&name, &query.kinds));
        queries.push(Asked { query, born: 0, name: Some(name), plain });
    }
    for table in &tables {
        let kinds = table.columns.iter().map(|column| column.kind).collect();
        queries.push(Asked {
            query: Query { sql: text(format!("SELECT * FROM {}", table.name)), kinds },
            born: 0,
            name: None,
            plain: false,
        });
    }
    for _ in 0..n_queries {
        let born = if generator.chance(60) { 0 } else { generator.up_to(n_batches) };
        queries.push(Asked { query: generator.query(), born, name: None, plain: false });
    }
    let batches = (0..n_batches).map(|batch| generator.make_changes(batch)).collect();
    let treatment = match generator.up_to(10) {
        0 | 1 => Treatment::Crashes,
        2 => Treatment::Restarts,
        _ => Treatment::Runs,
    };
    Case { tables, queries, batches, treatment, reads_all: false }
}

/// Plays rounds until it is enough.
pub async fn run(options: &Options) -> Result<Figures> {
    let run = Run {
        options,
        started: Instant::now(),
        seed: AtomicU64::new(options.seed),
        done: Mutex::new((Figures::default(), Instant::now())),
    };
    try_join_all((0..options.lanes.max(1)).map(|_| run.lane())).await?;
    Ok(run.done.into_inner().0)
}

/// Rounds that are played, some beside each other.
struct Run<'a> {
    options: &'a Options,
    started: Instant,
    /// The seed of the next round.
    seed: AtomicU64,
    /// What was done, and when that was last told.
    done: Mutex<(Figures, Instant)>,
}

impl Run<'_> {
    /// Plays one round after the other, several of them on one server.
    async fn lane(&self) -> Result<()> {
        let postgres = Postgres::start().await?;
        let mut server: Option<(Subject, usize)> = None;
        while self.goes_on() {
            let seed = self.seed.fetch_add(1, Ordering::Relaxed);
            let (mut subject, n_played) = match server.take() {
                Some(server) => server,
                None => (Subject::start(self.options.kill, 1 + (seed % 2) as usize).await?, 0),
            };
            let lost = self.play(seed, &mut subject, &postgres).await.with_context(|| format!("round {seed}"))?;
            if lost {
                // It is known to be wrong, or it would go on to be.
                let _ = subject.stop().await;
            } else if n_played + 1 < ROUNDS_ON_ONE_SERVER {
                server = Some((subject, n_played + 1));
            } else {
                self.stop(subject, seed).await;
            }
        }
        if let Some((subject, _)) = server {
            self.stop(subject, self.seed.load(Ordering::Relaxed)).await;
        }
        postgres.stop().await
    }

    fn goes_on(&self) -> bool {
        let figures = &self.done.lock().0;
        figures.n_queries < self.options.n_queries
            && self.started.elapsed() < self.options.time
            && figures.mismatches.len() < self.options.n_mismatches
    }

    async fn stop(&self, subject: Subject, seed: u64) {
        if let Err(error) = subject.stop().await {
            let text = format!("# seed {seed}: the server does not stop in order: {error:#}\n");
            self.done.lock().0.mismatches.push(text);
        }
    }

    /// Plays a round, and says whether its server was lost.
    async fn play(&self, seed: u64, subject: &mut Subject, postgres: &Postgres) -> Result<bool> {
        let left = usize::try_from(self.options.n_queries - self.done.lock().0.n_queries).unwrap_or(usize::MAX);
        let case = round(seed, self.options.n_per_round.min(left));
        let result = case.play(subject, postgres).await?;
        self.count(&case, &result);
        for mismatch in &result.mismatches {
            if self.done.lock().0.mismatches.len() < self.options.n_mismatches {
                report(self.options, seed, &case, mismatch, postgres, &self.done).await?;
            }
        }
        self.tell(seed);
        Ok(result.mismatches.iter().any(|mismatch| mismatch.place == Place::Server))
    }

    fn count(&self, case: &Case, result: &Comparison) {
        let figures = &mut self.done.lock().0;
        figures.n_rounds += 1;
        figures.n_queries += case.queries.len() as u64;
        figures.n_views += result.n_views as u64;
        figures.n_compared += result.n_compared as u64;
        for (what, time) in &result.spent {
            *figures.spent.entry(what).or_default() += *time;
        }
        for asked in &case.queries {
            let sql = asked.query.sql.to_string();
            figures.distinct.insert(hash(&sql));
            figures.shapes.insert(hash(&shape(&sql)));
        }
        for (at, message) in &result.unsupported {
            let entry = figures.unsupported.entry(general(message)).or_default();
            entry.0 += 1;
            let sql = case.queries[*at].query.sql.to_string();
            if entry.1.is_empty() || sql.len() < entry.1.len() {
                entry.1 = sql;
            }
        }
    }

    fn tell(&self, seed: u64) {
        let (figures, told) = &mut *self.done.lock();
        if self.options.tells && told.elapsed() > TELL_EVERY {
            *told = Instant::now();
            let seconds = self.started.elapsed().as_secs_f64();
            let per_second = figures.n_queries as f64 / seconds;
            println!("{seconds:>5.0} s  seed {seed}: {figures}, {per_second:.1} queries/s");
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A query without the values of its literals.
fn shape(sql: &str) -> String {
    let mut shape = String::new();
    let mut chars = sql.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                while chars.next().is_some_and(|c| c != '\'') {}
                shape.push('?');
            }
            // The digits of a name belong to it.
            c if c.is_ascii_digit() && !before.is_alphanumeric() => {
                while chars.next_if(|c| c.is_ascii_digit() || *c == '.').is_some() {}
                shape.push('?');
            }
            c => shape.push(c),
        }
        before = c;
    }
    shape
}

/// Shrinks a wrong answer, writes it down and tells of it.
async fn report(
    options: &Options,
    seed: u64,
    case: &Case,
    mismatch: &Mismatch,
    postgres: &Postgres,
    done: &Mutex<(Figures, Instant)>,
) -> Result<()> {
    let shrinker = shrink::Shrinker::new(postgres, options.kill, mismatch, options.shrink);
    let shrunk = match mismatch.place {
        Place::Server => None,
        _ => shrinker.shrink(case).await?,
    };
    let title = format!("slt fuzz --seed {seed}");
    let suite = match &shrunk {
        Some((case, mismatch)) => shrink::suite(case, mismatch, &title),
        None => {
            shrink::suite(&shrink::alone(case, mismatch), mismatch, &format!("{title}, not when it is played alone"))
        }
    };
    std::fs::create_dir_all(&options.folder)?;
    let path = options.folder.join(format!("{seed}-{}.slt", mismatch.at));
    std::fs::write(&path, &suite)?;
    if options.tells {
        let shown: Vec<&str> = suite.lines().take(60).collect();
        println!("---- {}\n{}\n----", path.display(), shown.join("\n"));
    }
    done.lock().0.mismatches.push(suite);
    Ok(())
}

/// A message without names and numbers, so that like ones count together.
fn general(message: &str) -> String {
    let mut general = String::new();
    let mut quoted = false;
    for c in message.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                general.push(c);
            }
            _ if quoted => {}
            c if c.is_ascii_digit() => {
                if !general.ends_with('0') {
                    general.push('0');
                }
            }
            c => general.push(c),
        }
    }
    general
}

/// `slt fuzz`: the arguments behind the word.
pub fn main(arguments: impl Iterator<Item = String>) -> Result<bool> {
    let mut options = Options::default();
    let mut bounded = false;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--against" => match value()?.as_str() {
                "postgres" => {}
                other => bail!("fuzz compares with postgres, not with {other}"),
            },
            "--seed" => options.seed = value()?.parse()?,
            "--queries" => (options.n_queries, bounded) = (value()?.parse()?, true),
            "--minutes" => (options.time, bounded) = (Duration::from_secs_f64(60.0 * value()?.parse::<f64>()?), true),
            "--per-round" => options.n_per_round = value()?.parse()?,
            "--mismatches" => options.n_mismatches = value()?.parse()?,
            "--shrink-seconds" => options.shrink = Duration::from_secs(value()?.parse()?),
            "--kill" => options.kill = true,
            "--lanes" => options.lanes = value()?.parse()?,
            "--folder" => options.folder = value()?.into(),
            _ => bail!(
                "usage: slt fuzz --against postgres [--seed N] [--queries N] [--minutes M] [--per-round N] [--mismatches N] \
                 [--shrink-seconds S] [--kill] [--lanes N] [--folder DIR]"
            ),
        }
    }
    if !bounded {
        options.time = Duration::from_secs(60);
    }
    let started = Instant::now();
    let figures = crate::run::in_runtime(run(&options))?;
    for (message, (count, query)) in &figures.unsupported {
        println!("0A000 {count} times: {message}\n    {query}");
    }
    let spent = figures.spent.iter().map(|(what, time)| format!("{what} {:.0} s", time.as_secs_f64()));
    println!("where the time went: {}", spent.collect::<Vec<_>>().join(", "));
    println!("{figures} in {:.0} s", started.elapsed().as_secs_f64());
    Ok(figures.mismatches.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_round_again() {
        let texts = |seed| -> Vec<String> {
            let case = round(seed, 20);
            let queries = case.queries.iter().map(|asked| asked.query.sql.to_string());
            queries.chain(case.batches.iter().flatten().map(ToString::to_string)).collect()
        };
        assert_eq!(texts(7), texts(7));
        assert_ne!(texts(7), texts(8));
    }

    #[test]
    fn the_shape_of_a_query_has_no_literals() {
        let sql = "SELECT r1.c2, 'a''b' || 12.5, c1 FROM t3 AS r1 LIMIT 4";
        assert_eq!(shape(sql), "SELECT r1.c2, ?? || ?, c1 FROM t3 AS r1 LIMIT ?");
        assert_eq!(shape("(-1)"), shape("(-27)"));
    }
}
