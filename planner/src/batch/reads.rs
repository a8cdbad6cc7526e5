//! What all reads of one server share: their memory, where they spill to, how many threads each may use.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

use crate::error::Result;

/// When there is no memory left, who has most of it is told: so many.
const LARGEST_TOLD: NonZeroUsize = NonZeroUsize::new(3).expect("not zero");

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
}

impl Reads {
    /// Reads within these limits.
    ///
    /// # Errors
    /// If the directory that they spill to cannot be used.
    pub fn new(limits: ReadLimits) -> Result<Reads> {
        let mode = match limits.spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes), LARGEST_TOLD)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()?;
        let session = |threads: usize| {
            let mut config = SessionConfig::new().with_target_partitions(threads).with_batch_size(8192);
            // A number from statistics would be a guess here: counts are estimates.
            config.options_mut().execution.collect_statistics = false;
            // Whether a column may be NULL is known more exactly to some plan nodes than to others; the values are right.
            config.options_mut().execution.skip_physical_aggregate_schema_check = true;
            Arc::new(SessionStateBuilder::new().with_config(config).with_runtime_env(runtime.clone()).build())
        };
        Ok(Reads { small: session(1), large: session(limits.threads.max(1)) })
    }

    /// DataFusion's settings for a small read, or for one of many rows.
    pub(super) fn session(&self, large: bool) -> &Arc<SessionState> {
        if large { &self.large } else { &self.small }
    }
}
