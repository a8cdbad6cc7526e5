//! A Headwater server and a real Postgres side by side, which are told the same and asked the same.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use tokio_postgres::Client;

use crate::answers::copy_in;
use crate::run::ask;
use crate::services;
use crate::target::{Local, Mode, Target};

/// Both servers, each with a client.
pub struct Both {
    target: Target,
    /// A client of the Headwater server.
    pub ours: Client,
    postgres: Target,
    /// A client of the Postgres.
    pub theirs: Client,
}

impl Both {
    /// A server with two workers on an empty folder below `directory`, and an empty Postgres database `name`.
    pub async fn start(directory: &Path, name: &str) -> Result<Both> {
        let local = Local::start(&directory.join("data"), Mode::TwoWorkers).await?;
        let target = Target::Headwater(Box::new(local));
        let ours = target.connect().await?;
        let postgres = Target::postgres(services::postgres()?, name).await?;
        let theirs = postgres.connect().await?;
        Ok(Both { target, ours, postgres, theirs })
    }

    /// One statement on both; both say how many rows it changed.
    pub async fn both(&self, sql: &str) -> Result<()> {
        let n_ours = ask(&self.ours, sql).await.map_err(|failure| anyhow!("{}: {sql}", failure.message))?.count;
        let n_theirs = ask(&self.theirs, sql).await.map_err(|failure| anyhow!("{}: {sql}", failure.message))?.count;
        ensure!(n_ours == n_theirs, "{n_ours} rows were changed, on Postgres {n_theirs}: {sql}");
        Ok(())
    }

    /// Rows in `COPY`'s text form into `table` of both, with `options` as `COPY` takes them.
    pub async fn copy(&self, table: &str, options: &str, rows: Bytes) -> Result<()> {
        copy_in(&self.ours, table, options, rows.clone()).await?;
        copy_in(&self.theirs, table, options, rows).await?;
        Ok(())
    }

    /// Lets everything of the Headwater server go that is only in memory, and recovers.
    pub async fn crash(&mut self) -> Result<()> {
        let Target::Headwater(local) = &mut self.target else { return Ok(()) };
        local.crash().await?;
        self.ours = self.target.connect().await?;
        Ok(())
    }

    /// Stops both.
    pub async fn stop(self) -> Result<()> {
        drop((self.ours, self.theirs));
        self.target.stop().await?;
        self.postgres.stop().await
    }
}
