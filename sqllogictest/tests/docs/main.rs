//! The SQL of README and docs/ is run, page by page, against a fresh server; what a page shows must be what comes.

mod generated;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use slt::markdown::{self, Block};
use slt::run::{ask, in_runtime};
use slt::target::{Local, Mode, Target};

/// A page that begins so needs a broker: `tests/system.rs` runs it.
const NEEDS_KAFKA: &str = "<!-- needs: kafka -->";

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut trials = Vec::new();
    for path in pages() {
        let name = path.strip_prefix(slt::repository()).unwrap_or(&path).display().to_string();
        let page = std::fs::read_to_string(&path).expect("a page can be read");
        if page.starts_with(NEEDS_KAFKA) {
            continue;
        }
        if page.contains(generated::BEGIN) {
            let path = path.clone();
            trials.push(Trial::test(format!("{name} is up to date"), move || {
                in_runtime(generated::check(&path)).map_err(|error| Failed::from(format!("{error:#}")))
            }));
        }
        let blocks = markdown::blocks(&page);
        if !blocks.is_empty() {
            trials.push(Trial::test(name, move || {
                in_runtime(run(&blocks)).map_err(|error| Failed::from(format!("{error:#}")))
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// README and everything below docs/.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![slt::repository().join("README.md")];
    for entry in walkdir::WalkDir::new(slt::repository().join("docs")).sort_by_file_name() {
        let path = entry.expect("docs/ can be read").into_path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages
}

async fn run(blocks: &[Block]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let local = Local::start(&directory.path().join("data"), Mode::TwoWorkers).await?;
    let target = Target::Headwater(Box::new(local));
    let client = target.connect().await?;
    for block in blocks {
        run_block(&client, block, directory.path())
            .await
            .with_context(|| format!("the block at line {}", block.line))?;
    }
    drop(client);
    target.stop().await
}

async fn run_block(client: &tokio_postgres::Client, block: &Block, directory: &Path) -> Result<()> {
    for (at, statement) in block.statements.iter().enumerate() {
        // Pages write files to /tmp/headwater; tests keep them apart.
        let sql = statement.sql.replace("/tmp/headwater", &directory.display().to_string());
        let shown = block.result.as_ref().filter(|_| at + 1 == block.statements.len());
        let started = Instant::now();
        loop {
            let answer = match (ask(client, &sql).await, &statement.error) {
                (Ok(_), Some(_)) => bail!("should fail: {sql}"),
                (Err(failure), Some(text)) if failure.message.contains(text) => break,
                (Err(failure), _) => bail!("{} {}\n{sql}", failure.code, failure.message),
                (Ok(answer), None) => answer,
            };
            let Some(shown) = shown else { break };
            let plain = |value: &String| match value.as_str() {
                "NULL" | "(empty)" => String::new(),
                value => value.replace("\\n", "\n"),
            };
            let rows: Vec<Vec<String>> = answer.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
            let table = markdown::table(&answer.names, &rows);
            if markdown::same(shown, &table) {
                break;
            }
            if !block.eventually || started.elapsed() > Duration::from_secs(30) {
                bail!("the page shows\n{}\nbut what comes is\n{}", shown.join("\n"), table.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
