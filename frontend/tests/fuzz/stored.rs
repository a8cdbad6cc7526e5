//! Keys and rows as the store has them: bytes that are none of ours are refused, and what is read is what was written.

use arrow_schema::DataType;
use storage::keys::{self, SortOption};
use storage::{SqlType, row};

/// Rows of several types each: one byte of the input chooses.
const TYPES: [&[SqlType]; 6] = [
    &[SqlType::Int],
    &[SqlType::BigInt, SqlType::Text],
    &[SqlType::Boolean, SqlType::Numeric, SqlType::Double, SqlType::SmallInt],
    &[SqlType::Bytea, SqlType::Uuid, SqlType::Date, SqlType::Time],
    &[SqlType::Timestamp, SqlType::TimestampTz, SqlType::Interval, SqlType::Jsonb],
    &[
        SqlType::Text,
        SqlType::Text,
        SqlType::Real,
        SqlType::BigInt,
        SqlType::Boolean,
        SqlType::Boolean,
        SqlType::Int,
        SqlType::Int,
        SqlType::Text,
    ],
];

fn chosen(input: &[u8]) -> Option<(u8, Vec<DataType>, &[u8])> {
    let (first, rest) = input.split_first()?;
    let choice = *first as usize;
    let mut types: Vec<DataType> = TYPES[choice % TYPES.len()].iter().map(|ty| ty.arrow()).collect();
    if choice / TYPES.len() % 4 == 3 {
        types.push(SqlType::Array(Box::new(SqlType::Text)).arrow());
    }
    Some((*first, types, rest))
}

/// The rest of the input as one or two rows.
fn rows(rest: &[u8]) -> Vec<&[u8]> {
    match rest.split_first() {
        Some((at, rest)) if *at < 64 && (*at as usize) < rest.len() => {
            let (one, other) = rest.split_at(*at as usize);
            vec![one, other]
        }
        _ => vec![rest.get(1..).unwrap_or_default()],
    }
}

#[test]
fn rows_of_a_table() {
    let check = |input: &[u8]| {
        let Some((_, types, rest)) = chosen(input) else { return };
        let rows = rows(rest);
        let Ok(columns) = row::decode(&types, rows.iter().copied()) else { return };
        let again = row::encode_rows(&columns, rows.len()).expect("types that rows have");
        let decoded = row::decode(&types, again.iter()).expect("what was encoded can be decoded");
        assert_eq!(format!("{columns:?}"), format!("{decoded:?}"));
        let _ = row::decode_columns(&types, &[types.len() - 1], rows.into_iter());
    };
    crate::drive("rows", 4000, &[], check);
}

#[test]
fn keys_of_a_table() {
    let check = |input: &[u8]| {
        let Some((first, types, rest)) = chosen(input) else { return };
        let option = SortOption { descending: first & 64 != 0, nulls_first: first & 128 != 0 };
        let options = vec![option; types.len()];
        let _ = keys::prefix_len(&types, &options, rest);
        let rows = rows(rest);
        let mut open = rows.clone();
        let _ = keys::decode_prefix(&types, &options, &mut open);
        let Ok(columns) = keys::decode(&types, &options, rows.iter().copied()) else { return };
        let again = keys::encode_rows(&columns, &options, rows.len()).expect("types that keys have");
        let decoded = keys::decode(&types, &options, again.iter()).expect("what was encoded can be decoded");
        assert_eq!(format!("{columns:?}"), format!("{decoded:?}"));
    };
    crate::drive("keys", 4000, &[], check);
}
