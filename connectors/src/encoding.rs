//! Rows as JSON, for targets that take text or bytes. An encoder never connects.
//!
//! Numbers and truth values are JSON's own; `numeric` is a string, as a JSON reader would round it; times are ISO 8601
//! strings; bytes are base64; arrays are arrays. What a source of the same columns reads back is the same row.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use base64::Engine as _;
use storage::jsonb::write_string;
use storage::{Batch, Column, SqlType};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::SinkSpec;

use crate::options::{OptionDoc, Options};
use crate::sinks::Change;

pub mod csv;

/// The options behind `ENCODE JSON` of a sink.
pub const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "timestamptz.handling.mode",
        default: "utc_string",
        doc: "`utc_string`, `utc_without_suffix`, or a number since 1970: `milli`, `micro`",
    },
    OptionDoc {
        name: "jsonb.handling.mode",
        default: "string",
        doc: "`jsonb` as a `string` that holds JSON, or `dynamic`: as JSON itself",
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zoned {
    Suffix,
    NoSuffix,
    Millis,
    Micros,
}

/// Writes the rows of a sink as JSON.
pub struct Encoder {
    columns: Vec<Column>,
    /// The columns' names as JSON strings with the colon.
    names: Vec<String>,
    key: Vec<usize>,
    key_as_text: bool,
    zoned: Zoned,
    json_as_is: bool,
    functions: Arc<dyn Functions>,
}

impl Encoder {
    /// Reads the options behind `ENCODE` and `KEY ENCODE`.
    pub fn new(spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Encoder> {
        if spec.encode != "json" {
            let message = format!("ENCODE {} is not supported for this sink", spec.encode.to_uppercase());
            return Err(Error::Unsupported(format!("{message}\nHINT:  There is JSON.")));
        }
        let options = Options::new("ENCODE JSON", &spec.encode_options, &[OPTIONS])?;
        let zoned = [
            ("utc_string", Zoned::Suffix),
            ("utc_without_suffix", Zoned::NoSuffix),
            ("milli", Zoned::Millis),
            ("micro", Zoned::Micros),
        ];
        let key_as_text = match spec.key_encode.as_deref() {
            None | Some("json") => false,
            Some("text") if spec.key.len() == 1 => true,
            Some("text") => {
                return Err(Error::invalid("22023", "KEY ENCODE TEXT needs a primary key of one column"));
            }
            Some(other) => {
                let message = format!("KEY ENCODE {} is not supported", other.to_uppercase());
                return Err(Error::Unsupported(format!("{message}\nHINT:  There are JSON and TEXT.")));
            }
        };
        let name = |column: &Column| {
            let mut name = String::new();
            write_string(&column.name, &mut name);
            name.push(':');
            name
        };
        Ok(Encoder {
            names: spec.columns.iter().map(name).collect(),
            columns: spec.columns.clone(),
            key: spec.key.clone(),
            key_as_text,
            zoned: options.choice("timestamptz.handling.mode", &zoned)?,
            json_as_is: options.choice("jsonb.handling.mode", &[("string", false), ("dynamic", true)])?,
            functions,
        })
    }

    /// A row as an object.
    pub fn row(&self, batch: &Batch, row: usize, out: &mut String) {
        self.object(batch, row, 0..self.columns.len(), out);
    }

    /// The key of a row: an object of its columns, or the text of its one column.
    pub fn key(&self, batch: &Batch, row: usize, out: &mut String) {
        if self.key_as_text {
            let column = self.key[0];
            let values = batch.column(column);
            if values.is_valid(row) {
                self.functions.write_text(values.as_ref(), row, &self.columns[column].ty, out);
            }
            return;
        }
        self.object(batch, row, self.key.iter().copied(), out);
    }

    /// A change as Debezium tells it: the row before, the row after, what was done and when.
    pub fn envelope(&self, batch: &Batch, change: Change, millis: u64, out: &mut String) {
        let side = |name: &str, row: Option<usize>, out: &mut String| {
            out.push_str(name);
            match row {
                Some(row) => self.row(batch, row, out),
                None => out.push_str("null"),
            }
        };
        side("{\"before\":", change.before, out);
        side(",\"after\":", change.after, out);
        let op = match (change.before, change.after) {
            (None, _) => 'c',
            (Some(_), Some(_)) => 'u',
            (Some(_), None) => 'd',
        };
        out.push_str(&format!(",\"op\":\"{op}\",\"ts_ms\":{millis}}}"));
    }

    fn object(&self, batch: &Batch, row: usize, columns: impl Iterator<Item = usize>, out: &mut String) {
        out.push('{');
        for (i, column) in columns.enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(&self.names[column]);
            self.value(batch.column(column).as_ref(), row, &self.columns[column].ty, out);
        }
        out.push('}');
    }

    /// A value.
    pub fn value(&self, values: &dyn Array, row: usize, ty: &SqlType, out: &mut String) {
        if values.is_null(row) {
            return out.push_str("null");
        }
        let mut digits = itoa::Buffer::new();
        match ty {
            SqlType::Boolean => out.push_str(if values.as_boolean().value(row) { "true" } else { "false" }),
            SqlType::SmallInt => out.push_str(digits.format(values.as_primitive::<Int16Type>().value(row))),
            SqlType::Int => out.push_str(digits.format(values.as_primitive::<Int32Type>().value(row))),
            SqlType::BigInt | SqlType::Oid => {
                out.push_str(digits.format(values.as_primitive::<Int64Type>().value(row)));
            }
            SqlType::Real if values.as_primitive::<Float32Type>().value(row).is_finite() => {
                self.text(values, row, ty, out)
            }
            SqlType::Double if values.as_primitive::<Float64Type>().value(row).is_finite() => {
                self.text(values, row, ty, out);
            }
            SqlType::Jsonb if self.json_as_is => self.text(values, row, ty, out),
            SqlType::Bytea => {
                out.push('"');
                base64::engine::general_purpose::STANDARD.encode_string(values.as_binary_view().value(row), out);
                out.push('"');
            }
            SqlType::Timestamp => {
                let mut text = String::new();
                self.text(values, row, ty, &mut text);
                write_string(&iso(&text), out);
            }
            SqlType::TimestampTz => {
                let micros = values.as_primitive::<TimestampMicrosecondType>().value(row);
                match self.zoned {
                    Zoned::Millis => out.push_str(digits.format(micros.div_euclid(1000))),
                    Zoned::Micros => out.push_str(digits.format(micros)),
                    zoned => {
                        let mut text = String::new();
                        self.text(values, row, ty, &mut text);
                        let text = iso(&text);
                        match text.strip_suffix("+00") {
                            Some(plain) if zoned == Zoned::Suffix => write_string(&format!("{plain}Z"), out),
                            Some(plain) => write_string(plain, out),
                            None => write_string(&text, out),
                        }
                    }
                }
            }
            SqlType::Array(item) => {
                let items = values.as_list::<i32>().value(row);
                out.push('[');
                for i in 0..items.len() {
                    if i > 0 {
                        out.push(',');
                    }
                    self.value(items.as_ref(), i, item, out);
                }
                out.push(']');
            }
            _ => {
                let mut text = String::new();
                self.text(values, row, ty, &mut text);
                write_string(&text, out);
            }
        }
    }

    fn text(&self, values: &dyn Array, row: usize, ty: &SqlType, out: &mut String) {
        self.functions.write_text(values, row, ty, out);
    }
}

/// `2026-11-21 15:00:00` with the `T` of ISO 8601. What ISO has no form for, infinities and years before Christ, stays.
fn iso(text: &str) -> String {
    if text.ends_with("BC") { text.to_owned() } else { text.replacen(' ', "T", 1) }
}

#[cfg(test)]
mod tests {
    use streaming::sink::SinkType;

    use super::*;
    use crate::sinks::changes;
    use crate::sinks::tests::{Plain, batch, spec};

    #[test]
    fn writes_rows_keys_and_envelopes() {
        let spec = spec("kafka", SinkType::Debezium, &[]);
        let encoder = Encoder::new(&spec, Arc::new(Plain)).unwrap();
        let rows = batch(&[(1, "a\"b", -1), (1, "c", 1)]);
        let mut out = String::new();
        encoder.row(&rows, 0, &mut out);
        assert_eq!(out, r#"{"id":1,"name":"a\"b"}"#);
        out.clear();
        encoder.key(&rows, 0, &mut out);
        assert_eq!(out, r#"{"id":1}"#);
        out.clear();
        encoder.envelope(&rows, changes(&rows, &spec).unwrap()[0], 7, &mut out);
        let expected = r#"{"before":{"id":1,"name":"a\"b"},"after":{"id":1,"name":"c"},"op":"u","ts_ms":7}"#;
        assert_eq!(out, expected);
    }

    #[test]
    fn knows_its_options() {
        let with = |encode: &str, key: Option<&str>, option: Option<(&str, &str)>| {
            let mut spec = spec("kafka", SinkType::Upsert, &[]);
            spec.encode = encode.into();
            spec.key_encode = key.map(str::to_owned);
            spec.encode_options = option.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            Encoder::new(&spec, Arc::new(Plain)).map(drop).map_err(|e| e.to_string())
        };
        assert_eq!(with("json", Some("text"), None), Ok(()));
        assert_eq!(with("json", None, Some(("jsonb.handling.mode", "dynamic"))), Ok(()));
        assert!(with("avro", None, None).unwrap_err().starts_with("ENCODE AVRO is not supported"));
        assert!(with("json", Some("bytes"), None).unwrap_err().starts_with("KEY ENCODE BYTES is not supported"));
        assert!(with("json", None, Some(("schemas.enable", "true"))).is_err());
    }
}
