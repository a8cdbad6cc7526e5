//! The synced log: what a client was told is written, is on the disk.
//!
//! ```text
//!  DIR/log/00000000000000000001.log      named by the sequence number of its first record
//!
//!  record   length u32 | sequence u64 | checksum u32 of these | checksum u64 of (sequence, payload) | payload
//!           little endian; checksums are (the low half of) xxh3
//! ```
//!
//! One thread writes. It takes all records that wait, writes them, syncs once, and then answers them in order: so many
//! clients share one sync. A torn tail (of the last segment only) was never acknowledged and is cut off when the log is
//! opened; anything else that does not check is reported by the file's name and never served.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};
use crate::failpoint::around;
use crate::store::torn::ends_in_zeros;

/// Bytes after which a new segment begins.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Records that may wait for the log's thread.
const RECORDS_WAITING_MAX: usize = 1024;
/// Bytes of a payload, at most.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;
const HEADER_BYTES: usize = 24;

type Done = Box<dyn FnOnce(Result<u64>) + Send>;

/// An open log. Dropping it waits for what is under way.
pub struct Log {
    dir: PathBuf,
    requests: Mutex<Option<Sender<(Vec<u8>, Done)>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in `dir/log`, making it if need be. The store has every record up to `stored`: the next one has a
    /// number behind it, also when the log does not have those (as after a restore).
    ///
    /// # Errors
    /// `Corrupt` if a record other than a torn last one does not check, or one behind `stored` is not there.
    pub fn open(dir: &Path, stored: u64) -> Result<Arc<Log>> {
        let dir = dir.join("log");
        std::fs::create_dir_all(&dir).map_err(|error| io(&dir, &error))?;
        let mut next = 1;
        let segments = segments(&dir)?;
        for (i, (first, path)) in segments.iter().enumerate() {
            let last = i + 1 == segments.len();
            if i > 0 && *first != next {
                let dir = dir.display();
                return Err(Error::Corrupt(format!("a file of \"{dir}\" with record {next} is missing")));
            }
            let (end, good) = check(path, *first, last)?;
            next = end;
            if last {
                let file = OpenOptions::new().write(true).open(path).map_err(|error| io(path, &error))?;
                around("log/cut", || file.set_len(good)).map_err(|error| io(path, &error))?;
            }
        }
        if let Some((first, path)) = segments.first()
            && *first > stored + 1
        {
            let text = format!("the records from {} on, before file \"{}\", are missing", stored + 1, path.display());
            return Err(Error::Corrupt(text));
        }
        if next <= stored {
            // All of them are in the store, and more: what follows would not join them.
            for (_, path) in &segments {
                around("log/remove", || std::fs::remove_file(path)).map_err(|error| io(path, &error))?;
            }
            next = stored + 1;
        }
        let (requests, receive) = bounded(RECORDS_WAITING_MAX);
        let writer = Writer { dir: dir.clone(), next, file: None, broken: None };
        let thread = std::thread::Builder::new()
            .name("table log".into())
            .spawn(move || writer.run(&receive))
            .map_err(|error| io(&dir, &error))?;
        Ok(Arc::new(Log { dir, requests: Mutex::new(Some(requests)), thread: Mutex::new(Some(thread)) }))
    }

    /// Appends a record. `done` is called with its sequence number once it is on the disk, in the order of the numbers;
    /// with an error (`DiskFull`, `Io`) if it is not: then nothing of it is kept.
    pub fn append_synced(&self, payload: Vec<u8>, done: Done) {
        let requests = self.requests.lock().clone();
        match requests {
            Some(requests) => {
                // The thread lives as long as the sender.
                let _ = requests.send((payload, done));
            }
            None => done(Err(Error::Io("the table log is closed".into()))),
        }
    }

    /// Calls `f` for every record from sequence number `from` on, in order.
    ///
    /// # Errors
    /// `Corrupt` if a record does not check; what `f` returns.
    pub fn replay(&self, from: u64, f: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        for (_, path) in segments(&self.dir)? {
            let mut file = File::open(&path).map_err(|error| io(&path, &error))?;
            while let Some((sequence, payload)) = read_record(&mut file, &path)? {
                if sequence >= from {
                    f(sequence, &payload)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the segments that hold only records before `sequence`.
    ///
    /// # Errors
    /// `Io` if a file cannot be removed.
    pub fn truncate_before(&self, sequence: u64) -> Result<()> {
        let segments = segments(&self.dir)?;
        for pair in segments.windows(2) {
            if pair[1].0 <= sequence {
                let remove = || std::fs::remove_file(&pair[0].1);
                around("log/remove", remove).map_err(|error| io(&pair[0].1, &error))?;
            }
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        *self.requests.lock() = None;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    dir: PathBuf,
    next: u64,
    file: Option<(PathBuf, File, u64)>,
    /// A group that was refused could not be cut off: what followed it would not be found at the next start.
    broken: Option<Error>,
}

impl Writer {
    fn run(mut self, requests: &Receiver<(Vec<u8>, Done)>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            group.extend(requests.try_iter().take(RECORDS_WAITING_MAX));
            let first = self.next;
            match self.append(&group) {
                Ok(()) => {
                    for (i, (_, done)) in group.into_iter().enumerate() {
                        done(Ok(first + i as u64));
                    }
                }
                Err(error) => {
                    self.next = first;
                    for (_, done) in group {
                        done(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Writes a group and syncs it; on an error the file is as long as before.
    fn append(&mut self, group: &[(Vec<u8>, Done)]) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.file.as_ref().is_some_and(|(.., length)| *length > SEGMENT_BYTES) {
            self.file = None;
        }
        if self.file.is_none() {
            let path = self.dir.join(format!("{:020}.log", self.next));
            // A leftover of this name was never acknowledged: its first record would be the one written now.
            let file = around("log/create", || {
                let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
                File::open(&self.dir)?.sync_all()?;
                Ok::<_, std::io::Error>(file)
            });
            let file = file.map_err(|error| io(&path, &error))?;
            self.file = Some((path, file, 0));
        }
        let (path, file, length) = self.file.as_mut().expect("just opened");
        let mut bytes = Vec::new();
        for (payload, _) in group {
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(Error::Io("a write of more than 1 GB cannot be logged".into()));
            }
            let mut header = [0; HEADER_BYTES];
            header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
            header[4..12].copy_from_slice(&self.next.to_le_bytes());
            let check = header_checksum(&header);
            header[12..16].copy_from_slice(&check.to_le_bytes());
            header[16..].copy_from_slice(&checksum(self.next, payload).to_le_bytes());
            bytes.extend(header);
            bytes.extend(payload);
            self.next += 1;
        }
        let written = around("log/write", || file.write_all(&bytes));
        let written = written.and_then(|()| around("log/sync", || file.sync_data()));
        if let Err(error) = written {
            let error = io(path, &error);
            // What was written of the group must not be found at the next start.
            let undone = around("log/undo", || file.set_len(*length));
            match undone.and_then(|()| file.seek(SeekFrom::Start(*length))) {
                // Should this fail, the sync of the next group says so.
                Ok(_) => drop(around("log/sync", || file.sync_data())),
                Err(_) => self.broken = Some(error.clone()),
            }
            return Err(error);
        }
        *length += bytes.len() as u64;
        Ok(())
    }
}

/// The length has a checksum of its own: a damaged one must not make a whole record look like a torn one.
fn header_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    xxh3_64(&header[..12]) as u32
}

fn checksum(sequence: u64, payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.digest()
}

/// The segments by the number of their first record, in order.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| io(dir, &error))? {
        let path = entry.map_err(|error| io(dir, &error))?.path();
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(first) = first
            && path.extension().is_some_and(|extension| extension == "log")
        {
            segments.push((first, path));
        }
    }
    segments.sort();
    Ok(segments)
}

/// The sequence number behind the segment's last record, and the bytes that check.
fn check(path: &Path, first: u64, last_segment: bool) -> Result<(u64, u64)> {
    let mut file = File::open(path).map_err(|error| io(path, &error))?;
    let mut next = first;
    let mut good = 0;
    loop {
        match read_record(&mut file, path) {
            Ok(Some((sequence, _))) if sequence == next => {
                next += 1;
                good = file.stream_position().map_err(|error| io(path, &error))?;
            }
            Ok(None) => return Ok((next, good)),
            Ok(Some(_)) => return Err(corrupt(path)),
            // Only the end of the last segment can be torn; a whole record behind the bad one says otherwise.
            Err(Error::Corrupt(_)) if last_segment && is_torn(&mut file, path, good)? => return Ok((next, good)),
            Err(error) => return Err(error),
        }
    }
}

/// Whether the bytes from `good` on are one record that was not written to its end.
fn is_torn(file: &mut File, path: &Path, good: u64) -> Result<bool> {
    file.seek(SeekFrom::Start(good)).map_err(|error| io(path, &error))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).map_err(|error| io(path, &error))?;
    let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(true) };
    // A group is written at once, and what of it never came to the disk is zeros.
    let zeros_behind = ends_in_zeros(file).map_err(|error| io(path, &error))?;
    let (length, _, good) = parse(header);
    Ok(zeros_behind || (good && rest.len() < HEADER_BYTES + length))
}

fn read_record(file: &mut File, path: &Path) -> Result<Option<(u64, Vec<u8>)>> {
    let mut header = [0u8; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match file.read(&mut header[filled..]).map_err(|error| io(path, &error))? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(corrupt(path)),
            n => filled += n,
        }
    }
    let (length, sequence, good) = parse(&header);
    if !good {
        return Err(corrupt(path));
    }
    let expected = u64::from_le_bytes(header[16..].try_into().expect("eight bytes"));
    if length > PAYLOAD_BYTES_MAX {
        return Err(corrupt(path));
    }
    let mut payload = Vec::new();
    file.take(length as u64).read_to_end(&mut payload).map_err(|error| io(path, &error))?;
    if payload.len() < length || checksum(sequence, &payload) != expected {
        return Err(corrupt(path));
    }
    Ok(Some((sequence, payload)))
}

/// The length and the sequence number in a header, and whether they are what was written.
fn parse(header: &[u8; HEADER_BYTES]) -> (usize, u64, bool) {
    let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    let sequence = u64::from_le_bytes(header[4..12].try_into().expect("eight bytes"));
    (length, sequence, header[12..16] == header_checksum(header).to_le_bytes())
}

fn corrupt(path: &Path) -> Error {
    Error::Corrupt(format!("file \"{}\" is corrupt: a record does not match its checksum", path.display()))
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    let message = format!("could not write to \"{}\": {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::DiskFull(message),
        _ => Error::Io(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &Log, payload: &[u8]) -> u64 {
        let (send, receive) = bounded(1);
        log.append_synced(payload.to_vec(), Box::new(move |result| drop(send.send(result))));
        receive.recv().expect("an answer").expect("written")
    }

    fn all(log: &Log) -> Vec<(u64, Vec<u8>)> {
        let mut records = Vec::new();
        log.replay(0, &mut |sequence, payload| {
            records.push((sequence, payload.to_vec()));
            Ok(())
        })
        .expect("a good log");
        records
    }

    fn only_segment(dir: &Path) -> PathBuf {
        segments(&dir.join("log")).expect("a folder").pop().expect("a segment").1
    }

    #[test]
    fn keeps_what_it_acknowledged() {
        let dir = tempfile::tempdir().expect("a folder");
        for round in 0..3u64 {
            let log = Log::open(dir.path(), 0).expect("a log");
            assert_eq!(all(&log).len() as u64, round * 2);
            assert_eq!(append(&log, b"one"), round * 2 + 1);
            assert_eq!(append(&log, b""), round * 2 + 2);
        }
    }

    #[test]
    fn cuts_a_torn_tail_and_goes_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), 0).expect("a log");
        append(&log, b"whole");
        append(&log, b"torn");
        drop(log);
        let path = only_segment(dir.path());
        let length = std::fs::metadata(&path).expect("a file").len();
        OpenOptions::new().write(true).open(&path).expect("a file").set_len(length - 2).expect("shorter");
        let log = Log::open(dir.path(), 0).expect("a log");
        assert_eq!(all(&log), vec![(1, b"whole".to_vec())]);
        assert_eq!(append(&log, b"again"), 2);
        assert_eq!(all(&log).len(), 2);
    }

    #[test]
    fn names_a_corrupt_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), 0).expect("a log");
        append(&log, b"first");
        append(&log, b"second");
        drop(log);
        let path = only_segment(dir.path());
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[HEADER_BYTES + 1] ^= 1;
        std::fs::write(&path, bytes).expect("a file");
        let error = Log::open(dir.path(), 0).err().expect("refused").to_string();
        assert!(error.contains(".log") && error.contains("corrupt"), "{error}");
    }

    #[test]
    fn no_damage_passes_for_a_torn_tail() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), 0).expect("a log");
        append(&log, b"first");
        append(&log, b"second");
        drop(log);
        let path = only_segment(dir.path());
        let good = std::fs::read(&path).expect("a file");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).expect("a file");
            assert!(matches!(Log::open(dir.path(), 0), Err(Error::Corrupt(_))), "byte {at}");
        }
        // Whereas every shorter file is the log as of an earlier moment.
        for len in (0..good.len()).rev() {
            std::fs::write(&path, &good[..len]).expect("a file");
            let whole = usize::from(len >= HEADER_BYTES + 5);
            assert_eq!(all(&Log::open(dir.path(), 0).expect("a log")).len(), whole, "{len} bytes");
        }
    }

    #[test]
    fn goes_on_behind_what_the_store_has() {
        let dir = tempfile::tempdir().expect("a folder");
        append(&Log::open(dir.path(), 0).expect("a log"), b"old");
        append(&Log::open(dir.path(), 0).expect("a log"), b"old");
        // A store from elsewhere, whose log was left behind.
        let log = Log::open(dir.path(), 7).expect("a log");
        assert_eq!(all(&log), vec![]);
        assert_eq!(append(&log, b"new"), 8);
        drop(log);
        let log = Log::open(dir.path(), 7).expect("a log");
        assert_eq!(all(&log), vec![(8, b"new".to_vec())]);
        drop(log);
        // A store that is older than what the log begins with.
        let error = Log::open(dir.path(), 5).err().expect("refused").to_string();
        assert!(error.contains("from 6 on") && error.contains("missing"), "{error}");
    }

    #[test]
    fn notices_a_missing_segment() {
        let dir = tempfile::tempdir().expect("a folder");
        for _ in 0..3 {
            append(&Log::open(dir.path(), 0).expect("a log"), b"record");
        }
        let segments = segments(&dir.path().join("log")).expect("a folder");
        assert_eq!(segments.len(), 3);
        std::fs::remove_file(&segments[1].1).expect("removed");
        let error = Log::open(dir.path(), 0).err().expect("refused").to_string();
        assert!(error.contains("record 2 is missing"), "{error}");
    }

    #[test]
    fn forgets_whole_segments_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), 0).expect("a log");
        append(&log, b"old");
        drop(log);
        let log = Log::open(dir.path(), 0).expect("a log");
        append(&log, b"new");
        log.truncate_before(2).expect("removed");
        assert_eq!(all(&log), vec![(2, b"new".to_vec())]);
        drop(log);
        let log = Log::open(dir.path(), 1).expect("a log");
        assert_eq!(append(&log, b"next"), 3);
    }
}
