//! Keys as bytes that sort as the values do, so that a range of keys is a range of the store.
//!
//! ```text
//! key     := column*
//! column  := 00                   NULL, sorted first
//!          | 01 value             not NULL
//!          | 02                   NULL, sorted last
//! value   := (ascending; for a descending column every byte is complemented)
//!            boolean              1 byte, 0 or 1
//!          | integer, date, time, big endian with the sign bit flipped
//!            decimal
//!          | float                big endian; the sign bit flipped if it was clear, else all bits: NaN is above all
//!          | numeric, uuid        its 19 or 16 bytes, which sort as the values do
//!          | interval             total nanoseconds i128, then months i32, days i32, each like an integer
//!          | text, bytea          bytes with 00 written as 00 FF, then 00 00
//!          | list                 item*, each written like an ascending column, then 00
//! ```
//!
//! No key is the beginning of another one with the same columns, so keys may be followed by other bytes, and the bytes
//! of the first columns are the prefix of every key that begins with them. Everything but NaN (which has one form
//! here) comes back as it was.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, ListArray, NullArray, NullBufferBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::row::Keys;
use crate::row::{fixed_binary, fixed_width, for_each_valid, primitive, some_nulls, unsupported, variable};

/// How a column of a key is sorted. The default is SQL's: ascending, NULLs last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SortOption {
    /// From high to low.
    pub descending: bool,
    /// NULLs before all values, whatever the direction.
    pub nulls_first: bool,
}

impl SortOption {
    fn null(self) -> u8 {
        if self.nulls_first { NULL_FIRST } else { NULL_LAST }
    }
    fn flip(self) -> u8 {
        if self.descending { 0xff } else { 0 }
    }
}

const NULL_FIRST: u8 = 0;
const VALUE: u8 = 1;
const NULL_LAST: u8 = 2;
const END_OF_LIST: u8 = 0;

/// The key of each row of `columns`. Columns without an option of their own are sorted by the default.
///
/// # Errors
/// `Unsupported` for a type that no SQL type has.
pub fn encode(columns: &[ArrayRef], options: &[SortOption]) -> Result<Keys> {
    encode_rows(columns, options, columns.first().map_or(0, |c| c.len()))
}

/// Like [`encode`], for callers that may have rows without columns.
pub fn encode_rows(columns: &[ArrayRef], options: &[SortOption], num_rows: usize) -> Result<Keys> {
    if let ([column], false) = (columns, options.first().is_some_and(|o| o.descending)) {
        // Most keys are one integer that is not NULL.
        if column.null_count() == 0 {
            match column.data_type() {
                DataType::Int64 => return Ok(encode_integers(column.as_primitive::<Int64Type>().values(), order_i64)),
                DataType::Int32 => return Ok(encode_integers(column.as_primitive::<Int32Type>().values(), order_i32)),
                _ => {}
            }
        }
    }
    let option = |i: usize| options.get(i).copied().unwrap_or_default();
    let mut lengths = vec![0usize; num_rows];
    let mut fixed = 0;
    let lists = columns.iter().map(|c| measure(c, &mut fixed, &mut lengths)).collect::<Result<Vec<_>>>()?;
    let mut keys = Keys::with_lengths(fixed, &lengths);
    let mut at: Vec<usize> = keys.offsets[..num_rows].to_vec();
    for (i, column) in columns.iter().enumerate() {
        write(column, lists[i].as_ref(), option(i), &mut keys.data, &mut at);
    }
    debug_assert!(at.iter().zip(&keys.offsets[1..]).all(|(a, o)| a == o));
    Ok(keys)
}

/// The columns of keys that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` if the bytes are not those of keys of these types.
pub fn decode<'a>(
    types: &[DataType],
    options: &[SortOption],
    rows: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<ArrayRef>> {
    let mut at: Vec<&[u8]> = rows.collect();
    let columns = decode_prefix(types, options, &mut at)?;
    if at.iter().any(|rest| !rest.is_empty()) {
        return Err(corrupt());
    }
    Ok(columns)
}

/// Like [`decode`], of keys that are followed by other bytes; `rows` is left at those.
pub fn decode_prefix(types: &[DataType], options: &[SortOption], rows: &mut [&[u8]]) -> Result<Vec<ArrayRef>> {
    types.iter().enumerate().map(|(i, ty)| read(ty, options.get(i).copied().unwrap_or_default(), rows)).collect()
}

/// The length of the first columns' part of `key`, if it has one.
pub fn prefix_len(types: &[DataType], options: &[SortOption], key: &[u8]) -> Result<usize> {
    let mut rest = key;
    for (i, ty) in types.iter().enumerate() {
        let option = options.get(i).copied().unwrap_or_default();
        if marker(&mut rest, 0)? {
            let len = value_len(ty, option.flip(), rest)?;
            rest = &rest[len..];
        }
    }
    Ok(key.len() - rest.len())
}

/// The smallest bytes that are greater than everything that begins with `prefix`; `None` if there are none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn corrupt() -> Error {
    Error::Corrupt("a stored key does not have the columns of its table".into())
}

fn order_i64(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

fn order_i32(value: i32) -> [u8; 4] {
    (value ^ i32::MIN).to_be_bytes()
}

fn order_f64(value: f64) -> [u8; 8] {
    let bits = if value.is_nan() { f64::NAN.to_bits() & (u64::MAX >> 1) } else { value.to_bits() };
    (if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }).to_be_bytes()
}

fn unorder_f64(bytes: [u8; 8]) -> f64 {
    let bits = u64::from_be_bytes(bytes);
    f64::from_bits(if bits >> 63 == 1 { bits & (u64::MAX >> 1) } else { !bits })
}

fn order_f32(value: f32) -> [u8; 4] {
    let bits = if value.is_nan() { f32::NAN.to_bits() & (u32::MAX >> 1) } else { value.to_bits() };
    (if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }).to_be_bytes()
}

fn unorder_f32(bytes: [u8; 4]) -> f32 {
    let bits = u32::from_be_bytes(bytes);
    f32::from_bits(if bits >> 31 == 1 { bits & (u32::MAX >> 1) } else { !bits })
}

const NANOS_PER_DAY: i128 = 86_400_000_000_000;

fn interval_nanos(months: i32, days: i32) -> i128 {
    (i128::from(months) * 30 + i128::from(days)) * NANOS_PER_DAY
}

fn order_interval(v: IntervalMonthDayNano) -> [u8; 24] {
    let total = interval_nanos(v.months, v.days) + i128::from(v.nanoseconds);
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&(total ^ i128::MIN).to_be_bytes());
    bytes[16..20].copy_from_slice(&order_i32(v.months));
    bytes[20..].copy_from_slice(&order_i32(v.days));
    bytes
}

fn unorder_interval(bytes: [u8; 24]) -> Result<IntervalMonthDayNano> {
    let int = |b: &[u8]| i32::from_be_bytes(b.try_into().expect("4 bytes")) ^ i32::MIN;
    let (months, days) = (int(&bytes[16..20]), int(&bytes[20..]));
    let total = i128::from_be_bytes(bytes[..16].try_into().expect("16 bytes")) ^ i128::MIN;
    let nanoseconds = total
        .checked_sub(interval_nanos(months, days))
        .and_then(|nanos| i64::try_from(nanos).ok())
        .ok_or_else(corrupt)?;
    Ok(IntervalMonthDayNano { months, days, nanoseconds })
}

fn encode_integers<T: Copy, const WIDTH: usize>(values: &[T], order: impl Fn(T) -> [u8; WIDTH]) -> Keys {
    let mut data = Vec::with_capacity(values.len() * (WIDTH + 1));
    for value in values {
        data.push(VALUE);
        data.extend_from_slice(&order(*value));
    }
    Keys { data, offsets: (0..=values.len()).map(|i| i * (WIDTH + 1)).collect() }
}

/// The width of a value in a key, for types whose values are all of one size.
fn key_width(ty: &DataType) -> Option<usize> {
    match ty {
        DataType::Interval(IntervalUnit::MonthDayNano) => Some(24),
        _ => fixed_width(ty),
    }
}

/// Adds the length of each value and its marker; a list's items are encoded on the way.
fn measure(array: &ArrayRef, fixed: &mut usize, lengths: &mut [usize]) -> Result<Option<Keys>> {
    *fixed += 1;
    if let Some(width) = key_width(array.data_type()) {
        match array.data_type() {
            DataType::Null => {}
            _ if array.null_count() == 0 => *fixed += width,
            _ => for_each_valid(array, |i| lengths[i] += width),
        }
        return Ok(None);
    }
    macro_rules! variable {
        ($values:expr) => {{
            let values = $values;
            for_each_valid(array, |i| {
                let bytes: &[u8] = values.value(i).as_ref();
                lengths[i] += bytes.len() + memchr::memchr_iter(0, bytes).count() + 2;
            })
        }};
    }
    match array.data_type() {
        DataType::Utf8View => variable!(array.as_string_view()),
        DataType::BinaryView => variable!(array.as_binary_view()),
        DataType::Utf8 => variable!(array.as_string::<i32>()),
        DataType::Binary => variable!(array.as_binary::<i32>()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let items = encode(std::slice::from_ref(list.values()), &[])?;
            let offsets = list.value_offsets();
            for_each_valid(array, |i| {
                lengths[i] += items.offsets[offsets[i + 1] as usize] - items.offsets[offsets[i] as usize] + 1;
            });
            return Ok(Some(items));
        }
        other => return Err(unsupported(other)),
    }
    Ok(None)
}

fn write(array: &ArrayRef, items: Option<&Keys>, option: SortOption, data: &mut [u8], at: &mut [usize]) {
    let (null, flip) = (option.null(), option.flip());
    if let Some(nulls) = array.logical_nulls().filter(|n| n.null_count() > 0) {
        for (i, at) in at.iter_mut().enumerate() {
            data[*at] = if nulls.is_valid(i) { VALUE } else { null };
            *at += 1;
        }
    } else {
        for at in at.iter_mut() {
            data[*at] = VALUE;
            *at += 1;
        }
    }
    macro_rules! fixed {
        ($values:expr, $order:expr) => {{
            let values = $values;
            for_each_valid(array, |i| {
                let mut bytes = $order(values[i]);
                bytes.iter_mut().for_each(|b| *b ^= flip);
                data[at[i]..at[i] + bytes.len()].copy_from_slice(&bytes);
                at[i] += bytes.len();
            })
        }};
    }
    macro_rules! primitive {
        ($ty:ty, $order:expr) => {
            fixed!(array.as_primitive::<$ty>().values(), $order)
        };
    }
    macro_rules! variable {
        ($values:expr) => {{
            let values = $values;
            for_each_valid(array, |i| {
                let start = at[i];
                write_bytes(values.value(i).as_ref(), data, &mut at[i]);
                if flip != 0 {
                    data[start..at[i]].iter_mut().for_each(|b| *b ^= flip);
                }
            })
        }};
    }
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            let values = array.as_boolean();
            for_each_valid(array, |i| {
                data[at[i]] = u8::from(values.value(i)) ^ flip;
                at[i] += 1;
            });
        }
        DataType::Int8 => primitive!(Int8Type, |v: i8| (v ^ i8::MIN).to_be_bytes()),
        DataType::Int16 => primitive!(Int16Type, |v: i16| (v ^ i16::MIN).to_be_bytes()),
        DataType::Int32 => primitive!(Int32Type, order_i32),
        DataType::Int64 => primitive!(Int64Type, order_i64),
        DataType::UInt8 => primitive!(UInt8Type, u8::to_be_bytes),
        DataType::UInt16 => primitive!(UInt16Type, u16::to_be_bytes),
        DataType::UInt32 => primitive!(UInt32Type, u32::to_be_bytes),
        DataType::UInt64 => primitive!(UInt64Type, u64::to_be_bytes),
        DataType::Float32 => primitive!(Float32Type, order_f32),
        DataType::Float64 => primitive!(Float64Type, order_f64),
        DataType::Date32 => primitive!(Date32Type, order_i32),
        DataType::Time64(_) => primitive!(Time64MicrosecondType, order_i64),
        DataType::Timestamp(..) => primitive!(TimestampMicrosecondType, order_i64),
        DataType::Decimal128(..) => primitive!(Decimal128Type, |v: i128| (v ^ i128::MIN).to_be_bytes()),
        DataType::Interval(_) => primitive!(IntervalMonthDayNanoType, order_interval),
        DataType::FixedSizeBinary(n) => {
            let (values, n) = (array.as_fixed_size_binary(), *n as usize);
            for_each_valid(array, |i| {
                for (to, from) in data[at[i]..at[i] + n].iter_mut().zip(values.value(i)) {
                    *to = from ^ flip;
                }
                at[i] += n;
            });
        }
        DataType::Utf8View => variable!(array.as_string_view()),
        DataType::BinaryView => variable!(array.as_binary_view()),
        DataType::Utf8 => variable!(array.as_string::<i32>()),
        DataType::Binary => variable!(array.as_binary::<i32>()),
        DataType::List(_) => {
            let (offsets, items) = (array.as_list::<i32>().value_offsets(), items.expect("measured before"));
            for_each_valid(array, |i| {
                let bytes = items.offsets[offsets[i] as usize]..items.offsets[offsets[i + 1] as usize];
                let bytes = &items.data[bytes];
                let to = &mut data[at[i]..=at[i] + bytes.len()];
                to[..bytes.len()].copy_from_slice(bytes);
                to[bytes.len()] = END_OF_LIST;
                to.iter_mut().for_each(|b| *b ^= flip);
                at[i] += bytes.len() + 1;
            });
        }
        other => unreachable!("measured {other} before"),
    }
}

fn write_bytes(mut bytes: &[u8], data: &mut [u8], at: &mut usize) {
    while let Some(zero) = memchr::memchr(0, bytes) {
        let len = zero + 1;
        data[*at..*at + len].copy_from_slice(&bytes[..len]);
        data[*at + len] = 0xff;
        *at += len + 1;
        bytes = &bytes[len..];
    }
    data[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len() + 2; // The terminator's two zeros are there already.
}

/// Reads the marker of a column: whether a value follows.
fn marker(bytes: &mut &[u8], flip: u8) -> Result<bool> {
    let (first, rest) = bytes.split_first().ok_or_else(corrupt)?;
    *bytes = rest;
    match first ^ flip {
        VALUE => Ok(true),
        NULL_FIRST | NULL_LAST => Ok(false),
        _ => Err(corrupt()),
    }
}

/// The length of the text or bytes that `bytes` begin with, its terminator included, and whether zeros are in it.
fn text_len(bytes: &[u8], flip: u8) -> Result<(usize, bool)> {
    let (mut from, mut escaped) = (0, false);
    loop {
        let zero = from + memchr::memchr(flip, &bytes[from..]).ok_or_else(corrupt)?;
        match bytes.get(zero + 1).map(|b| b ^ flip) {
            Some(0) => return Ok((zero + 2, escaped)),
            Some(0xff) => (from, escaped) = (zero + 2, true),
            _ => return Err(corrupt()),
        }
    }
}

/// The length of the value that `bytes` begin with.
fn value_len(ty: &DataType, flip: u8, bytes: &[u8]) -> Result<usize> {
    let len = match ty {
        _ if key_width(ty).is_some() => key_width(ty).unwrap_or_default(),
        DataType::List(field) => {
            let mut rest = bytes;
            loop {
                match rest.first().map(|b| b ^ flip) {
                    Some(END_OF_LIST) => break bytes.len() - rest.len() + 1,
                    Some(VALUE) => {
                        let len = 1 + value_len(field.data_type(), flip, &rest[1..])?;
                        rest = &rest[len..];
                    }
                    Some(NULL_LAST) => rest = &rest[1..],
                    _ => return Err(corrupt()),
                }
            }
        }
        DataType::Utf8View | DataType::BinaryView | DataType::Utf8 | DataType::Binary => text_len(bytes, flip)?.0,
        other => return Err(unsupported(other)),
    };
    if len <= bytes.len() { Ok(len) } else { Err(corrupt()) }
}

fn read(ty: &DataType, option: SortOption, at: &mut [&[u8]]) -> Result<ArrayRef> {
    read_flipped(ty, option.flip(), 0, at)
}

/// Reads a column whose values were complemented by `flip` and whose markers were by `marker_flip`.
fn read_flipped(ty: &DataType, flip: u8, marker_flip: u8, at: &mut [&[u8]]) -> Result<ArrayRef> {
    let mut nulls = NullBufferBuilder::new(at.len());
    for bytes in at.iter_mut() {
        nulls.append(marker(bytes, marker_flip)?);
    }
    let nulls = nulls.finish().unwrap_or_else(|| NullBuffer::new_valid(at.len()));
    macro_rules! number {
        ($ty:ty, $value:expr) => {
            number::<$ty, _>(ty, &nulls, flip, at, $value)?
        };
    }
    Ok(match ty {
        DataType::Null => Arc::new(NullArray::new(at.len())),
        DataType::Boolean => {
            let mut values = BooleanBufferBuilder::new(at.len());
            for value in read_fixed(&nulls, flip, at, |[b]: [u8; 1]| Ok(b != 0))? {
                values.append(value);
            }
            Arc::new(BooleanArray::new(values.finish(), some_nulls(&nulls)))
        }
        DataType::Int8 => number!(Int8Type, |b| Ok(i8::from_be_bytes(b) ^ i8::MIN)),
        DataType::Int16 => number!(Int16Type, |b| Ok(i16::from_be_bytes(b) ^ i16::MIN)),
        DataType::Int32 => number!(Int32Type, |b| Ok(i32::from_be_bytes(b) ^ i32::MIN)),
        DataType::Int64 => number!(Int64Type, |b| Ok(i64::from_be_bytes(b) ^ i64::MIN)),
        DataType::UInt8 => number!(UInt8Type, |b| Ok(u8::from_be_bytes(b))),
        DataType::UInt16 => number!(UInt16Type, |b| Ok(u16::from_be_bytes(b))),
        DataType::UInt32 => number!(UInt32Type, |b| Ok(u32::from_be_bytes(b))),
        DataType::UInt64 => number!(UInt64Type, |b| Ok(u64::from_be_bytes(b))),
        DataType::Float32 => number!(Float32Type, |b| Ok(unorder_f32(b))),
        DataType::Float64 => number!(Float64Type, |b| Ok(unorder_f64(b))),
        DataType::Date32 => number!(Date32Type, |b| Ok(i32::from_be_bytes(b) ^ i32::MIN)),
        DataType::Time64(TimeUnit::Microsecond) => {
            number!(Time64MicrosecondType, |b| Ok(i64::from_be_bytes(b) ^ i64::MIN))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            number!(TimestampMicrosecondType, |b| Ok(i64::from_be_bytes(b) ^ i64::MIN))
        }
        DataType::Decimal128(..) => number!(Decimal128Type, |b| Ok(i128::from_be_bytes(b) ^ i128::MIN)),
        DataType::Interval(IntervalUnit::MonthDayNano) => number!(IntervalMonthDayNanoType, unorder_interval),
        DataType::FixedSizeBinary(n) => {
            let n = *n as usize;
            let mut values = Vec::with_capacity(at.len() * n);
            for (i, bytes) in at.iter_mut().enumerate() {
                if nulls.is_valid(i) {
                    let (head, rest) = bytes.split_at_checked(n).ok_or_else(corrupt)?;
                    *bytes = rest;
                    values.extend(head.iter().map(|b| b ^ flip));
                } else {
                    values.resize(values.len() + n, 0);
                }
            }
            fixed_binary(n, values, &nulls)
        }
        DataType::List(field) => {
            let (mut counts, mut items) = (Vec::with_capacity(at.len()), Vec::new());
            for (i, bytes) in at.iter_mut().enumerate() {
                let before = items.len();
                while nulls.is_valid(i) {
                    let first = bytes.first().ok_or_else(corrupt)? ^ flip;
                    if first == END_OF_LIST {
                        *bytes = &bytes[1..];
                        break;
                    }
                    let value = if first == VALUE { value_len(field.data_type(), flip, &bytes[1..])? } else { 0 };
                    let (item, rest) = bytes.split_at(1 + value);
                    items.push(item);
                    *bytes = rest;
                }
                counts.push(items.len() - before);
            }
            let values = read_flipped(field.data_type(), flip, flip, &mut items)?;
            if items.iter().any(|rest| !rest.is_empty()) {
                return Err(corrupt());
            }
            Arc::new(ListArray::new(field.clone(), OffsetBuffer::from_lengths(counts), values, some_nulls(&nulls)))
        }
        DataType::Utf8View | DataType::BinaryView | DataType::Utf8 | DataType::Binary => {
            // Values without a zero, which are nearly all, are read where they stand.
            let mut unescaped: Vec<(usize, Vec<u8>)> = Vec::new();
            let mut values = Vec::with_capacity(at.len());
            for (i, bytes) in at.iter_mut().enumerate() {
                if nulls.is_null(i) {
                    values.push(None);
                    continue;
                }
                let (len, escaped) = text_len(bytes, flip)?;
                let (value, rest) = bytes.split_at(len);
                *bytes = rest;
                let value = &value[..len - 2];
                values.push(Some(value));
                if escaped || flip != 0 {
                    let mut plain = Vec::with_capacity(value.len());
                    let mut skip = false;
                    for byte in value {
                        if !std::mem::take(&mut skip) {
                            plain.push(byte ^ flip);
                            skip = byte ^ flip == 0;
                        }
                    }
                    unescaped.push((i, plain));
                }
            }
            for (i, plain) in &unescaped {
                values[*i] = Some(plain.as_slice());
            }
            variable(ty, values.len(), values.into_iter())?
        }
        other => return Err(unsupported(other)),
    })
}

fn number<T: ArrowPrimitiveType, const WIDTH: usize>(
    ty: &DataType,
    nulls: &NullBuffer,
    flip: u8,
    at: &mut [&[u8]],
    value: impl Fn([u8; WIDTH]) -> Result<T::Native>,
) -> Result<ArrayRef> {
    Ok(primitive::<T>(ty, read_fixed(nulls, flip, at, value)?, nulls))
}

fn read_fixed<const WIDTH: usize, T: Default>(
    nulls: &NullBuffer,
    flip: u8,
    at: &mut [&[u8]],
    value: impl Fn([u8; WIDTH]) -> Result<T>,
) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(at.len());
    for (i, bytes) in at.iter_mut().enumerate() {
        if nulls.is_valid(i) {
            let (head, rest) = bytes.split_first_chunk::<WIDTH>().ok_or_else(corrupt)?;
            *bytes = rest;
            values.push(value(head.map(|b| b ^ flip))?);
        } else {
            values.push(T::default());
        }
    }
    Ok(values)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::SqlType;
    use arrow::array::{
        BinaryViewArray, Decimal128Array, FixedSizeBinaryBuilder, Int64Array, PrimitiveArray, StringViewArray,
    };
    use proptest::prelude::*;
    use std::cmp::Ordering;

    /// Every type that a column may have.
    fn data_type() -> impl Strategy<Value = DataType> {
        use SqlType::*;
        let scalar = prop::sample::select(vec![
            Boolean,
            SmallInt,
            Int,
            BigInt,
            Real,
            Double,
            Numeric,
            Text,
            Bytea,
            Date,
            Time,
            Timestamp,
            TimestampTz,
            Interval,
            Uuid,
        ]);
        prop_oneof![
            8 => scalar.clone().prop_map(|ty| ty.arrow()),
            1 => Just(DataType::Decimal128(38, 0)),
            1 => scalar.clone().prop_map(|ty| Array(Box::new(ty)).arrow()),
            1 => scalar.prop_map(|ty| Array(Box::new(Array(Box::new(ty)))).arrow()),
        ]
    }

    pub(crate) fn types() -> impl Strategy<Value = Vec<DataType>> {
        prop::collection::vec(data_type(), 1..10)
    }

    /// A few rows of `types`.
    pub(crate) fn columns(types: Vec<DataType>) -> impl Strategy<Value = (Vec<DataType>, Vec<ArrayRef>)> {
        (1usize..12).prop_flat_map(move |rows| {
            let columns: Vec<_> = types.iter().map(|ty| column(ty.clone(), rows)).collect();
            (Just(types.clone()), columns)
        })
    }

    fn small_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0xfe, 0xff, b'a']), 0..5),
            prop::collection::vec(any::<u8>(), 0..40)
        ]
    }

    fn column(ty: DataType, rows: usize) -> BoxedStrategy<ArrayRef> {
        fn options<T: std::fmt::Debug>(
            rows: usize,
            value: impl Strategy<Value = T>,
        ) -> impl Strategy<Value = Vec<Option<T>>> {
            prop::collection::vec(prop::option::weighted(0.8, value), rows)
        }
        macro_rules! ints {
            ($arrow:ty, $native:ty) => {
                options(
                    rows,
                    prop_oneof![any::<$native>(), -2 as $native..3, Just(<$native>::MIN), Just(<$native>::MAX)],
                )
                .prop_map(move |v| {
                    Arc::new(PrimitiveArray::<$arrow>::from_iter(v).with_data_type(ty.clone())) as ArrayRef
                })
                .boxed()
            };
        }
        match ty {
            DataType::Boolean => {
                options(rows, any::<bool>()).prop_map(|v| Arc::new(BooleanArray::from(v)) as ArrayRef).boxed()
            }
            DataType::Int16 => ints!(Int16Type, i16),
            DataType::Int32 => ints!(Int32Type, i32),
            DataType::Date32 => ints!(Date32Type, i32),
            DataType::Int64 => ints!(Int64Type, i64),
            DataType::Time64(_) => ints!(Time64MicrosecondType, i64),
            DataType::Timestamp(..) => ints!(TimestampMicrosecondType, i64),
            DataType::Decimal128(..) => options(rows, prop_oneof![any::<i128>(), -2i128..3])
                .prop_map(|v| {
                    Arc::new(Decimal128Array::from(v).with_data_type(DataType::Decimal128(38, 0))) as ArrayRef
                })
                .boxed(),
            DataType::Float32 => {
                let value = prop_oneof![any::<f32>(), Just(-0.0), Just(0.0), Just(f32::INFINITY), Just(f32::NAN)];
                options(rows, value).prop_map(|v| Arc::new(PrimitiveArray::<Float32Type>::from(v)) as ArrayRef).boxed()
            }
            DataType::Float64 => {
                let value = prop_oneof![any::<f64>(), Just(-0.0), Just(0.0), Just(f64::NEG_INFINITY), Just(f64::NAN)];
                options(rows, value).prop_map(|v| Arc::new(PrimitiveArray::<Float64Type>::from(v)) as ArrayRef).boxed()
            }
            DataType::Interval(_) => {
                let value = (any::<i32>(), any::<i32>(), any::<i64>())
                    .prop_map(|(months, days, nanoseconds)| IntervalMonthDayNano { months, days, nanoseconds });
                let near = (-2i32..3, -60i32..61, -3i64..4).prop_map(|(months, days, n)| IntervalMonthDayNano {
                    months,
                    days,
                    nanoseconds: n * NANOS_PER_DAY as i64,
                });
                options(rows, prop_oneof![value, near])
                    .prop_map(|v| Arc::new(PrimitiveArray::<IntervalMonthDayNanoType>::from(v)) as ArrayRef)
                    .boxed()
            }
            DataType::FixedSizeBinary(n) => options(rows, prop::collection::vec(any::<u8>(), n as usize))
                .prop_map(move |v| {
                    let mut builder = FixedSizeBinaryBuilder::new(n);
                    for value in v {
                        match value {
                            Some(value) => builder.append_value(value).unwrap(),
                            None => builder.append_null(),
                        }
                    }
                    Arc::new(builder.finish()) as ArrayRef
                })
                .boxed(),
            DataType::Utf8View => options(rows, prop_oneof!["[\0\u{1}ab]{0,4}", ".{0,20}"])
                .prop_map(|v| Arc::new(StringViewArray::from_iter(v)) as ArrayRef)
                .boxed(),
            DataType::BinaryView => {
                options(rows, small_bytes()).prop_map(|v| Arc::new(BinaryViewArray::from_iter(v)) as ArrayRef).boxed()
            }
            DataType::List(field) => options(rows, 0usize..4)
                .prop_flat_map(move |lengths| {
                    let items = lengths.iter().flatten().sum();
                    (Just(lengths), column(field.data_type().clone(), items), Just(field.clone()))
                })
                .prop_map(|(lengths, values, field)| {
                    let nulls = NullBuffer::from_iter(lengths.iter().map(Option::is_some));
                    let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|l| l.unwrap_or(0)));
                    Arc::new(ListArray::new(field, offsets, values, some_nulls(&nulls))) as ArrayRef
                })
                .boxed(),
            other => unreachable!("{other}"),
        }
    }

    /// How SQL compares two values of a column; written without looking at the encoding.
    fn compare(array: &dyn Array, a: usize, b: usize) -> Ordering {
        match (array.is_valid(a), array.is_valid(b)) {
            (false, false) => return Ordering::Equal,
            (false, true) => return Ordering::Greater,
            (true, false) => return Ordering::Less,
            (true, true) => {}
        }
        macro_rules! by {
            ($ty:ty) => {{
                let values = array.as_primitive::<$ty>().values();
                values[a].cmp(&values[b])
            }};
        }
        match array.data_type() {
            DataType::Boolean => array.as_boolean().value(a).cmp(&array.as_boolean().value(b)),
            DataType::Int16 => by!(Int16Type),
            DataType::Int32 => by!(Int32Type),
            DataType::Int64 => by!(Int64Type),
            DataType::Date32 => by!(Date32Type),
            DataType::Time64(_) => by!(Time64MicrosecondType),
            DataType::Timestamp(..) => by!(TimestampMicrosecondType),
            DataType::Decimal128(..) => by!(Decimal128Type),
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                let canonical = |v: f32| if v.is_nan() { f32::NAN.copysign(1.0) } else { v };
                canonical(values[a]).total_cmp(&canonical(values[b]))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                let canonical = |v: f64| if v.is_nan() { f64::NAN.copysign(1.0) } else { v };
                canonical(values[a]).total_cmp(&canonical(values[b]))
            }
            DataType::Interval(_) => {
                let values = array.as_primitive::<IntervalMonthDayNanoType>().values();
                let key = |v: IntervalMonthDayNano| {
                    let days = v.months as i128 * 30 + v.days as i128;
                    (days * 86_400_000_000_000 + v.nanoseconds as i128, v.months, v.days)
                };
                key(values[a]).cmp(&key(values[b]))
            }
            DataType::FixedSizeBinary(_) => {
                array.as_fixed_size_binary().value(a).cmp(array.as_fixed_size_binary().value(b))
            }
            DataType::Utf8View => array.as_string_view().value(a).cmp(array.as_string_view().value(b)),
            DataType::BinaryView => array.as_binary_view().value(a).cmp(array.as_binary_view().value(b)),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let (offsets, items) = (list.value_offsets(), list.values());
                let (mut x, mut y) = (offsets[a] as usize, offsets[b] as usize);
                let (end_x, end_y) = (offsets[a + 1] as usize, offsets[b + 1] as usize);
                while x < end_x && y < end_y {
                    match compare(items, x, y) {
                        Ordering::Equal => (x, y) = (x + 1, y + 1),
                        other => return other,
                    }
                }
                (end_x - x).cmp(&(end_y - y))
            }
            other => unreachable!("{other}"),
        }
    }

    fn compare_rows(columns: &[ArrayRef], options: &[SortOption], a: usize, b: usize) -> Ordering {
        for (column, option) in columns.iter().zip(options) {
            let ordering = match (column.is_valid(a), column.is_valid(b)) {
                (true, true) if option.descending => compare(column, a, b).reverse(),
                (true, true) => compare(column, a, b),
                (x, y) if option.nulls_first => x.cmp(&y),
                (x, y) => y.cmp(&x),
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }

    fn options() -> impl Strategy<Value = Vec<SortOption>> {
        let option = any::<(bool, bool)>().prop_map(|(descending, nulls_first)| SortOption { descending, nulls_first });
        prop::collection::vec(option, 10)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn sorts_as_the_values_do_and_comes_back((types, columns) in types().prop_flat_map(columns), options in options()) {
            let keys = encode(&columns, &options).unwrap();
            let decoded = decode(&types, &options, keys.iter()).unwrap();
            prop_assert_eq!(encode(&decoded, &options).unwrap(), keys.clone());
            for (i, (a, b)) in decoded.iter().zip(&columns).enumerate() {
                if !format!("{:?}", types[i]).contains("Float") {
                    prop_assert_eq!(a, b);
                }
            }
            for a in 0..keys.len() {
                prop_assert_eq!(prefix_len(&types, &options, keys.get(a)).unwrap(), keys.get(a).len());
                for b in 0..keys.len() {
                    prop_assert_eq!(keys.get(a).cmp(keys.get(b)), compare_rows(&columns, &options, a, b));
                }
            }
        }

        #[test]
        fn never_panics_on_foreign_bytes(
            types in types(), options in options(),
            rows in prop::collection::vec(prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..60), 1..4)
        ) {
            let _ = decode(&types, &options, rows.iter().map(|r| r.as_slice()));
            let _ = prefix_len(&types, &options, &rows[0]);
        }

        #[test]
        fn never_panics_on_damaged_keys(
            (types, columns) in types().prop_flat_map(columns), options in options(), at: prop::sample::Index, byte: u8, cut: bool
        ) {
            let keys = encode(&columns, &options).unwrap();
            let mut key = keys.get(0).to_vec();
            let at = at.index(key.len());
            if cut { key.truncate(at) } else { key[at] = byte }
            let _ = decode(&types, &options, std::iter::once(key.as_slice()));
            let _ = prefix_len(&types, &options, &key);
        }
    }

    #[test]
    fn takes_the_short_way_to_the_same_bytes() {
        let plain: ArrayRef = Arc::new(Int64Array::from(vec![3, -1, i64::MAX]));
        let other: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), Some(-1), Some(i64::MAX), None]));
        let (short, long) = (encode(&[plain], &[]).unwrap(), encode(&[other], &[]).unwrap());
        assert_eq!(short.iter().collect::<Vec<_>>(), long.iter().take(3).collect::<Vec<_>>());
        assert_eq!(long.get(3), [NULL_LAST]);
    }

    #[test]
    fn finds_what_follows_a_prefix() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff]), None);
    }
}
