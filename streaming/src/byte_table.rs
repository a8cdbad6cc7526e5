//! Byte strings with a number each, found by hash: the hot state behind groups, joins and DISTINCT.
//!
//! ```text
//! slots   [ hash 32 | number + 1 32 ] ...   open addressing, linear probing, 8 bytes per slot, at most 3/4 full
//! spans   [ start, length, hash ]           by number; numbers of removed strings are used again
//! arena   one Vec<u8> with all strings; rewritten when more than half of it is garbage
//! ```
//!
//! A slot holds 32 bits of the hash, so growing and removing never look at the strings. Lookups of a batch first
//! touch all slots that they start at: the loads do not depend on each other, so their cache misses overlap.

use xxhash_rust::xxh3::xxh3_64;

/// The hash of a byte string, the same in every process.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The hash of a number; mixes all bits into the low half. Not the hash that places rows on workers: those of one
/// worker must still spread over the table.
#[inline]
pub fn hash_i64(value: i64) -> u64 {
    let wide = u128::from(value as u64 ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Rows that a batched lookup touches before it probes.
pub const LOOKUP_ROWS: usize = 256;

const SLOTS_MIN: usize = 16;
const GARBAGE_BYTES_MIN: usize = 1 << 20;

/// Numbers by hash, without what they stand for.
#[derive(Debug)]
pub struct HashIndex {
    slots: Vec<u64>,
    len: usize,
}

impl Default for HashIndex {
    fn default() -> Self {
        HashIndex { slots: vec![0; SLOTS_MIN], len: 0 }
    }
}

impl HashIndex {
    /// The number with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let tag = hash as u32;
        let mut at = tag as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == tag {
                let number = slot as u32 - 1;
                if is_it(number) {
                    return Some(number);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a number that is not there yet.
    pub fn insert(&mut self, hash: u64, number: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.len += 1;
        Self::place(&mut self.slots, (u64::from(hash as u32) << 32) | u64::from(number + 1));
    }

    /// Removes a number that is there.
    pub fn remove(&mut self, hash: u64, number: u32) {
        let mask = self.slots.len() - 1;
        let wanted = (u64::from(hash as u32) << 32) | u64::from(number + 1);
        let mut hole = hash as u32 as usize & mask;
        while self.slots[hole] != wanted {
            assert!(self.slots[hole] != 0, "a number is removed that is not in the index");
            hole = (hole + 1) & mask;
        }
        self.len -= 1;
        // Move up what was pushed behind the hole, so that no probe ends early.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            let home = (slot >> 32) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }

    /// Loads the slots where the probes for `hashes` begin.
    pub fn touch(&self, hashes: &[u64]) {
        let mask = self.slots.len() - 1;
        std::hint::black_box(hashes.iter().fold(0, |all, h| all ^ self.slots[*h as u32 as usize & mask]));
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.slots.len() * 8
    }

    fn grow(&mut self) {
        let mut slots = vec![0; self.slots.len() * 2];
        self.slots.iter().filter(|slot| **slot != 0).for_each(|slot| Self::place(&mut slots, *slot));
        self.slots = slots;
    }

    fn place(slots: &mut [u64], slot: u64) {
        let mask = slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while slots[at] != 0 {
            at = (at + 1) & mask;
        }
        slots[at] = slot;
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    len: u32,
    hash: u32,
}

/// A set of byte strings, numbered.
#[derive(Debug, Default)]
pub struct ByteTable {
    index: HashIndex,
    spans: Vec<Span>,
    free: Vec<u32>,
    arena: Vec<u8>,
    garbage: usize,
}

impl ByteTable {
    /// The number of `bytes`, if there is one for which `is_it` holds.
    #[inline]
    pub fn find_if(&self, hash: u64, bytes: &[u8], is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.index.find(hash, |number| is_it(number) && self.get(number) == bytes)
    }

    /// The number of `bytes`.
    #[inline]
    pub fn find(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        self.find_if(hash, bytes, |_| true)
    }

    /// Adds a string and returns its number.
    pub fn insert(&mut self, hash: u64, bytes: &[u8]) -> u32 {
        let span = Span { start: self.arena.len(), len: bytes.len() as u32, hash: hash as u32 };
        self.arena.extend_from_slice(bytes);
        let number = match self.free.pop() {
            Some(number) => {
                self.spans[number as usize] = span;
                number
            }
            None => {
                self.spans.push(span);
                u32::try_from(self.spans.len() - 1).expect("fewer than four billion entries per operator and worker")
            }
        };
        self.index.insert(hash, number);
        number
    }

    /// Forgets a string; its number may be used again.
    pub fn remove(&mut self, number: u32) {
        let span = std::mem::take(&mut self.spans[number as usize]);
        self.index.remove(u64::from(span.hash), number);
        self.free.push(number);
        self.garbage += span.len as usize;
        if self.garbage > GARBAGE_BYTES_MIN && self.garbage * 2 > self.arena.len() {
            self.rewrite();
        }
    }

    /// The string with this number.
    #[inline]
    pub fn get(&self, number: u32) -> &[u8] {
        let span = &self.spans[number as usize];
        &self.arena[span.start..span.start + span.len as usize]
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.spans.len() - self.free.len()
    }

    /// One more than the largest number that was given so far.
    pub fn capacity(&self) -> usize {
        self.spans.len()
    }

    /// Loads what the probes for `hashes` look at first.
    pub fn touch(&self, hashes: &[u64]) {
        self.index.touch(hashes);
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.spans.len() * size_of::<Span>() + self.arena.capacity()
    }

    fn rewrite(&mut self) {
        let mut arena = Vec::with_capacity(self.arena.len() - self.garbage);
        for span in &mut self.spans {
            let start = arena.len();
            arena.extend_from_slice(&self.arena[span.start..span.start + span.len as usize]);
            span.start = start;
        }
        self.arena = arena;
        self.garbage = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn agrees_with_a_hash_map_under_inserts_and_removals() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut table, mut model) = (ByteTable::default(), HashMap::<Vec<u8>, u32>::new());
        for _ in 0..20_000 {
            let key = format!("key {}", random.random_range(0..800)).into_bytes();
            // A bad hash, so that probes collide and removals have to move entries.
            let hash = hash_bytes(&key) & 0xff;
            match (table.find(hash, &key), model.get(&key).copied()) {
                (Some(number), Some(expected)) => {
                    assert_eq!(number, expected);
                    if random.random_bool(0.6) {
                        table.remove(number);
                        model.remove(&key);
                    }
                }
                (None, None) => {
                    let number = table.insert(hash, &key);
                    model.insert(key, number);
                }
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
            assert_eq!(table.len(), model.len());
        }
        model.iter().for_each(|(key, number)| assert_eq!(table.get(*number), key.as_slice()));
    }

    #[test]
    fn garbage_is_collected() {
        let mut table = ByteTable::default();
        let value = vec![7; 1000];
        for i in 0..100_000_u64 {
            let number = table.insert(hash_i64(i as i64), &value);
            if i >= 10 {
                table.remove(number);
            }
        }
        assert_eq!(table.len(), 10);
        assert!(table.bytes() < 8 << 20, "{} bytes", table.bytes());
    }
}
