//! Files of lines: every file that a path or a pattern names is a split, and a record's offset is its first byte.
//!
//! Each file is read once and followed as it grows. A last line without its line break is not a record yet: somebody
//! may still be writing it.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use streaming::error::{Error, Result};
use streaming::source::{Offset, Source, SourceSpec, Split};

use crate::decoding::{Decoding, INCLUDE};
use crate::options::{OptionDoc, Options, invalid};
use crate::transport::{Arrival, Bytes, Framing, RawRecord, RawRecords, Transport, TransportReader, Wanted};
use crate::{Connector, OPTIONS as COMMON, formats};

pub mod sink;

/// The connector.
pub struct File;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "path",
        default: "",
        doc: "a file on the server, a directory, or a pattern with `*`, `?` and `**`; required",
    },
    OptionDoc { name: "discovery.interval", default: "1s", doc: "how often to look for new files" },
];

/// Endings of compressed files.
const COMPRESSED: &[&str] = &["gz", "zst", "bz2", "xz", "lz4", "zip", "snappy", "br"];

/// Bytes that are read at once of a file that did not grow.
const READ_PROBE: usize = 4 << 10;

/// Bytes that are read at once, at least and at most.
const READ_MIN: usize = 64 << 10;
const READ_MAX: usize = 4 << 20;
/// A record may be this long.
const RECORD_MAX: usize = 256 << 20;
/// How often a file that has ended is looked at again.
const IDLE: Duration = Duration::from_millis(20);

fn options(spec: &SourceSpec) -> Result<Options> {
    Options::new("connector \"file\"", &spec.options, &[COMMON, OPTIONS, INCLUDE])
}

impl Connector for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn fix(&self, spec: &SourceSpec) -> Result<SourceSpec> {
        // A restart may happen in another directory.
        let mut spec = spec.clone();
        for (name, value) in &mut spec.options {
            if name.eq_ignore_ascii_case("path")
                && let Ok(absolute) = std::path::absolute(&*value)
            {
                *value = absolute.to_string_lossy().into_owned();
            }
        }
        Ok(spec)
    }

    fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let options = options(spec)?;
        let path = options.required("path")?;
        let pattern = if Path::new(path).is_dir() { format!("{}/*", path.trim_end_matches('/')) } else { path.into() };
        glob::Pattern::new(&pattern).map_err(|e| invalid(format!("option \"path\": {}", e.msg)))?;
        let format = formats::open(spec)?;
        let transport = FileTransport {
            pattern,
            framing: format.framing(),
            discovery: options.duration("discovery.interval", Duration::from_secs(1))?.max(Duration::from_millis(10)),
            ends: Mutex::default(),
        };
        Ok(Arc::new(Decoding::new(transport, format, spec)?))
    }
}

struct FileTransport {
    pattern: String,
    framing: Framing,
    discovery: Duration,
    ends: Mutex<HashMap<String, Ends>>,
}

/// How far a file was searched for the end of its last record.
#[derive(Clone, Copy, Default)]
struct Ends {
    searched: u64,
    in_quotes: bool,
    end: u64,
}

fn failure(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::Unavailable(format!("file \"{}\" does not exist", path.display())),
        _ => Error::Unavailable(format!("file \"{}\": {error}", path.display())),
    }
}

impl Transport for FileTransport {
    fn splits(&self) -> Result<Vec<Split>> {
        if !self.pattern.contains(['*', '?', '[']) && !Path::new(&self.pattern).exists() {
            return Err(Error::invalid("58P01", format!("file \"{}\" does not exist", self.pattern)));
        }
        let mut splits = Vec::new();
        let paths = glob::glob(&self.pattern).map_err(|e| invalid(format!("option \"path\": {}", e.msg)))?;
        for path in paths {
            let path = path.map_err(|e| failure(e.path(), e.error()))?;
            if !path.is_file() {
                continue;
            }
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
            if COMPRESSED.contains(&extension.as_str()) {
                return Err(Error::Unsupported(format!(
                    "file \"{}\" is compressed, which is not supported yet\nHINT:  Decompress it, or name the files \
                     to read by a pattern that leaves it out.",
                    path.display()
                )));
            }
            let Some(id) = path.to_str() else {
                return Err(invalid(format!("the name of file \"{}\" is not UTF-8", path.display())));
            };
            splits.push(Split { id: id.to_string(), start: Offset(0) });
        }
        Ok(splits)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        Some(self.discovery)
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        let path = Path::new(split);
        let file = std::fs::File::open(path).map_err(|e| failure(path, &e))?;
        let length = file.metadata().map_err(|e| failure(path, &e))?.len();
        let mut ends = self.ends.lock();
        let ends = ends.entry(split.to_string()).or_default();
        let mut buffer = vec![0; READ_MAX.min(length.saturating_sub(ends.searched) as usize)];
        if self.framing.quote.is_none() && length > ends.searched {
            // Lines: only the last break counts.
            let mut to = length;
            while to > ends.searched {
                let from = to.saturating_sub(READ_MIN as u64).max(ends.searched);
                let piece = &mut buffer[..(to - from) as usize];
                file.read_exact_at(piece, from).map_err(|e| failure(path, &e))?;
                if let Some(i) = memchr::memrchr(b'\n', piece) {
                    ends.end = from + i as u64 + 1;
                    break;
                }
                to = from;
            }
            ends.searched = length;
        }
        while ends.searched < length {
            let size = buffer.len().min((length - ends.searched) as usize);
            let piece = &mut buffer[..size];
            file.read_exact_at(piece, ends.searched).map_err(|e| failure(path, &e))?;
            let quote = self.framing.quote.unwrap_or(b'\n');
            for i in memchr::memchr2_iter(b'\n', quote, piece) {
                if piece[i] == quote {
                    ends.in_quotes = !ends.in_quotes;
                } else if !ends.in_quotes {
                    ends.end = ends.searched + i as u64 + 1;
                }
            }
            ends.searched += size as u64;
        }
        Ok(Some(Offset(ends.end as i64)))
    }

    fn open(&self, split: &str, from: Offset, _wanted: Wanted) -> Result<Box<dyn TransportReader>> {
        let path = PathBuf::from(split);
        let file = std::fs::File::open(&path).map_err(|e| failure(&path, &e))?;
        let (framing, at) = (self.framing, from.0 as u64);
        Ok(Box::new(FileReader { file, path, framing, at, tail: Vec::new(), line_bytes: 256, quiet: false }))
    }
}

struct FileReader {
    file: std::fs::File,
    path: PathBuf,
    framing: Framing,
    /// Where the next record begins.
    at: u64,
    /// What was read from there on and not handed over.
    tail: Vec<u8>,
    /// About how long a record is.
    line_bytes: usize,
    /// Nothing was there when it was last looked.
    quiet: bool,
}

impl TransportReader for FileReader {
    fn header(&mut self) -> Result<Option<Vec<u8>>> {
        if !self.framing.header {
            return Ok(None);
        }
        let mut start = vec![0; READ_MAX];
        let n = self.file.read_at(&mut start, 0).map_err(|e| failure(&self.path, &e))?;
        let Some(end) = memchr::memchr(b'\n', &start[..n]) else {
            return Err(Error::Unavailable(format!("file \"{}\" has no header line yet", self.path.display())));
        };
        if self.at == 0 {
            self.at = end as u64 + 1;
        }
        Ok(Some(start[..end].strip_suffix(b"\r").unwrap_or(&start[..end]).to_vec()))
    }

    fn read(&mut self, rows_max: usize, timeout: Duration, records: &mut RawRecords) -> Result<Arrival> {
        let rows_max = rows_max.max(1);
        std::mem::swap(&mut records.values, &mut self.tail);
        let values = &mut records.values;
        let mut grown = true;
        let (mut used, mut searched) = (0, 0);
        loop {
            // Records that are here already come first.
            if searched < values.len() {
                used = split(values, self.framing.quote, self.at, rows_max, &mut records.records);
                if used > 0 {
                    break;
                }
                searched = values.len();
            }
            if !grown {
                break;
            }
            if values.len() > RECORD_MAX {
                let path = self.path.display();
                return Err(Error::Failed(format!(
                    "the record at byte {} of file \"{path}\" is longer than {RECORD_MAX} bytes",
                    self.at
                )));
            }
            // A file that does not grow is looked at often: room is made only for what is there.
            let want = match self.quiet {
                true => READ_PROBE,
                false => rows_max.saturating_mul(self.line_bytes).clamp(READ_MIN, READ_MAX).max(values.len()),
            };
            let (from, have) = (self.at + values.len() as u64, values.len());
            values.resize(have + want, 0);
            let n = self.file.read_at(&mut values[have..], from).map_err(|e| failure(&self.path, &e))?;
            values.truncate(have + n);
            grown = n > 0;
            self.quiet = !grown;
        }
        self.tail.clear();
        self.tail.extend_from_slice(&records.values[used..]);
        records.values.truncate(used);
        self.at += used as u64;
        if !records.records.is_empty() {
            self.line_bytes = (used / records.records.len()).max(16);
            return Ok(Arrival::Records(Offset(self.at as i64)));
        }
        if !grown {
            let length = self.file.metadata().map_err(|e| failure(&self.path, &e))?.len();
            if length < self.at {
                let path = self.path.display();
                return Err(Error::Failed(format!(
                    "file \"{path}\" was cut off at byte {length}; it was read up to byte {}",
                    self.at
                )));
            }
            std::thread::sleep(timeout.min(IDLE));
        }
        Ok(Arrival::Idle(Offset(self.at as i64)))
    }
}

/// Finds up to `rows_max` whole records in `values`, which begins at byte `at` of the file; returns where they end.
fn split(values: &[u8], quote: Option<u8>, at: u64, rows_max: usize, records: &mut Vec<RawRecord>) -> usize {
    let mut start = 0;
    let mut open = false;
    let mut counted = 0;
    for end in memchr::memchr_iter(b'\n', values) {
        if let Some(quote) = quote {
            open ^= memchr::memchr_iter(quote, &values[counted..end]).count() % 2 == 1;
            counted = end + 1;
            if open {
                continue;
            }
        }
        let line = &values[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A blank line is no record.
        if !line.is_empty() {
            let value = Some(Bytes { start: start as u32, len: line.len() as u32 });
            records.push(RawRecord { value, key: None, offset: (at + start as u64) as i64, timestamp: None });
        }
        start = end + 1;
        if records.len() >= rows_max {
            break;
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use storage::{Column, SqlType};
    use streaming::source::{Read, Sources};

    use super::*;
    use crate::Connectors;

    fn spec(path: &Path, encode: &str, encode_options: &[(&str, &str)]) -> SourceSpec {
        let pairs = |given: &[(&str, &str)]| given.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        SourceSpec {
            options: pairs(&[("connector", "file"), ("path", path.to_str().unwrap())]),
            format: "plain".into(),
            encode: encode.into(),
            encode_options: pairs(encode_options),
            columns: vec![Column::new("a", SqlType::BigInt), Column::new("b", SqlType::Text)],
        }
    }

    /// Everything that is there, the reader opened again after each step: `a`s, errors, and the position.
    fn read(source: &dyn Source, split: &str, rows_max: usize) -> (Vec<i64>, Vec<(i64, String)>, i64) {
        let (mut values, mut errors, mut at) = (Vec::new(), Vec::new(), Offset(0));
        loop {
            let mut reader = source.open(split, 0, at, &[0]).unwrap();
            match reader.read(rows_max, Duration::ZERO).unwrap() {
                Read::Records(records) => {
                    at = records.next;
                    values.extend_from_slice(records.batch.column(0).as_primitive::<Int64Type>().values());
                    errors.extend(records.errors.into_iter().map(|e| (e.offset.unwrap(), e.reason)));
                }
                Read::Idle { next } | Read::End { next } => return (values, errors, next.0),
            }
        }
    }

    #[test]
    fn follows_a_file_by_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let mut file = std::fs::File::create(&path).unwrap();
        write!(file, "{{\"a\":1}}\n\n{{\"a\":\"x\"}}\r\n{{\"a\":2}}\r\n{{\"a\":3").unwrap();
        let source = Connectors.open(&spec(&path, "json", &[])).unwrap();
        let split = source.splits().unwrap()[0].id.clone();
        for rows_max in [1, 2, 100] {
            let (values, errors, at) = read(source.as_ref(), &split, rows_max);
            assert_eq!(values, [1, 2]);
            assert_eq!(errors, [(9, "field \"a\": cannot read \"x\" as bigint".to_string())]);
            assert_eq!((at, source.end(&split).unwrap()), (29, Some(Offset(29))));
        }
        writeln!(file, "}}").unwrap();
        assert_eq!(read(source.as_ref(), &split, 100).0, [1, 2, 3]);
        assert_eq!(source.end(&split).unwrap(), Some(Offset(37)));
        file.set_len(3).unwrap();
        let mut reader = source.open(&split, 0, Offset(37), &[0]).unwrap();
        assert!(reader.read(1, Duration::ZERO).is_err());
    }

    #[test]
    fn reads_csv_with_breaks_in_quotes_and_a_header() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.csv"), "b,a\n\"x\ny\",1\n,2\n\"open\n,3\n").unwrap();
        let source = Connectors.open(&spec(&dir.path().join("*.csv"), "csv", &[("header", "true")])).unwrap();
        let split = source.splits().unwrap()[0].id.clone();
        for rows_max in [1, 100] {
            assert_eq!(read(source.as_ref(), &split, rows_max), (vec![1, 2], vec![], 15));
        }
        assert_eq!(source.end(&split).unwrap(), Some(Offset(15)));
        let mut reader = source.open(&split, 3, Offset(0), &[1, 2]).unwrap();
        let Read::Records(records) = reader.read(10, Duration::ZERO).unwrap() else { panic!() };
        assert_eq!(records.batch.column(0).as_string_view().value(0), "x\ny");
        assert_eq!(records.batch.column(1).as_primitive::<Int64Type>().value(0), 3 << 48 | 4);
    }

    #[test]
    fn finds_new_files_and_refuses_compressed_ones() {
        let dir = tempfile::tempdir().unwrap();
        let source = Connectors.open(&spec(dir.path(), "json", &[])).unwrap();
        assert!(source.splits().unwrap().is_empty());
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::fs::write(dir.path().join("b"), "{\"a\":1}\n").unwrap();
        assert_eq!(source.splits().unwrap().len(), 2);
        std::fs::write(dir.path().join("c.json.gz"), "").unwrap();
        let error = source.splits().unwrap_err();
        assert!(matches!(&error, Error::Unsupported(text) if text.contains("compressed")), "{error}");
        let error = Connectors.prepare(&spec(&dir.path().join("nothing"), "json", &[])).unwrap_err().to_string();
        assert!(error.ends_with("does not exist"), "{error}");
    }

    #[test]
    fn reads_records_longer_than_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        let long = "x".repeat(3 * READ_MIN);
        std::fs::write(&path, format!("{{\"b\":\"{long}\",\"a\":7}}\n{{\"a\":8}}\n")).unwrap();
        let source = Connectors.open(&spec(&path, "json", &[])).unwrap();
        assert_eq!(read(source.as_ref(), path.to_str().unwrap(), 1).0, [7, 8]);
    }

    /// `cargo test --release -p connectors file_speed -- --nocapture` on a quiet machine.
    #[test]
    fn file_speed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bids");
        let rows = 200_000;
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        for i in 0..rows {
            let (pad, url) = ("x".repeat(70), "https://www.nexmark.com/abcde/fghij/klmno/item.htm?query=1");
            writeln!(out, "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"Google\",\"url\":\"{url}&channel_id=123456789\",\"dateTime\":\"2026-01-01 00:00:00.123\",\"extra\":\"{pad}\"}}", 1000 + i % 977, 1000 + i % 311, i * 7).unwrap();
        }
        drop(out);
        let mut spec = spec(&path, "json", &[]);
        let column = |name: &str, ty| Column::new(name, ty);
        spec.columns = vec![
            column("auction", SqlType::BigInt),
            column("bidder", SqlType::BigInt),
            column("price", SqlType::BigInt),
            column("channel", SqlType::Text),
            column("url", SqlType::Text),
            column("dateTime", SqlType::Timestamp),
            column("extra", SqlType::Text),
        ];
        let source = Connectors.open(&spec).unwrap();
        for (what, projection) in [("auction", &[0][..]), ("all columns", &[0, 1, 2, 3, 4, 5, 6])] {
            let mut reader = source.open(path.to_str().unwrap(), 0, Offset(0), projection).unwrap();
            let (started, mut count) = (std::time::Instant::now(), 0);
            while let Read::Records(records) = reader.read(8192, Duration::ZERO).unwrap() {
                count += records.batch.num_rows();
            }
            assert_eq!(count, rows);
            println!("{what}: {:.3} µs/record", started.elapsed().as_secs_f64() * 1e6 / rows as f64);
        }
    }
}
