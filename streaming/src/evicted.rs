//! Which keys of an operator's state may be in the store and not in memory.
//!
//! ```text
//! layer 0   10 bits a key, 4096 keys
//! layer 1   10 bits a key, 8192 keys      and so on: a full layer is left as it is, and one of twice its size is begun
//! ```
//!
//! A key that was never evicted is known not to be in the store without asking it (but for one in a hundred), so new keys
//! cost no read. A key that came back leaves its bits behind.

/// Keys of the first layer.
const KEYS_MIN: usize = 4096;
/// Bits that a layer has for each of its keys.
const BITS_PER_KEY: usize = 10;
/// Bits that each key sets.
const BITS_SET: u32 = 6;

/// The hashes of keys that were evicted: a filter that says no, or maybe.
#[derive(Debug, Default)]
pub struct Evicted {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    bits: Vec<u64>,
    /// Keys that it has room for.
    room: usize,
}

impl Layer {
    fn new(keys: usize) -> Layer {
        Layer { bits: vec![0; (keys * BITS_PER_KEY).div_ceil(64)], room: keys }
    }

    fn places(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let len = self.bits.len() as u64 * 64;
        // Odd steps from one half of the hash by the other.
        let (at, step) = (hash.rotate_left(32), hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..u64::from(BITS_SET)).map(move |i| {
            let bit = ((u128::from(at.wrapping_add(i.wrapping_mul(step))) * u128::from(len)) >> 64) as u64;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn may_have(&self, hash: u64) -> bool {
        self.places(hash).all(|(word, bit)| self.bits[word] & bit != 0)
    }
}

impl Evicted {
    /// The key with this hash leaves memory.
    pub fn add(&mut self, hash: u64) {
        if self.may_have(hash) {
            return;
        }
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            self.layers.push(Layer::new(KEYS_MIN << self.layers.len()));
        }
        let layer = self.layers.last_mut().expect("there is one");
        layer.room -= 1;
        for (word, bit) in layer.places(hash) {
            layer.bits[word] |= bit;
        }
    }

    /// Whether the key with this hash may be in the store only. False is certain.
    pub fn may_have(&self, hash: u64) -> bool {
        self.layers.iter().rev().any(|layer| layer.may_have(hash))
    }

    /// Whether nothing was ever evicted.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bits.len() * 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_table::{hash_bytes, hash_i64};

    #[test]
    fn what_was_evicted_is_found_and_little_else() {
        for hash in [hash_i64 as fn(i64) -> u64, |n| hash_bytes(&n.to_be_bytes())] {
            let mut evicted = Evicted::default();
            assert!(evicted.is_empty() && !evicted.may_have(hash(1)));
            (0..50_000).for_each(|key| evicted.add(hash(key)));
            assert!((0..50_000).all(|key| evicted.may_have(hash(key))));
            let wrong = (50_000..100_000).filter(|key| evicted.may_have(hash(*key))).count();
            assert!(wrong < 50_000 / 20, "{wrong} of 50000 keys that were never there");
            assert!(evicted.bytes() < 200_000, "{} bytes", evicted.bytes());
        }
    }
}
