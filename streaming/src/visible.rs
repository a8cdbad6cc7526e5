//! A small log of how far sources were visible: reads never go back, also after a crash.
//!
//! What a client has seen may be a moment ahead of what is durable. After a crash the sources are read again from the
//! checkpoint's offsets; the server answers once they are where they were visible.
//!
//! ```text
//!  DIR/visible.N    records of 14 bytes: relation u32 | split number u16 | offset i64, little endian
//! ```
//!
//! Written without a sync: it has to outlive the process, not the machine. A new file begins with each checkpoint; the
//! older ones go when it has succeeded.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use storage::RelationId;

use crate::job::SplitState;

const PREFIX: &str = "visible.";
const RECORD_BYTES: usize = 14;

/// The log.
pub struct VisibleLog {
    dir: PathBuf,
    current: Mutex<(u64, Option<File>)>,
}

impl VisibleLog {
    /// The log in `dir`; `epoch` names the first file.
    pub fn open(dir: &Path, epoch: u64) -> VisibleLog {
        VisibleLog { dir: dir.to_owned(), current: Mutex::new((epoch, None)) }
    }

    /// What was visible when the server ended, by (relation, split number).
    pub fn read(dir: &Path) -> BTreeMap<(RelationId, u16), i64> {
        let mut visible = BTreeMap::new();
        for path in files(dir).into_values() {
            let bytes = std::fs::read(path).unwrap_or_default();
            for record in bytes.chunks_exact(RECORD_BYTES) {
                let relation = u32::from_le_bytes(record[..4].try_into().expect("four bytes"));
                let number = u16::from_le_bytes(record[4..6].try_into().expect("two bytes"));
                let offset = i64::from_le_bytes(record[6..].try_into().expect("eight bytes"));
                let last = visible.entry((RelationId(relation), number)).or_insert(offset);
                *last = offset.max(*last);
            }
        }
        visible
    }

    /// The splits of `relation` are visible up to their offsets.
    pub fn note(&self, relation: RelationId, splits: &[SplitState]) {
        let mut bytes = Vec::with_capacity(splits.len() * RECORD_BYTES);
        for split in splits {
            bytes.extend(relation.0.to_le_bytes());
            bytes.extend(split.number.to_le_bytes());
            bytes.extend(split.offset.0.to_le_bytes());
        }
        let mut current = self.current.lock();
        let path = self.dir.join(format!("{PREFIX}{}", current.0));
        if current.1.is_none() {
            current.1 = OpenOptions::new().create(true).append(true).open(path).ok();
        }
        // On a full disk a reader may see an older state after a crash: the best that can be had there.
        if let Some(file) = &mut current.1 {
            let _ = file.write_all(&bytes);
        }
    }

    /// The checkpoint `epoch` is cut: what is visible from now on is not in it.
    pub fn cut(&self, epoch: u64) {
        *self.current.lock() = (epoch, None);
    }

    /// The checkpoint `epoch` is durable.
    pub fn committed(&self, epoch: u64) {
        for (_, path) in files(&self.dir).range(..epoch) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn files(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry.file_name())?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Offset;

    fn split(number: u16, offset: i64) -> SplitState {
        SplitState {
            id: String::new(),
            number,
            start: Offset(0),
            offset: Offset(offset),
            end: None,
            error: None,
            end_error: None,
        }
    }

    #[test]
    fn keeps_what_no_checkpoint_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = VisibleLog::open(dir.path(), 1);
        log.note(RelationId(7), &[split(0, 10), split(1, 20)]);
        log.cut(5);
        log.note(RelationId(7), &[split(0, 12)]);
        log.committed(5);
        assert_eq!(VisibleLog::read(dir.path()), BTreeMap::from([((RelationId(7), 0), 12)]));
    }
}
