//! Files of changes: each transaction becomes one file in a directory, or none.
//!
//! ```text
//!  .tmp-E-V-N      written and synced ──┐
//!  _manifest.jsonl                      │ a line more, synced: from here on the transaction is done
//!  part-E-V-N.json ◀── renamed ─────────┘ if the server ends before it, the next connection does it
//! ```
//!
//! Who lists the directory sees whole files only, each once; who reads the manifest also sees in which order they came. A
//! line of the manifest that is cut off was never finished.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use storage::failpoint::around;
use storage::{Batch, Column, SqlType};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::{Changes, Delivered, Delivery, Position, Sink, SinkSpec, SinkType};

use crate::encoding::{Encoder, csv};
use crate::options::{OptionDoc, Options, invalid};
use crate::sinks::{self, SinkConnector, changes, millis};

/// The connector.
pub struct FileSinks;

const OPTIONS: &[OptionDoc] =
    &[OptionDoc { name: "path", default: "", doc: "a directory on the server, made if it is not there; required" }];

/// The options behind `ENCODE CSV` of a sink.
const CSV_OPTIONS: &[OptionDoc] =
    &[OptionDoc { name: "header", default: "true", doc: "whether each file begins with the columns' names" }];

/// The manifest's name.
const MANIFEST: &str = "_manifest.jsonl";

impl SinkConnector for FileSinks {
    fn name(&self) -> &'static str {
        "file"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let options = sinks::options(spec, self)?;
        if spec.kind == SinkType::Upsert || spec.kind == SinkType::Debezium && spec.encode != "json" {
            let message = format!("a file sink of type \"{}\" with this encoding is not supported", spec.kind.name());
            let hint = "Files take type = 'append-only', and 'debezium' as JSON.";
            return Err(Error::Unsupported(format!("{message}\nHINT:  {hint}")));
        }
        let encoding = match spec.encode.as_str() {
            "csv" => {
                let options = Options::new("ENCODE CSV", &spec.encode_options, &[CSV_OPTIONS])?;
                Encoding::Csv { header: options.boolean("header", true)?, functions }
            }
            "parquet" => {
                Options::new("ENCODE PARQUET", &spec.encode_options, &[])?;
                Encoding::Parquet { schema: parquet_schema(&spec.columns), functions }
            }
            "json" => Encoding::Json(Encoder::new(spec, functions)?),
            other => {
                let message = format!("ENCODE {} is not supported for files", other.to_uppercase());
                return Err(Error::Unsupported(format!("{message}\nHINT:  There are JSON, CSV and PARQUET.")));
            }
        };
        let path = PathBuf::from(options.required("path")?);
        if !path.is_absolute() {
            return Err(invalid(format!("the path \"{}\" is not absolute", path.display())));
        }
        Ok(Arc::new(FileSink(Arc::new(Target { path, spec: spec.clone(), encoding }))))
    }
}

enum Encoding {
    Json(Encoder),
    Csv { header: bool, functions: Arc<dyn Functions> },
    Parquet { schema: SchemaRef, functions: Arc<dyn Functions> },
}

struct Target {
    path: PathBuf,
    spec: SinkSpec,
    encoding: Encoding,
}

struct FileSink(Arc<Target>);

impl Sink for FileSink {
    fn prepare(&self) -> Result<()> {
        let path = &self.0.path;
        fs::create_dir_all(path).map_err(|error| invalid(format!("cannot make {}: {error}", path.display())))?;
        let manifest = path.join(MANIFEST);
        if manifest.exists() {
            if !self.0.is_left_over(&manifest).map_err(|error| invalid(format!("{}: {error}", manifest.display())))? {
                return Err(invalid(format!("the directory {} belongs to another sink", path.display())));
            }
            around("file/remove", || fs::remove_file(&manifest))
                .map_err(|error| invalid(format!("cannot remove {}: {error}", manifest.display())))?;
        }
        let first = json!({ "sink": self.0.spec.name, "id": self.0.spec.id, "type": self.0.spec.kind.name() });
        let made = around("file/create", || {
            let mut file = File::create_new(&manifest)?;
            file.write_all(format!("{first}\n").as_bytes())?;
            file.sync_all()?;
            sync_folder(path)
        });
        made.map_err(|error| invalid(format!("cannot write {}: {error}", manifest.display())))
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        let (manifest, position) = self.0.open()?;
        Ok(Box::new(Files { target: self.0.clone(), manifest, position }))
    }

    /// The manifest tells of the files that are there; without any it may go.
    fn forget(&self) {
        let unused = matches!(self.0.open(), Ok((_, None)));
        let manifest = self.0.path.join(MANIFEST);
        if unused && let Err(error) = around("file/remove", || fs::remove_file(&manifest)) {
            tracing::warn!("{} could not be removed: {error}", manifest.display());
        }
    }
}

impl Target {
    fn failed(&self, error: &std::io::Error) -> Error {
        Error::Unavailable(format!("cannot write to {}: {error}", self.path.display()))
    }

    /// Whether a crash ended the statement that made `manifest`: nothing was delivered, and its sink had this one's name,
    /// which only one has.
    fn is_left_over(&self, manifest: &Path) -> std::io::Result<bool> {
        let text = fs::read(manifest)?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let Some(first) = lines.next() else { return Ok(true) };
        let named = serde_json::from_slice::<Value>(first).is_ok_and(|first| first["sink"] == self.spec.name.as_str());
        Ok(named && lines.next().is_none())
    }

    /// The manifest, behind its last whole line, and how far that says that the target is.
    fn open(&self) -> Result<(File, Option<Position>)> {
        let path = self.path.join(MANIFEST);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| self.failed(&e))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|e| self.failed(&e))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let done = around("file/cut", || {
            file.set_len(whole as u64)?;
            file.seek(std::io::SeekFrom::End(0))?;
            file.sync_all()
        });
        done.map_err(|e| self.failed(&e))?;
        let damaged = || Error::Failed(format!("the manifest {} is damaged", path.display()));
        let mut lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parse = |line: &[u8]| serde_json::from_slice::<Value>(line).map_err(|_| damaged());
        let first = parse(lines.next().ok_or_else(damaged)?)?;
        if first["id"] != self.spec.id {
            return Err(Error::Failed(format!("the directory {} belongs to another sink", self.path.display())));
        }
        let Some(last) = lines.next_back().map(parse).transpose()? else { return Ok((file, None)) };
        let position: Position = last["position"].as_str().ok_or_else(damaged)?.parse()?;
        self.finish(position).map_err(|e| self.failed(&e))?;
        Ok((file, Some(position)))
    }

    fn temporary(&self, at: Position) -> PathBuf {
        self.path.join(format!(".tmp-{}-{}-{}", at.epoch, at.vnode, at.number))
    }

    fn name(&self, at: Position) -> String {
        let ending = &self.spec.encode;
        format!("part-{:020}-{:03}-{:010}.{ending}", at.epoch, at.vnode, at.number)
    }

    /// Gives the file of a transaction that is done its name, if it does not have it, and removes what was never done.
    fn finish(&self, done: Position) -> std::io::Result<()> {
        let temporary = self.temporary(done);
        if temporary.exists() {
            around("file/rename", || fs::rename(&temporary, self.path.join(self.name(done))))?;
        }
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                around("file/remove", || fs::remove_file(entry.path()))?;
            }
        }
        sync_folder(&self.path)
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

struct Files {
    target: Arc<Target>,
    manifest: File,
    position: Option<Position>,
}

impl Delivery for Files {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let target = self.target.clone();
        let temporary = target.temporary(until);
        let file = File::create(&temporary).map_err(|e| target.failed(&e))?;
        let (file, rows) = write(&target, file, changes)?;
        let synced = around("file/sync", || file.sync_all());
        let bytes = synced.and_then(|()| file.metadata()).map_err(|e| target.failed(&e))?.len();
        let name = target.name(until);
        let line = json!({ "file": name, "rows": rows, "bytes": bytes, "position": until.to_string() });
        let done = (|| {
            sync_folder(&target.path)?;
            around("file/manifest", || {
                self.manifest.write_all(format!("{line}\n").as_bytes())?;
                self.manifest.sync_all()
            })?;
            around("file/rename", || fs::rename(&temporary, target.path.join(&name)))?;
            sync_folder(&target.path)
        })();
        done.map_err(|e| target.failed(&e))?;
        Ok(Delivered::All)
    }
}

fn write(target: &Target, file: File, batches: &mut Changes<'_>) -> Result<(File, usize)> {
    let mut n = 0;
    let columns = &target.spec.columns;
    let mut out = BufWriter::new(file);
    let mut text = String::new();
    match &target.encoding {
        Encoding::Parquet { schema, functions } => {
            let level = Compression::ZSTD(ZstdLevel::default());
            let properties = WriterProperties::builder().set_compression(level).build();
            let wrong = |error: parquet::errors::ParquetError| Error::Failed(format!("Parquet: {error}"));
            let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(wrong)?;
            for batch in batches {
                let (_, batch) = batch?;
                let rows: Vec<u32> =
                    changes(&batch, &target.spec)?.iter().filter_map(|c| c.after).map(|row| row as u32).collect();
                n += rows.len();
                let taken = batch.take(&rows.into())?;
                writer.write(&parquet_batch(&taken, columns, schema, &**functions)?).map_err(wrong)?;
            }
            out = writer.into_inner().map_err(wrong)?;
        }
        encoding => {
            if let Encoding::Csv { header: true, .. } = encoding {
                csv::header(columns, &mut text);
            }
            for batch in batches {
                let (_, batch) = batch?;
                for change in changes(&batch, &target.spec)? {
                    match (encoding, change.after) {
                        (Encoding::Csv { functions, .. }, Some(row)) => {
                            csv::row(&batch, row, columns, &**functions, &mut text);
                        }
                        (Encoding::Json(encoder), _) if target.spec.kind == SinkType::Debezium => {
                            encoder.envelope(&batch, change, millis(), &mut text);
                            text.push('\n');
                        }
                        (Encoding::Json(encoder), Some(row)) => {
                            encoder.row(&batch, row, &mut text);
                            text.push('\n');
                        }
                        _ => continue,
                    }
                    n += 1;
                }
                out.write_all(text.as_bytes()).map_err(|e| target.failed(&e))?;
                text.clear();
            }
            out.write_all(text.as_bytes()).map_err(|e| target.failed(&e))?;
        }
    }
    let file = out.into_inner().map_err(|e| target.failed(e.error()))?;
    Ok((file, n))
}

/// The precision and scale that a column's modifier says.
fn precision(column: &Column) -> Option<(u8, i8)> {
    let both = column.typmod.checked_sub(4).filter(|both| *both >= 0)?;
    let (precision, scale) = (both >> 16, both & 0xffff);
    (column.ty == SqlType::Numeric && precision <= 38 && scale <= precision).then_some((precision as u8, scale as i8))
}

/// Types that Parquet has no form for, or that other readers would not understand, are text.
fn parquet_type(column: &Column) -> DataType {
    fn fits(ty: &SqlType) -> bool {
        match ty {
            SqlType::Array(item) => fits(item),
            SqlType::Numeric | SqlType::Interval => false,
            _ => true,
        }
    }
    match precision(column) {
        Some((precision, scale)) => DataType::Decimal128(precision, scale),
        None if fits(&column.ty) => column.ty.arrow(),
        None => DataType::Utf8,
    }
}

fn parquet_schema(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, parquet_type(c), true)).collect();
    Arc::new(Schema::new(fields))
}

fn parquet_batch(
    batch: &Batch,
    columns: &[Column],
    schema: &SchemaRef,
    functions: &dyn Functions,
) -> Result<RecordBatch> {
    let arrays = columns.iter().enumerate().map(|(i, column)| {
        let values = batch.column(i);
        let text = |row: usize| {
            let mut text = String::new();
            functions.write_text(values.as_ref(), row, &column.ty, &mut text);
            text
        };
        let rows = 0..batch.num_rows();
        let array: ArrayRef = match schema.field(i).data_type() {
            DataType::Decimal128(precision, scale) => {
                let value = |row| {
                    let text = values.is_valid(row).then(|| text(row))?;
                    // The column's own scale: the digits are the mantissa. NaN has none.
                    text.replacen('.', "", 1).parse::<i128>().ok()
                };
                Arc::new(rows.map(value).collect::<Decimal128Array>().with_precision_and_scale(*precision, *scale)?)
            }
            DataType::Utf8 => {
                Arc::new(rows.map(|row| values.is_valid(row).then(|| text(row))).collect::<StringArray>())
            }
            _ => values.clone(),
        };
        Ok(array)
    });
    Ok(RecordBatch::try_new(schema.clone(), arrays.collect::<Result<Vec<_>>>()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Plain, batch, spec};

    fn sink(path: &Path, encode: &str, kind: SinkType) -> Result<Arc<dyn Sink>> {
        let mut spec = spec("file", kind, &[("path", path.to_str().unwrap())]);
        spec.encode = encode.into();
        FileSinks.sink(&spec, Arc::new(Plain))
    }

    fn at(epoch: u64) -> Position {
        Position { epoch, vnode: 0, number: 0 }
    }

    fn files(path: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = fs::read_dir(path).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn each_transaction_is_one_file_and_a_line_of_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let sink = sink(&path, "json", SinkType::AppendOnly).unwrap();
        sink.prepare().unwrap();
        let mut delivery = sink.connect().unwrap();
        assert_eq!(delivery.position(), None);
        delivery.deliver(&mut [Ok((0, batch(&[(1, "a", 1), (2, "b", 1)])))].into_iter(), at(3)).unwrap();
        delivery.deliver(&mut [Ok((0, batch(&[(3, "c", 1)])))].into_iter(), at(4)).unwrap();
        let names = files(&path);
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(
            fs::read_to_string(path.join(&names[1])).unwrap(),
            "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n"
        );
        assert_eq!(sink.connect().unwrap().position(), Some(at(4)));
        assert!(sink.prepare().unwrap_err().to_string().contains("belongs to another sink"));
    }

    #[test]
    fn what_a_crash_left_of_a_creation_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let first = sink(dir.path(), "json", SinkType::AppendOnly).unwrap();
        first.prepare().unwrap();
        let manifest = dir.path().join(MANIFEST);
        let text = fs::read_to_string(&manifest).unwrap();
        first.prepare().unwrap();
        // Of a sink with another name, and when the crash came within the line.
        fs::write(&manifest, text.replace("\"sink\":\"", "\"sink\":\"other_")).unwrap();
        assert!(first.prepare().unwrap_err().to_string().contains("belongs to another sink"));
        fs::write(&manifest, &text[..10]).unwrap();
        first.prepare().unwrap();
        assert_eq!(fs::read_to_string(&manifest).unwrap(), text);
        first.connect().unwrap().deliver(&mut [Ok((0, batch(&[(1, "a", 1)])))].into_iter(), at(3)).unwrap();
        assert!(first.prepare().unwrap_err().to_string().contains("belongs to another sink"));
    }

    #[test]
    fn a_crash_at_any_step_leaves_a_transaction_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let sink = sink(dir.path(), "json", SinkType::AppendOnly).unwrap();
        sink.prepare().unwrap();
        sink.connect().unwrap().deliver(&mut [Ok((0, batch(&[(1, "a", 1)])))].into_iter(), at(3)).unwrap();
        let manifest = dir.path().join(MANIFEST);
        let before = fs::read(&manifest).unwrap();
        // Before the manifest: the file was never there.
        fs::write(dir.path().join(".tmp-4-0-0"), "{}\n").unwrap();
        fs::write(&manifest, [&before[..], b"{\"file\":\"par"].concat()).unwrap();
        assert_eq!(sink.connect().unwrap().position(), Some(at(3)));
        assert_eq!((fs::read(&manifest).unwrap(), files(dir.path()).len()), (before.clone(), 2));
        // After it: the file gets its name.
        fs::write(dir.path().join(".tmp-4-0-0"), "{}\n").unwrap();
        fs::write(&manifest, [&before[..], b"{\"position\":\"4/0/0\"}\n"].concat()).unwrap();
        assert_eq!(sink.connect().unwrap().position(), Some(at(4)));
        assert_eq!(files(dir.path()).len(), 3);
        assert!(!files(dir.path()).iter().any(|name| name.starts_with(".tmp")));
    }

    #[test]
    fn writes_parquet_that_parquet_reads() {
        let dir = tempfile::tempdir().unwrap();
        let sink = sink(dir.path(), "parquet", SinkType::AppendOnly).unwrap();
        sink.prepare().unwrap();
        let batches = [batch(&[(1, "a", 1)]), batch(&[(2, "b", 2)])];
        sink.connect().unwrap().deliver(&mut batches.map(|batch| Ok((0, batch))).into_iter(), at(3)).unwrap();
        let name = files(dir.path()).pop().unwrap();
        let file = File::open(dir.path().join(name)).unwrap();
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 3);
    }

    #[test]
    fn refuses_what_files_cannot_say() {
        let dir = tempfile::tempdir().unwrap();
        let error = |encode, kind| sink(dir.path(), encode, kind).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error("json", SinkType::Upsert).contains("append-only"));
        assert!(error("csv", SinkType::Debezium).contains("append-only"));
        assert!(error("avro", SinkType::AppendOnly).starts_with("ENCODE AVRO is not supported"));
        assert_eq!(error("json", SinkType::Debezium), "");
        let relative = FileSinks.sink(&spec("file", SinkType::AppendOnly, &[("path", "out")]), Arc::new(Plain));
        assert_eq!(relative.err().unwrap().to_string(), "the path \"out\" is not absolute");
    }
}
