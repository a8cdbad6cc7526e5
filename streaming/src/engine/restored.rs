//! What a directory that was made of a backup needs before a server opens it: the outside went on without it.
//!
//! A sink's target says up to which epoch it has everything. The restored server begins at an earlier epoch, and what it
//! makes then is not what the target has under the same numbers. So its epochs go on behind any that may have been used,
//! and its sinks wait until somebody who knows the targets resumes them.

use storage::{Checkpoint, Epoch, Store};

use super::into_table;
use super::outboxes::{paused_key, root};
use crate::error::Result;
use crate::spec::JobSpec;

/// Epochs that no server takes between a backup and its restore: three years of one each 20 ms. A timestamp has room for 256
/// restores.
const EPOCHS_PASSED_OVER: u64 = 1 << 32;

/// Prepares a restored store; gives the names of the sinks that are paused.
///
/// # Errors
/// If the store cannot be written.
pub fn take_up(store: &Store, jobs: &[JobSpec]) -> Result<Vec<String>> {
    let outside = |job: &&JobSpec| {
        let into_table = |(name, value): &(String, String)| name == "connector" && value == into_table::CONNECTOR;
        // What a sink into a table of the same server has delivered is in the same checkpoint.
        root(job).is_some_and(|sink| !sink.spec.options.iter().any(into_table))
    };
    let sinks: Vec<&JobSpec> = jobs.iter().filter(outside).collect();
    let meta = sinks.iter().map(|job| (paused_key(job.relation), Some(Vec::new()))).collect();
    let epoch = Epoch(store.last_checkpoint().0 + EPOCHS_PASSED_OVER);
    store.checkpoint(Checkpoint { epoch, meta, ..Checkpoint::default() })?;
    Ok(sinks.iter().map(|job| job.name.clone()).collect())
}
