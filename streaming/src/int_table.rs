//! Whole numbers with a number each: the fast form of [`crate::byte_table`] for keys of one integer column.
//!
//! A slot holds the key itself beside its number (16 bytes), so that a lookup is one cache line.

use crate::byte_table::hash_i64;

const SLOTS_MIN: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: i64,
    /// The key's number + 1; 0 is an empty slot.
    number: u32,
}

/// A set of `i64`, numbered by the caller.
#[derive(Debug)]
pub struct IntTable {
    slots: Vec<Slot>,
    len: usize,
}

impl Default for IntTable {
    fn default() -> Self {
        IntTable { slots: vec![Slot::default(); SLOTS_MIN], len: 0 }
    }
}

impl IntTable {
    /// The number of `key` whose hash is `hash`, which becomes `new()` if the key is not there.
    #[inline]
    pub fn find_or_insert(&mut self, hash: u64, key: i64, new: impl FnOnce() -> u32) -> u32 {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = &self.slots[at];
            if slot.number == 0 {
                break;
            }
            if slot.key == key {
                return slot.number - 1;
            }
            at = (at + 1) & mask;
        }
        let number = new();
        self.slots[at] = Slot { key, number: number + 1 };
        self.len += 1;
        if self.len * 4 > self.slots.len() * 3 {
            self.grow();
        }
        number
    }

    /// The number of `key` whose hash is `hash`, if the key is there.
    #[inline]
    pub fn find(&self, hash: u64, key: i64) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].number != 0 {
            if self.slots[at].key == key {
                return Some(self.slots[at].number - 1);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Removes a key that is there.
    pub fn remove(&mut self, key: i64) {
        let mask = self.slots.len() - 1;
        let mut hole = hash_i64(key) as usize & mask;
        while self.slots[hole].number == 0 || self.slots[hole].key != key {
            assert!(self.slots[hole].number != 0, "a key is removed that is not in the table");
            hole = (hole + 1) & mask;
        }
        self.len -= 1;
        // Move up what was pushed behind the hole, so that no probe ends early.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.number == 0 {
                break;
            }
            let home = hash_i64(slot.key) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }

    /// Loads the slots where the probes for `hashes` begin.
    #[inline]
    pub fn touch(&self, hashes: &[u64]) {
        let mask = self.slots.len() - 1;
        std::hint::black_box(hashes.iter().fold(0, |all, h| all ^ self.slots[*h as usize & mask].number));
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 2];
        let mask = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| slot.number != 0) {
            let mut at = hash_i64(slot.key) as usize & mask;
            while slots[at].number != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn agrees_with_a_hash_map_under_inserts_and_removals() {
        let mut random = StdRng::seed_from_u64(2);
        let (mut table, mut model) = (IntTable::default(), HashMap::<i64, u32>::new());
        for step in 0..50_000 {
            let key = random.random_range(-500..500);
            if model.contains_key(&key) && random.random_bool(0.5) {
                table.remove(key);
                model.remove(&key);
            } else {
                let number = table.find_or_insert(hash_i64(key), key, || step);
                assert_eq!(number, *model.entry(key).or_insert(step));
            }
        }
    }
}
