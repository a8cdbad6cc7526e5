//! The protocol as clients use it: psql 15, tokio-postgres and bare messages against a server in this process.

mod authentication;
mod bare;
mod http;
mod jobs;
mod overload;
mod prepared;
mod psql;
mod settings;
mod stopping;
mod subscribe;
mod tables;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use frontend::{Server, ServerConfig};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A server on a directory that goes away with it.
struct Running {
    server: Option<Server>,
    _dir: Option<tempfile::TempDir>,
}

impl Running {
    async fn start() -> Running {
        Running::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path()).on_free_ports();
        change(&mut config);
        Running { server: Some(Server::start(config).await.unwrap()), _dir: Some(dir) }
    }

    /// A server on a directory that is there longer than it.
    async fn start_on(dir: &Path) -> Running {
        let config = ServerConfig::new(dir).on_free_ports();
        Running { server: Some(Server::start(config).await.unwrap()), _dir: None }
    }

    fn port(&self) -> u16 {
        self.server.as_ref().unwrap().address().port()
    }

    async fn connect(&self) -> Client {
        self.connect_with("").await
    }

    async fn connect_with(&self, more: &str) -> Client {
        let text = format!("host=127.0.0.1 port={} user=root dbname=dev {more}", self.port());
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs psql's own commands and SQL; what it prints on both outputs.
    async fn psql(&self, script: &str) -> String {
        let (port, script) = (self.port().to_string(), script.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut psql = Command::new("psql");
            psql.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "root", "-d", "dev", "-q"]);
            for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
                psql.args(["-c", line]);
            }
            let done = psql.output().expect("psql is installed");
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
        })
        .await
        .unwrap()
    }

    /// Runs a whole script, as `psql -f` does; what it prints on both outputs.
    async fn psql_script(&self, script: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let port = self.port().to_string();
        tokio::task::spawn_blocking(move || {
            let mut psql = Command::new("psql");
            psql.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "root", "-d", "dev", "-q", "-f"]).arg(file.path());
            let done = psql.output().expect("psql is installed");
            let errors = String::from_utf8_lossy(&done.stderr).replace(&format!("psql:{}:", file.path().display()), "");
            String::from_utf8_lossy(&done.stdout).into_owned() + &errors
        })
        .await
        .unwrap()
    }

    async fn stop(mut self) {
        self.server.take().unwrap().shutdown().await.unwrap();
    }
}

/// The rows of a query in text.
async fn rows(client: &Client, query: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
    let row = |m: SimpleQueryMessage| match m {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

async fn one(client: &Client, query: &str) -> String {
    rows(client, query).await[0][0].clone().unwrap_or_else(|| "NULL".into())
}

/// Asks until the answer is the one that is awaited.
async fn eventually(client: &Client, query: &str, awaited: &str) {
    let asking = async {
        while one(client, query).await != awaited {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.unwrap_or_else(|_| panic!("{query} is not {awaited}"));
}

fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", SqlState::code)
}
