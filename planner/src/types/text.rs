//! Postgres' text form of every type, written and read.
//!
//! What differs from session to session, the time zone and the clock, is in [`Session`].

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::datetime::{self, Zone};
use super::{error, json};

/// What the text of a value depends on beside the value.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The time zone.
    pub zone: Zone,
    /// The time of the statement (UTC), for `'now'::timestamptz` and the like; they are refused without it.
    pub now: Option<i64>,
}

impl Default for Session {
    fn default() -> Session {
        Session { zone: datetime::UTC, now: None }
    }
}

/// Appends the text of a value, with timestamps in UTC. NULL is not written: its form is the caller's.
pub fn write(array: &dyn Array, row: usize, ty: &SqlType, out: &mut String) {
    write_in(array, row, ty, &datetime::UTC, out);
}

/// Appends the text of a value as a session in that zone sees it.
pub fn write_in(array: &dyn Array, row: usize, ty: &SqlType, zone: &Zone, out: &mut String) {
    if array.is_null(row) {
        return;
    }
    let mut digits = itoa::Buffer::new();
    match ty {
        SqlType::Boolean => out.push(if array.as_boolean().value(row) { 't' } else { 'f' }),
        SqlType::SmallInt => out.push_str(digits.format(array.as_primitive::<Int16Type>().value(row))),
        SqlType::Int => out.push_str(digits.format(array.as_primitive::<Int32Type>().value(row))),
        SqlType::BigInt | SqlType::Oid | SqlType::RegClass => {
            out.push_str(digits.format(array.as_primitive::<Int64Type>().value(row)));
        }
        SqlType::RegType => {
            let oid = array.as_primitive::<Int64Type>().value(row);
            match u32::try_from(oid).ok().and_then(super::from_oid) {
                Some(ty) => out.push_str(&super::name(&ty)),
                None if oid == 0 => out.push('-'),
                None => out.push_str(digits.format(oid)),
            }
        }
        SqlType::Real => write_real(array.as_primitive::<Float32Type>().value(row), out),
        SqlType::Double => write_double(array.as_primitive::<Float64Type>().value(row), out),
        SqlType::Numeric => {
            write!(out, "{}", Numeric::from_bytes(array.as_fixed_size_binary().value(row))).expect("to a string");
        }
        SqlType::Text
        | SqlType::Varchar
        | SqlType::Char
        | SqlType::Name
        | SqlType::Jsonb
        | SqlType::QuotedChar
        | SqlType::Void
        | SqlType::Unknown => out.push_str(array.as_string_view().value(row)),
        SqlType::Bytea => write_bytea(array.as_binary_view().value(row), out),
        SqlType::Date => datetime::write_date(array.as_primitive::<Date32Type>().value(row), out),
        SqlType::Time => datetime::write_time(array.as_primitive::<Time64MicrosecondType>().value(row), out),
        SqlType::Timestamp => {
            datetime::write_timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row), out);
        }
        SqlType::TimestampTz => {
            datetime::write_timestamptz(array.as_primitive::<TimestampMicrosecondType>().value(row), zone, out);
        }
        SqlType::Interval => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            datetime::write_interval(value.into(), out);
        }
        SqlType::Uuid => write_uuid(array.as_fixed_size_binary().value(row), out),
        SqlType::Array(item) => write_array(&array.as_list::<i32>().value(row), item, zone, out),
    }
}

/// The text of one value; `None` for NULL.
pub fn to_text(value: &ScalarValue, ty: &SqlType, zone: &Zone) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let array = value.to_array().ok()?;
    let mut out = String::new();
    write_in(&array, 0, ty, zone, &mut out);
    Some(out)
}

fn write_array(items: &ArrayRef, ty: &SqlType, zone: &Zone, out: &mut String) {
    out.push('{');
    let mut text = String::new();
    for i in 0..items.len() {
        if i > 0 {
            out.push(',');
        }
        if items.is_null(i) {
            out.push_str("NULL");
            continue;
        }
        if matches!(ty, SqlType::Array(_)) {
            write_in(items, i, ty, zone, out);
            continue;
        }
        text.clear();
        write_in(items, i, ty, zone, &mut text);
        let special = |b: u8| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 11 | 12);
        if text.is_empty() || text.eq_ignore_ascii_case("null") || text.bytes().any(special) {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        } else {
            out.push_str(&text);
        }
    }
    out.push('}');
}

/// Appends a double: its shortest digits, an exponent from 1e15 on and below 1e-4.
pub fn write_double(value: f64, out: &mut String) {
    if value.is_finite() { push_float(&format!("{value:e}"), 15, out) } else { push_special(value, out) }
}

/// Appends a real: its shortest digits, an exponent from 1e6 on and below 1e-4.
pub fn write_real(value: f32, out: &mut String) {
    if value.is_finite() { push_float(&format!("{value:e}"), 6, out) } else { push_special(value as f64, out) }
}

fn push_special(value: f64, out: &mut String) {
    out.push_str(match value {
        _ if value.is_nan() => "NaN",
        _ if value > 0.0 => "Infinity",
        _ => "-Infinity",
    });
}

/// From Rust's shortest form `d.ddde<n>`.
fn push_float(shortest: &str, fixed_max: i32, out: &mut String) {
    let (mantissa, exponent) = shortest.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    let mantissa = match mantissa.strip_prefix('-') {
        Some(rest) => {
            out.push('-');
            rest
        }
        None => mantissa,
    };
    if !(-4..fixed_max).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{mantissa}e{sign}{:02}", exponent.abs()).expect("to a string");
        return;
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        out.push_str(&digits);
        return;
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', whole - digits.len()));
    } else {
        out.push_str(&digits[..whole]);
        out.push('.');
        out.push_str(&digits[whole..]);
    }
}

/// Appends `\x` and the bytes in hex.
pub fn write_bytea(bytes: &[u8], out: &mut String) {
    out.push_str("\\x");
    push_hex(bytes, out);
}

/// Appends bytes in hex.
pub fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[(byte >> 4) as usize] as char);
        out.push(DIGITS[(byte & 15) as usize] as char);
    }
}

fn write_uuid(bytes: &[u8], out: &mut String) {
    for (i, part) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
        if i > 0 {
            out.push('-');
        }
        push_hex(&bytes[part], out);
    }
}

/// Reads the text of a value, with timestamps in UTC; errors are those of Postgres' input functions.
pub fn read(text: &str, ty: &SqlType, typmod: i32) -> Result<ScalarValue, EvalError> {
    read_in(text, ty, typmod, &Session::default())
}

/// Reads the text of a value as a session does.
pub fn read_in(text: &str, ty: &SqlType, typmod: i32, session: &Session) -> Result<ScalarValue, EvalError> {
    Ok(match ty {
        SqlType::Boolean => ScalarValue::Boolean(Some(read_boolean(text)?)),
        SqlType::SmallInt => ScalarValue::Int16(Some(read_integer(text, "smallint")?)),
        SqlType::Int => ScalarValue::Int32(Some(read_integer(text, "integer")?)),
        SqlType::BigInt => ScalarValue::Int64(Some(read_integer(text, "bigint")?)),
        SqlType::Oid => ScalarValue::Int64(Some(read_oid(text)?)),
        SqlType::RegClass => match text.trim() {
            "-" => ScalarValue::Int64(Some(0)),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                ScalarValue::Int64(Some(read_oid(digits)?))
            }
            _ => return Err(error("0A000", "names of relations are not looked up here: write the OID")),
        },
        SqlType::RegType => match text.trim() {
            "-" => ScalarValue::Int64(Some(0)),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                ScalarValue::Int64(Some(read_oid(digits)?))
            }
            name => ScalarValue::Int64(Some(super::oid(&super::parse(name)?.0) as i64)),
        },
        SqlType::Real => ScalarValue::Float32(Some(read_real(text)?)),
        SqlType::Double => ScalarValue::Float64(Some(read_double(text)?)),
        SqlType::Numeric => {
            let number = read_numeric(text)?.apply_typmod(typmod).map_err(numeric_error)?;
            ScalarValue::FixedSizeBinary(storage::numeric::BYTES as i32, Some(number.to_bytes().to_vec()))
        }
        SqlType::Text | SqlType::Unknown => ScalarValue::Utf8View(Some(text.to_string())),
        SqlType::Void => ScalarValue::Utf8View(Some(String::new())),
        SqlType::Varchar | SqlType::Char => {
            ScalarValue::Utf8View(Some(apply_length(text, ty, typmod, false)?.into_owned()))
        }
        SqlType::Name => ScalarValue::Utf8View(Some(truncate_name(text).to_string())),
        SqlType::QuotedChar => ScalarValue::Utf8View(Some(text.chars().next().map(String::from).unwrap_or_default())),
        SqlType::Jsonb => ScalarValue::Utf8View(Some(json::canonical(text)?)),
        SqlType::Bytea => ScalarValue::BinaryView(Some(read_bytea(text)?)),
        SqlType::Date => {
            let now = session.now.map(|now| session.zone.to_local(now));
            ScalarValue::Date32(Some(datetime::read_date(text, now)?))
        }
        SqlType::Time => ScalarValue::Time64Microsecond(Some(datetime::read_time(text, typmod)?)),
        SqlType::Timestamp => {
            let now = session.now.map(|now| session.zone.to_local(now));
            ScalarValue::TimestampMicrosecond(Some(datetime::read_timestamp(text, typmod, now)?), None)
        }
        SqlType::TimestampTz => {
            let value = datetime::read_timestamptz(text, typmod, &session.zone, session.now)?;
            ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into()))
        }
        SqlType::Interval => {
            let value = datetime::read_interval(text, typmod)?.to_arrow()?;
            ScalarValue::IntervalMonthDayNano(Some(value))
        }
        SqlType::Uuid => ScalarValue::FixedSizeBinary(16, Some(read_uuid(text)?.to_vec())),
        SqlType::Array(item) => read_array(text, item, typmod, session)?,
    })
}

/// A NULL of that type.
pub fn null(ty: &SqlType) -> ScalarValue {
    ScalarValue::try_from(&ty.arrow()).expect("every type of ours has a scalar")
}

/// An error of a numeric operation as functions return it.
pub fn numeric_error(error: storage::numeric::NumericError) -> EvalError {
    EvalError { sqlstate: error.sqlstate(), message: error.to_string() }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

/// Reads a boolean: unique prefixes of true, false, yes, no, on, off; 1 and 0.
pub fn read_boolean(text: &str) -> Result<bool, EvalError> {
    let word = trim(text).to_ascii_lowercase();
    let is = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if is("true", 1) || is("yes", 1) || word == "on" || word == "1" {
        Ok(true)
    } else if is("false", 1) || is("no", 1) || is("off", 2) || word == "0" {
        Ok(false)
    } else {
        Err(error("22P02", format!("invalid input syntax for type boolean: \"{text}\"")))
    }
}

/// Reads a whole number.
pub fn read_integer<T: std::str::FromStr>(text: &str, type_name: &str) -> Result<T, EvalError> {
    let trimmed = trim(text);
    if let Ok(value) = trimmed.parse() {
        return Ok(value);
    }
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error("22P02", format!("invalid input syntax for type {type_name}: \"{text}\"")));
    }
    Err(error("22003", format!("value \"{text}\" is out of range for type {type_name}")))
}

fn read_oid(text: &str) -> Result<i64, EvalError> {
    let value: i64 = read_integer(text, "oid")?;
    // Postgres wraps negative ones, as C does.
    match value {
        0..=0xffff_ffff => Ok(value),
        -0x8000_0000..0 => Ok(value as u32 as i64),
        _ => Err(error("22003", format!("value \"{text}\" is out of range for type oid"))),
    }
}

fn read_float<T: std::str::FromStr>(text: &str, type_name: &str) -> Result<T, EvalError> {
    let trimmed = trim(text);
    trimmed.parse().map_err(|_| error("22P02", format!("invalid input syntax for type {type_name}: \"{text}\"")))
}

/// Whether a number that was read as zero or infinite was written as something else.
fn lost(text: &str, zero: bool, infinite: bool) -> bool {
    let mantissa = trim(text).split(['e', 'E']).next().unwrap_or("");
    (infinite && mantissa.bytes().any(|b| b.is_ascii_digit()))
        || (zero && mantissa.bytes().any(|b| b.is_ascii_digit() && b != b'0'))
}

/// Reads a double.
pub fn read_double(text: &str) -> Result<f64, EvalError> {
    let value: f64 = read_float(text, "double precision")?;
    if lost(text, value == 0.0, value.is_infinite()) {
        return Err(error("22003", format!("\"{}\" is out of range for type double precision", trim(text))));
    }
    Ok(value)
}

/// Reads a real.
pub fn read_real(text: &str) -> Result<f32, EvalError> {
    let value: f32 = read_float(text, "real")?;
    if lost(text, value == 0.0, value.is_infinite()) {
        return Err(error("22003", format!("\"{}\" is out of range for type real", trim(text))));
    }
    Ok(value)
}

/// Reads a numeric without modifier.
pub fn read_numeric(text: &str) -> Result<Numeric, EvalError> {
    Numeric::parse(text).map_err(numeric_error)
}

/// Reads bytes: `\x` and hex, or text with octal escapes.
pub fn read_bytea(text: &str) -> Result<Vec<u8>, EvalError> {
    if let Some(hex) = text.strip_prefix("\\x") {
        return read_hex(hex);
    }
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
        } else if bytes.get(at + 1) == Some(&b'\\') {
            out.push(b'\\');
            at += 2;
        } else {
            let octal = bytes
                .get(at + 1..at + 4)
                .filter(|d| (b'0'..=b'3').contains(&d[0]) && d[1..].iter().all(|d| (b'0'..=b'7').contains(d)));
            let octal = octal.ok_or_else(|| error("22P02", "invalid input syntax for type bytea"))?;
            out.push((octal[0] - b'0') * 64 + (octal[1] - b'0') * 8 + (octal[2] - b'0'));
            at += 4;
        }
    }
    Ok(out)
}

/// Reads bytes in hex; blanks between them are allowed.
pub fn read_hex(text: &str) -> Result<Vec<u8>, EvalError> {
    let (mut out, mut high) = (Vec::with_capacity(text.len() / 2), None);
    for c in text.chars() {
        if high.is_none() && matches!(c, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let digit = c.to_digit(16).ok_or_else(|| error("22023", format!("invalid hexadecimal digit: \"{c}\"")))? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(h) => out.push(h << 4 | digit),
        }
    }
    match high {
        None => Ok(out),
        Some(_) => Err(error("22023", "invalid hexadecimal data: odd number of digits")),
    }
}

/// Reads a uuid: hex digits in braces or not, a hyphen after any group of four.
pub fn read_uuid(text: &str) -> Result<[u8; 16], EvalError> {
    let invalid = || error("22P02", format!("invalid input syntax for type uuid: \"{text}\""));
    let body = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(invalid)?,
        None => text,
    };
    let (mut out, mut digits) = ([0u8; 16], 0);
    for c in body.chars() {
        if c == '-' && digits % 4 == 0 && digits > 0 && digits < 32 {
            continue;
        }
        let digit = c.to_digit(16).ok_or_else(invalid)? as u8;
        if digits == 32 {
            return Err(invalid());
        }
        out[digits / 2] |= if digits % 2 == 0 { digit << 4 } else { digit };
        digits += 1;
    }
    if digits == 32 { Ok(out) } else { Err(invalid()) }
}

/// A name has at most 63 bytes.
pub fn truncate_name(text: &str) -> &str {
    let mut end = text.len().min(63);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Cuts or pads to the length of `varchar(n)` and `char(n)`. What is cut must be blank unless the cast was written.
pub fn apply_length<'a>(
    text: &'a str,
    ty: &SqlType,
    typmod: i32,
    explicit: bool,
) -> Result<std::borrow::Cow<'a, str>, EvalError> {
    use std::borrow::Cow;
    if typmod < 4 {
        return Ok(Cow::Borrowed(text));
    }
    let max = (typmod - 4) as usize;
    let cut = text.char_indices().nth(max).map(|(at, _)| at);
    match cut {
        Some(at) => {
            if !explicit && text[at..].bytes().any(|b| b != b' ') {
                let name = super::format(ty, typmod);
                return Err(error("22001", format!("value too long for type {name}")));
            }
            Ok(Cow::Borrowed(&text[..at]))
        }
        None if *ty == SqlType::Char => {
            let missing = max - text.chars().count();
            if missing == 0 {
                return Ok(Cow::Borrowed(text));
            }
            Ok(Cow::Owned(text.chars().chain(std::iter::repeat_n(' ', missing)).collect()))
        }
        None => Ok(Cow::Borrowed(text)),
    }
}

fn read_array(text: &str, item: &SqlType, typmod: i32, session: &Session) -> Result<ScalarValue, EvalError> {
    let malformed = || error("22P02", format!("malformed array literal: \"{text}\""));
    let body = trim(text).strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(malformed)?;
    let mut items: Vec<ScalarValue> = Vec::new();
    let mut chars = body.chars().peekable();
    let blank = |c: &char| c.is_ascii_whitespace();
    while chars.next_if(blank).is_some() {}
    let mut expects = chars.peek().is_some();
    while expects {
        while chars.next_if(blank).is_some() {}
        let (mut value, mut quoted, mut escaped) = (String::new(), false, false);
        match chars.peek() {
            Some('"') => {
                quoted = true;
                chars.next();
                loop {
                    match chars.next().ok_or_else(malformed)? {
                        '"' => break,
                        '\\' => value.push(chars.next().ok_or_else(malformed)?),
                        c => value.push(c),
                    }
                }
            }
            Some('{') => return Err(error("0A000", "multidimensional arrays are not supported")),
            _ => {
                while let Some(c) = chars.next_if(|c| *c != ',') {
                    match c {
                        '"' | '{' | '}' => return Err(malformed()),
                        '\\' => {
                            escaped = true;
                            value.push(chars.next().ok_or_else(malformed)?);
                        }
                        c => value.push(c),
                    }
                }
                value.truncate(value.trim_end().len());
                if value.is_empty() {
                    return Err(malformed());
                }
            }
        }
        if !quoted && !escaped && value.eq_ignore_ascii_case("null") {
            items.push(null(item));
        } else {
            items.push(read_in(&value, item, typmod, session)?);
        }
        while chars.next_if(blank).is_some() {}
        expects = match chars.next() {
            None => false,
            Some(',') => true,
            Some(_) => return Err(malformed()),
        };
    }
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&items, &item.arrow())))
}

/// A column of values read from texts; `None` is NULL. For formats that arrive as text.
pub fn read_column<'a>(
    texts: impl Iterator<Item = Option<&'a str>>,
    ty: &SqlType,
    typmod: i32,
    session: &Session,
) -> Result<ArrayRef, EvalError> {
    let mut values = Vec::new();
    for text in texts {
        values.push(text.map_or_else(|| Ok(null(ty)), |text| read_in(text, ty, typmod, session))?);
    }
    if values.is_empty() {
        return Ok(arrow::array::new_empty_array(&ty.arrow()));
    }
    ScalarValue::iter_to_array(values).map_err(|e| error("XX000", e.to_string()))
}

/// Arrays of the types that arrow does not build from an iterator of options.
pub fn numerics(values: impl IntoIterator<Item = Option<Numeric>>) -> ArrayRef {
    let values = values.into_iter().map(|value| value.map(|v| v.to_bytes()));
    let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, storage::numeric::BYTES as i32);
    Arc::new(array.expect("all have 19 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(ty: &str, text: &str) -> String {
        let (ty, typmod) = super::super::parse(ty).unwrap();
        match read(text, &ty, typmod) {
            Ok(value) => to_text(&value, &ty, &datetime::UTC).unwrap(),
            Err(error) => format!("{}: {}", error.sqlstate, error.message),
        }
    }

    /// The expected column is what PostgreSQL 15 answers to `SELECT '<text>'::<type>`.
    #[test]
    fn reads_and_writes_as_postgres() {
        let mut wrong = Vec::new();
        for line in include_str!("text_golden.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let [ty, text, expected] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let answer = round_trip(ty, text);
            if answer != expected {
                wrong.push(format!("{line}: {answer}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn shows_timestamps_in_the_session_zone() {
        let zone = Zone::parse("America/New_York").unwrap();
        let session = Session { zone, now: None };
        for (text, expected) in [
            ("2026-07-01 12:00:00", "2026-07-01 12:00:00-04"),
            ("2026-01-01 12:00:00+00", "2026-01-01 07:00:00-05"),
            // Skipped and repeated hours.
            ("2026-03-08 02:30:00", "2026-03-08 03:30:00-04"),
            ("2026-11-01 01:30:00", "2026-11-01 01:30:00-05"),
            ("infinity", "infinity"),
        ] {
            let value = read_in(text, &SqlType::TimestampTz, -1, &session).unwrap();
            assert_eq!(to_text(&value, &SqlType::TimestampTz, &zone).unwrap(), expected, "{text}");
        }
    }
}
