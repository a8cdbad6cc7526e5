//! What all reads of one server share: their memory, where they spill to, how many threads each may use.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};
use crate::stack;

/// When there is no memory left, who has most of it is told: so many.
const LARGEST_TOLD: NonZeroUsize = NonZeroUsize::new(3).expect("not zero");

/// Reads that compute at the same time; more wait.
const READS_AT_ONCE_MAX: usize = 512;

/// What reads may use.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    /// Memory of all reads together, in bytes. Sorts and joins spill beyond it.
    pub memory_bytes: usize,
    /// Where they spill to; `None` for the system's directory of temporary files.
    pub spill_dir: Option<PathBuf>,
    /// How many threads one read may use.
    pub threads: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits { memory_bytes: 1 << 30, spill_dir: None, threads: 2 }
    }
}

/// What all reads of one server share. Each server has its own.
pub struct Reads {
    small: Arc<SessionState>,
    large: Arc<SessionState>,
    large_union: Arc<SessionState>,
    /// Their threads: none of them is one that serves a client, since a step of a read may take long.
    threads: Option<Runtime>,
}

impl Drop for Reads {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Reads {
    /// Reads within these limits.
    ///
    /// # Errors
    /// If the directory that they spill to cannot be used.
    pub fn new(limits: ReadLimits) -> Result<Reads> {
        stack::keep_room();
        let mode = match limits.spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes), LARGEST_TOLD)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()?;
        let session = |threads: usize, sorts_apart: bool| {
            let mut config = SessionConfig::new().with_target_partitions(threads).with_batch_size(8192);
            // A number from statistics would be a guess here: counts are estimates.
            config.options_mut().execution.collect_statistics = false;
            // Whether a column may be NULL is known more exactly to some plan nodes than to others; the values are right.
            config.options_mut().execution.skip_physical_aggregate_schema_check = true;
            // Of an order, a part of a union is sorted only by what is not the same constant in all of its rows. The first rows
            // of the parts would be bounded by each other's all the same, as if the constants were the same.
            config.options_mut().optimizer.repartition_sorts = sorts_apart;
            Arc::new(SessionStateBuilder::new().with_config(config).with_runtime_env(runtime.clone()).build())
        };
        let threads = Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .max_blocking_threads(READS_AT_ONCE_MAX)
            .thread_name("read")
            .thread_stack_size(stack::THREAD_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::new("58030", format!("cannot start the threads of reads: {error}")))?;
        let n = limits.threads.max(1);
        Ok(Reads {
            small: session(1, false),
            large: session(n, true),
            large_union: session(n, false),
            threads: Some(threads),
        })
    }

    /// Bytes of memory that reads take now, as far as they are counted.
    pub fn memory(&self) -> usize {
        self.small.runtime_env().memory_pool.reserved()
    }

    /// DataFusion's settings for a small read, or for one of many rows; they may come from the parts of a union.
    pub(super) fn session(&self, large: bool, union: bool) -> &Arc<SessionState> {
        match (large, union) {
            (false, _) => &self.small,
            (true, false) => &self.large,
            (true, true) => &self.large_union,
        }
    }

    /// Where reads run.
    pub(super) fn threads(&self) -> &Handle {
        self.threads.as_ref().expect("taken away when it is dropped").handle()
    }
}
