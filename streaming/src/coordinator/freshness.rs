//! When epochs were sealed: how old the oldest change is that a job does not show yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Epochs whose time is kept. Beyond that every second one is forgotten, so that a job that is far behind still has
/// its age, only less exactly.
const TIMES_MAX: usize = 4096;

/// When epochs were sealed, oldest first.
#[derive(Default)]
pub struct SealTimes(VecDeque<(u64, Instant)>);

impl SealTimes {
    /// An epoch was sealed.
    pub fn sealed(&mut self, epoch: u64, at: Instant) {
        if self.0.len() == TIMES_MAX {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((epoch, at));
    }

    /// For how long something has been sealed that a job at `frontier` does not show.
    pub fn behind(&self, frontier: u64) -> Duration {
        let at = self.0.partition_point(|(epoch, _)| *epoch <= frontier);
        self.0.get(at).map_or(Duration::ZERO, |(_, sealed)| sealed.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_as_old_as_the_first_epoch_that_it_lacks() {
        let now = Instant::now();
        let mut times = SealTimes::default();
        for epoch in 0..3 * TIMES_MAX as u64 {
            times.sealed(epoch, now - Duration::from_secs(100_000 - epoch));
        }
        let last = 3 * TIMES_MAX as u64 - 1;
        assert_eq!(times.behind(last), Duration::ZERO);
        assert!(times.behind(last - 1) >= Duration::from_secs(100_000 - last));
        assert!(times.behind(0) > Duration::from_secs(99_000));
        assert!(times.0.len() <= TIMES_MAX);
    }
}
