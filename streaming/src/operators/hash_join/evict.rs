//! Join keys that leave memory, with all their rows, while the job is short of it, and come back when a row of either side
//! asks for them.
//!
//! A key is in memory with all rows that it has, or not at all. Those that no batch touched since the last time go first; what
//! is left is written into new tables, so that the memory is really given back.

use storage::{Batch, StateTable, row};

use super::Placement;
use super::range::OrderedRows;
use super::side::{CHANGED, KeyInfo, LIVE, STORED, Side, row_hash};
use super::stored::key_prefix;
use crate::byte_table::{ByteTable, hash_bytes};
use crate::error::Result;

impl Side {
    /// Whether the rows of a key can be found in the store by the key.
    pub(super) fn can_evict(&self) -> bool {
        matches!(self.placement, Placement::Key(_) | Placement::Single) && !self.key_columns.is_empty()
    }

    /// Reads the rows of the keys of a batch, which are in its columns `key_columns`, as far as they are in the store only:
    /// in the order of the keys.
    pub(super) fn bring_back(&mut self, delta: &Batch, key_columns: &[usize], table: &StateTable) -> Result<()> {
        if self.evicted.is_empty() {
            return Ok(());
        }
        let columns: Vec<_> = key_columns.iter().map(|i| delta.column(*i).clone()).collect();
        let keys = row::encode_rows(&columns, delta.num_rows())?;
        let mut missing = Vec::new();
        for row in 0..delta.num_rows() {
            let hash = hash_bytes(keys.get(row));
            match self.keys.find(hash, keys.get(row)) {
                Some(number) => self.infos[number as usize].used = true,
                None if self.evicted.may_have(hash) => missing.push(row),
                None => {}
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let vnodes = match self.placement {
            Placement::Single => vec![0; delta.num_rows()],
            _ => storage::batch::vnodes(&columns, delta.num_rows()),
        };
        missing.sort_unstable_by_key(|row| (vnodes[*row], keys.get(*row)));
        missing.dedup_by_key(|row| keys.get(*row));
        let (total, null_total) = (self.total, self.null_total);
        let mut numbers = Vec::new();
        for row in missing {
            for (entry, value) in table.scan_prefix(vnodes[row], &key_prefix(keys.get(row)))? {
                let number = self.load_row(vnodes[row], &entry, &value)?;
                self.links[number as usize].flags = LIVE | STORED;
                self.changed.pop();
                numbers.push(number);
            }
        }
        // They were counted all the time.
        (self.total, self.null_total) = (total, null_total);
        self.order_rows(&numbers)?;
        self.note_expiring(&numbers)
    }

    /// Forgets keys that the store has, with their rows, until the others take about `to` bytes.
    pub(super) fn evict(&mut self, to: usize) -> Result<()> {
        let bytes = self.size().bytes as usize;
        if !self.can_evict() || self.rows.len() == 0 || bytes <= to || !self.zero.is_empty() {
            return Ok(());
        }
        let mut room = to / (bytes / self.rows.len()).max(1);
        let mut is_clean = vec![true; self.infos.len()];
        let mut rows_of = vec![0; self.infos.len()];
        for link in self.links.iter().filter(|link| link.flags & LIVE != 0) {
            is_clean[link.key as usize] &= link.flags & (CHANGED | STORED) == STORED && link.count != 0;
            rows_of[link.key as usize] += 1;
        }
        let live = (0..self.infos.len()).filter(|key| rows_of[*key] > 0);
        let (goes, stays): (Vec<usize>, Vec<usize>) = live.partition(|key| is_clean[*key]);
        let (used, unused): (Vec<usize>, Vec<usize>) = goes.into_iter().partition(|key| self.infos[*key].used);
        let mut is_kept = vec![false; self.infos.len()];
        for key in stays {
            is_kept[key] = true;
            room = room.saturating_sub(rows_of[key]);
        }
        for key in used.into_iter().chain(unused) {
            if rows_of[key] <= room {
                is_kept[key] = true;
                room -= rows_of[key];
            } else {
                self.evicted.add(hash_bytes(self.keys.get(key as u32)));
            }
        }
        self.keep_only(&is_kept)
    }

    /// Moves the rows of some of the keys into tables of their own size, and forgets the others.
    fn keep_only(&mut self, is_kept: &[bool]) -> Result<()> {
        let (total, null_total) = (self.total, self.null_total);
        let keys = std::mem::replace(&mut self.keys, ByteTable::default());
        let infos = std::mem::take(&mut self.infos);
        let rows = std::mem::replace(&mut self.rows, ByteTable::default());
        let links = std::mem::take(&mut self.links);
        (self.order, self.changed) = (OrderedRows::default(), Vec::new());
        if let Some(expiring) = &mut self.expiring {
            expiring.clear();
        }
        for (old, link) in links.iter().enumerate() {
            if link.flags & LIVE == 0 || !is_kept[link.key as usize] {
                continue;
            }
            let (bytes, values) = (keys.get(link.key), rows.get(old as u32));
            let KeyInfo { vnode, null, .. } = infos[link.key as usize];
            let key = self.key_number(hash_bytes(bytes), bytes, vnode, |_| Ok(null))?;
            let number = self.add_row(key, row_hash(key, values), values, None, link.count);
            let new = &mut self.links[number as usize];
            (new.flags, new.matches) = (link.flags, link.matches);
        }
        self.infos.iter_mut().for_each(|info| info.used = false);
        self.changed.retain(|number| self.links[*number as usize].flags & CHANGED != 0);
        self.zero = Vec::new();
        (self.total, self.null_total) = (total, null_total);
        let numbers: Vec<u32> = (0..self.links.len() as u32).filter(|n| self.links[*n as usize].count != 0).collect();
        self.order_rows(&numbers)?;
        self.note_expiring(&numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HashJoin, JoinKind};
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

    /// Ten epochs of rows and their retractions on both sides, of more keys than `to` bytes hold. Returns what is said, and
    /// the most bytes that the state took after a checkpoint.
    fn said(kind: JoinKind, to: u64) -> (Counted, u64) {
        let input = schema("k bigint, a text");
        let out = match kind {
            JoinKind::Anti => schema("k bigint, a text"),
            _ => schema("k bigint, a text, j bigint, b text"),
        };
        let node = HashJoin {
            kind,
            keys: [vec![0], vec![0]],
            null_equal: vec![false],
            ranges: [None, None],
            expiry: [None, None],
            condition: None,
            append_only: [false, false],
            alone: false,
            schema: out,
        };
        let mut task = TestTask::new(node, &[input.clone(), input.clone()], 2);
        let (mut random, mut all, mut said, mut most) = (Random::new(3), [vec![], vec![]], Counted::new(), 0);
        for epoch in 0..10 {
            for side in [0, 1] {
                let mut rows = Vec::new();
                for n in 0..1000 {
                    if n % 4 == 3 {
                        let at = random.below(all[side].len());
                        let row: Vec<Option<String>> = all[side].swap_remove(at);
                        rows.push((row, -1));
                    } else {
                        let k = random.below(4000);
                        let row = vec![(k > 0).then(|| k.to_string()), Some(format!("row {n} of epoch {epoch}"))];
                        all[side].push(row.clone());
                        rows.push((row, 1));
                    }
                }
                task.apply(side, &batch(&input, &rows));
            }
            accumulate(&mut said, &task.seal(epoch % 2 == 1).0);
            task.evict(to);
            if epoch % 2 == 1 {
                most = most.max(task.state_bytes());
            }
            if epoch == 5 {
                task.memory_max = to;
                task.restart(3);
            }
        }
        (said, most)
    }

    #[test]
    fn what_is_said_does_not_depend_on_what_is_in_memory() {
        for kind in [JoinKind::Inner, JoinKind::Full, JoinKind::Anti] {
            let (expected, all) = said(kind, u64::MAX);
            let (answer, most) = said(kind, all / 20);
            assert!(answer == expected, "{kind:?}");
            assert!(most < all / 3, "{kind:?}: {most} of {all} bytes");
        }
    }
}
