//! Entries of a state by the value that bounds them: what is dropped once a watermark has passed.

use std::collections::BTreeMap;

/// Numbers of entries by the value of the column that has the watermark.
#[derive(Debug, Default)]
pub struct Expiry(BTreeMap<i64, Vec<u32>>);

impl Expiry {
    /// The entry `number` has this value. A number may stand there for values that it had before: who takes it looks again.
    pub fn add(&mut self, value: i64, number: u32) {
        self.0.entry(value).or_default().push(number);
    }

    /// Takes entries whose value is below `bound`, about `max` of them, the least first.
    pub fn take_below(&mut self, bound: i64, max: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(first) = self.0.first_entry().filter(|first| *first.key() < bound)
        {
            taken.append(&mut first.remove());
        }
        taken
    }

    /// Takes the entries with exactly this value.
    pub fn take(&mut self, value: i64) -> Vec<u32> {
        self.0.remove(&value).unwrap_or_default()
    }

    /// Whether something lies below `bound`.
    pub fn has_below(&self, bound: i64) -> bool {
        self.0.first_key_value().is_some_and(|(value, _)| *value < bound)
    }
}

/// Entries that one step drops, about: so a watermark that jumps stops nobody.
pub const DROPPED_PER_STEP: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_go_first_and_the_bound_stays() {
        let mut expiry = Expiry::default();
        for (value, number) in [(5, 1), (3, 2), (5, 3), (7, 4)] {
            expiry.add(value, number);
        }
        assert_eq!(expiry.take_below(7, 1), [2]);
        assert_eq!(expiry.take_below(7, 10), [1, 3]);
        assert!(expiry.take_below(7, 10).is_empty() && !expiry.has_below(7) && expiry.has_below(8));
    }
}
