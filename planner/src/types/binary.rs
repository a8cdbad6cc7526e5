//! Postgres' binary wire format of every type, written and read.
//!
//! Big endian throughout. Dates and timestamps count from 2000-01-01; a numeric is digits of base 10,000.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::datetime::{DAY, DAYS_TO_2000, Interval};
use super::{error, json, text};

/// From 1970-01-01 to 2000-01-01.
const MICROS_TO_2000: i64 = DAYS_TO_2000 as i64 * DAY;

const NUMERIC_POSITIVE: u16 = 0x0000;
const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xc000;
const NUMERIC_INFINITY: u16 = 0xd000;
const NUMERIC_NEGATIVE_INFINITY: u16 = 0xf000;

/// Appends the bytes of a value, without their length. NULL is not written: its form is the caller's.
pub fn write(array: &dyn Array, row: usize, ty: &SqlType, out: &mut Vec<u8>) {
    if array.is_null(row) {
        return;
    }
    match ty {
        SqlType::Boolean => out.push(array.as_boolean().value(row) as u8),
        SqlType::SmallInt => out.extend(array.as_primitive::<Int16Type>().value(row).to_be_bytes()),
        SqlType::Int => out.extend(array.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        SqlType::BigInt => out.extend(array.as_primitive::<Int64Type>().value(row).to_be_bytes()),
        SqlType::Oid | SqlType::RegClass | SqlType::RegType => {
            out.extend((array.as_primitive::<Int64Type>().value(row) as u32).to_be_bytes());
        }
        SqlType::Real => out.extend(array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
        SqlType::Double => out.extend(array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
        SqlType::Numeric => write_numeric(&Numeric::from_bytes(array.as_fixed_size_binary().value(row)), out),
        SqlType::Text
        | SqlType::Varchar
        | SqlType::Char
        | SqlType::Name
        | SqlType::QuotedChar
        | SqlType::Void
        | SqlType::Unknown => out.extend(array.as_string_view().value(row).as_bytes()),
        SqlType::Jsonb => {
            // The version of the format, then the text.
            out.push(1);
            out.extend(array.as_string_view().value(row).as_bytes());
        }
        SqlType::Bytea => out.extend(array.as_binary_view().value(row)),
        SqlType::Date => {
            let days = match array.as_primitive::<Date32Type>().value(row) {
                infinite @ (i32::MAX | i32::MIN) => infinite,
                days => days - DAYS_TO_2000,
            };
            out.extend(days.to_be_bytes());
        }
        SqlType::Time => out.extend(array.as_primitive::<Time64MicrosecondType>().value(row).to_be_bytes()),
        SqlType::Timestamp | SqlType::TimestampTz => {
            let micros = match array.as_primitive::<TimestampMicrosecondType>().value(row) {
                infinite @ (i64::MAX | i64::MIN) => infinite,
                micros => micros - MICROS_TO_2000,
            };
            out.extend(micros.to_be_bytes());
        }
        SqlType::Interval => {
            let value: Interval = array.as_primitive::<IntervalMonthDayNanoType>().value(row).into();
            out.extend(value.micros.to_be_bytes());
            out.extend(value.days.to_be_bytes());
            out.extend(value.months.to_be_bytes());
        }
        SqlType::Uuid => out.extend(array.as_fixed_size_binary().value(row)),
        SqlType::Array(item) => {
            // Dimensions, whether there are NULLs, the element's OID; per dimension its size and lower bound.
            let items = array.as_list::<i32>().value(row);
            out.extend((!items.is_empty() as i32).to_be_bytes());
            out.extend(((items.null_count() > 0) as i32).to_be_bytes());
            out.extend(super::oid(item).to_be_bytes());
            if items.is_empty() {
                return;
            }
            out.extend((items.len() as i32).to_be_bytes());
            out.extend(1i32.to_be_bytes());
            for i in 0..items.len() {
                if items.is_null(i) {
                    out.extend((-1i32).to_be_bytes());
                    continue;
                }
                let at = out.len();
                out.extend([0; 4]);
                write(&items, i, item, out);
                let len = (out.len() - at - 4) as i32;
                out[at..at + 4].copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}

/// Number of digits, weight of the first, sign, display scale, digits.
fn write_numeric(number: &Numeric, out: &mut Vec<u8>) {
    let header = |out: &mut Vec<u8>, n: u16, weight: i16, sign: u16, scale: u16| {
        out.extend(n.to_be_bytes());
        out.extend(weight.to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend(scale.to_be_bytes());
    };
    if !number.is_finite() {
        let sign = match number.signum() {
            0 => NUMERIC_NAN,
            1 => NUMERIC_INFINITY,
            _ => NUMERIC_NEGATIVE_INFINITY,
        };
        return header(out, 0, 0, sign, 0);
    }
    let shown = number.abs().to_string();
    let (whole, fraction) = shown.split_once('.').unwrap_or((&shown, ""));
    // Both sides filled up to groups of four.
    let padded = format!(
        "{}{whole}{fraction}{}",
        "0".repeat((4 - whole.len() % 4) % 4),
        "0".repeat((4 - fraction.len() % 4) % 4)
    );
    let mut digits: Vec<u16> =
        padded.as_bytes().chunks(4).map(|g| g.iter().fold(0, |n, b| n * 10 + (b - b'0') as u16)).collect();
    let mut weight = whole.len().div_ceil(4) as i16 - 1;
    let leading = digits.iter().take_while(|d| **d == 0).count();
    digits.drain(..leading);
    weight -= leading as i16;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    if digits.is_empty() {
        weight = 0;
    }
    let sign = if number.is_negative() { NUMERIC_NEGATIVE } else { NUMERIC_POSITIVE };
    header(out, digits.len() as u16, weight, sign, number.scale() as u16);
    for digit in digits {
        out.extend(digit.to_be_bytes());
    }
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], EvalError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], EvalError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn end(&self) -> Result<(), EvalError> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed()) }
    }
}

fn malformed() -> EvalError {
    error("22P03", "incorrect binary data format")
}

fn utf8(bytes: &[u8]) -> Result<&str, EvalError> {
    std::str::from_utf8(bytes).map_err(|e| {
        let bad = &bytes[e.valid_up_to()..];
        let shown: Vec<String> =
            bad[..e.error_len().unwrap_or(bad.len()).min(4)].iter().map(|b| format!("0x{b:02x}")).collect();
        error("22021", format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")))
    })
}

/// Reads the bytes of a value that is not NULL.
pub fn read(bytes: &[u8], ty: &SqlType) -> Result<ScalarValue, EvalError> {
    let mut fields = Fields(bytes);
    let value = match ty {
        SqlType::Boolean => ScalarValue::Boolean(Some(fields.take::<1>()?[0] != 0)),
        SqlType::SmallInt => ScalarValue::Int16(Some(i16::from_be_bytes(fields.take()?))),
        SqlType::Int => ScalarValue::Int32(Some(i32::from_be_bytes(fields.take()?))),
        SqlType::BigInt => ScalarValue::Int64(Some(i64::from_be_bytes(fields.take()?))),
        SqlType::Oid | SqlType::RegClass | SqlType::RegType => {
            ScalarValue::Int64(Some(u32::from_be_bytes(fields.take()?) as i64))
        }
        SqlType::Real => ScalarValue::Float32(Some(f32::from_be_bytes(fields.take()?))),
        SqlType::Double => ScalarValue::Float64(Some(f64::from_be_bytes(fields.take()?))),
        SqlType::Numeric => {
            let number = read_numeric(&mut fields)?;
            ScalarValue::FixedSizeBinary(storage::numeric::BYTES as i32, Some(number.to_bytes().to_vec()))
        }
        SqlType::Void => return Ok(ScalarValue::Utf8View(Some(String::new()))),
        SqlType::Text | SqlType::Varchar | SqlType::Char | SqlType::Unknown | SqlType::QuotedChar => {
            return Ok(ScalarValue::Utf8View(Some(utf8(bytes)?.to_string())));
        }
        SqlType::Name => return Ok(ScalarValue::Utf8View(Some(text::truncate_name(utf8(bytes)?).to_string()))),
        SqlType::Jsonb => {
            let [version] = fields.take()?;
            if version != 1 {
                return Err(error("XX000", format!("unsupported jsonb version number {version}")));
            }
            return Ok(ScalarValue::Utf8View(Some(json::canonical(utf8(fields.0)?)?)));
        }
        SqlType::Bytea => return Ok(ScalarValue::BinaryView(Some(bytes.to_vec()))),
        SqlType::Date => {
            let days = i32::from_be_bytes(fields.take()?);
            let days = match days {
                i32::MAX | i32::MIN => days,
                _ => days.checked_add(DAYS_TO_2000).ok_or_else(|| error("22008", "date out of range"))?,
            };
            ScalarValue::Date32(Some(days))
        }
        SqlType::Time => {
            let micros = i64::from_be_bytes(fields.take()?);
            if !(0..=DAY).contains(&micros) {
                return Err(error("22008", "time out of range"));
            }
            ScalarValue::Time64Microsecond(Some(micros))
        }
        SqlType::Timestamp | SqlType::TimestampTz => {
            let micros = i64::from_be_bytes(fields.take()?);
            let micros = match micros {
                i64::MAX | i64::MIN => micros,
                _ => micros.checked_add(MICROS_TO_2000).ok_or_else(super::datetime::timestamp_range)?,
            };
            let zone = (*ty == SqlType::TimestampTz).then(|| "UTC".into());
            ScalarValue::TimestampMicrosecond(Some(micros), zone)
        }
        SqlType::Interval => {
            let micros = i64::from_be_bytes(fields.take()?);
            let days = i32::from_be_bytes(fields.take()?);
            let months = i32::from_be_bytes(fields.take()?);
            ScalarValue::IntervalMonthDayNano(Some(Interval { months, days, micros }.to_arrow()?))
        }
        SqlType::Uuid => ScalarValue::FixedSizeBinary(16, Some(fields.take::<16>()?.to_vec())),
        SqlType::Array(item) => {
            let dimensions = i32::from_be_bytes(fields.take()?);
            let (_nulls, _oid) = (fields.take::<4>()?, fields.take::<4>()?);
            let mut items = Vec::new();
            match dimensions {
                0 => {}
                1 => {
                    let (n, _lower) = (i32::from_be_bytes(fields.take()?), fields.take::<4>()?);
                    for _ in 0..n {
                        items.push(match i32::from_be_bytes(fields.take()?) {
                            -1 => text::null(item),
                            len => read(fields.bytes(usize::try_from(len).map_err(|_| malformed())?)?, item)?,
                        });
                    }
                }
                _ => return Err(error("0A000", "multidimensional arrays are not supported")),
            }
            ScalarValue::List(ScalarValue::new_list_nullable(&items, &item.arrow()))
        }
    };
    fields.end()?;
    Ok(value)
}

fn read_numeric(fields: &mut Fields<'_>) -> Result<Numeric, EvalError> {
    let n = u16::from_be_bytes(fields.take()?) as usize;
    let weight = i16::from_be_bytes(fields.take()?) as i32;
    let sign = u16::from_be_bytes(fields.take()?);
    let scale = (u16::from_be_bytes(fields.take()?) & 0x3fff) as i32;
    match sign {
        NUMERIC_NAN => return Ok(Numeric::NAN),
        NUMERIC_INFINITY => return Ok(Numeric::INFINITY),
        NUMERIC_NEGATIVE_INFINITY => return Ok(Numeric::NEGATIVE_INFINITY),
        NUMERIC_POSITIVE | NUMERIC_NEGATIVE => {}
        _ => return Err(error("22P03", "invalid sign in external \"numeric\" value")),
    }
    let mut digits = String::with_capacity(n * 4 + 8);
    digits.push(if sign == NUMERIC_NEGATIVE { '-' } else { '+' });
    digits.push('0');
    for _ in 0..n {
        let digit = u16::from_be_bytes(fields.take()?);
        if digit > 9999 {
            return Err(error("22P03", "invalid digit in external \"numeric\" value"));
        }
        digits.push_str(&format!("{digit:04}"));
    }
    let exponent = (weight + 1 - n as i32) * 4;
    let number = Numeric::parse(&format!("{digits}e{exponent}")).map_err(text::numeric_error)?;
    // Postgres cuts what the scale does not show.
    number.trunc(scale).map_err(text::numeric_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::datetime;

    /// Every value of the text table comes back from its bytes.
    #[test]
    fn round_trips() {
        for line in include_str!("text_golden.txt").lines().filter(|l| !l.starts_with('#')) {
            let [ty, written, _] = line.split('|').collect::<Vec<_>>()[..] else { continue };
            let (ty, typmod) = crate::types::parse(ty).unwrap();
            let Ok(value) = text::read(written, &ty, typmod) else { continue };
            let mut bytes = Vec::new();
            write(&value.to_array().unwrap(), 0, &ty, &mut bytes);
            let back = read(&bytes, &ty).unwrap();
            let shown = |value: &ScalarValue| text::to_text(value, &ty, &datetime::UTC);
            assert_eq!(shown(&back), shown(&value), "{line}");
        }
    }

    /// The bytes are those of `SELECT encode(numeric_send(...), 'hex')` and the like in PostgreSQL 15.
    #[test]
    fn writes_the_bytes_that_postgres_sends() {
        for (ty, written, hex) in [
            ("numeric", "12345.678", "0003000100000003000109291a7c".to_string()),
            ("numeric", "-0.0001", "0001ffff400000040001".to_string()),
            ("numeric", "0.00", "0000000000000002".to_string()),
            ("numeric", "NaN", "00000000c0000000".to_string()),
            ("numeric", "10000", "00010001000000000001".to_string()),
            ("date", "2000-01-02", "00000001".to_string()),
            ("timestamp", "2000-01-01 00:00:01", "00000000000f4240".to_string()),
            ("interval", "1 mon 2 days 3 us", "00000000000000030000000200000001".to_string()),
            ("int4[]", "{1,NULL}", "00000001000000010000001700000002000000010000000400000001ffffffff".to_string()),
            ("jsonb", "{}", "017b7d".to_string()),
        ] {
            let (ty, typmod) = crate::types::parse(ty).unwrap();
            let value = text::read(written, &ty, typmod).unwrap();
            let mut bytes = Vec::new();
            write(&value.to_array().unwrap(), 0, &ty, &mut bytes);
            let mut shown = String::new();
            text::push_hex(&bytes, &mut shown);
            assert_eq!(shown, hex, "{written}");
        }
    }
}
