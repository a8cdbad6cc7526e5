//! The unit of consistency, of progress and of durability.

use serde::{Deserialize, Serialize};

/// A moment of the whole server. One clock numbers the epochs of all jobs; they only grow.
///
/// `Epoch(0)` is the moment before the first change: every relation is empty as of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
