//! From located fields to columns: a format finds where in the text the value of each column stands, and this turns
//! one column of such places into an Arrow array, in a loop of its own type.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanBuilder, FixedSizeBinaryBuilder, ListArray, PrimitiveArray, StringViewBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_schema::{DataType, Field as ArrowField};
use base64::Engine as _;
use storage::numeric::Numeric;
use storage::{Column, SqlType, jsonb};
use streaming::error::{Error, Result};

use super::{Fault, Faults, datetime, json};

/// What stands in a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The record has no such field.
    #[default]
    Missing,
    /// `null`, or an empty field of a CSV.
    Null,
    /// `true`
    True,
    /// `false`
    False,
    /// A JSON number.
    Number,
    /// The inside of a string, as it stands.
    Text,
    /// The inside of a JSON string with escapes.
    EscapedText,
    /// The inside of a quoted CSV field with doubled quotes.
    DoubledQuotes,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
}

/// Where a value stands in the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Field {
    /// Its first byte.
    pub start: u32,
    /// Its length.
    pub len: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether the key was the column's name to the letter.
    pub exact: bool,
}

impl Field {
    /// The text of the field as it stands.
    pub fn raw<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..][..self.len as usize]
    }
}

/// What numbers mean in a column of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Epochs {
    /// Nothing: a number is an error.
    #[default]
    Refused,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
    /// The unit by which the number falls between 1973 and 5138.
    Guess,
}

/// How text stands for bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BytesText {
    /// Base64, as JSON producers do it.
    #[default]
    Base64,
    /// Hexadecimal digits.
    Hex,
}

/// How fields are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Every field is text and its column says what it means (CSV); otherwise a number in quotes is not an integer.
    pub untyped: bool,
    /// What numbers mean in a column of times.
    pub epochs: Epochs,
    /// How text stands for bytes.
    pub bytes: BytesText,
    /// The quote of a CSV.
    pub quote: char,
}

/// Refuses a column whose type no field can be read as.
pub fn check(column: &Column, rules: &Rules) -> Result<()> {
    use SqlType::*;
    match &column.ty {
        Boolean | SmallInt | Int | BigInt | Real | Double | Numeric | Text | Varchar | Char | Name | Bytea | Date
        | Time | Timestamp | TimestampTz | Interval | Jsonb | Uuid | Oid => Ok(()),
        Array(item) if !rules.untyped => check(&Column { ty: (**item).clone(), ..column.clone() }, rules),
        _ => Err(Error::Unsupported(format!("column \"{}\" has a type that this format cannot read", column.name))),
    }
}

/// One column of `fields`, which lie in `text`. `record` tells which record a field belongs to, for its fault.
pub fn column(
    column: &Column,
    rules: &Rules,
    text: &str,
    fields: &[Field],
    record: &dyn Fn(usize) -> usize,
    faults: &mut Faults,
) -> ArrayRef {
    let mut reader = Reader { column, rules, text, fields, record, faults };
    use SqlType::*;
    match &column.ty {
        Boolean => reader.booleans(),
        SmallInt => reader.integers::<Int16Type>("smallint"),
        Int => reader.integers::<Int32Type>("integer"),
        Oid => reader.primitives::<Int64Type>("oid", |r, f, _| {
            let value = r.integer(f, "oid")?;
            if u32::try_from(value).is_ok() { Ok(value) } else { Err(Bad::Range) }
        }),
        Real => reader.primitives::<Float32Type>("real", |r, f, _| {
            let value: f32 = r.float(f)?;
            if value.is_infinite() && f.kind == Kind::Number { Err(Bad::Range) } else { Ok(value) }
        }),
        Double => reader.primitives::<Float64Type>("double precision", |r, f, _| {
            let value: f64 = r.float(f)?;
            if value.is_infinite() && f.kind == Kind::Number { Err(Bad::Range) } else { Ok(value) }
        }),
        Numeric => reader.numerics(),
        Bytea => reader.bytea(),
        Date => reader.primitives::<Date32Type>("date", |r, f, s| datetime::date(&r.string(f, s)?).ok_or(Bad::Value)),
        Time => reader
            .primitives::<Time64MicrosecondType>("time", |r, f, s| datetime::time(&r.string(f, s)?).ok_or(Bad::Value)),
        Timestamp => reader.primitives::<TimestampMicrosecondType>("timestamp", |r, f, s| r.timestamp(f, s, false)),
        TimestampTz => {
            let array = reader.primitives_array::<TimestampMicrosecondType>("timestamp with time zone", |r, f, s| {
                r.timestamp(f, s, true)
            });
            Arc::new(array.with_timezone("UTC"))
        }
        Interval => reader.primitives::<IntervalMonthDayNanoType>("interval", |r, f, s| {
            let (months, days, micros) = datetime::interval(&r.string(f, s)?).ok_or(Bad::Value)?;
            let nanoseconds = micros.checked_mul(1000).ok_or(Bad::Range)?;
            Ok(IntervalMonthDayNano { months, days, nanoseconds })
        }),
        Jsonb => reader.jsonb(),
        Uuid => reader.uuids(),
        Array(item) => reader.arrays(item),
        BigInt | RegClass | RegType => reader.integers::<Int64Type>("bigint"),
        Text | Varchar | Char | Name | QuotedChar | Void | Unknown => reader.texts(),
    }
}

/// Why a field cannot be read.
enum Bad {
    /// It is not of the type.
    Value,
    /// It is too large for it.
    Range,
    /// Something more particular.
    Because(Fault),
}

struct Reader<'a> {
    column: &'a Column,
    rules: &'a Rules,
    text: &'a str,
    fields: &'a [Field],
    record: &'a dyn Fn(usize) -> usize,
    faults: &'a mut Faults,
}

impl<'a> Reader<'a> {
    /// Notes why field `i` cannot be read.
    fn fault(&mut self, i: usize, ty: &str, bad: Bad) {
        let name = &self.column.name;
        let shown = || {
            let field = &self.fields[i];
            let raw = field.raw(self.text);
            let cut = raw.char_indices().nth(60).map_or(raw, |(at, _)| &raw[..at]);
            let dots = if cut.len() < raw.len() { "..." } else { "" };
            match field.kind {
                Kind::Text | Kind::EscapedText | Kind::DoubledQuotes => format!("\"{cut}{dots}\""),
                _ => format!("{cut}{dots}"),
            }
        };
        let fault = match bad {
            Bad::Value => Fault::new("22P02", format!("field \"{name}\": cannot read {} as {ty}", shown())),
            Bad::Range => Fault::new("22003", format!("field \"{name}\": {} is out of range for type {ty}", shown())),
            Bad::Because(fault) => Fault::new(fault.sqlstate, format!("field \"{name}\": {}", fault.reason)),
        };
        self.faults.add((self.record)(i), fault);
    }

    /// Whether field `i` is NULL; notes it if the column refuses that.
    #[inline]
    fn is_null(&mut self, i: usize) -> bool {
        let null = matches!(self.fields[i].kind, Kind::Null | Kind::Missing);
        if null && self.column.not_null {
            let reason = format!("null value in column \"{}\" violates not-null constraint", self.column.name);
            self.faults.add((self.record)(i), Fault::new("23502", reason));
        }
        null
    }

    /// The text of a string field; `scratch` holds it if it had to be unescaped.
    #[inline]
    fn string<'s>(&self, field: &Field, scratch: &'s mut String) -> Result<Cow<'s, str>, Bad>
    where
        'a: 's,
    {
        let raw = field.raw(self.text);
        match field.kind {
            Kind::Text => Ok(Cow::Borrowed(raw)),
            Kind::EscapedText => {
                scratch.clear();
                jsonb::unescape(raw, scratch).map_err(|e| Bad::Because(Fault::new(e.sqlstate, e.reason)))?;
                Ok(Cow::Borrowed(scratch.as_str()))
            }
            Kind::DoubledQuotes => {
                let quote = self.rules.quote;
                scratch.clear();
                scratch.push_str(&raw.replace(&format!("{quote}{quote}"), &quote.to_string()));
                Ok(Cow::Borrowed(scratch.as_str()))
            }
            _ => Err(Bad::Value),
        }
    }

    fn primitives<T: ArrowPrimitiveType>(
        &mut self,
        ty: &str,
        read: impl Fn(&Self, &Field, &mut String) -> Result<T::Native, Bad>,
    ) -> ArrayRef {
        Arc::new(self.primitives_array::<T>(ty, read))
    }

    #[inline]
    fn primitives_array<T: ArrowPrimitiveType>(
        &mut self,
        ty: &str,
        read: impl Fn(&Self, &Field, &mut String) -> Result<T::Native, Bad>,
    ) -> PrimitiveArray<T> {
        let mut values: Vec<T::Native> = Vec::with_capacity(self.fields.len());
        let mut nulls: Option<Vec<bool>> = None;
        let mut scratch = String::new();
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            let value = if self.is_null(i) {
                None
            } else {
                match read(self, &field, &mut scratch) {
                    Ok(value) => Some(value),
                    Err(bad) => {
                        self.fault(i, ty, bad);
                        None
                    }
                }
            };
            match value {
                Some(value) => values.push(value),
                None => {
                    nulls.get_or_insert_with(|| vec![true; self.fields.len()])[i] = false;
                    values.push(T::Native::default());
                }
            }
        }
        PrimitiveArray::new(ScalarBuffer::from(values), nulls.map(NullBuffer::from))
    }

    fn integers<T: ArrowPrimitiveType>(&mut self, ty: &'static str) -> ArrayRef
    where
        T::Native: TryFrom<i64>,
    {
        self.primitives::<T>(ty, |reader, field, _| {
            T::Native::try_from(reader.integer(field, ty)?).map_err(|_| Bad::Range)
        })
    }

    #[inline]
    fn integer(&self, field: &Field, _ty: &str) -> Result<i64, Bad> {
        let numeric = field.kind == Kind::Number || (self.rules.untyped && field.kind == Kind::Text);
        if !numeric {
            return Err(Bad::Value);
        }
        let raw = field.raw(self.text);
        let raw = if self.rules.untyped { raw.trim().as_bytes() } else { raw.as_bytes() };
        let (negative, digits) = match raw.first() {
            Some(b'-') => (true, &raw[1..]),
            Some(b'+') => (false, &raw[1..]),
            _ => (false, raw),
        };
        if digits.is_empty() {
            return Err(Bad::Value);
        }
        // Eighteen digits fit whatever they are.
        let (head, tail) = digits.split_at(digits.len().min(18));
        let mut value: i64 = 0;
        for byte in head {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return Err(Bad::Value);
            }
            value = value * 10 + i64::from(digit);
        }
        let mut value = if negative { -value } else { value };
        for byte in tail {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return Err(Bad::Value);
            }
            let digit = i64::from(digit);
            let next =
                value.checked_mul(10).and_then(|v| if negative { v.checked_sub(digit) } else { v.checked_add(digit) });
            match next {
                Some(next) => value = next,
                None if tail.iter().all(u8::is_ascii_digit) => return Err(Bad::Range),
                None => return Err(Bad::Value),
            }
        }
        Ok(value)
    }

    fn float<F: std::str::FromStr>(&self, field: &Field) -> Result<F, Bad> {
        let raw = field.raw(self.text).trim();
        match field.kind {
            Kind::Number => raw.parse().map_err(|_| Bad::Value),
            // What JSON has no number for.
            Kind::Text if self.rules.untyped || matches!(raw, "NaN" | "Infinity" | "-Infinity") => {
                raw.parse().map_err(|_| Bad::Value)
            }
            _ => Err(Bad::Value),
        }
    }

    fn booleans(&mut self) -> ArrayRef {
        let mut out = BooleanBuilder::with_capacity(self.fields.len());
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            let value = match field.kind {
                Kind::True => Some(true),
                Kind::False => Some(false),
                Kind::Text if self.rules.untyped => match field.raw(self.text).trim().to_ascii_lowercase().as_str() {
                    "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                    "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                    _ => None,
                },
                _ => None,
            };
            out.append_option(value);
            if value.is_none() {
                self.fault(i, "boolean", Bad::Value);
            }
        }
        Arc::new(out.finish())
    }

    fn numerics(&mut self) -> ArrayRef {
        let mut out = FixedSizeBinaryBuilder::with_capacity(self.fields.len(), storage::types::NUMERIC_BYTES);
        let typmod = self.column.typmod;
        let mut scratch = String::new();
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            let read = match field.kind {
                Kind::Number => Ok(Cow::Borrowed(field.raw(self.text))),
                _ => self.string(&field, &mut scratch),
            };
            let value = read.and_then(|text| {
                Numeric::parse(text.trim()).and_then(|value| value.apply_typmod(typmod)).map_err(|e| {
                    match e.sqlstate() {
                        "22003" => Bad::Because(Fault::new("22003", e.detail().unwrap_or_else(|| e.to_string()))),
                        _ => Bad::Value,
                    }
                })
            });
            let added = match value {
                Ok(value) => out.append_value(value.to_bytes()).is_ok(),
                Err(bad) => {
                    self.fault(i, "numeric", bad);
                    false
                }
            };
            if !added {
                out.append_null();
            }
        }
        Arc::new(out.finish())
    }

    fn texts(&mut self) -> ArrayRef {
        let length_max = match self.column.ty {
            SqlType::Varchar | SqlType::Char if self.column.typmod >= 4 => Some((self.column.typmod - 4) as usize),
            _ => None,
        };
        let padded = self.column.ty == SqlType::Char;
        // Room for what is longer than a view holds in itself, so that the buffer is allocated once.
        let bytes: usize = self.fields.iter().map(|f| if f.len > 12 { f.len as usize } else { 0 }).sum();
        let block = u32::try_from(bytes.max(64)).unwrap_or(u32::MAX);
        let mut out = StringViewBuilder::with_capacity(self.fields.len()).with_fixed_block_size(block);
        let mut scratch = String::new();
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            let read = match field.kind {
                // A scalar is its own text, as `->>` gives it.
                Kind::Number | Kind::True | Kind::False => Ok(Cow::Borrowed(field.raw(self.text))),
                _ => self.string(&field, &mut scratch),
            };
            let value = read.and_then(|text| match length_max {
                Some(max) => fit(text, max, padded),
                None => Ok(text),
            });
            match value {
                Ok(value) => out.append_value(&value),
                Err(bad) => {
                    out.append_null();
                    self.fault(i, "text", bad);
                }
            }
        }
        Arc::new(out.finish())
    }

    fn bytea(&mut self) -> ArrayRef {
        let mut out = BinaryViewBuilder::with_capacity(self.fields.len());
        let mut scratch = String::new();
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            let bytes = self.string(&field, &mut scratch).and_then(|text| match text.strip_prefix("\\x") {
                Some(digits) => hex(digits).ok_or(Bad::Value),
                None if self.rules.bytes == BytesText::Hex => hex(&text).ok_or(Bad::Value),
                None => base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).map_err(|_| Bad::Value),
            });
            match bytes {
                Ok(bytes) => out.append_value(bytes),
                Err(bad) => {
                    out.append_null();
                    self.fault(i, "bytea", bad);
                }
            }
        }
        Arc::new(out.finish())
    }

    fn jsonb(&mut self) -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(self.fields.len());
        let (mut scratch, mut value) = (String::new(), String::new());
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            // A JSON null is the SQL NULL, as for every other type.
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            value.clear();
            let written = if self.rules.untyped {
                self.string(&field, &mut scratch).and_then(|text| json_value(text.as_bytes(), &mut value))
            } else if matches!(field.kind, Kind::Text | Kind::EscapedText) {
                // With its quotes, which stand around the field.
                let (start, end) = (field.start as usize - 1, (field.start + field.len) as usize + 1);
                json_value(&self.text.as_bytes()[start..end], &mut value)
            } else {
                json_value(field.raw(self.text).as_bytes(), &mut value)
            };
            match written {
                Ok(()) => out.append_value(&value),
                Err(bad) => {
                    out.append_null();
                    self.fault(i, "jsonb", bad);
                }
            }
        }
        Arc::new(out.finish())
    }

    fn uuids(&mut self) -> ArrayRef {
        let mut out = FixedSizeBinaryBuilder::with_capacity(self.fields.len(), 16);
        let mut scratch = String::new();
        for i in 0..self.fields.len() {
            let field = self.fields[i];
            if self.is_null(i) {
                out.append_null();
                continue;
            }
            let bytes = self.string(&field, &mut scratch).and_then(|text| {
                let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(&text);
                let digits: String = inner.chars().filter(|c| *c != '-').collect();
                hex(&digits).filter(|bytes| bytes.len() == 16).ok_or(Bad::Value)
            });
            let added = match bytes {
                Ok(bytes) => out.append_value(bytes).is_ok(),
                Err(bad) => {
                    self.fault(i, "uuid", bad);
                    false
                }
            };
            if !added {
                out.append_null();
            }
        }
        Arc::new(out.finish())
    }

    fn arrays(&mut self, item: &SqlType) -> ArrayRef {
        let mut items: Vec<Field> = Vec::new();
        let mut parents: Vec<usize> = Vec::new();
        let mut offsets: Vec<i32> = vec![0];
        let mut valid = vec![true; self.fields.len()];
        for (i, valid) in valid.iter_mut().enumerate() {
            let field = self.fields[i];
            if self.is_null(i) {
                *valid = false;
            } else if field.kind != Kind::Array {
                *valid = false;
                self.fault(i, "array", Bad::Value);
            } else {
                let before = items.len();
                if let Err(fault) = json::elements(self.text, &field, &mut items) {
                    items.truncate(before);
                    self.fault(i, "array", Bad::Because(fault));
                }
                parents.resize(items.len(), (self.record)(i));
            }
            offsets.push(i32::try_from(items.len()).unwrap_or(i32::MAX));
        }
        let child = Column { ty: item.clone(), not_null: false, ..self.column.clone() };
        let values = column(&child, self.rules, self.text, &items, &|i| parents[i], self.faults);
        let field = Arc::new(ArrowField::new("item", values.data_type().clone(), true));
        debug_assert_eq!(DataType::List(field.clone()), self.column.ty.arrow());
        Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), values, Some(NullBuffer::from(valid))))
    }

    fn timestamp(&self, field: &Field, scratch: &mut String, with_zone: bool) -> Result<i64, Bad> {
        if field.kind == Kind::Number || (self.rules.untyped && self.rules.epochs != Epochs::Refused) {
            return self.epoch(field);
        }
        let (at, offset) = datetime::timestamp(&self.string(field, scratch)?).ok_or(Bad::Value)?;
        match offset {
            // As Postgres reads it: without a zone in the type, one in the text means nothing.
            Some(offset) if with_zone => at.checked_sub(offset).ok_or(Bad::Range),
            _ => Ok(at),
        }
    }

    fn epoch(&self, field: &Field) -> Result<i64, Bad> {
        if self.rules.epochs == Epochs::Refused {
            let reason = format!(
                "cannot read the number {} as a time unless the option timestamp.handling.mode names its unit",
                field.raw(self.text)
            );
            return Err(Bad::Because(Fault::new("22P02", reason)));
        }
        let value = self.integer(field, "bigint")?;
        let unit = match self.rules.epochs {
            // Between 1973 and 5138, a number has one unit only.
            Epochs::Guess => match value.unsigned_abs() {
                0..100_000_000_000 => Epochs::Seconds,
                100_000_000_000..100_000_000_000_000 => Epochs::Millis,
                100_000_000_000_000..100_000_000_000_000_000 => Epochs::Micros,
                _ => Epochs::Nanos,
            },
            unit => unit,
        };
        match unit {
            Epochs::Seconds => value.checked_mul(1_000_000).ok_or(Bad::Range),
            Epochs::Millis => value.checked_mul(1000).ok_or(Bad::Range),
            Epochs::Nanos => Ok(value.div_euclid(1000)),
            _ => Ok(value),
        }
    }
}

fn json_value(json: &[u8], out: &mut String) -> Result<(), Bad> {
    jsonb::write_canonical(json, out).map_err(|e| Bad::Because(Fault::new(e.sqlstate, e.reason)))
}

/// `text` in `max` characters: blanks beyond are cut, blanks up to there are added if the type is `padded`.
fn fit(text: Cow<'_, str>, max: usize, padded: bool) -> Result<Cow<'_, str>, Bad> {
    let length = if text.len() <= max && text.is_ascii() { text.len() } else { text.chars().count() };
    if length > max {
        let cut = text.char_indices().nth(max).map_or(text.len(), |(at, _)| at);
        if text[cut..].bytes().any(|b| b != b' ') {
            let ty = if padded { "character" } else { "character varying" };
            return Err(Bad::Because(Fault::new("22001", format!("value too long for type {ty}({max})"))));
        }
        return Ok(Cow::Owned(text[..cut].to_string()));
    }
    if padded && length < max {
        return Ok(Cow::Owned(format!("{text}{}", " ".repeat(max - length))));
    }
    Ok(text)
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16);
    digits.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}
