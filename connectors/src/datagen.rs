//! Made-up rows: each column is a sequence or random, and row `i` is a pure function of `i` and the seed.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, FixedSizeBinaryBuilder, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array, StringViewBuilder, TimestampMicrosecondArray,
};
use storage::numeric::Numeric;
use storage::{Column, SqlType};
use streaming::error::{Error, Result};
use streaming::source::{Offset, Read, Records, Source, SourceSpec, Split, SplitReader};

use crate::decoding::{batch, projected_schema};
use crate::formats::datetime;
use crate::nexmark::Pace;
use crate::options::{OptionDoc, Options, invalid, parse_duration};
use crate::{Connector, OPTIONS as COMMON};

/// The connector.
pub struct Datagen;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "datagen.rows.per.second", default: "10", doc: "rows a second, 0 for as fast as possible" },
    OptionDoc { name: "datagen.split.num", default: "1", doc: "splits: parts that can be made at the same time" },
    OptionDoc { name: "datagen.rows", default: "-1", doc: "rows in all, -1 for no end" },
    OptionDoc { name: "datagen.seed", default: "0", doc: "another seed makes other rows" },
    OptionDoc { name: "fields.*.kind", default: "random", doc: "`sequence` or `random`" },
    OptionDoc { name: "fields.*.start", default: "0", doc: "first number of a sequence" },
    OptionDoc { name: "fields.*.end", default: "", doc: "last number of a sequence; the source ends with it" },
    OptionDoc { name: "fields.*.min", default: "0", doc: "smallest random number" },
    OptionDoc { name: "fields.*.max", default: "1000", doc: "largest random number" },
    OptionDoc { name: "fields.*.length", default: "10", doc: "letters of a random text" },
    OptionDoc { name: "fields.*.max_past", default: "1 day", doc: "how long before 2026-01-01 a random time may be" },
    OptionDoc { name: "fields.*.seed", default: "", doc: "a seed for this column" },
];

/// 2026-01-01 in microseconds.
const BASE_US: i64 = 1_767_225_600_000_000;

#[derive(Clone, Debug)]
enum Field {
    Sequence {
        start: i64,
    },
    /// Whole numbers, and times in microseconds.
    Integer {
        seed: u64,
        min: i64,
        max: i64,
    },
    Real {
        seed: u64,
        min: f64,
        max: f64,
    },
    Text {
        seed: u64,
        length: usize,
    },
}

impl Connector for Datagen {
    fn name(&self) -> &'static str {
        "datagen"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        crate::refuse_format(spec, "datagen")?;
        let options = Options::new("connector \"datagen\"", &spec.options, &[COMMON, OPTIONS])?;
        for (name, _) in options.with_prefix("fields.") {
            let field = name.rsplit_once('.').map_or(name, |(field, _)| field);
            if !spec.columns.iter().any(|column| column.name.eq_ignore_ascii_case(field)) {
                return Err(invalid(format!("option \"fields.{name}\": there is no column \"{field}\"")));
            }
        }
        let splits: u64 = options.number("datagen.split.num", 1)?;
        if splits == 0 || splits > 4096 {
            return Err(options.bad("datagen.split.num", "between 1 and 4096"));
        }
        let rate: f64 = options.number("datagen.rows.per.second", 10.0)?;
        if !(0.0..1e12).contains(&rate) {
            return Err(options.bad("datagen.rows.per.second", "a rate"));
        }
        let mut rows = u64::try_from(options.number::<i64>("datagen.rows", -1)?).unwrap_or(u64::MAX);
        let seed: u64 = options.number("datagen.seed", 0)?;
        let mut fields = Vec::new();
        for (i, column) in spec.columns.iter().enumerate() {
            fields.push(field(&options, column, mix(seed ^ ((i as u64 + 1) << 32)), &mut rows)?);
        }
        Ok(Arc::new(DatagenSource { columns: spec.columns.clone(), fields, splits, rate: rate / splits as f64, rows }))
    }
}

/// How `column` is made; a sequence that ends bounds `rows`.
fn field(options: &Options, column: &Column, seed: u64, rows: &mut u64) -> Result<Field> {
    use SqlType::*;
    let option = |what: &str| format!("fields.{}.{what}", column.name.to_ascii_lowercase());
    let seed = match options.get(&option("seed")) {
        Some(_) => mix(options.number(&option("seed"), 0)?),
        None => seed,
    };
    let sequence = options.choice(&option("kind"), &[("random", false), ("sequence", true)])?;
    if sequence {
        if !matches!(column.ty, SmallInt | Int | BigInt | Real | Double | Numeric) {
            return Err(invalid(format!("column \"{}\" is not a number and cannot be a sequence", column.name)));
        }
        let start = options.number(&option("start"), 0)?;
        let last = match column.ty {
            SmallInt => i64::from(i16::MAX),
            Int => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        let end = options.number(&option("end"), last)?.min(last);
        *rows = (*rows).min(u64::try_from(i128::from(end) - i128::from(start) + 1).unwrap_or(0));
        return Ok(Field::Sequence { start });
    }
    Ok(match &column.ty {
        SmallInt | Int | BigInt => {
            let (low, high) = match column.ty {
                SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
                Int => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            let (min, max) = (options.number(&option("min"), 0)?, options.number(&option("max"), 1000)?);
            if min > max || min < low || max > high {
                return Err(invalid(format!(
                    "column \"{}\": min must not be above max, and both in range",
                    column.name
                )));
            }
            Field::Integer { seed, min, max }
        }
        Boolean => Field::Integer { seed, min: 0, max: 1 },
        Real | Double | Numeric => {
            let (min, max): (f64, f64) =
                (options.number(&option("min"), 0.0)?, options.number(&option("max"), 1000.0)?);
            if !(min <= max && min.abs() < 1e15 && max.abs() < 1e15) {
                return Err(invalid(format!(
                    "column \"{}\": min must not be above max, and both in range",
                    column.name
                )));
            }
            Field::Real { seed, min, max }
        }
        Text | Varchar => Field::Text { seed, length: options.number::<u16>(&option("length"), 10)? as usize },
        Timestamp | TimestampTz | Date => {
            let past = match options.get(&option("max_past")) {
                None => Duration::from_secs(86_400),
                Some(text) => {
                    parse_duration(text).ok_or_else(|| options.bad(&option("max_past"), "a time as 1 day"))?
                }
            };
            let past = i64::try_from(past.as_micros()).unwrap_or(i64::MAX / 4);
            Field::Integer { seed, min: BASE_US - past, max: BASE_US }
        }
        _ => {
            return Err(Error::Unsupported(format!(
                "column \"{}\" has a type that connector \"datagen\" cannot make",
                column.name
            )));
        }
    })
}

/// The mixing step of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Field {
    fn integer(&self, i: u64) -> i64 {
        match self {
            Field::Sequence { start } => start.wrapping_add(i as i64),
            Field::Integer { seed, min, max } => {
                let n = (i128::from(*max) - i128::from(*min) + 1) as u128;
                (i128::from(*min) + ((u128::from(mix(seed ^ i)).wrapping_mul(n)) >> 64) as i128) as i64
            }
            _ => 0,
        }
    }

    fn real(&self, i: u64) -> f64 {
        match self {
            Field::Real { seed, min, max } => min + (max - min) * ((mix(seed ^ i) >> 11) as f64 / (1u64 << 53) as f64),
            other => other.integer(i) as f64,
        }
    }

    fn column(&self, ty: &SqlType, rows: &[u64]) -> Result<ArrayRef> {
        let rows = rows.iter().copied();
        Ok(match ty {
            SqlType::SmallInt => Arc::new(Int16Array::from_iter_values(rows.map(|i| self.integer(i) as i16))),
            SqlType::Int => Arc::new(Int32Array::from_iter_values(rows.map(|i| self.integer(i) as i32))),
            SqlType::BigInt => Arc::new(Int64Array::from_iter_values(rows.map(|i| self.integer(i)))),
            SqlType::Boolean => Arc::new(rows.map(|i| Some(self.integer(i) == 1)).collect::<BooleanArray>()),
            SqlType::Real => Arc::new(Float32Array::from_iter_values(rows.map(|i| self.real(i) as f32))),
            SqlType::Double => Arc::new(Float64Array::from_iter_values(rows.map(|i| self.real(i)))),
            SqlType::Date => {
                let day = |i| self.integer(i).div_euclid(datetime::DAY_US) as i32;
                Arc::new(Date32Array::from_iter_values(rows.map(day)))
            }
            SqlType::Timestamp | SqlType::TimestampTz => {
                let array = TimestampMicrosecondArray::from_iter_values(rows.map(|i| self.integer(i)));
                Arc::new(if *ty == SqlType::TimestampTz { array.with_timezone("UTC") } else { array })
            }
            SqlType::Numeric => {
                let mut out = FixedSizeBinaryBuilder::with_capacity(rows.len(), storage::types::NUMERIC_BYTES);
                for i in rows {
                    let value = match self {
                        Field::Sequence { .. } => Ok(Numeric::from_i64(self.integer(i))),
                        _ => Numeric::new((self.real(i) * 100.0).round() as i128, 2),
                    };
                    out.append_value(value.map_err(|e| Error::Failed(e.to_string()))?.to_bytes())?;
                }
                Arc::new(out.finish())
            }
            _ => {
                let mut out = StringViewBuilder::with_capacity(rows.len());
                let mut text = String::new();
                for i in rows {
                    text.clear();
                    if let Field::Text { seed, length } = self {
                        let mut random = mix(seed ^ i);
                        for n in 0..*length {
                            if n % 8 == 7 {
                                random = mix(random);
                            }
                            text.push((b'a' + ((((random >> (n % 8 * 8)) & 0xff) * 26) >> 8) as u8) as char);
                        }
                    }
                    out.append_value(&text);
                }
                Arc::new(out.finish())
            }
        })
    }
}

struct DatagenSource {
    columns: Vec<Column>,
    fields: Vec<Field>,
    splits: u64,
    /// Rows a second of one split.
    rate: f64,
    /// Rows in all; `u64::MAX` for no end.
    rows: u64,
}

impl DatagenSource {
    fn number(&self, split: &str) -> Result<u64> {
        let number = split.parse().ok().filter(|n| *n < self.splits);
        number.ok_or_else(|| Error::NotFound(format!("there is no split \"{split}\"")))
    }

    /// Rows of split `s`: the rows `s`, `s + n`, `s + 2n`, ...
    fn rows_of(&self, s: u64) -> u64 {
        if self.rows > s { (self.rows - s).div_ceil(self.splits) } else { 0 }
    }
}

impl Source for DatagenSource {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn splits(&self) -> Result<Vec<Split>> {
        Ok((0..self.splits).map(|s| Split { id: s.to_string(), start: Offset(0) }).collect())
    }

    fn open(&self, split: &str, split_number: u16, from: Offset, projection: &[usize]) -> Result<Box<dyn SplitReader>> {
        let number = self.number(split)?;
        let field = |&i: &usize| self.fields.get(i).cloned().zip(self.columns.get(i).map(|c| c.ty.clone()));
        Ok(Box::new(DatagenReader {
            fields: projection.iter().map(field).collect(),
            schema: projected_schema(&self.columns, projection),
            row_ids: i64::from(split_number) << 48,
            split: number,
            splits: self.splits,
            pace: Pace::new(self.rate, from.0 as u64),
            end: self.rows_of(number),
            next: from.0 as u64,
        }))
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        let number = self.number(split)?;
        Ok((self.rows < u64::MAX).then(|| Offset(self.rows_of(number) as i64)))
    }
}

struct DatagenReader {
    /// `None` is the row id.
    fields: Vec<Option<(Field, SqlType)>>,
    schema: arrow_schema::SchemaRef,
    row_ids: i64,
    split: u64,
    splits: u64,
    pace: Pace,
    end: u64,
    next: u64,
}

impl SplitReader for DatagenReader {
    fn read(&mut self, rows_max: usize, timeout: Duration) -> Result<Read> {
        if self.next >= self.end {
            return Ok(Read::End { next: Offset(self.next as i64) });
        }
        let due = self.pace.due(self.next, timeout).min(self.end);
        if due <= self.next {
            return Ok(Read::Idle { next: Offset(self.next as i64) });
        }
        let (first, until) = (self.next, due.min(self.next + rows_max.max(1) as u64));
        self.next = until;
        let rows: Vec<u64> = (first..until).map(|n| n * self.splits + self.split).collect();
        let mut columns = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            columns.push(match field {
                Some((field, ty)) => field.column(ty, &rows)?,
                None => Arc::new(Int64Array::from_iter_values((first..until).map(|n| self.row_ids | n as i64))),
            });
        }
        let batch = batch(&self.schema, columns, rows.len())?;
        let bytes = batch.data().get_array_memory_size();
        let next = Offset(until as i64);
        Ok(Read::Records(Records { batch, errors: Vec::new(), next, records: rows.len(), bytes, again: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use expect_test::expect;
    use streaming::source::Sources;

    use super::*;
    use crate::Connectors;

    fn spec(columns: Vec<Column>, given: &[(&str, &str)]) -> SourceSpec {
        let mut options = vec![("connector".to_string(), "datagen".to_string())];
        options.extend(given.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        SourceSpec { options, format: "".into(), encode: "".into(), encode_options: vec![], columns }
    }

    #[test]
    fn makes_sequences_and_random_values() {
        use SqlType::*;
        let columns = vec![
            Column::new("id", BigInt),
            Column::new("Amount", Int),
            Column::new("ratio", Double),
            Column::new("word", Varchar),
            Column::new("at", Timestamp),
            Column::new("ok", Boolean),
        ];
        let options = [
            ("fields.id.kind", "sequence"),
            ("fields.id.start", "5"),
            ("fields.id.end", "8"),
            ("fields.amount.min", "10"),
            ("fields.amount.max", "12"),
            ("fields.ratio.max", "1"),
            ("fields.word.length", "4"),
            ("datagen.rows.per.second", "0"),
            ("datagen.split.num", "2"),
        ];
        let source = Connectors.open(&spec(columns, &options)).unwrap();
        let mut batches = Vec::new();
        for split in ["0", "1"] {
            assert_eq!(source.end(split).unwrap(), Some(Offset(2)));
            let mut reader = source.open(split, split.parse().unwrap(), Offset(0), &[0, 1, 2, 3, 4, 5, 6]).unwrap();
            while let Read::Records(records) = reader.read(1, Duration::ZERO).unwrap() {
                batches.push(records.batch.data().clone());
            }
        }
        expect![[r#"
            +----+--------+---------------------+------+----------------------------+-------+-----------------+
            | id | Amount | ratio               | word | at                         | ok    | _row_id         |
            +----+--------+---------------------+------+----------------------------+-------+-----------------+
            | 5  | 11     | 0.8708589009424075  | wacw | 2025-12-31T07:47:25.824138 | false | 0               |
            | 7  | 10     | 0.07477069249179435 | dycd | 2025-12-31T02:12:38.990489 | false | 1               |
            | 6  | 10     | 0.42609438923535026 | tltx | 2025-12-31T20:46:23.033440 | true  | 281474976710656 |
            | 8  | 10     | 0.43788736835551856 | pham | 2025-12-31T15:12:56.721308 | false | 281474976710657 |
            +----+--------+---------------------+------+----------------------------+-------+-----------------+"#]]
        .assert_eq(&pretty_format_batches(&batches).unwrap().to_string());
    }

    #[test]
    fn refuses_what_it_cannot_make() {
        let error =
            |columns, options: &[(&str, &str)]| Connectors.open(&spec(columns, options)).err().unwrap().to_string();
        let text = || vec![Column::new("a", SqlType::Text)];
        assert_eq!(
            error(text(), &[("fields.a.kind", "sequence")]),
            "column \"a\" is not a number and cannot be a sequence"
        );
        assert_eq!(error(text(), &[("fields.b.length", "1")]), "option \"fields.b.length\": there is no column \"b\"");
        assert_eq!(error(vec![], &[]), "a source of connector \"datagen\" needs columns");
        let jsonb = vec![Column::new("a", SqlType::Jsonb)];
        assert!(error(jsonb, &[]).contains("cannot make"));
    }
}
