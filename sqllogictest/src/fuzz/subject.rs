//! The Headwater server that is tried, and the Postgres beside it.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio_postgres::Client;

use super::answers::run;
use crate::process::{Process, Start};
use crate::target::{self, Local, Mode};

/// How the server is treated after each batch of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It goes on.
    Runs,
    /// It loses what is only in memory, and recovers.
    Crashes,
    /// It stops in order and starts with another number of workers.
    Restarts,
}

/// A Headwater server on a directory of its own.
pub struct Subject {
    server: Running,
    workers: usize,
    directory: TempDir,
}

enum Running {
    /// In this process.
    Local(Box<Local>),
    /// A process of its own, which gets a SIGKILL where the other one crashes.
    Process(Box<Process>),
    /// It did not come back.
    Gone,
}

impl Subject {
    /// Starts one on an empty directory.
    pub async fn start(kill: bool, workers: usize) -> Result<Subject> {
        let directory = tempfile::tempdir()?;
        let server = if kill {
            Running::Process(Box::new(start(&directory, workers).start().await?))
        } else {
            let mode = if workers == 1 { Mode::OneWorker } else { Mode::TwoWorkers };
            Running::Local(Box::new(Local::start(&directory.path().join("data"), mode).await?))
        };
        Ok(Subject { server, workers, directory })
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Client> {
        match &self.server {
            Running::Local(local) => local.connect().await,
            Running::Process(process) => process.connect().await,
            Running::Gone => anyhow::bail!("the server is gone"),
        }
    }

    /// Treats it as a batch ends.
    pub async fn treat(&mut self, treatment: Treatment) -> Result<()> {
        match (treatment, std::mem::replace(&mut self.server, Running::Gone)) {
            (_, Running::Gone) => anyhow::bail!("the server is gone"),
            (Treatment::Runs, server) => self.server = server,
            (Treatment::Crashes, Running::Local(mut local)) => {
                local.crash().await?;
                self.server = Running::Local(local);
            }
            (Treatment::Crashes, Running::Process(mut process)) => {
                process.kill()?;
                drop(process);
                self.server = Running::Process(Box::new(start(&self.directory, self.workers).start().await?));
            }
            (Treatment::Restarts, Running::Local(mut local)) => {
                self.workers = 3 - self.workers;
                local.restart(Some(self.workers)).await?;
                self.server = Running::Local(local);
            }
            (Treatment::Restarts, Running::Process(process)) => {
                process.stop().await?;
                self.workers = 3 - self.workers;
                self.server = Running::Process(Box::new(start(&self.directory, self.workers).start().await?));
            }
        }
        Ok(())
    }

    /// Stops it.
    pub async fn stop(self) -> Result<()> {
        match self.server {
            Running::Local(local) => local.stop().await,
            Running::Process(mut process) => process.kill(),
            Running::Gone => Ok(()),
        }
    }
}

fn start(directory: &TempDir, workers: usize) -> Start {
    let mut start = Start::new(directory.path().join("data"));
    start.workers = workers;
    start
}

/// A database of its own on the Postgres of the tests.
pub struct Postgres {
    /// A client of the database.
    pub client: Client,
    address: std::net::SocketAddr,
    database: String,
}

impl Postgres {
    /// Makes the database.
    pub async fn start() -> Result<Postgres> {
        let address = crate::services::postgres()?;
        let database = format!("fuzz_{}_{}", std::process::id(), rand::random::<u32>());
        let admin = target::connect(address, "postgres", "postgres").await?;
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let client = target::connect(address, "postgres", &database).await?;
        // A query that takes long says nothing of us; what makes plans slow to find makes no better ones here.
        run(
            &client,
            "SET timezone = 'UTC'; SET client_min_messages = error; SET statement_timeout = '10s'; SET jit = off",
        )
        .await?;
        Ok(Postgres { client, address, database })
    }

    /// Forgets all tables.
    pub async fn clear(&self) -> Result<()> {
        run(&self.client, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await
    }

    /// Drops the database.
    pub async fn stop(self) -> Result<()> {
        drop(self.client);
        let drop_database = async {
            let admin = target::connect(self.address, "postgres", "postgres").await?;
            run(&admin, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await
        };
        tokio::time::timeout(Duration::from_secs(20), drop_database).await.context("the database is not dropped")?
    }
}
