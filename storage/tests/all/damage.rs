//! A damaged file is reported and never served.

use std::fs;
use std::path::{Path, PathBuf};

use storage::{Checkpoint, Epoch, Error, RelationId, Result, Store, StoreOptions, TableId};

use crate::{checkpoint, open};

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// All rows, checked: row i is in vnode i % 256 and has a value that follows from i.
fn read(dir: &Path) -> Result<usize> {
    let store = Store::open(dir, StoreOptions::small())?;
    let (table, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1)?;
    let mut rows = 0;
    table.scan(&mut |_, key, value| {
        let i = u64::from_be_bytes(key.try_into().unwrap());
        assert_eq!(value, format!("value of {i}").as_bytes());
        rows += 1;
        Ok(())
    })?;
    Ok(rows)
}

fn fill(dir: &Path, ingest_rows_min: usize) {
    let store = open(dir, ingest_rows_min);
    let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
    for epoch in 1..=3u64 {
        for i in epoch * 1000..(epoch + 1) * 1000 {
            table.put(i as u8, &i.to_be_bytes(), format!("value of {i}").as_bytes());
        }
        checkpoint(&store, epoch, &[&dirty]).unwrap();
    }
}

#[test]
fn reports_a_damaged_sorted_file() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1);
    assert_eq!(read(dir.path()).unwrap(), 3000);
    let sorted = files(&dir.path().join("db"), "sst");
    assert!(!sorted.is_empty());
    for part in 1..10 {
        let copy = tempfile::tempdir().unwrap();
        crate::recovery::copy_dir(dir.path(), copy.path());
        let victim = copy.path().join("db").join(sorted[0].file_name().unwrap());
        flip(&victim, fs::metadata(&victim).unwrap().len() as usize * part / 10);
        match read(copy.path()) {
            Err(Error::Corrupt(text)) => {
                let name = victim.file_name().unwrap().to_str().unwrap();
                assert!(text.contains(name), "{name}: {text}");
            }
            // A part that nothing reads, like padding or statistics.
            Ok(rows) => assert_eq!(rows, 3000),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn reports_a_damaged_write_ahead_log() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), usize::MAX);
    let logs = files(&dir.path().join("db"), "log");
    let log = logs.iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let len = fs::metadata(log).unwrap().len() as usize;
    for part in 0..5 {
        let copy = tempfile::tempdir().unwrap();
        crate::recovery::copy_dir(dir.path(), copy.path());
        flip(&copy.path().join("db").join(log.file_name().unwrap()), len * part / 6 + 100);
        let error =
            read(copy.path()).err().unwrap_or_else(|| panic!("byte {} of the log is not checked", len * part / 6));
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
    }
    // Whereas a torn end was never acknowledged: the checkpoint before it counts.
    let copy = tempfile::tempdir().unwrap();
    crate::recovery::copy_dir(dir.path(), copy.path());
    let file = fs::OpenOptions::new().write(true).open(copy.path().join("db").join(log.file_name().unwrap())).unwrap();
    file.set_len(len as u64 - 100).unwrap();
    assert_eq!(read(copy.path()).unwrap(), 2000);
    assert_eq!(open(copy.path(), 1).last_checkpoint(), Epoch(2));
}

#[test]
fn reports_a_damaged_format_file() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1);
    let format = dir.path().join("format");
    let len = fs::metadata(&format).unwrap().len() as usize;
    for at in 0..len - 1 {
        flip(&format, at);
        let error = Store::open(dir.path(), StoreOptions::small()).err().unwrap();
        assert!(matches!(&error, Error::Corrupt(text) if text.contains("format")), "byte {at}: {error}");
        flip(&format, at);
    }
    fs::remove_file(&format).unwrap();
    assert!(matches!(Store::open(dir.path(), StoreOptions::small()), Err(Error::Corrupt(_))));
}

#[test]
fn reports_a_missing_sorted_file() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1);
    for file in files(&dir.path().join("db"), "sst") {
        fs::remove_file(file).unwrap();
    }
    assert!(matches!(read(dir.path()), Err(Error::Corrupt(_))));
}

/// `HEADWATER_SMALL_DISK` names a folder on a device of a few megabytes.
#[test]
fn says_that_the_disk_is_full_and_goes_on_when_there_is_room() {
    let Some(disk) = std::env::var_os("HEADWATER_SMALL_DISK") else { return };
    for ingest_rows_min in [1, usize::MAX] {
        let dir = tempfile::tempdir_in(&disk).unwrap();
        let filler = Path::new(&disk).join("filler");
        let store = open(dir.path(), ingest_rows_min);
        let (table, dirty) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
        let mut filled = fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut filled, &[0; 4096]).is_ok() {}
        for i in 0..1000u64 {
            table.put(i as u8, &i.to_be_bytes(), &[7; 1000]);
        }
        let error = checkpoint(&store, 1, &[&dirty]).err().unwrap();
        assert!(matches!(error, Error::DiskFull(_)), "{error}");
        assert_eq!(table.get(3, &3u64.to_be_bytes()).unwrap().unwrap().len(), 1000);
        drop(filled);
        fs::remove_file(&filler).unwrap();
        let mut tries = 0;
        while let Err(error) = store.checkpoint(Checkpoint { epoch: Epoch(2), ..Default::default() }) {
            tries += 1;
            assert!(tries < 100, "{error}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        drop((table, dirty, store));
        let store = open(dir.path(), ingest_rows_min);
        let (table, _) = store.table(TableId::new(RelationId(1), 0, 0), 0, 1).unwrap();
        assert_eq!(table.get(3, &3u64.to_be_bytes()).unwrap().unwrap().len(), 1000);
    }
}
