//! Inputs of an aggregate one by one: order-preserving bytes -> how often.
//!
//! A stream keeps each entry as a row of its state table and writes those that changed since the last checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes;
use crate::error::Result;

/// Ordered byte strings with counts.
#[derive(Debug, Default)]
pub struct Multiset {
    entries: BTreeMap<Box<[u8]>, i64>,
    /// Keys that changed since the last checkpoint; `None` where nothing is made durable (reads).
    changed: Option<BTreeSet<Box<[u8]>>>,
    key_bytes: usize,
}

impl Multiset {
    /// From now on remembers what changes, for [`Multiset::take_changes`].
    pub fn track_changes(&mut self) {
        self.changed = Some(BTreeSet::new());
    }

    /// Adds `diff` to the count of `key` and returns the count before and after.
    pub fn add(&mut self, key: &[u8], diff: i64) -> (i64, i64) {
        if let Some(changed) = &mut self.changed
            && !changed.contains(key)
        {
            changed.insert(key.into());
        }
        self.change(key, diff)
    }

    /// The same for an entry that comes from the store.
    pub fn load(&mut self, key: &[u8], count: i64) {
        self.change(key, count);
    }

    fn change(&mut self, key: &[u8], diff: i64) -> (i64, i64) {
        match self.entries.get_mut(key) {
            Some(count) => {
                let before = *count;
                *count += diff;
                if *count == 0 {
                    self.entries.remove(key);
                    self.key_bytes -= key.len();
                }
                (before, before + diff)
            }
            None if diff == 0 => (0, 0),
            None => {
                self.entries.insert(key.into(), diff);
                self.key_bytes += key.len();
                (0, diff)
            }
        }
    }

    /// Hands over entries that changed since they were handed over last, `budget` at most, each with its count; zero for
    /// one that is gone. Returns whether that was all of them.
    pub fn take_changes(&mut self, budget: &mut usize, f: &mut dyn FnMut(&[u8], i64)) -> bool {
        let Some(changed) = &mut self.changed else { return true };
        while *budget > 0 {
            let Some(key) = changed.pop_first() else { return true };
            f(&key, self.entries.get(&key).copied().unwrap_or(0));
            *budget -= 1;
        }
        changed.is_empty()
    }

    /// The entries in their order. A count below zero may occur while an epoch is open and means none.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], i64)> {
        self.entries.iter().map(|(key, count)| (key.as_ref(), *count))
    }

    /// The first entry that begins with `prefix` and is there at least once.
    pub fn first_with(&self, prefix: &[u8]) -> Option<&[u8]> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let entries = self.entries.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix));
        entries.into_iter().find(|(_, count)| **count > 0).map(|(key, _)| key.as_ref())
    }

    /// Each entry as often as it is there, in order.
    pub fn expanded(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().flat_map(|(key, count)| std::iter::repeat_n(key, usize::try_from(count).unwrap_or(0)))
    }

    /// Appends all entries.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (key, count) in &self.entries {
            out.extend((key.len() as u32).to_le_bytes());
            out.extend(key);
            out.extend(count.to_le_bytes());
        }
    }

    /// Adds what [`Multiset::encode`] wrote.
    pub fn merge(&mut self, mut state: &[u8]) -> Result<()> {
        while !state.is_empty() {
            let len = u32::from_le_bytes(bytes::take(&mut state, 4)?.try_into().expect("four bytes"));
            let key = bytes::take(&mut state, len as usize)?;
            let count = bytes::take_i64(&mut state)?;
            self.add(key, count);
        }
        Ok(())
    }

    /// Bytes in memory, roughly.
    pub fn bytes(&self) -> usize {
        self.key_bytes + self.entries.len() * 40
    }
}
