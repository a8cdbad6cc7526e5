//! Rows as bytes, compact and not ordered: what a state table and a relation keep as values.
//!
//! ```text
//! row    := nulls value*            one value per column that is not NULL, in the order of the columns
//! nulls  := byte[ceil(columns / 8)] bit i % 8 of byte i / 8 set: column i is NULL
//! value  := boolean                 1 byte, 0 or 1
//!         | integer, float, date,   2, 4, 8 or 16 bytes, little endian
//!           time, decimal
//!         | interval                months i32, days i32, nanoseconds i64, little endian
//!         | numeric, uuid           its 19 or 16 bytes
//!         | text, bytea             length varint, bytes
//!         | list                    number of items varint, then per item: length varint, row of one column
//! varint := 7 bits per byte, lowest first, high bit set on all but the last
//! ```
//!
//! Equal rows have equal bytes, so the bytes can be compared and hashed in place of the rows.
//! Encoding and decoding go column by column: one look at the type per column, not per value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewBuilder, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray,
    ListArray, NullArray, PrimitiveArray, StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};

use crate::error::{Error, Result};

/// The bytes of each row of `columns`.
///
/// # Errors
/// `Unsupported` for a type that no SQL type has.
pub fn encode(columns: &[ArrayRef]) -> Result<Keys> {
    encode_rows(columns, columns.first().map_or(0, |c| c.len()))
}

/// Like [`encode`], for callers that may have rows without columns.
pub fn encode_rows(columns: &[ArrayRef], num_rows: usize) -> Result<Keys> {
    let null_bytes = columns.len().div_ceil(8);
    // How long each row is: what all rows have in common, and what each has of its own.
    let mut fixed = null_bytes;
    let mut lengths = vec![0usize; num_rows];
    let lists = columns.iter().map(|c| measure(c, &mut fixed, &mut lengths)).collect::<Result<Vec<_>>>()?;
    let mut keys = Keys::with_lengths(fixed, &lengths);
    // Where each row goes on writing.
    let mut at: Vec<usize> = keys.offsets[..num_rows].iter().map(|o| o + null_bytes).collect();
    for (i, column) in columns.iter().enumerate() {
        if let Some(nulls) = column.logical_nulls().filter(|n| n.null_count() > 0) {
            for row in 0..num_rows {
                if nulls.is_null(row) {
                    keys.data[keys.offsets[row] + i / 8] |= 1 << (i % 8);
                }
            }
        }
        write(column, lists[i].as_ref(), &mut keys.data, &mut at);
    }
    debug_assert!(at.iter().zip(&keys.offsets[1..]).all(|(a, o)| a == o));
    Ok(keys)
}

/// The columns of rows that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` if the bytes are not those of rows of these types.
pub fn decode<'a>(types: &[DataType], rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
    let projection: Vec<usize> = (0..types.len()).collect();
    decode_columns(types, &projection, rows)
}

/// Only the columns at `projection` (in any order), of rows of `types`.
///
/// # Errors
/// `Corrupt` if the bytes are not those of rows of these types. Values that are not asked for are not validated.
pub fn decode_columns<'a>(
    types: &[DataType],
    projection: &[usize],
    rows: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<ArrayRef>> {
    let null_bytes = types.len().div_ceil(8);
    let rows: Vec<&[u8]> = rows.collect();
    if rows.iter().any(|r| r.len() < null_bytes) {
        return Err(corrupt());
    }
    let mut at: Vec<&[u8]> = rows.iter().map(|r| &r[null_bytes..]).collect();
    let mut arrays: Vec<Option<ArrayRef>> = vec![None; types.len()];
    let last = projection.iter().max().map_or(0, |l| l + 1);
    for (i, ty) in types.iter().enumerate().take(last) {
        let (byte, bit) = (i / 8, 1u8 << (i % 8));
        let nulls = NullBuffer::from_iter(rows.iter().map(|r| r[byte] & bit == 0));
        if projection.contains(&i) {
            arrays[i] = Some(read(ty, &nulls, &mut at)?);
        } else {
            skip(ty, &nulls, &mut at)?;
        }
    }
    if last == types.len() && at.iter().any(|rest| !rest.is_empty()) {
        return Err(corrupt());
    }
    Ok(projection.iter().map(|i| arrays[*i].clone().expect("every projected column was read")).collect())
}

fn corrupt() -> Error {
    Error::Corrupt("a stored row does not have the columns of its table".into())
}

/// Encoded keys (or rows) in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub(crate) data: Vec<u8>,
    /// Where each begins, and where the last ends.
    pub(crate) offsets: Vec<usize>,
}

impl Keys {
    /// Room for rows of `fixed` bytes and `lengths` more.
    pub(crate) fn with_lengths(fixed: usize, lengths: &[usize]) -> Keys {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0;
        offsets.push(0);
        offsets.extend(lengths.iter().map(|len| {
            end += fixed + len;
            end
        }));
        Keys { data: vec![0; end], offsets }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    #[inline]
    pub fn get(&self, i: usize) -> &[u8] {
        &self.data[self.offsets[i]..self.offsets[i + 1]]
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.offsets.windows(2).map(|w| &self.data[w[0]..w[1]])
    }
}

pub(crate) fn unsupported(ty: &DataType) -> Error {
    Error::Unsupported(format!("values of the type {ty} cannot be stored"))
}

/// Calls `f` for each row that is not NULL.
pub(crate) fn for_each_valid(array: &dyn Array, mut f: impl FnMut(usize)) {
    match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 => nulls.valid_indices().for_each(f),
        _ => (0..array.len()).for_each(&mut f),
    }
}

fn varint_len(value: usize) -> usize {
    // 7 bits per byte, at least one byte.
    ((usize::BITS - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

fn write_varint(data: &mut [u8], at: &mut usize, mut value: usize) {
    while value >= 0x80 {
        data[*at] = value as u8 | 0x80;
        *at += 1;
        value >>= 7;
    }
    data[*at] = value as u8;
    *at += 1;
}

fn read_varint(bytes: &mut &[u8]) -> Result<usize> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(corrupt)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
    Err(corrupt())
}

fn split<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len).ok_or_else(corrupt)?;
    *bytes = rest;
    Ok(head)
}

/// Bytes of a value of a type whose values are all of one size.
pub(crate) fn fixed_width(ty: &DataType) -> Option<usize> {
    Some(match ty {
        DataType::Null => 0,
        DataType::Boolean | DataType::Int8 | DataType::UInt8 => 1,
        DataType::Int16 | DataType::UInt16 => 2,
        DataType::Int32 | DataType::UInt32 | DataType::Float32 | DataType::Date32 => 4,
        DataType::Int64
        | DataType::UInt64
        | DataType::Float64
        | DataType::Time64(TimeUnit::Microsecond)
        | DataType::Timestamp(TimeUnit::Microsecond, _) => 8,
        DataType::Decimal128(..) | DataType::Interval(IntervalUnit::MonthDayNano) => 16,
        DataType::FixedSizeBinary(n) => *n as usize,
        _ => return None,
    })
}

/// Adds the length of each value; a list's items are encoded on the way.
fn measure(array: &ArrayRef, fixed: &mut usize, lengths: &mut [usize]) -> Result<Option<Keys>> {
    let ty = array.data_type();
    if let Some(width) = fixed_width(ty) {
        if array.null_count() == 0 {
            *fixed += if matches!(ty, DataType::Null) { 0 } else { width };
        } else {
            for_each_valid(array, |i| lengths[i] += width);
        }
        return Ok(None);
    }
    let mut var = |len: &dyn Fn(usize) -> usize| {
        for_each_valid(array, |i| {
            let n = len(i);
            lengths[i] += varint_len(n) + n;
        });
    };
    match ty {
        DataType::Utf8View => {
            let views = array.as_string_view().views();
            var(&|i| views[i] as u32 as usize);
        }
        DataType::BinaryView => {
            let views = array.as_binary_view().views();
            var(&|i| views[i] as u32 as usize);
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            var(&|i| values.value_length(i) as usize);
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            var(&|i| values.value_length(i) as usize);
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let items = encode(std::slice::from_ref(list.values()))?;
            let offsets = list.value_offsets();
            for_each_valid(array, |i| {
                let range = offsets[i] as usize..offsets[i + 1] as usize;
                lengths[i] += varint_len(range.len());
                lengths[i] +=
                    range.map(|item| varint_len(items.get(item).len()) + items.get(item).len()).sum::<usize>();
            });
            return Ok(Some(items));
        }
        other => return Err(unsupported(other)),
    }
    Ok(None)
}

fn write(array: &ArrayRef, items: Option<&Keys>, data: &mut [u8], at: &mut [usize]) {
    macro_rules! primitive {
        ($ty:ty) => {{
            let values = array.as_primitive::<$ty>().values();
            for_each_valid(array, |i| {
                let bytes = values[i].to_le_bytes();
                data[at[i]..at[i] + bytes.len()].copy_from_slice(&bytes);
                at[i] += bytes.len();
            })
        }};
    }
    macro_rules! variable {
        ($values:expr) => {{
            let values = $values;
            for_each_valid(array, |i| {
                let bytes: &[u8] = values.value(i).as_ref();
                write_varint(data, &mut at[i], bytes.len());
                data[at[i]..at[i] + bytes.len()].copy_from_slice(bytes);
                at[i] += bytes.len();
            })
        }};
    }
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            let values = array.as_boolean();
            for_each_valid(array, |i| {
                data[at[i]] = values.value(i).into();
                at[i] += 1;
            });
        }
        DataType::Int8 => primitive!(Int8Type),
        DataType::Int16 => primitive!(Int16Type),
        DataType::Int32 => primitive!(Int32Type),
        DataType::Int64 => primitive!(Int64Type),
        DataType::UInt8 => primitive!(UInt8Type),
        DataType::UInt16 => primitive!(UInt16Type),
        DataType::UInt32 => primitive!(UInt32Type),
        DataType::UInt64 => primitive!(UInt64Type),
        DataType::Float32 => primitive!(Float32Type),
        DataType::Float64 => primitive!(Float64Type),
        DataType::Date32 => primitive!(Date32Type),
        DataType::Time64(_) => primitive!(Time64MicrosecondType),
        DataType::Timestamp(..) => primitive!(TimestampMicrosecondType),
        DataType::Decimal128(..) => primitive!(Decimal128Type),
        DataType::Interval(_) => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>().values();
            for_each_valid(array, |i| {
                let (v, to) = (values[i], &mut data[at[i]..at[i] + 16]);
                to[..4].copy_from_slice(&v.months.to_le_bytes());
                to[4..8].copy_from_slice(&v.days.to_le_bytes());
                to[8..].copy_from_slice(&v.nanoseconds.to_le_bytes());
                at[i] += 16;
            });
        }
        DataType::FixedSizeBinary(n) => {
            let (values, n) = (array.as_fixed_size_binary(), *n as usize);
            for_each_valid(array, |i| {
                data[at[i]..at[i] + n].copy_from_slice(values.value(i));
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
                let range = offsets[i] as usize..offsets[i + 1] as usize;
                write_varint(data, &mut at[i], range.len());
                for item in range {
                    let bytes = items.get(item);
                    write_varint(data, &mut at[i], bytes.len());
                    data[at[i]..at[i] + bytes.len()].copy_from_slice(bytes);
                    at[i] += bytes.len();
                }
            });
        }
        other => unreachable!("measured {other} before"),
    }
}

/// Reads one value of `WIDTH` bytes per row that is not NULL.
fn read_fixed<const WIDTH: usize, T: Default>(
    nulls: &NullBuffer,
    at: &mut [&[u8]],
    value: impl Fn([u8; WIDTH]) -> T,
) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(at.len());
    for (i, bytes) in at.iter_mut().enumerate() {
        if nulls.is_valid(i) {
            let (head, rest) = bytes.split_first_chunk::<WIDTH>().ok_or_else(corrupt)?;
            *bytes = rest;
            values.push(value(*head));
        } else {
            values.push(T::default());
        }
    }
    Ok(values)
}

pub(crate) fn primitive<T: ArrowPrimitiveType>(ty: &DataType, values: Vec<T::Native>, nulls: &NullBuffer) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), some_nulls(nulls)).with_data_type(ty.clone()))
}

pub(crate) fn some_nulls(nulls: &NullBuffer) -> Option<NullBuffer> {
    (nulls.null_count() > 0).then(|| nulls.clone())
}

/// An array of text or bytes of the asked type; text is validated.
pub(crate) fn variable<'a>(
    ty: &DataType,
    len: usize,
    values: impl Iterator<Item = Option<&'a [u8]>>,
) -> Result<ArrayRef> {
    let text = |_| Error::Corrupt("a stored text is not valid UTF-8".into());
    Ok(match ty {
        DataType::Utf8View | DataType::BinaryView => {
            let mut builder = BinaryViewBuilder::with_capacity(len);
            values.for_each(|v| builder.append_option(v));
            let array = builder.finish();
            if *ty == DataType::Utf8View { Arc::new(array.to_string_view().map_err(text)?) } else { Arc::new(array) }
        }
        DataType::Utf8 => {
            let array: BinaryArray = values.collect();
            Arc::new(StringArray::try_from_binary(array).map_err(text)?)
        }
        DataType::Binary => Arc::new(values.collect::<BinaryArray>()),
        other => return Err(unsupported(other)),
    })
}

fn read(ty: &DataType, nulls: &NullBuffer, at: &mut [&[u8]]) -> Result<ArrayRef> {
    macro_rules! number {
        ($ty:ty) => {
            primitive::<$ty>(
                ty,
                read_fixed(nulls, at, <<$ty as arrow::datatypes::ArrowPrimitiveType>::Native>::from_le_bytes)?,
                nulls,
            )
        };
    }
    Ok(match ty {
        DataType::Null => Arc::new(NullArray::new(at.len())),
        DataType::Boolean => {
            let mut values = BooleanBufferBuilder::new(at.len());
            for byte in read_fixed(nulls, at, |[b]: [u8; 1]| b)? {
                values.append(byte != 0);
            }
            Arc::new(BooleanArray::new(values.finish(), some_nulls(nulls)))
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Date32 => number!(Date32Type),
        DataType::Time64(TimeUnit::Microsecond) => number!(Time64MicrosecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => number!(TimestampMicrosecondType),
        DataType::Decimal128(..) => number!(Decimal128Type),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = read_fixed(nulls, at, |b: [u8; 16]| IntervalMonthDayNano {
                months: i32::from_le_bytes(b[..4].try_into().expect("4 bytes")),
                days: i32::from_le_bytes(b[4..8].try_into().expect("4 bytes")),
                nanoseconds: i64::from_le_bytes(b[8..].try_into().expect("8 bytes")),
            })?;
            primitive::<IntervalMonthDayNanoType>(ty, values, nulls)
        }
        DataType::FixedSizeBinary(n) => {
            let n = *n as usize;
            let mut values = Vec::with_capacity(at.len() * n);
            for (i, bytes) in at.iter_mut().enumerate() {
                if nulls.is_valid(i) {
                    values.extend_from_slice(split(bytes, n)?);
                } else {
                    values.resize(values.len() + n, 0);
                }
            }
            fixed_binary(n, values, nulls)
        }
        DataType::List(field) => {
            let (mut counts, mut items) = (Vec::with_capacity(at.len()), Vec::new());
            for (i, bytes) in at.iter_mut().enumerate() {
                let count = if nulls.is_valid(i) { read_varint(bytes)? } else { 0 };
                for _ in 0..count {
                    let len = read_varint(bytes)?;
                    items.push(split(bytes, len)?);
                }
                counts.push(count);
            }
            let values = decode(std::slice::from_ref(field.data_type()), items.into_iter())?.remove(0);
            let offsets = OffsetBuffer::from_lengths(counts);
            Arc::new(ListArray::new(field.clone(), offsets, values, some_nulls(nulls)))
        }
        other => {
            let mut values = Vec::with_capacity(at.len());
            for (i, bytes) in at.iter_mut().enumerate() {
                if nulls.is_valid(i) {
                    let len = read_varint(bytes)?;
                    values.push(Some(split(bytes, len)?));
                } else {
                    values.push(None);
                }
            }
            variable(other, values.len(), values.into_iter())?
        }
    })
}

pub(crate) fn fixed_binary(width: usize, values: Vec<u8>, nulls: &NullBuffer) -> ArrayRef {
    Arc::new(FixedSizeBinaryArray::new(width as i32, Buffer::from_vec(values), some_nulls(nulls)))
}

fn skip(ty: &DataType, nulls: &NullBuffer, at: &mut [&[u8]]) -> Result<()> {
    let width = fixed_width(ty);
    for (i, bytes) in at.iter_mut().enumerate().filter(|(i, _)| nulls.is_valid(*i)) {
        let _ = i;
        match (width, ty) {
            (Some(width), _) => {
                split(bytes, width)?;
            }
            (None, DataType::List(_)) => {
                for _ in 0..read_varint(bytes)? {
                    let len = read_varint(bytes)?;
                    split(bytes, len)?;
                }
            }
            (None, _) => {
                let len = read_varint(bytes)?;
                split(bytes, len)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::{columns, types};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn comes_back_as_it_was((types, columns) in types().prop_flat_map(columns)) {
            let rows = encode(&columns).unwrap();
            prop_assert_eq!(decode(&types, rows.iter()).unwrap(), columns.clone());
            for (i, column) in columns.iter().enumerate() {
                prop_assert_eq!(&decode_columns(&types, &[i], rows.iter()).unwrap()[0], column);
            }
        }

        #[test]
        fn never_panics_on_foreign_bytes(types in types(), rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4)) {
            let _ = decode(&types, rows.iter().map(|r| r.as_slice()));
        }

        #[test]
        fn never_panics_on_damaged_rows((types, columns) in types().prop_flat_map(columns), at: prop::sample::Index, byte: u8, cut: bool) {
            let rows = encode(&columns).unwrap();
            let mut row = rows.get(0).to_vec();
            if !row.is_empty() {
                let at = at.index(row.len());
                if cut { row.truncate(at) } else { row[at] = byte }
            }
            let _ = decode(&types, std::iter::once(row.as_slice()));
        }
    }

    #[test]
    fn says_that_a_row_has_other_columns() {
        let column: ArrayRef = Arc::new(PrimitiveArray::<Int64Type>::from(vec![1]));
        let rows = encode(&[column]).unwrap();
        assert!(matches!(decode(&[DataType::Utf8View, DataType::Int64], rows.iter()), Err(Error::Corrupt(_))));
        assert!(matches!(decode(&[DataType::Int32], rows.iter()), Err(Error::Corrupt(_))));
    }

    #[test]
    fn writes_varints_of_every_size() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u32::MAX as usize, usize::MAX] {
            let mut bytes = vec![0; varint_len(value)];
            let mut at = 0;
            write_varint(&mut bytes, &mut at, value);
            assert_eq!(at, bytes.len());
            assert_eq!(read_varint(&mut bytes.as_slice()).unwrap(), value);
        }
    }
}
