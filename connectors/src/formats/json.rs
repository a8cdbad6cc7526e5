//! JSON objects, one a record.
//!
//! Decoding has two steps. The first walks over a record once and notes where the value of each wanted key stands;
//! values of other keys are skipped, though their syntax is checked, so that whether a record is JSON does not depend
//! on who reads it. The second reads one column after another from the places noted (`fields.rs`).
//!
//! The first step guesses: after each key it expects the key that followed it last time, and compares its bytes,
//! quotes and colon included. Producers write their keys in one order, so nearly every guess is right and no key is
//! parsed or looked up.
//!
//! - A key names the column of that name, or else the one that is equal but for the case of its letters (SQL folds
//!   names that are not quoted). Of equal keys the last wins.
//! - A key that is not there and a `null` are NULL. A column that is NOT NULL refuses both.
//! - Integers are JSON numbers without a point or an exponent; `numeric` takes numbers and strings; text takes strings,
//!   and numbers, `true` and `false` as they stand; `jsonb` takes anything.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use storage::Column;
use streaming::error::Result;

use super::fields::{self, BytesText, Epochs, Field, Kind, Rules};
use super::{Decoder, Fault, Faults, Format};
use crate::options::{OptionDoc, Options};
use crate::transport::RawRecords;

/// The options behind `ENCODE JSON`.
pub const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "timestamp.handling.mode",
        default: "",
        doc: "unit of numbers in time columns: `second`, `milli`, `micro`, `nano` or `guess_number_unit`; \
              without it a number there is an error",
    },
    OptionDoc { name: "timestamptz.handling.mode", default: "", doc: "the same, under RisingWave's name" },
    OptionDoc { name: "bytes.handling.mode", default: "base64", doc: "how `bytea` is written: `base64` or `hex`" },
];

/// Values nested deeper than this are refused: the scanner needs stack for each level.
const DEPTH_MAX: usize = 500;

/// Keys that are remembered at most; beyond, keys are looked up.
const KEYS_MAX: usize = 4096;

/// The format.
pub struct Json {
    rules: Rules,
}

impl Json {
    /// Reads the options behind `ENCODE JSON`.
    pub fn new(options: &[(String, String)]) -> Result<Json> {
        let options = Options::new("ENCODE JSON", options, &[OPTIONS])?;
        let epochs = [
            ("", Epochs::Refused),
            ("second", Epochs::Seconds),
            ("milli", Epochs::Millis),
            ("micro", Epochs::Micros),
            ("nano", Epochs::Nanos),
            ("guess_number_unit", Epochs::Guess),
            ("utc_string", Epochs::Refused),
            ("utc_without_suffix", Epochs::Refused),
        ];
        let old = options.choice("timestamptz.handling.mode", &epochs)?;
        let epochs = if options.get("timestamp.handling.mode").is_some() {
            options.choice("timestamp.handling.mode", &epochs)?
        } else {
            old
        };
        let bytes = options.choice("bytes.handling.mode", &[("base64", BytesText::Base64), ("hex", BytesText::Hex)])?;
        Ok(Json { rules: Rules { untyped: false, epochs, bytes, quote: '"' } })
    }
}

impl Format for Json {
    fn decoder(&self, columns: &[Column]) -> Result<Box<dyn Decoder>> {
        for column in columns {
            fields::check(column, &self.rules)?;
        }
        Ok(Box::new(JsonDecoder {
            rules: self.rules,
            columns: columns.to_vec(),
            keys: Keys::new(columns),
            fields: vec![Vec::new(); columns.len()],
        }))
    }
}

struct JsonDecoder {
    rules: Rules,
    columns: Vec<Column>,
    keys: Keys,
    fields: Vec<Vec<Field>>,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, raw: &mut RawRecords, faults: &mut Faults) -> Result<Vec<ArrayRef>> {
        refuse_bad_utf8(raw, faults);
        let empty = String::new();
        // Checked just now, and all of it.
        let text = std::str::from_utf8(&raw.values).unwrap_or(&empty);
        for fields in &mut self.fields {
            fields.clear();
            fields.resize(raw.records.len(), Field::default());
        }
        for (i, record) in raw.records.iter().enumerate() {
            if faults.contains(i) {
                continue;
            }
            let Some(value) = record.value else {
                faults.add(i, Fault::new("22P02", "the record has no value"));
                continue;
            };
            let end = (value.start + value.len) as usize;
            let mut scanner = Scanner { bytes: &text.as_bytes()[..end], at: value.start as usize };
            if let Err(wanted) = scanner.record(text, &mut self.keys, &mut self.fields, i) {
                let found = match text[..end].get(scanner.at.min(end)..).and_then(|rest| rest.chars().next()) {
                    Some(c) => format!("{c:?}"),
                    None => "the end".to_string(),
                };
                let at = scanner.at.min(end) - value.start as usize + 1;
                let reason = format!("not a JSON object: expected {wanted} at byte {at} and found {found}");
                faults.add(i, Fault::new("22P02", reason));
            }
        }
        // What a bad record left must not be read as a value of its column.
        if !faults.is_empty() {
            for i in (0..raw.records.len()).filter(|i| faults.contains(*i)) {
                self.fields.iter_mut().for_each(|fields| fields[i] = Field::default());
            }
        }
        let (rules, fields) = (&self.rules, &self.fields);
        let columns = self.columns.iter().zip(fields);
        Ok(columns.map(|(column, fields)| fields::column(column, rules, text, fields, &|i| i, faults)).collect())
    }
}

/// Gives every record that is not UTF-8 a fault and blanks it, so that all values are one valid text.
pub(super) fn refuse_bad_utf8(raw: &mut RawRecords, faults: &mut Faults) {
    if std::str::from_utf8(&raw.values).is_ok() {
        return;
    }
    for (i, record) in raw.records.iter_mut().enumerate() {
        let Some(value) = record.value else { continue };
        if let Err(error) = std::str::from_utf8(value.of(&raw.values)) {
            let reason = format!("invalid byte sequence for encoding \"UTF8\" at byte {}", error.valid_up_to() + 1);
            faults.add(i, Fault::new("22021", reason));
        }
    }
    // The error report needs the bytes as they came: they are kept behind the values' text.
    let mut copy = raw.values.clone();
    for (i, record) in raw.records.iter_mut().enumerate() {
        if faults.contains(i)
            && let Some(value) = &mut record.value
        {
            let range = value.start as usize..(value.start + value.len) as usize;
            copy[range].fill(b' ');
        }
    }
    raw.bad_values = std::mem::replace(&mut raw.values, copy);
}

/// The elements of the JSON array in `field`, whose syntax was checked, at the end of `out`.
pub(super) fn elements(text: &str, field: &Field, out: &mut Vec<Field>) -> Result<(), Fault> {
    let bytes = &text.as_bytes()[..(field.start + field.len) as usize];
    let mut scanner = Scanner { bytes, at: field.start as usize + 1 };
    let fault = |wanted: &str| Fault::new("22P02", format!("not a JSON array: expected {wanted}"));
    scanner.blanks();
    while scanner.peek() != Some(b']') {
        out.push(scanner.value(0).map_err(fault)?);
        scanner.blanks();
        if scanner.peek() == Some(b',') {
            scanner.at += 1;
            scanner.blanks();
        }
    }
    Ok(())
}

/// A key that was seen, and what it means.
struct Key {
    /// As it stands in the record, quotes and colon included.
    literal: Box<[u8]>,
    /// The wanted column of that name.
    column: Option<usize>,
    /// Whether the column's name is the key to the letter.
    exact: bool,
    /// The key that followed last time.
    next: usize,
}

/// The keys that were seen, and the columns by name.
struct Keys {
    seen: Vec<Key>,
    /// By literal.
    by_literal: HashMap<Box<[u8]>, usize>,
    exact: HashMap<String, usize>,
    folded: HashMap<String, usize>,
}

/// No key: the first guess in a record that is the first.
const START: usize = 0;

impl Keys {
    fn new(columns: &[Column]) -> Keys {
        let mut exact = HashMap::new();
        let mut folded = HashMap::new();
        for (i, column) in columns.iter().enumerate() {
            exact.entry(column.name.clone()).or_insert(i);
            folded.entry(column.name.to_lowercase()).or_insert(i);
        }
        // What no record begins with, so that the first guess fails.
        let start = Key { literal: Box::from(&b"\0"[..]), column: None, exact: false, next: START };
        Keys { seen: vec![start], by_literal: HashMap::new(), exact, folded }
    }

    /// What `name` means.
    fn find(&self, name: &str) -> (Option<usize>, bool) {
        match self.exact.get(name) {
            Some(column) => (Some(*column), true),
            None => (self.folded.get(&name.to_lowercase()).copied(), false),
        }
    }
}

/// What was expected where the scanner stands.
type Wanted = &'static str;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Walks over a record and notes its values in row `row` of `fields`.
    fn record(&mut self, text: &str, keys: &mut Keys, fields: &mut [Vec<Field>], row: usize) -> Result<(), Wanted> {
        self.blanks();
        if self.peek() != Some(b'{') {
            return Err("\"{\"");
        }
        self.at += 1;
        self.blanks();
        let mut key = START;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let guess = keys.seen[key].next;
                let (column, exact);
                if self.bytes[self.at..].starts_with(&keys.seen[guess].literal) {
                    let found = &keys.seen[guess];
                    self.at += found.literal.len();
                    (key, column, exact) = (guess, found.column, found.exact);
                } else {
                    (key, column, exact) = self.key(text, keys, key)?;
                }
                self.blanks();
                let mut value = self.value(0)?;
                if let Some(column) = column {
                    let field = &mut fields[column][row];
                    if exact || !field.exact {
                        value.exact = exact;
                        *field = value;
                    }
                }
                self.blanks();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err("\",\" or \"}\""),
                }
                self.blanks();
            }
        }
        self.blanks();
        if self.at < self.bytes.len() { Err("the end") } else { Ok(()) }
    }

    /// Reads a key and its colon, and remembers it as the one behind `before`.
    #[cold]
    fn key(&mut self, text: &str, keys: &mut Keys, before: usize) -> Result<(usize, Option<usize>, bool), Wanted> {
        if self.peek() != Some(b'"') {
            return Err("a key");
        }
        let start = self.at;
        let (from, to, escaped) = self.string()?;
        let blank = self.at;
        self.blanks();
        if self.peek() != Some(b':') {
            return Err("\":\"");
        }
        self.at += 1;
        let literal = &self.bytes[start..self.at];
        if let Some(&id) = keys.by_literal.get(literal) {
            keys.seen[before].next = id;
            return Ok((id, keys.seen[id].column, keys.seen[id].exact));
        }
        let (column, exact) = if escaped {
            let mut name = String::new();
            storage::jsonb::unescape(&text[from..to], &mut name).map_err(|_| "a key that is text")?;
            keys.find(&name)
        } else {
            keys.find(&text[from..to])
        };
        if keys.seen.len() >= KEYS_MAX || blank + 1 < self.at {
            // Keys that are data, or blanks before the colon: nothing to learn.
            return Ok((START, column, exact));
        }
        let id = keys.seen.len();
        keys.by_literal.insert(literal.into(), id);
        keys.seen.push(Key { literal: literal.into(), column, exact, next: START });
        keys.seen[before].next = id;
        Ok((id, column, exact))
    }

    /// Walks over a value.
    #[inline]
    fn value(&mut self, depth: usize) -> Result<Field, Wanted> {
        let start = self.at;
        let field =
            |from: usize, to: usize, kind| Field { start: from as u32, len: (to - from) as u32, kind, exact: false };
        match self.peek() {
            Some(b'"') => {
                let (from, to, escaped) = self.string()?;
                Ok(field(from, to, if escaped { Kind::EscapedText } else { Kind::Text }))
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Ok(field(start, self.at, Kind::Number))
            }
            Some(b'n') => self.word(b"null").map(|()| field(start, self.at, Kind::Null)),
            Some(b't') => self.word(b"true").map(|()| field(start, self.at, Kind::True)),
            Some(b'f') => self.word(b"false").map(|()| field(start, self.at, Kind::False)),
            Some(b'{') => self.object(depth + 1).map(|()| field(start, self.at, Kind::Object)),
            Some(b'[') => self.array(depth + 1).map(|()| field(start, self.at, Kind::Array)),
            _ => Err("a value"),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Wanted> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err("a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Wanted> {
        if depth > DEPTH_MAX {
            return Err("less nesting");
        }
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err("a key");
            }
            self.string()?;
            self.blanks();
            if self.peek() != Some(b':') {
                return Err("\":\"");
            }
            self.at += 1;
            self.blanks();
            self.value(depth)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err("\",\" or \"}\""),
            }
            self.blanks();
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Wanted> {
        if depth > DEPTH_MAX {
            return Err("less nesting");
        }
        self.at += 1;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err("\",\" or \"]\""),
            }
            self.blanks();
        }
    }

    /// Walks over a string; returns where its inside stands and whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<(usize, usize, bool), Wanted> {
        let from = self.at + 1;
        self.at = from;
        let mut escaped = false;
        loop {
            self.at = end_of_plain(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    let to = self.at;
                    self.at += 1;
                    return Ok((from, to, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err("no control character in a string"),
                None => return Err("the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Wanted> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return Err("four hexadecimal digits behind \\u");
                }
                self.at += 6;
            }
            _ => return Err("one of \"\\/bfnrtu behind a backslash"),
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Wanted> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err("a digit") } else { Ok(()) }
    }

    #[inline]
    fn number(&mut self) -> Result<(), Wanted> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

/// The first byte from `at` on that is a quote, a backslash or a control character; eight bytes at a time.
#[inline]
fn end_of_plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // A byte of `x` below `n`: the lowest one found is right, what is above it may be a borrow.
    let below = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x & HIGHS;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let found = below(word ^ (ONES * 0x22), 1) | below(word ^ (ONES * 0x5c), 1) | below(word, 0x20);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..0x20) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
pub(crate) mod tests;
