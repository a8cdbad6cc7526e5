//! The versions of keys by the time that each begins at.
//!
//! ```text
//! in the store   [time 8, its sign turned, big endian][key bytes] -> [0 deleted | 1][length of the ties 4][ties][row]
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use storage::StateTable;

use crate::error::{Error, Result};
use crate::expiry::DROPPED_PER_STEP;
use crate::operator::{Progress, StateSize};

/// Bytes of one version beside its row: its place in the maps.
const VERSION_BYTES: usize = 96;

/// A version of a key: from its time on, until the next one.
struct Version {
    /// What tells versions of one time apart; the largest counts.
    ties: Box<[u8]>,
    /// `None`: there is none from here on.
    row: Option<Box<[u8]>>,
}

impl Version {
    fn bytes(&self) -> usize {
        VERSION_BYTES + self.ties.len() + self.row.as_ref().map_or(0, |row| row.len())
    }
}

#[derive(Default)]
struct OfKey {
    vnode: u8,
    versions: BTreeMap<i64, Version>,
}

/// All versions that can still be asked for.
pub(super) struct Versions {
    keys: HashMap<Arc<[u8]>, OfKey>,
    /// Which keys have a version that begins at a time, or had: they are looked at when the watermarks have passed it.
    begins: BTreeMap<i64, Vec<Arc<[u8]>>>,
    count: usize,
    bytes: usize,
    table: StateTable,
}

impl Versions {
    /// Reads what the last checkpoint wrote.
    pub(super) fn load(table: StateTable) -> Result<Versions> {
        let mut found = Vec::new();
        if !table.is_new() {
            table.scan(&mut |vnode, entry, value| {
                found.push(decode(entry, value).map(|(key, time, version)| (vnode, key.to_vec(), time, version)));
                Ok(())
            })?;
        }
        let mut all = Versions { keys: HashMap::new(), begins: BTreeMap::new(), count: 0, bytes: 0, table };
        for version in found {
            let broken = || Error::Failed("a version in the store is broken".into());
            let (vnode, key, time, version) = version.ok_or_else(broken)?;
            all.put(vnode, &key, time, version);
        }
        Ok(all)
    }

    /// From `time` on `key` has this version.
    pub(super) fn begin(&mut self, vnode: u8, key: &[u8], time: i64, ties: &[u8], row: &[u8]) {
        let there = self.keys.get(key).and_then(|of| of.versions.get(&time));
        if there.is_some_and(|there| there.row.is_some() && *there.ties > *ties) {
            return;
        }
        self.save(vnode, key, time, ties, Some(row));
        self.put(vnode, key, time, Version { ties: ties.into(), row: Some(row.into()) });
    }

    /// From `time` on `key` has no version, whatever was known of it from there on.
    pub(super) fn end(&mut self, vnode: u8, key: &[u8], time: i64) {
        let behind = self.keys.get_mut(key).map(|of| of.versions.split_off(&time));
        for (time, version) in behind.into_iter().flatten() {
            self.count -= 1;
            self.bytes -= version.bytes();
            self.table.delete(vnode, &entry(time, key));
        }
        // Also if there is none before: one may still come that begins earlier.
        self.save(vnode, key, time, &[], None);
        self.put(vnode, key, time, Version { ties: Box::default(), row: None });
    }

    /// The row of the version that `key` has at `time`.
    pub(super) fn at(&self, key: &[u8], time: i64) -> Option<&[u8]> {
        let (_, version) = self.keys.get(key)?.versions.range(..=time).next_back()?;
        version.row.as_deref()
    }

    /// Nobody will ask for a time before `decided` any more. `More`: there is more to drop.
    pub(super) fn forget(&mut self, decided: i64) -> Progress {
        let mut looked = 0;
        while let Some(first) = self.begins.first_entry().filter(|first| *first.key() <= decided) {
            if looked >= DROPPED_PER_STEP {
                return Progress::More;
            }
            let keys = first.remove();
            looked += keys.len();
            for key in keys {
                self.forget_of(&key, decided);
            }
        }
        Progress::Done
    }

    fn forget_of(&mut self, key: &Arc<[u8]>, decided: i64) {
        let Some(of) = self.keys.get_mut(key) else { return };
        let Some((&last, version)) = of.versions.range(..=decided).next_back() else { return };
        // That there is none is what is known of a key without versions too.
        let from = if version.row.is_some() { last } else { last.saturating_add(1) };
        while let Some(first) = of.versions.first_entry().filter(|first| *first.key() < from) {
            let (time, version) = first.remove_entry();
            self.count -= 1;
            self.bytes -= version.bytes();
            self.table.delete(of.vnode, &entry(time, key));
        }
        if of.versions.is_empty() {
            self.keys.remove(key);
        }
    }

    /// How many there are.
    pub(super) fn size(&self) -> StateSize {
        StateSize { rows: self.count as u64, bytes: self.bytes as u64 }
    }

    fn put(&mut self, vnode: u8, key: &[u8], time: i64, version: Version) {
        let bytes = version.bytes();
        let key: Arc<[u8]> = match self.keys.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => key.into(),
        };
        let of = self.keys.entry(key.clone()).or_default();
        of.vnode = vnode;
        self.bytes += bytes;
        match of.versions.insert(time, version) {
            Some(before) => self.bytes -= before.bytes(),
            None => {
                self.count += 1;
                self.begins.entry(time).or_default().push(key);
            }
        }
    }

    fn save(&self, vnode: u8, key: &[u8], time: i64, ties: &[u8], row: Option<&[u8]>) {
        let mut value = vec![u8::from(row.is_some())];
        value.extend((ties.len() as u32).to_le_bytes());
        value.extend(ties);
        value.extend(row.unwrap_or_default());
        self.table.put(vnode, &entry(time, key), &value);
    }
}

fn entry(time: i64, key: &[u8]) -> Vec<u8> {
    let mut entry = ((time as u64) ^ (1 << 63)).to_be_bytes().to_vec();
    entry.extend(key);
    entry
}

fn decode<'a>(entry: &'a [u8], value: &[u8]) -> Option<(&'a [u8], i64, Version)> {
    let (time, key) = entry.split_first_chunk::<8>()?;
    let (there, value) = value.split_first()?;
    let (length, value) = value.split_first_chunk::<4>()?;
    let (ties, row) = value.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let row = (*there == 1).then(|| row.into());
    Some((key, (u64::from_be_bytes(*time) ^ (1 << 63)) as i64, Version { ties: ties.into(), row }))
}
