//! A transport and a format make a source: reads raw records, decodes what is wanted, and sets aside what cannot be
//! read.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::compute::filter;
use arrow_schema::{Field, Schema, SchemaRef};
use storage::{Batch, Column, SqlType};
use streaming::error::{Error, Result};
use streaming::operator::RowError;
use streaming::source::{FailedRecord, Offset, Read, Records, Source, SourceSpec, Split, SplitReader};

use crate::formats::{Decoder, Faults, Format};
use crate::options::{OptionDoc, invalid};
use crate::transport::{Arrival, RawHeader, RawRecord, RawRecords, Transport, TransportReader, Wanted};

/// How long a record is waited for that is read once more.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Parts of a record that stand outside its value, each in a column of its own: what `INCLUDE x AS column` becomes.
pub const INCLUDE: &[OptionDoc] = &[
    OptionDoc { name: "include.key", default: "", doc: "column for the record's key (`bytea` or text)" },
    OptionDoc { name: "include.partition", default: "", doc: "column for the split's name (text or a number)" },
    OptionDoc { name: "include.offset", default: "", doc: "column for the record's offset (`bigint` or text)" },
    OptionDoc { name: "include.timestamp", default: "", doc: "column for when the record was written" },
    OptionDoc { name: "include.header.*", default: "", doc: "column for the header of that name (`bytea` or text)" },
];

/// A part of a record outside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key,
    Partition,
    Offset,
    Timestamp,
    Header(String),
}

/// Where a column's values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Value,
    Part(Part),
}

/// A source of a transport's records in a format.
pub struct Decoding<T> {
    transport: T,
    format: Arc<dyn Format>,
    columns: Vec<Column>,
    origins: Vec<Origin>,
}

impl<T: Transport> Decoding<T> {
    /// Puts the two together for the columns of `spec`.
    pub fn new(transport: T, format: Arc<dyn Format>, spec: &SourceSpec) -> Result<Decoding<T>> {
        let (columns, origins) = columns(spec)?;
        // A type that the format does not know is refused now and not when the first record comes.
        let values: Vec<Column> = value_columns(&columns, &origins, 0..columns.len());
        format.decoder(&values)?;
        Ok(Decoding { transport, format, columns, origins })
    }
}

/// The columns that `spec` declares, and those that its INCLUDE options add.
pub fn declared_columns(spec: &SourceSpec) -> Result<Vec<Column>> {
    Ok(columns(spec)?.0)
}

fn columns(spec: &SourceSpec) -> Result<(Vec<Column>, Vec<Origin>)> {
    let mut columns = spec.columns.clone();
    let mut origins = vec![Origin::Value; columns.len()];
    for (option, column) in &spec.options {
        let Some((include, what)) = option.split_at_checked("include.".len()) else { continue };
        if !include.eq_ignore_ascii_case("include.") {
            continue;
        }
        let (part, default) = match what.to_ascii_lowercase().as_str() {
            "key" => (Part::Key, SqlType::Bytea),
            "partition" => (Part::Partition, SqlType::Varchar),
            "offset" => (Part::Offset, SqlType::Varchar),
            "timestamp" => (Part::Timestamp, SqlType::TimestampTz),
            // A header's name keeps its case.
            other if other.starts_with("header.") => {
                (Part::Header(what["header.".len()..].to_string()), SqlType::Bytea)
            }
            other => return Err(invalid(format!("cannot include \"{other}\" of a record"))),
        };
        let index = columns.iter().position(|c| c.name == *column).unwrap_or_else(|| {
            columns.push(Column::new(column, default));
            origins.push(Origin::Value);
            columns.len() - 1
        });
        if !part.fits(&columns[index].ty) {
            return Err(Error::invalid("42804", format!("column \"{column}\" cannot hold the {what} of a record")));
        }
        origins[index] = Origin::Part(part);
    }
    Ok((columns, origins))
}

fn value_columns(columns: &[Column], origins: &[Origin], which: impl Iterator<Item = usize>) -> Vec<Column> {
    which.filter(|&i| i < columns.len() && origins[i] == Origin::Value).map(|i| columns[i].clone()).collect()
}

fn is_text(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Text | SqlType::Varchar)
}

impl Part {
    fn fits(&self, ty: &SqlType) -> bool {
        match self {
            Part::Key | Part::Header(_) => *ty == SqlType::Bytea || is_text(ty),
            Part::Partition => matches!(ty, SqlType::Int | SqlType::BigInt) || is_text(ty),
            Part::Offset => *ty == SqlType::BigInt || is_text(ty),
            Part::Timestamp => matches!(ty, SqlType::Timestamp | SqlType::TimestampTz),
        }
    }

    /// The part as a column of type `ty`, which fits.
    fn array(&self, ty: &SqlType, split: &str, raw: &RawRecords) -> ArrayRef {
        let records = &raw.records;
        let bytes_or_text = |values: Vec<Option<&[u8]>>| -> ArrayRef {
            if *ty == SqlType::Bytea {
                let mut out = BinaryViewBuilder::with_capacity(values.len());
                values.into_iter().for_each(|v| out.append_option(v));
                return Arc::new(out.finish());
            }
            let mut out = StringViewBuilder::with_capacity(values.len());
            values.into_iter().for_each(|v| out.append_option(v.map(String::from_utf8_lossy)));
            Arc::new(out.finish())
        };
        match self {
            Part::Key => bytes_or_text(records.iter().map(|r| r.key.map(|key| key.of(&raw.rest))).collect()),
            Part::Header(name) => {
                let mut values = vec![None; records.len()];
                for header in raw.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)) {
                    values[header.record] = header.value.map(|value| value.of(&raw.rest));
                }
                bytes_or_text(values)
            }
            Part::Partition => match ty {
                SqlType::Int => Arc::new(Int32Array::from(vec![split.parse::<i32>().ok(); records.len()])),
                SqlType::BigInt => Arc::new(Int64Array::from(vec![split.parse::<i64>().ok(); records.len()])),
                _ => bytes_or_text(vec![Some(split.as_bytes()); records.len()]),
            },
            Part::Offset if *ty == SqlType::BigInt => {
                Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.offset)))
            }
            Part::Offset => {
                let mut out = StringViewBuilder::with_capacity(records.len());
                records.iter().for_each(|r| out.append_value(itoa::Buffer::new().format(r.offset)));
                Arc::new(out.finish())
            }
            Part::Timestamp => {
                let array = TimestampMicrosecondArray::from_iter(records.iter().map(|r| r.timestamp));
                Arc::new(if *ty == SqlType::TimestampTz { array.with_timezone("UTC") } else { array })
            }
        }
    }
}

impl<T: Transport> Source for Decoding<T> {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn splits(&self) -> Result<Vec<Split>> {
        self.transport.splits()
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.transport.discovery_interval()
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        self.transport.end(split)
    }

    fn committed(&self, offsets: &[(String, Offset)]) {
        self.transport.committed(offsets);
    }

    fn decode(&self, record: &FailedRecord, row_id: i64, projection: &[usize]) -> Result<Records> {
        let header = match self.format.framing().header {
            true => self.transport.open(&record.split, Offset(record.offset), Wanted::default())?.header()?,
            false => None,
        };
        let mut reader = self.reader(Box::new(Once { record, header }), &record.split, projection)?;
        reader.row_id = RowId::Of(row_id);
        match reader.read(1, Duration::ZERO)? {
            Read::Records(records) => Ok(records),
            Read::Idle { .. } | Read::End { .. } => Err(Error::Failed("a record that is there was not read".into())),
        }
    }

    fn fetch(&self, split: &str, offset: i64) -> Result<Option<FailedRecord>> {
        let wanted = Wanted { key: true, headers: true };
        let mut reader = self.transport.open(split, Offset(offset), wanted)?;
        reader.header()?;
        let begun = std::time::Instant::now();
        let mut raw = RawRecords::default();
        while begun.elapsed() < FETCH_TIMEOUT {
            raw.clear();
            match reader.read(1, Duration::from_millis(100), &mut raw)? {
                Arrival::Idle(_) => {}
                Arrival::End(_) => return Ok(None),
                Arrival::Records(_) => {
                    let first = raw.records.first().filter(|record| record.offset == offset);
                    return Ok(first.map(|record| whole(split, record, &raw)));
                }
            }
        }
        Ok(None)
    }

    fn needs_whole_records(&self) -> bool {
        let outside = |origin: &Origin| matches!(origin, Origin::Part(Part::Key | Part::Timestamp | Part::Header(_)));
        self.origins.iter().any(outside)
    }

    fn open(&self, split: &str, split_number: u16, from: Offset, projection: &[usize]) -> Result<Box<dyn SplitReader>> {
        let mut wanted = Wanted::default();
        for &i in projection.iter().filter(|&&i| i < self.columns.len()) {
            wanted.key |= self.origins[i] == Origin::Part(Part::Key);
            wanted.headers |= matches!(self.origins[i], Origin::Part(Part::Header(_)));
        }
        let reader = self.transport.open(split, from, wanted)?;
        let mut reader = self.reader(reader, split, projection)?;
        reader.row_id = RowId::By(i64::from(split_number) << 48);
        Ok(Box::new(reader))
    }
}

/// A record with all that belongs to it.
fn whole(split: &str, record: &RawRecord, raw: &RawRecords) -> FailedRecord {
    let header = |header: &RawHeader| (header.name.clone(), header.value.map(|value| value.of(&raw.rest).to_vec()));
    FailedRecord {
        split: split.to_owned(),
        offset: record.offset,
        value: raw.value(record).map(<[u8]>::to_vec),
        key: record.key.map(|key| key.of(&raw.rest).to_vec()),
        headers: raw.headers.iter().filter(|header| header.record == 0).map(header).collect(),
        timestamp: record.timestamp,
    }
}

/// A record that was read before, as a transport would hand it over.
struct Once<'a> {
    record: &'a FailedRecord,
    header: Option<Vec<u8>>,
}

impl TransportReader for Once<'_> {
    fn read(&mut self, _rows_max: usize, _timeout: Duration, records: &mut RawRecords) -> Result<Arrival> {
        let record = self.record;
        let value = record.value.as_ref().map(|value| records.push_value(value));
        let key = record.key.as_ref().map(|key| records.push_rest(key));
        for (name, value) in &record.headers {
            let value = value.as_ref().map(|value| records.push_rest(value));
            records.headers.push(RawHeader { record: 0, name: name.clone(), value });
        }
        records.records.push(RawRecord { value, key, offset: record.offset, timestamp: record.timestamp });
        Ok(Arrival::Records(Offset(record.offset + 1)))
    }

    fn header(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.header.take())
    }
}

impl<T: Transport> Decoding<T> {
    /// Decodes what `reader` reads of a split.
    fn reader<'a>(
        &self,
        mut reader: Box<dyn TransportReader + 'a>,
        split: &str,
        projection: &[usize],
    ) -> Result<DecodingReader<'a>> {
        let values = value_columns(&self.columns, &self.origins, projection.iter().copied());
        let mut decoder = self.format.decoder(&values)?;
        let all = value_columns(&self.columns, &self.origins, 0..self.columns.len());
        self.format.positional(&all, decoder.as_mut())?;
        if let Some(header) = reader.header()? {
            decoder.header(&header)?;
        }
        let outputs = projection
            .iter()
            .map(|&i| match self.columns.get(i) {
                None => Output::RowId,
                Some(column) => match &self.origins[i] {
                    Origin::Value => Output::Value,
                    Origin::Part(part) => Output::Part(part.clone(), column.ty.clone()),
                },
            })
            .collect();
        Ok(DecodingReader {
            split: split.to_string(),
            row_id: RowId::Of(0),
            reader,
            decoder,
            outputs,
            schema: projected_schema(&self.columns, projection),
            raw: RawRecords::default(),
        })
    }
}

/// The Arrow schema of `projection` of a source's `columns` and its hidden `_row_id`.
pub fn projected_schema(columns: &[Column], projection: &[usize]) -> SchemaRef {
    let field = |&i: &usize| match columns.get(i) {
        Some(column) => Field::new(&column.name, column.ty.arrow(), true),
        None => Field::new("_row_id", SqlType::BigInt.arrow(), true),
    };
    Arc::new(Schema::new(projection.iter().map(field).collect::<Vec<_>>()))
}

/// A batch of `rows` rows, also when there are no columns.
pub fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<Batch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(Batch::new(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?, None))
}

enum Output {
    Value,
    Part(Part, SqlType),
    RowId,
}

/// Which id a row has.
enum RowId {
    /// This one.
    Of(i64),
    /// Its record's offset below this.
    By(i64),
}

struct DecodingReader<'a> {
    split: String,
    row_id: RowId,
    reader: Box<dyn TransportReader + 'a>,
    decoder: Box<dyn Decoder>,
    outputs: Vec<Output>,
    schema: SchemaRef,
    raw: RawRecords,
}

impl SplitReader for DecodingReader<'_> {
    fn read(&mut self, rows_max: usize, timeout: Duration) -> Result<Read> {
        self.raw.clear();
        match self.reader.read(rows_max, timeout, &mut self.raw)? {
            Arrival::Idle(next) => Ok(Read::Idle { next }),
            Arrival::End(next) => Ok(Read::End { next }),
            Arrival::Records(next) => Ok(Read::Records(self.decode(next)?)),
        }
    }
}

impl DecodingReader<'_> {
    fn decode(&mut self, next: Offset) -> Result<Records> {
        let records = self.raw.records.len();
        let bytes = self.raw.values.len() + self.raw.rest.len();
        let mut faults = Faults::default();
        let mut values = self.decoder.decode(&mut self.raw, &mut faults)?.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            columns.push(match output {
                Output::Value => values.next().ok_or_else(|| Error::Failed("a format left a column out".into()))?,
                Output::Part(part, ty) => part.array(ty, &self.split, &self.raw),
                Output::RowId => {
                    let id = |record: &RawRecord| match self.row_id {
                        RowId::Of(id) => id,
                        RowId::By(split) => split | record.offset,
                    };
                    let ids = self.raw.records.iter().map(id);
                    Arc::new(Int64Array::from_iter_values(ids))
                }
            });
        }
        let mut rows = records;
        let mut errors = Vec::new();
        if !faults.is_empty() {
            let good: BooleanArray = (0..records).map(|i| Some(!faults.contains(i))).collect();
            rows = good.true_count();
            for column in &mut columns {
                *column = filter(column, &good)?;
            }
            errors.extend(faults.into_iter().map(|(i, fault)| {
                let record = &self.raw.records[i];
                RowError {
                    diff: 1,
                    reason: fault.reason,
                    sqlstate: fault.sqlstate.to_string(),
                    split: Some(self.split.clone()),
                    offset: Some(record.offset),
                    raw: self.raw.value(record).map(<[u8]>::to_vec),
                }
            }));
        }
        Ok(Records { batch: batch(&self.schema, columns, rows)?, errors, next, records, bytes, again: Vec::new() })
    }
}
