//! Tails that a power failure left: a file that has its length, and sectors at its end that were never written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
/// Fewer zeros may be the end of a value.
const ZEROS_MIN: u64 = 32;

/// Whether a file's last sectors hold nothing but zeros: the write that made it longer was under way, and nobody was told of it.
pub fn ends_in_zeros(file: &File) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    let mut zeros = length % SECTOR_BYTES;
    if zeros < ZEROS_MIN {
        zeros += SECTOR_BYTES;
    }
    if length < zeros {
        return Ok(false);
    }
    let mut tail = vec![1; zeros as usize];
    file.read_exact_at(&mut tail, length - zeros)?;
    Ok(tail.iter().all(|byte| *byte == 0))
}

/// RocksDB's newest log with anything in it, if it ends so.
pub fn torn_log(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let newest = logs.filter(|path| path.metadata().is_ok_and(|log| log.len() > 0)).max()?;
    let torn = File::open(&newest).and_then(|file| ends_in_zeros(&file)).unwrap_or(false);
    torn.then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_unwritten_sectors_from_values() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("000004.log");
        for (written, length, torn) in [
            (700, 700, false),
            (700, 1024, false),
            (512, 1000, true),
            (700, 1600, true),
            (1500, 1540, false),
            (1024, 1030, false),
            (0, 1024, true),
            (300, 310, false),
        ] {
            let mut bytes = vec![7u8; written];
            bytes.resize(length, 0);
            fs::write(&path, &bytes).expect("written");
            let file = File::open(&path).expect("a file");
            assert_eq!(ends_in_zeros(&file).expect("readable"), torn, "{written} of {length}");
            assert_eq!(torn_log(dir.path()).is_some(), torn);
        }
        fs::write(dir.path().join("000005.log"), "whole").expect("written");
        assert_eq!(torn_log(dir.path()), None);
    }
}
