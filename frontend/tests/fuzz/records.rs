//! Records of a source: JSON and CSV, whatever they are.

use connectors::formats::{self, Faults};
use connectors::transport::{RawRecord, RawRecords};
use storage::{Column, SqlType};
use streaming::source::SourceSpec;

const WORDS: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "false",
    "\"id\":",
    "\"n\":",
    "\"t\":",
    "\"a\":",
    "\"j\":",
    "\"ts\":",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "1e308",
    "-0",
    "NaN",
    "\"2026-11-21T22:00:00Z\"",
    "\"infinity\"",
    "\"1 day 02:03\"",
    "\"\\\\xff\"",
    "\u{feff}",
    "[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    "\\\"",
];

fn columns(encode: &str) -> Vec<Column> {
    let types = [
        ("id", SqlType::Int),
        ("n", SqlType::Numeric),
        ("f", SqlType::Double),
        ("t", SqlType::Text),
        ("b", SqlType::Boolean),
        ("y", SqlType::Bytea),
        ("d", SqlType::Date),
        ("ts", SqlType::TimestampTz),
        ("i", SqlType::Interval),
        ("u", SqlType::Uuid),
        ("j", SqlType::Jsonb),
        ("a", SqlType::Array(Box::new(SqlType::BigInt))),
    ];
    // CSV has no lists.
    let types = types.into_iter().filter(|(name, _)| *name != "a" || encode == "json");
    types.map(|(name, ty)| Column::new(name, ty)).collect()
}

/// Decodes each line, and the whole, as a record.
fn check(encode: &str, options: &[(String, String)], input: &[u8]) {
    let columns = columns(encode);
    let (encode, encode_options) = (encode.to_owned(), options.to_vec());
    let spec = SourceSpec { options: Vec::new(), format: String::new(), encode, encode_options, columns };
    let format = formats::open(&spec).expect("options that it takes");
    let mut decoder = format.decoder(&spec.columns).expect("columns that it takes");
    format.positional(&spec.columns, &mut *decoder).expect("columns that it takes");
    let mut raw = RawRecords::default();
    for value in input.split(|byte| *byte == b'\n').chain([input]) {
        let value = Some(raw.push_value(value));
        raw.records.push(RawRecord { value, ..RawRecord::default() });
    }
    let n = raw.records.len();
    let mut faults = Faults::default();
    let arrays = decoder.decode(&mut raw, &mut faults).expect("what cannot be read is a fault");
    assert!(arrays.iter().all(|array| array.len() == n), "a row per record");
    assert!(faults.into_iter().all(|(record, _)| record < n), "a fault is one of a record");
}

#[test]
fn json() {
    let micros = [("timestamp.handling.mode".to_owned(), "guess_number_unit".to_owned())];
    let mut odd = false;
    crate::drive("json", 2500, &WORDS, |input| {
        odd = !odd;
        check("json", if odd { &[] } else { &micros }, input);
    });
}

#[test]
fn csv() {
    crate::drive("csv", 1500, &WORDS, |input| check("csv", &[], input));
}
