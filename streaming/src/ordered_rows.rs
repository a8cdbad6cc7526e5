//! Rows in an order, each with how often it is there: any place is found, and any row's place, without counting from the
//! start.
//!
//! ```text
//!  block 0 [a b c ..]  block 1 [k l ..]  ...      blocks of at most BLOCK_MAX rows, each with the sum of their counts
//! ```
//!
//! A change moves the rows of one block; a place is found over the sums of the blocks.

use std::sync::Arc;

use crate::error::{Error, Result};

/// Rows in a block, at most.
const BLOCK_MAX: usize = 512;

/// A row: bytes of the order columns, then of the whole row.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The bytes.
    pub key: Arc<[u8]>,
    /// Bytes of the order columns.
    pub order: u32,
    /// How often it is there; positive.
    pub count: u64,
}

impl Entry {
    /// The bytes of the order columns.
    pub fn order(&self) -> &[u8] {
        &self.key[..self.order as usize]
    }
}

#[derive(Default)]
struct Block {
    rows: Vec<Entry>,
    count: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    block: usize,
    row: usize,
}

/// Rows in an order.
#[derive(Default)]
pub struct OrderedRows {
    /// None of them empty.
    blocks: Vec<Block>,
}

impl OrderedRows {
    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How often a row is there.
    pub fn count(&self, key: &[u8]) -> u64 {
        self.entry(key).map_or(0, |entry| entry.count)
    }

    /// The entry of a row.
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.get(self.lower_bound(key)).filter(|entry| *entry.key == *key)
    }

    /// The entry at a place, unless that is the end.
    pub fn get(&self, place: Place) -> Option<&Entry> {
        self.blocks.get(place.block)?.rows.get(place.row)
    }

    /// The place of the first row that is not before `key`.
    pub fn lower_bound(&self, key: &[u8]) -> Place {
        self.first(|entry| *entry.key >= *key)
    }

    /// The first place for whose entry `is` holds, which holds for all behind it.
    pub fn first(&self, is: impl Fn(&Entry) -> bool) -> Place {
        let block = self.blocks.partition_point(|block| !block.rows.last().is_some_and(&is));
        let row = self.blocks.get(block).map_or(0, |block| block.rows.partition_point(|entry| !is(entry)));
        Place { block, row }
    }

    /// How many rows stand before a place.
    pub fn rows_before(&self, place: Place) -> u64 {
        let blocks: u64 = self.blocks[..place.block].iter().map(|block| block.count).sum();
        let rows = self.blocks.get(place.block).map_or(&[][..], |block| &block.rows[..place.row]);
        blocks + rows.iter().map(|entry| entry.count).sum::<u64>()
    }

    /// The place of the row with `n` rows before it, and how many of the rows before it are equal to it; `None` if there
    /// are no more than `n` rows.
    pub fn nth(&self, mut n: u64) -> Option<(Place, u64)> {
        for (block, rows) in self.blocks.iter().enumerate() {
            if n >= rows.count {
                n -= rows.count;
                continue;
            }
            for (row, entry) in rows.rows.iter().enumerate() {
                if n < entry.count {
                    return Some((Place { block, row }, n));
                }
                n -= entry.count;
            }
        }
        None
    }

    /// The entries from a place on.
    pub fn from(&self, place: Place) -> impl Iterator<Item = &Entry> {
        let first =
            self.blocks.get(place.block).map_or(&[][..], |block| &block.rows[place.row.min(block.rows.len())..]);
        let rest = self.blocks.get(place.block + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flat_map(|block| &block.rows))
    }

    /// Changes how often a row is there; returns by how much the number of entries changes.
    ///
    /// # Errors
    /// If more rows go than are there.
    pub fn change(&mut self, key: &Arc<[u8]>, order: u32, diff: i64) -> Result<isize> {
        if diff == 0 {
            return Ok(0);
        }
        let Place { mut block, mut row } = self.lower_bound(key);
        if self.get(Place { block, row }).is_some_and(|entry| entry.key == *key) {
            let place = &mut self.blocks[block];
            let entry = &mut place.rows[row];
            entry.count = entry.count.checked_add_signed(diff).ok_or_else(too_few)?;
            place.count = place.count.checked_add_signed(diff).ok_or_else(too_few)?;
            if entry.count > 0 {
                return Ok(0);
            }
            place.rows.remove(row);
            if place.rows.is_empty() {
                self.blocks.remove(block);
            }
            return Ok(-1);
        }
        let count = u64::try_from(diff).map_err(|_| too_few())?;
        if block == self.blocks.len() {
            // Behind all others.
            if block == 0 {
                self.blocks.push(Block::default());
            }
            block = self.blocks.len() - 1;
            row = self.blocks[block].rows.len();
        }
        let place = &mut self.blocks[block];
        place.rows.insert(row, Entry { key: key.clone(), order, count });
        place.count += count;
        if place.rows.len() > BLOCK_MAX {
            // Rows often come in their order: then the full block is left as it is.
            let at = if row + 1 == place.rows.len() { row } else { BLOCK_MAX / 2 };
            let rows = place.rows.split_off(at);
            let count = rows.iter().map(|entry| entry.count).sum();
            place.count -= count;
            self.blocks.insert(block + 1, Block { rows, count });
        }
        Ok(1)
    }
}

fn too_few() -> Error {
    Error::Failed("more rows of an order were retracted than were inserted".into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::Random;

    #[test]
    fn counts_as_a_sorted_map_does() {
        let mut random = Random::new(7);
        let (mut rows, mut model) = (OrderedRows::default(), BTreeMap::<u32, u64>::new());
        for step in 0..20_000_u32 {
            // First mostly insertions, then mostly removals.
            let key = if step < 3_000 { step * 2 } else { random.below(6_000) as u32 };
            let bytes: Arc<[u8]> = key.to_be_bytes().into();
            let there = model.get(&key).copied().unwrap_or(0);
            let diff = if there > 0 && random.one_in(if step < 12_000 { 3 } else { 1 }) {
                -(1 + random.below(there as usize) as i64)
            } else if step < 12_000 {
                1 + random.below(3) as i64
            } else {
                continue;
            };
            rows.change(&bytes, 4, diff).unwrap();
            match there.wrapping_add_signed(diff) {
                0 => model.remove(&key),
                count => model.insert(key, count),
            };
            if step % 97 == 0 {
                let before: u64 = model.range(..key).map(|(_, count)| count).sum();
                let place = rows.lower_bound(&bytes);
                assert_eq!(rows.rows_before(place), before);
                let all: u64 = model.values().sum();
                let n = random.below(all as usize + 1) as u64;
                let nth = rows.nth(n).map(|(place, copies)| (rows.get(place).unwrap().key.to_vec(), copies));
                let mut left = n;
                let expected = model.iter().find_map(|(key, count)| match left.checked_sub(*count) {
                    Some(less) => {
                        left = less;
                        None
                    }
                    None => Some((key.to_be_bytes().to_vec(), left)),
                });
                assert_eq!(nth, expected);
                let listed: Vec<_> = rows.from(place).map(|e| (e.key.to_vec(), e.count)).collect();
                let expected: Vec<_> = model.range(key..).map(|(k, c)| (k.to_be_bytes().to_vec(), *c)).collect();
                assert_eq!(listed, expected);
            }
        }
        assert!(rows.change(&7_u32.to_be_bytes().into(), 4, -1_000).is_err());
    }
}
