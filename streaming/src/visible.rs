//! A small log of how far sources were visible: reads never go back, also after a crash.
//!
//! What a client has seen may be a moment ahead of what is durable. After a crash the sources are read again from the
//! checkpoint's offsets; the server answers once they are where they were visible.
//!
//! ```text
//!  DIR/visible-3.N    records of 32 bytes, little endian:
//!                     relation u32 | kind u16 | split number u16 | a i64 | b i64 | checksum u64 (xxh3) of these
//!    kind 0           the split is visible up to offset a
//!         1           a is announced as the source's watermark
//!         2           from offset a on the split's watermark was at least b
//! ```
//!
//! Written without a sync: it has to outlive the process, not the machine. A new file begins with each checkpoint; the
//! older ones go when it has succeeded.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use storage::{RelationId, failpoint};
use xxhash_rust::xxh3::xxh3_64;

use crate::event_time::Raise;
use crate::job::SplitState;
use crate::source::Offset;

const PREFIX: &str = "visible-3.";
const BODY_BYTES: usize = 24;
const RECORD_BYTES: usize = BODY_BYTES + 8;
const OFFSET: u16 = 0;
const ANNOUNCED: u16 = 1;
const RAISED: u16 = 2;

/// What was visible when the server ended.
#[derive(Debug, Default, PartialEq)]
pub struct Visible {
    /// The offsets by (relation, split number).
    pub offsets: BTreeMap<(RelationId, u16), i64>,
    announced: BTreeMap<RelationId, i64>,
    raises: BTreeMap<(RelationId, u16), Vec<Raise>>,
}

impl Visible {
    /// What was announced as a source's watermark; `i64::MIN` for nothing.
    pub fn announced(&self, relation: RelationId) -> i64 {
        self.announced.get(&relation).copied().unwrap_or(i64::MIN)
    }

    /// What the checkpoint does not know of a split: that it was visible farther, and raised since.
    pub fn restore(&self, relation: RelationId, split: &mut SplitState) {
        let key = (relation, split.number);
        let visible = self.offsets.get(&key).map_or(split.offset, |offset| Offset(*offset));
        split.replay_until = visible.max(split.offset);
        if let Some(raises) = self.raises.get(&key) {
            split.progress.restore(raises);
        }
    }
}

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

    /// What was visible when the server ended.
    pub fn read(dir: &Path) -> Visible {
        let mut visible = Visible::default();
        for path in files(dir).into_values() {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!("{} cannot be read, reads may go back a moment: {error}", path.display());
                    continue;
                }
            };
            // A torn record at the end was never visible.
            for record in bytes.chunks_exact(RECORD_BYTES) {
                if record[BODY_BYTES..] != xxh3_64(&record[..BODY_BYTES]).to_le_bytes() {
                    tracing::warn!("a record of {} is damaged, reads may go back a moment", path.display());
                    continue;
                }
                let short = |at: usize| u16::from_le_bytes(record[at..at + 2].try_into().expect("two bytes"));
                let long = |at: usize| i64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
                let relation = RelationId(u32::from_le_bytes(record[..4].try_into().expect("four bytes")));
                let (split, a, b) = (short(6), long(8), long(16));
                let newest = |last: &mut i64| *last = a.max(*last);
                match short(4) {
                    OFFSET => newest(visible.offsets.entry((relation, split)).or_insert(a)),
                    ANNOUNCED => newest(visible.announced.entry(relation).or_insert(a)),
                    _ => {
                        let raises = visible.raises.entry((relation, split)).or_default();
                        raises.push(Raise { offset: a, at: b, used: false });
                    }
                }
            }
        }
        visible
    }

    /// The splits of `relation` are visible up to their offsets, and its watermark as announced.
    pub fn note(&self, relation: RelationId, splits: &[SplitState], announced: Option<i64>) {
        let mut bytes = Vec::with_capacity((splits.len() + 1) * RECORD_BYTES);
        let mut record = |kind: u16, split: u16, a: i64, b: i64| {
            bytes.extend(relation.0.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(split.to_le_bytes());
            bytes.extend(a.to_le_bytes());
            bytes.extend(b.to_le_bytes());
            let checksum = xxh3_64(&bytes[bytes.len() - BODY_BYTES..]);
            bytes.extend(checksum.to_le_bytes());
        };
        for split in splits {
            record(OFFSET, split.number, split.offset.0, 0);
            split.progress.raises.iter().for_each(|raise| record(RAISED, split.number, raise.offset, raise.at));
        }
        if let Some(announced) = announced.filter(|announced| *announced > i64::MIN) {
            record(ANNOUNCED, 0, announced, 0);
        }
        let mut current = self.current.lock();
        let path = self.dir.join(format!("{PREFIX}{}", current.0));
        if current.1.is_none() {
            current.1 = open_whole(&path).ok();
        }
        // On a full disk a reader may see an older state after a crash: the best that can be had there.
        if let Some(file) = &mut current.1
            && failpoint::around("visible/write", || file.write_all(&bytes)).is_err()
        {
            // What is there of the records must not shift those that follow.
            current.1 = None;
        }
    }

    /// The checkpoint `epoch` is cut: what is visible from now on is not in it.
    pub fn cut(&self, epoch: u64) {
        *self.current.lock() = (epoch, None);
    }

    /// The checkpoint `epoch` is durable.
    pub fn committed(&self, epoch: u64) {
        for (_, path) in files(&self.dir).range(..epoch) {
            let _ = failpoint::around("visible/remove", || std::fs::remove_file(path));
        }
    }
}

/// A file behind its last whole record.
fn open_whole(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let torn = file.metadata()?.len() % RECORD_BYTES as u64;
    if torn > 0 {
        failpoint::around("visible/cut", || file.set_len(file.metadata()?.len() - torn))?;
    }
    Ok(file)
}

fn files(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry.file_name())?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::new_split;
    use crate::source::Split;

    fn split(number: u16, offset: i64) -> SplitState {
        let split = new_split(Split { id: String::new(), start: Offset(0) }, number);
        SplitState { offset: Offset(offset), ..split }
    }

    #[test]
    fn keeps_what_no_checkpoint_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = VisibleLog::open(dir.path(), 1);
        log.note(RelationId(7), &[split(0, 10), split(1, 20)], None);
        log.cut(5);
        log.note(RelationId(7), &[split(0, 12)], Some(99));
        let mut raised = split(0, 14);
        raised.progress.raise(12, 99);
        log.note(RelationId(7), &[raised.clone()], Some(100));
        log.committed(5);
        let visible = VisibleLog::read(dir.path());
        assert_eq!(visible.offsets, BTreeMap::from([((RelationId(7), 0), 14)]));
        assert_eq!((visible.announced(RelationId(7)), visible.announced(RelationId(8))), (100, i64::MIN));
        // Killed while it wrote: what follows is read all the same, and damage is not.
        let path = dir.path().join("visible-3.5");
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes.extend([7; 11]);
        std::fs::write(&path, &bytes).expect("written");
        VisibleLog::open(dir.path(), 5).note(RelationId(7), &[split(1, 33)], None);
        assert_eq!(VisibleLog::read(dir.path()).offsets[&(RelationId(7), 1)], 33);
        let mut bytes = std::fs::read(&path).expect("a file");
        let last = bytes.len() - RECORD_BYTES;
        bytes[last + 9] ^= 0x40;
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(VisibleLog::read(dir.path()), visible);
        // What the checkpoint had of it.
        let mut before = split(0, 10);
        visible.restore(RelationId(7), &mut before);
        assert_eq!((before.replay_until, before.progress.raises), (Offset(14), raised.progress.raises));
    }
}
