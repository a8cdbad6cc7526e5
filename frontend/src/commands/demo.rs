//! `headwater demo`: a temporary server with live Nexmark data and views, to try in one minute.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::commands::{serve, sql};
use crate::server::Server;
use crate::shared::ServerConfig;

/// What to show and for how long.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Stop by itself after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Stop as soon as the view has changed twice
    #[arg(long)]
    once: bool,
    /// Port for Postgres clients; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 4566)]
    port: u16,
    /// Nexmark events per second
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rate: u64,
    /// What to log
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

/// How often the view is shown.
const REDRAW_INTERVAL: Duration = Duration::from_millis(500);

/// The sources make the events of one auction house; the views are what people ask first.
fn statements(rate: u64) -> Vec<(&'static str, String)> {
    let source = |name: &str, kind: &str| {
        format!(
            "CREATE SOURCE {name} WITH (connector = 'nexmark', nexmark.table.type = '{kind}', \
             nexmark.events.per.second = '{rate}')"
        )
    };
    vec![
        ("bid, auction, person: what happens at an auction house, as it happens", source("bid", "Bid")),
        ("", source("auction", "Auction")),
        ("", source("person", "Person")),
        (
            "channels: bids per channel",
            "CREATE MATERIALIZED VIEW channels AS \
             SELECT channel, count(*) AS bids, max(price) AS highest FROM bid GROUP BY channel"
                .into(),
        ),
        (
            "auction_prices: the highest bid of each auction",
            "CREATE MATERIALIZED VIEW auction_prices AS \
             SELECT auction, count(*) AS bids, max(price) AS highest FROM bid GROUP BY auction"
                .into(),
        ),
        (
            "sellers: what each seller's auctions bring (a join of three)",
            "CREATE MATERIALIZED VIEW sellers AS \
             SELECT p.name, p.city, count(*) AS auctions, sum(b.highest) AS worth \
             FROM auction a JOIN person p ON a.seller = p.id JOIN auction_prices b ON b.auction = a.id \
             GROUP BY p.name, p.city"
                .into(),
        ),
        (
            "hottest: the ten auctions with the most bids",
            "CREATE MATERIALIZED VIEW hottest AS SELECT a.id, a.item_name, b.bids, b.highest \
             FROM auction_prices b JOIN auction a ON a.id = b.auction ORDER BY b.bids DESC, a.id LIMIT 10"
                .into(),
        ),
    ]
}

/// What is shown.
const SHOWN: &str = "SELECT channel, bids, highest FROM channels ORDER BY bids DESC, channel LIMIT 10";

/// Runs the demo.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    serve::log(&arguments.log_level, serve::LogFormat::Text)?;
    let dir = TemporaryDir::new()?;
    let mut config = ServerConfig::new(&dir.path);
    config.listen.set_port(arguments.port);
    config.http_listen = None;
    serve::runtime()?.block_on(async {
        let server = match Server::start(config.clone()).await {
            Ok(server) => server,
            // A demo beside a real server should just work.
            Err(_) if arguments.port != 0 => Server::start(config.on_free_ports()).await?,
            Err(error) => return Err(error),
        };
        let shown = tokio::select! {
            shown = show(&server, &arguments) => shown,
            signal = serve::stop_signal() => signal.map(drop),
        };
        let stopped = server.shutdown().await;
        shown.and(stopped)
    })
}

async fn show(server: &Server, arguments: &Arguments) -> anyhow::Result<()> {
    let port = server.address().port();
    let client = sql::connect("127.0.0.1", port, "dev", "root").await?;
    println!("A temporary server runs on port {port}. Creating sources and views:");
    for (what, statement) in statements(arguments.rate) {
        client.batch_execute(&statement).await.map_err(sql::describe)?;
        if !what.is_empty() {
            println!("  {what}");
        }
    }
    println!("\nJoin in from another terminal:\n  psql -h 127.0.0.1 -p {port} -d dev -U root");
    println!("and try\n  SELECT * FROM sellers ORDER BY worth DESC LIMIT 5;");
    println!("  CREATE MATERIALIZED VIEW cities AS SELECT city, count(*) FROM person GROUP BY city;\n");
    let terminal = std::io::stdout().is_terminal();
    let start = Instant::now();
    let (mut before, mut changes, mut lines) = (Vec::new(), 0, 0);
    loop {
        let (names, rows) = read(&client, SHOWN).await?;
        if rows != before {
            changes += usize::from(!before.is_empty());
        }
        let elapsed = start.elapsed().as_secs_f64();
        if terminal {
            let mut text = format!("{SHOWN}\n\n{}", sql::aligned(&names, &rows));
            text += &format!("changing for {elapsed:.0} s; Ctrl-C stops\n");
            // Back to the first line of what was drawn, then over it.
            print!("{}{}", if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() }, text);
            lines = text.matches('\n').count();
        } else if rows != before {
            let cells = |row: &Vec<Option<String>>| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
            println!("{elapsed:6.1} s  {}", rows.iter().take(4).map(cells).collect::<Vec<_>>().join(" | "));
        }
        std::io::stdout().flush()?;
        before = rows;
        let over = arguments.seconds.is_some_and(|s| elapsed >= s as f64) || (arguments.once && changes >= 2);
        if over {
            return Ok(());
        }
        if arguments.once && elapsed > 60.0 {
            anyhow::bail!("the view did not change within a minute");
        }
        tokio::time::sleep(REDRAW_INTERVAL).await;
    }
}

type Table = (Vec<String>, Vec<Vec<Option<String>>>);

async fn read(client: &Client, query: &str) -> anyhow::Result<Table> {
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for message in client.simple_query(query).await.map_err(sql::describe)? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                names = columns.iter().map(|c| c.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
            _ => (),
        }
    }
    Ok((names, rows))
}

/// A directory that goes away with the demo.
struct TemporaryDir {
    path: std::path::PathBuf,
}

impl TemporaryDir {
    fn new() -> anyhow::Result<TemporaryDir> {
        let path = std::env::temp_dir().join(format!("headwater-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path)?;
        Ok(TemporaryDir { path })
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
