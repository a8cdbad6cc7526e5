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
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use case::{Asked, Case, Mismatch, Place};
use expressions::Generator;
use queries::Query;
use schema::Table;
use sql::text;
use subject::{Postgres, Subject, Treatment};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How many batches of changes a round has.
const N_BATCHES: usize = 3;

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
    /// What we said that we cannot do: the message without its particulars, how often, and one query.
    pub unsupported: BTreeMap<String, (u64, String)>,
    /// Wrong answers, as suites.
    pub mismatches: Vec<String>,
}

impl Figures {
    /// How many different queries were asked.
    pub fn n_distinct(&self) -> usize {
        self.distinct.len()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_unsupported: u64 = self.unsupported.values().map(|(count, _)| count).sum();
        write!(
            f,
            "{} rounds, {} queries ({} distinct), {} views, {} answers compared, {n_unsupported} refused with 0A000, {} mismatches",
            self.n_rounds,
            self.n_queries,
            self.n_distinct(),
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
    let mut queries = Vec::new();
    for at in 0..generator.up_to(3) {
        let query = generator.query();
        let name = format!("m{at}");
        generator.tables.push(Table::of_query(&name, &query.kinds));
        queries.push(Asked { query, born: 0, name: Some(name) });
    }
    for table in &tables {
        let kinds = table.columns.iter().map(|column| column.kind).collect();
        queries.push(Asked {
            query: Query { sql: text(format!("SELECT * FROM {}", table.name)), kinds },
            born: 0,
            name: None,
        });
    }
    for _ in 0..n_queries {
        let born = if generator.chance(60) { 0 } else { generator.up_to(N_BATCHES) };
        queries.push(Asked { query: generator.query(), born, name: None });
    }
    let batches = (0..N_BATCHES).map(|batch| generator.make_changes(batch)).collect();
    let treatment = match generator.up_to(10) {
        0 | 1 => Treatment::Crashes,
        2 => Treatment::Restarts,
        _ => Treatment::Runs,
    };
    Case { tables, queries, batches, treatment }
}

/// Plays rounds until it is enough.
pub async fn run(options: &Options) -> Result<Figures> {
    let postgres = Postgres::start().await?;
    let started = Instant::now();
    let mut told = Instant::now();
    let mut figures = Figures::default();
    let mut seed = options.seed;
    while figures.n_queries < options.n_queries
        && started.elapsed() < options.time
        && figures.mismatches.len() < options.n_mismatches
    {
        let left = usize::try_from(options.n_queries - figures.n_queries).unwrap_or(usize::MAX);
        let case = round(seed, options.n_per_round.min(left));
        play(options, seed, &case, &postgres, &mut figures).await.with_context(|| format!("round {seed}"))?;
        seed += 1;
        if options.tells && told.elapsed() > TELL_EVERY {
            told = Instant::now();
            let per_second = figures.n_queries as f64 / started.elapsed().as_secs_f64();
            println!("{:>5} s  seed {seed}: {figures}, {per_second:.1} queries/s", started.elapsed().as_secs());
        }
    }
    postgres.stop().await?;
    Ok(figures)
}

async fn play(options: &Options, seed: u64, case: &Case, postgres: &Postgres, figures: &mut Figures) -> Result<()> {
    let mut subject = Subject::start(options.kill, 1 + (seed % 2) as usize).await?;
    let result = case.play(&mut subject, postgres).await?;
    let stopped = subject.stop().await;
    figures.n_rounds += 1;
    figures.n_queries += case.queries.len() as u64;
    figures.n_views += result.n_views as u64;
    figures.n_compared += result.n_compared as u64;
    for asked in &case.queries {
        let mut hasher = DefaultHasher::new();
        asked.query.sql.to_string().hash(&mut hasher);
        figures.distinct.insert(hasher.finish());
    }
    for (at, message) in result.unsupported {
        let entry = figures.unsupported.entry(general(&message)).or_default();
        entry.0 += 1;
        let sql = case.queries[at].query.sql.to_string();
        if entry.1.is_empty() || sql.len() < entry.1.len() {
            entry.1 = sql;
        }
    }
    for mismatch in &result.mismatches {
        if figures.mismatches.len() < options.n_mismatches {
            report(options, seed, case, mismatch, postgres, figures).await?;
        }
    }
    if let Err(error) = stopped {
        figures.mismatches.push(format!("# seed {seed}: the server does not stop in order: {error:#}\n"));
    }
    Ok(())
}

/// Shrinks a wrong answer, writes it down and tells of it.
async fn report(
    options: &Options,
    seed: u64,
    case: &Case,
    mismatch: &Mismatch,
    postgres: &Postgres,
    figures: &mut Figures,
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
    let path = options.folder.join(format!("{seed}-{}.slt", figures.mismatches.len()));
    std::fs::write(&path, &suite)?;
    if options.tells {
        let shown: Vec<&str> = suite.lines().take(60).collect();
        println!("---- {}\n{}\n----", path.display(), shown.join("\n"));
    }
    figures.mismatches.push(suite);
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
            "--folder" => options.folder = value()?.into(),
            _ => bail!(
                "usage: slt fuzz --against postgres [--seed N] [--queries N] [--minutes M] [--per-round N] [--mismatches N] \
                 [--shrink-seconds S] [--kill] [--folder DIR]"
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
    println!("{figures} in {:.0} s", started.elapsed().as_secs_f64());
    Ok(figures.mismatches.is_empty())
}
