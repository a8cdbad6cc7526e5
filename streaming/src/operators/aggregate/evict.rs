//! Groups that leave memory while the job is short of it, and come back when rows of theirs come.
//!
//! The store has a group that did not change since the last checkpoint: forgetting it costs a read later, and nothing else.
//! Those that were not touched since the last time go first. What is left is written into new tables, so that the memory is
//! really given back.

use arrow::array::Array;
use storage::{Batch, StateTable};

use super::{
    CHANGED, EXPIRES, FLAGS, GroupKeys, Groups, KEY, KeyTable, LIVE, NULL_KEY, STORED, USED, hash_bytes, hash_i64,
};
use crate::error::Result;
use crate::expiry::Expiry;

impl Groups {
    /// Reads the groups of a batch that are in the store only: all at once, in the order of their keys.
    pub(super) fn bring_back(&mut self, delta: &Batch, tables: &[StateTable; 2]) -> Result<()> {
        if self.evicted.is_empty() {
            return Ok(());
        }
        let keys = GroupKeys::new(&self.layout, &self.keys, delta)?;
        let mut missing: Vec<(Vec<u8>, usize)> = Vec::new();
        for row in 0..delta.num_rows() {
            let (hash, is_here) = match (&keys, &self.keys) {
                (GroupKeys::Int(column), KeyTable::Int { table, .. }) if column.is_valid(row) => {
                    let hash = hash_i64(column.value(row));
                    (hash, table.find(hash, column.value(row)).is_some())
                }
                (GroupKeys::Bytes(rows), KeyTable::Bytes(table)) => {
                    let hash = hash_bytes(rows.get(row));
                    (hash, table.find(hash, rows.get(row)).is_some())
                }
                // The group without a key and that of NULL stay.
                _ => continue,
            };
            if !is_here && self.evicted.may_have(hash) {
                let key = match &keys {
                    GroupKeys::Int(column) => column.value(row).to_be_bytes().to_vec(),
                    GroupKeys::Bytes(rows) => rows.get(row).to_vec(),
                    GroupKeys::One => unreachable!("passed over above"),
                };
                missing.push((key, row));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let columns: Vec<_> = self.layout.group.iter().map(|i| delta.column(*i).clone()).collect();
        let vnodes = storage::batch::vnodes(&columns, delta.num_rows());
        let mut wanted: Vec<(u8, Vec<u8>)> = missing.into_iter().map(|(key, row)| (vnodes[row], key)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let asked: Vec<(u8, &[u8])> = wanted.iter().map(|(vnode, key)| (*vnode, key.as_slice())).collect();
        for ((vnode, key), value) in wanted.iter().zip(tables[0].multi_get(&asked)?) {
            if let Some(value) = value {
                self.come_back(*vnode, key, &value, tables)?;
            }
        }
        Ok(())
    }

    fn come_back(&mut self, vnode: u8, key: &[u8], value: &[u8], tables: &[StateTable; 2]) -> Result<()> {
        let number = self.load_record(key, value)?;
        let n = self.prototypes.len();
        for own in 0..n {
            let at = number as usize * n + own;
            if self.own[at].as_mut().is_some_and(|accumulator| accumulator.multiset().is_some()) {
                for (entry, count) in tables[1].scan_prefix(vnode, &super::values_prefix(own, key))? {
                    self.load_value(&entry, &count)?;
                }
            }
            if let Some(accumulator) = self.own[at].as_mut() {
                accumulator.restored()?;
                if let Some(multiset) = accumulator.multiset() {
                    multiset.track_changes();
                }
            }
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.fresh.push(number);
        }
        Ok(())
    }

    /// Forgets groups that the store has, until the others take about `to` bytes.
    pub(super) fn evict(&mut self, to: usize) -> Result<()> {
        let bytes = self.bytes();
        if matches!(self.keys, KeyTable::One) || self.live == 0 || bytes <= to || !self.dirty.is_empty() {
            return Ok(());
        }
        let room = to / (bytes / self.live).max(1);
        let flags = |number: u32| self.record(number)[FLAGS];
        let live = (0..self.capacity() as u32).filter(|number| flags(*number) & LIVE != 0);
        let goes = |number: &u32| flags(*number) & (CHANGED | STORED | NULL_KEY) == STORED;
        let (goes, mut stays): (Vec<u32>, Vec<u32>) = live.partition(goes);
        let (used, unused): (Vec<u32>, Vec<u32>) = goes.into_iter().partition(|number| flags(*number) & USED != 0);
        let mut goes = Vec::new();
        for number in used.into_iter().chain(unused) {
            if stays.len() < room { stays.push(number) } else { goes.push(number) }
        }
        for &number in &goes {
            let hash = match &self.keys {
                KeyTable::Bytes(table) => hash_bytes(table.get(number)),
                _ => hash_i64(self.record(number)[KEY]),
            };
            self.evicted.add(hash);
        }
        self.keep_only(&stays);
        Ok(())
    }

    /// Moves some of the groups into tables of their own size, and forgets the others.
    fn keep_only(&mut self, stays: &[u32]) {
        let (stride, n) = (self.layout.stride, self.prototypes.len());
        let mut keys = self.layout.no_keys();
        let mut words = Vec::with_capacity(stays.len() * stride);
        let mut own = Vec::with_capacity(stays.len() * n);
        self.changed = Vec::new();
        for (new, &number) in (0..).zip(stays) {
            let record = &self.words[number as usize * stride..][..stride];
            match (&mut keys, &self.keys) {
                (KeyTable::Int { null, .. }, _) if record[FLAGS] & NULL_KEY != 0 => *null = Some(new),
                (KeyTable::Int { table, .. }, _) => {
                    table.find_or_insert(hash_i64(record[KEY]), record[KEY], || new);
                }
                (KeyTable::Bytes(table), KeyTable::Bytes(old)) => {
                    let given = table.insert(hash_bytes(old.get(number)), old.get(number));
                    debug_assert_eq!(given, new, "numbers are given in order");
                }
                _ => unreachable!("the keys are of one kind"),
            }
            words.extend_from_slice(record);
            let flags = &mut words[new as usize * stride + FLAGS];
            *flags &= !(USED | EXPIRES);
            if *flags & CHANGED != 0 {
                self.changed.push(new);
            }
            own.extend((0..n).map(|i| self.own[number as usize * n + i].take()));
        }
        (self.keys, self.words, self.own) = (keys, words, own);
        (self.free, self.dirty, self.saved, self.saved_own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        (self.next, self.live) = (stays.len() as u32, stays.len());
        if let Some(by) = &mut self.expiry {
            (by.expiry, by.fresh) = (Expiry::default(), (0..stays.len() as u32).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType::{Int64, Utf8View};

    use super::super::Aggregate;
    use crate::aggregates::{AggregateCall, AggregateKind};
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

    const GROUPS: usize = 20_000;

    fn call(kind: AggregateKind, args: Vec<usize>, returns: arrow_schema::DataType) -> AggregateCall {
        AggregateCall { kind, args, order: vec![], filter: None, distinct: false, returns }
    }

    /// Ten epochs of rows and their retractions over more groups than `to` bytes hold; what is said must not depend on
    /// that. Returns it, and the most bytes that the state took after an epoch.
    fn said(group: Vec<usize>, out: &str, to: u64) -> (Counted, u64) {
        let input = schema("k bigint, t text, v bigint");
        let calls = vec![
            call(AggregateKind::Count, vec![], Int64),
            call(AggregateKind::Sum, vec![2], Int64),
            call(AggregateKind::Min, vec![1], Utf8View),
        ];
        let node = Aggregate { group, calls, append_only: false, partials: None, schema: schema(out) };
        let mut task = TestTask::new(node, std::slice::from_ref(&input), 1);
        let (mut random, mut all, mut said, mut most) = (Random::new(7), Vec::new(), Counted::new(), 0);
        for epoch in 0..10 {
            let mut rows = Vec::new();
            for n in 0..3000 {
                if n % 5 == 4 {
                    let row: Vec<Option<String>> = all.swap_remove(random.below(all.len()));
                    rows.push((row, -1));
                } else {
                    let k = random.below(GROUPS);
                    let row = [k.to_string(), format!("{}", k % 7 + n % 3), n.to_string()].map(Some).to_vec();
                    all.push(row.clone());
                    rows.push((row, 1));
                }
            }
            task.apply(0, &batch(&input, &rows));
            let (batches, errors) = task.seal(epoch % 2 == 1);
            assert!(errors.is_empty());
            accumulate(&mut said, &batches);
            task.evict(to);
            if epoch % 2 == 1 {
                most = most.max(task.state_bytes());
            }
            if epoch == 5 {
                task.memory_max = to;
                task.restart(2);
            }
        }
        (said, most)
    }

    #[test]
    fn what_is_said_does_not_depend_on_what_is_in_memory() {
        for (group, out) in [
            (vec![0], "k bigint, n bigint, s bigint, m text"),
            (vec![0, 1], "k bigint, t text, n bigint, s bigint, m text"),
        ] {
            let (expected, all) = said(group.clone(), out, u64::MAX);
            let (answer, most) = said(group, out, all / 10);
            assert!(answer == expected, "{out}");
            assert!(most < all / 4, "{most} of {all} bytes");
        }
    }
}
