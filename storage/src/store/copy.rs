//! Copies of a store as of one checkpoint: what a backup and a savepoint point are, and how a directory is made of one.
//!
//! ```text
//! <copy>/
//!   format    as in a data directory
//!   copy      "headwater copy\nepoch <n>\nmade <microseconds since 1970>\nfile <name> <bytes> <checksum or ->\n...<checksum>\n"
//!   db/       RocksDB: its sorted files are links to the server's own where the file system allows it
//! ```
//!
//! Everything durable is as of one marker, so a copy needs no log: what was written before the checkpoint is in it. A copy
//! is made beside its place and renamed, and never opened: RocksDB would change it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::checkpoint::Checkpoint as RocksCheckpoint;
use xxhash_rust::xxh3::xxh3_64;

use super::{Store, check_format, io_error};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::failpoint::around;

const FIRST_LINE: &str = "headwater copy";
/// What tells a copy from a data directory.
const MANIFEST: &str = "copy";

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyInfo {
    /// The checkpoint that it is as of.
    pub epoch: Epoch,
    /// When it was made: microseconds since 1970.
    pub made: i64,
    /// Bytes of its files; those of sorted files are shared with the server as long as it has them too.
    pub bytes: u64,
    files: Vec<(String, u64, Option<u64>)>,
}

impl Store {
    /// Makes the directory `to` a copy of the last checkpoint. Checkpoints wait meanwhile, for as long as it takes to link
    /// the files, or to copy them if `to` is on another file system.
    ///
    /// # Errors
    /// `Conflict` if `to` exists; `DiskFull` and `Io`: then nothing is left of it.
    pub fn copy_to(&self, to: &Path) -> Result<CopyInfo> {
        if to.exists() {
            return Err(Error::Conflict(format!("\"{}\" exists already", to.display())));
        }
        let partial = partial(to)?;
        let made = self.fill(&partial, to);
        if made.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        made
    }

    fn fill(&self, partial: &Path, to: &Path) -> Result<CopyInfo> {
        let failed = |error: &std::io::Error| io_error("write", partial, error);
        around("copy/folder", || fs::create_dir(partial)).map_err(|e| failed(&e))?;
        check_format(partial, self.options.sync)?;
        let epoch = {
            // The checkpoint under way, if any, is in it or is not.
            let _writer = self.writer.lock();
            let db = &self.db;
            around("copy/store", || {
                let checkpoint = RocksCheckpoint::new(&db.db).map_err(|e| db.error(e))?;
                checkpoint.create_checkpoint(partial.join("db")).map_err(|e| db.error(e))
            })?;
            self.last_checkpoint()
        };
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let files = files(&partial.join("db")).map_err(|e| failed(&e))?;
        let info = CopyInfo { epoch, made, bytes: files.iter().map(|(_, bytes, _)| bytes).sum(), files };
        let write = || {
            let mut file = File::create(partial.join(MANIFEST))?;
            file.write_all(text(&info).as_bytes())?;
            file.sync_all()?;
            sync_folder(partial)
        };
        around("copy/write", write).map_err(|e| failed(&e))?;
        place(partial, to)?;
        Ok(info)
    }
}

/// What a copy holds, after a look at every file's size, and into those that RocksDB does not check itself.
///
/// # Errors
/// `NotFound` if `dir` is no copy; `Corrupt` names the file that is damaged or missing.
pub fn check(dir: &Path) -> Result<CopyInfo> {
    let path = dir.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("\"{}\" is neither a backup nor a savepoint point", dir.display());
            return Err(Error::NotFound(message));
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(damaged(&path)),
        Err(error) => return Err(io_error("read", &path, &error)),
    };
    let info = parse(&text).ok_or_else(|| damaged(&path))?;
    for (name, bytes, checksum) in &info.files {
        let file = dir.join("db").join(name);
        let length = match fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(_) => return Err(Error::Corrupt(format!("file \"{}\" is missing", file.display()))),
        };
        let differs = |sum: &u64| fs::read(&file).map_or(true, |content| xxh3_64(&content) != *sum);
        if length != *bytes || checksum.as_ref().is_some_and(differs) {
            return Err(damaged(&file));
        }
    }
    check_format(dir, false)?;
    Ok(info)
}

/// Makes `partial`, beside the directory that it will be, a data directory of the copy in `from`.
///
/// # Errors
/// As [`check`]; `Conflict` if the directory `to` exists and is not empty.
pub fn unpack(from: &Path, to: &Path) -> Result<(CopyInfo, PathBuf)> {
    let info = check(from)?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
        return Err(Error::Conflict(format!("\"{}\" is not empty: nothing is overwritten", to.display())));
    }
    let partial = partial(to)?;
    let failed = |error: &std::io::Error| io_error("write", &partial, error);
    around("copy/folder", || fs::create_dir_all(partial.join("db"))).map_err(|e| failed(&e))?;
    let copy = || {
        for (name, ..) in &info.files {
            let (source, target) = (from.join("db").join(name), partial.join("db").join(name));
            // RocksDB appends to all others, and to these never.
            if !name.ends_with(".sst") || fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target)?;
                File::open(&target)?.sync_all()?;
            }
        }
        fs::copy(from.join("format"), partial.join("format"))?;
        File::open(partial.join("format"))?.sync_all()?;
        sync_folder(&partial.join("db"))
    };
    around("copy/store", copy).map_err(|e| failed(&e))?;
    Ok((info, partial))
}

/// Gives what was made beside it its place.
///
/// # Errors
/// `Io` if it cannot be renamed.
pub fn place(partial: &Path, to: &Path) -> Result<()> {
    let rename = || {
        sync_folder(partial)?;
        if to.is_dir() {
            fs::remove_dir(to)?;
        }
        fs::rename(partial, to)?;
        sync_folder(parent(to))
    };
    around("copy/rename", rename).map_err(|e| io_error("make", to, &e))
}

/// Removes a copy: out of sight first, so that a crash never leaves half of one.
///
/// # Errors
/// `Io` if it cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    let gone = partial(dir)?;
    let remove = || {
        fs::rename(dir, &gone)?;
        sync_folder(parent(dir))?;
        fs::remove_dir_all(&gone)
    };
    around("copy/remove", remove).map_err(|e| io_error("remove", dir, &e))
}

/// Whether a directory is a copy, which must not be opened.
pub(super) fn is_copy(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

/// The place beside `to` where it is made; what an attempt that was ended left there goes.
fn partial(to: &Path) -> Result<PathBuf> {
    let name = to.file_name().ok_or_else(|| Error::Io(format!("\"{}\" names no directory", to.display())))?;
    let partial = to.with_file_name(format!(".{}.partial", name.to_string_lossy()));
    match fs::remove_dir_all(&partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &partial, &e)),
        _ => Ok(partial),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// The files of a folder, by name, with their sizes, and the checksums of those whose blocks have none.
fn files(dir: &Path) -> std::io::Result<Vec<(String, u64, Option<u64>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let checksum = if name.ends_with(".sst") { None } else { Some(xxh3_64(&fs::read(entry.path())?)) };
        files.push((name, entry.metadata()?.len(), checksum));
    }
    files.sort();
    Ok(files)
}

fn text(info: &CopyInfo) -> String {
    let mut text = format!("{FIRST_LINE}\nepoch {}\nmade {}\n", info.epoch.0, info.made);
    for (name, bytes, checksum) in &info.files {
        let checksum = checksum.map_or("-".to_owned(), |sum| format!("{sum:016x}"));
        text += &format!("file {name} {bytes} {checksum}\n");
    }
    let checksum = xxh3_64(text.as_bytes());
    format!("{text}{checksum:016x}\n")
}

fn parse(text: &str) -> Option<CopyInfo> {
    let (head, checksum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let head = format!("{head}\n");
    if u64::from_str_radix(checksum, 16) != Ok(xxh3_64(head.as_bytes())) {
        return None;
    }
    let mut lines = head.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    let epoch = Epoch(lines.next()?.strip_prefix("epoch ")?.parse().ok()?);
    let made = lines.next()?.strip_prefix("made ")?.parse().ok()?;
    let file = |line: &str| {
        let mut words = line.strip_prefix("file ")?.split(' ');
        let (name, bytes, checksum) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let checksum = if checksum == "-" { None } else { Some(u64::from_str_radix(checksum, 16).ok()?) };
        Some((name.to_owned(), bytes, checksum))
    };
    let files: Vec<(String, u64, Option<u64>)> = lines.map(file).collect::<Option<_>>()?;
    Some(CopyInfo { epoch, made, bytes: files.iter().map(|(_, bytes, _)| bytes).sum(), files })
}

fn damaged(path: &Path) -> Error {
    Error::Corrupt(format!("file \"{}\" is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Checkpoint, StoreOptions};
    use crate::{RelationId, TableId};

    fn put(store: &Store, epoch: u64, value: &[u8]) {
        let meta = vec![(b"value".to_vec(), Some(value.to_vec()))];
        store.checkpoint(Checkpoint { epoch: Epoch(epoch), meta, ..Checkpoint::default() }).expect("written");
    }

    #[test]
    fn a_copy_is_as_of_its_checkpoint_and_becomes_a_directory() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("data"), StoreOptions::small()).expect("a store");
        let (table, dirty) = store.table(TableId::new(RelationId(9), 0, 0), 0, 1).expect("a table");
        table.put(3, b"key", b"row");
        let dirty = dirty.take().into_iter().collect();
        store.checkpoint(Checkpoint { epoch: Epoch(4), dirty, ..Checkpoint::default() }).expect("written");
        put(&store, 5, b"then");
        let copy = dir.path().join("copy");
        let info = store.copy_to(&copy).expect("a copy");
        assert_eq!((info.epoch, check(&copy).expect("whole")), (Epoch(5), info.clone()));
        assert!(matches!(store.copy_to(&copy), Err(Error::Conflict(_))), "it exists");
        put(&store, 6, b"later");
        drop((table, store));
        // It is not a data directory, and opening it would change it.
        assert!(matches!(Store::open(&copy, StoreOptions::small()), Err(Error::Conflict(_))));
        let to = dir.path().join("restored");
        for _ in 0..2 {
            // An attempt that was ended leaves nothing in the way.
            let (_, partial) = unpack(&copy, &to).expect("unpacked");
            assert!(!to.exists() && partial.exists());
        }
        let (_, partial) = unpack(&copy, &to).expect("unpacked");
        place(&partial, &to).expect("placed");
        let store = Store::open(&to, StoreOptions::small()).expect("a store");
        assert_eq!(store.last_checkpoint(), Epoch(5));
        assert_eq!(store.meta_get(b"value").expect("readable"), Some(b"then".to_vec()));
        let (table, _) = store.table(TableId::new(RelationId(9), 0, 0), 0, 1).expect("a table");
        assert_eq!(table.get(3, b"key").expect("readable"), Some(b"row".to_vec()));
        assert!(matches!(unpack(&copy, &to), Err(Error::Conflict(_))), "nothing is overwritten");
        put(&store, 7, b"elsewhere");
        // What shares its files changes nothing in it.
        assert_eq!(check(&copy).expect("whole"), info);
        remove(&copy).expect("removed");
        assert!(!copy.exists());
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("data"), StoreOptions::small()).expect("a store");
        put(&store, 2, b"x");
        let copy = dir.path().join("copy");
        store.copy_to(&copy).expect("a copy");
        let mut paths = vec![copy.join("copy"), copy.join("format")];
        let names = fs::read_dir(copy.join("db")).expect("readable").map(|entry| entry.expect("an entry").path());
        paths.extend(names.filter(|path| path.extension().is_none_or(|extension| extension != "sst")));
        for path in paths {
            let good = fs::read(&path).expect("readable");
            if good.is_empty() {
                continue;
            }
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 4;
            fs::write(&path, bad).expect("written");
            let error = check(&copy).expect_err("damaged").to_string();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(error.contains(&name), "{name}: {error}");
            fs::write(&path, good).expect("written");
        }
        assert!(check(&copy).is_ok());
        assert!(matches!(check(&dir.path().join("data")), Err(Error::NotFound(_))));
    }
}
