use arrow::array::Array as _;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use expect_test::{Expect, expect};
use storage::SqlType::*;

use super::*;
use crate::transport::RawRecord;

/// One line per record: its row, or its fault.
pub(crate) fn show(decoder: &mut dyn Decoder, raw: &mut RawRecords, columns: &[Column]) -> String {
    let mut faults = Faults::default();
    let arrays = decoder.decode(raw, &mut faults).unwrap();
    let options = FormatOptions::default().with_null("NULL");
    let value = |array: &ArrayRef, column: &Column, row: usize| -> String {
        if array.is_null(row) {
            return "NULL".into();
        }
        if column.ty == Numeric {
            let bytes = array.as_any().downcast_ref::<arrow::array::FixedSizeBinaryArray>().unwrap();
            return storage::numeric::Numeric::from_bytes(bytes.value(row)).to_string();
        }
        let text = ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string();
        let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        text.chars().map(shown).collect()
    };
    let mut lines: Vec<String> = (0..raw.records.len())
        .map(|row| arrays.iter().zip(columns).map(|(a, c)| value(a, c, row)).collect::<Vec<_>>().join(" | "))
        .collect();
    for (row, fault) in faults.into_iter() {
        lines[row] = format!("{} {}", fault.sqlstate, fault.reason);
    }
    lines.iter().enumerate().map(|(i, line)| format!("{i}: {line}\n")).collect()
}

fn raw(lines: &[&[u8]]) -> RawRecords {
    let mut raw = RawRecords::default();
    for (i, line) in lines.iter().enumerate() {
        let value = Some(raw.push_value(line));
        raw.records.push(RawRecord { value, offset: i as i64, ..Default::default() });
    }
    raw
}

fn check_with(options: &[(&str, &str)], columns: &[Column], lines: &[&str], expected: Expect) {
    let options: Vec<_> = options.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let mut decoder = Json::new(&options).unwrap().decoder(columns).unwrap();
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    expected.assert_eq(&show(decoder.as_mut(), &mut raw(&lines), columns));
}

fn check(columns: &[Column], lines: &[&str], expected: Expect) {
    check_with(&[], columns, lines, expected);
}

fn column(name: &str, ty: storage::SqlType) -> Column {
    Column::new(name, ty)
}

#[test]
fn reads_keys_in_any_order_and_the_last_of_equal_ones() {
    check(
        &[column("a", Int), column("b", Text)],
        &[
            r#"{"a":1,"b":"x"}"#,
            r#" { "b" : "y" , "a" : 2 } "#,
            r#"{"a":1,"skipped":{"a":[1,{"b":"}"}]},"b":"z"}"#,
            r#"{"a":1,"a":3,"b":"p","b":"q"}"#,
            r#"{"\u0061":7}"#,
            r#"{}"#,
            r#"{"a":null,"b":null}"#,
            r#"{"A":5,"B":"folded","a":6}"#,
            r#"{"a":6,"A":5}"#,
        ],
        expect![[r#"
            0: 1 | x
            1: 2 | y
            2: 1 | z
            3: 3 | q
            4: 7 | NULL
            5: NULL | NULL
            6: NULL | NULL
            7: 6 | folded
            8: 6 | NULL
        "#]],
    );
}

#[test]
fn says_what_is_wrong_with_a_record() {
    check(
        &[column("price", Int), Column { not_null: true, ..column("id", BigInt) }],
        &[
            r#"{"price":"abc","id":1}"#,
            r#"{"price":1.0,"id":1}"#,
            r#"{"price":2147483648,"id":1}"#,
            r#"{"price":1,"id":9223372036854775808}"#,
            r#"{"price":-2147483648,"id":-9223372036854775808}"#,
            r#"{"price":1}"#,
            r#"{"price":{"x":1},"id":1}"#,
            r#"[1]"#,
            r#"{"price":1,"id":1"#,
            r#"{"price":1,"id":1} x"#,
            r#"{"price":01,"id":1}"#,
            r#"{"price":tru,"id":1}"#,
            r#"{"price":1,}"#,
            "{\"x\":\"a\tb\",\"id\":1}",
            r#"{"x":"\q","id":1}"#,
            "",
            r#"{"price":9,"id":9}"#,
        ],
        expect![[r#"
            0: 22P02 field "price": cannot read "abc" as integer
            1: 22P02 field "price": cannot read 1.0 as integer
            2: 22003 field "price": 2147483648 is out of range for type integer
            3: 22003 field "id": 9223372036854775808 is out of range for type bigint
            4: -2147483648 | -9223372036854775808
            5: 23502 null value in column "id" violates not-null constraint
            6: 22P02 field "price": cannot read {"x":1} as integer
            7: 22P02 not a JSON object: expected "{" at byte 1 and found '['
            8: 22P02 not a JSON object: expected "," or "}" at byte 18 and found the end
            9: 22P02 not a JSON object: expected the end at byte 20 and found 'x'
            10: 22P02 not a JSON object: expected "," or "}" at byte 11 and found '1'
            11: 22P02 not a JSON object: expected a value at byte 10 and found 't'
            12: 22P02 not a JSON object: expected a key at byte 12 and found '}'
            13: 22P02 not a JSON object: expected no control character in a string at byte 8 and found '\t'
            14: 22P02 not a JSON object: expected one of "\/bfnrtu behind a backslash at byte 7 and found '\\'
            15: 22P02 not a JSON object: expected "{" at byte 1 and found the end
            16: 9 | 9
        "#]],
    );
}

#[test]
fn reads_text() {
    let varchar = Column { typmod: 4 + 3, ..column("v", Varchar) };
    check(
        &[column("t", Text), varchar],
        &[
            r#"{"t":"\"\\\/\b\f\n\r\t"}"#,
            r#"{"t":"\u00e9\ud83d\ude00é"}"#,
            r#"{"t":"\ud83d"}"#,
            r#"{"t":"\u0000"}"#,
            r#"{"t":1.50,"v":true}"#,
            r#"{"v":"äöü"}"#,
            r#"{"v":"abc  "}"#,
            r#"{"v":"abcd"}"#,
            r#"{"t":[1]}"#,
            r#"{"t":"a text that is longer than twelve bytes"}"#,
        ],
        expect![[r#"
            0: "\/\u{8}\u{c}\n\r\t | NULL
            1: é😀é | NULL
            2: 22P02 field "t": a high surrogate must be followed by a low one
            3: 22P05 field "t": \u0000 cannot be converted to text
            4: 22001 field "v": value too long for type character varying(3)
            5: NULL | äöü
            6: NULL | abc
            7: 22001 field "v": value too long for type character varying(3)
            8: 22P02 field "t": cannot read [1] as text
            9: a text that is longer than twelve bytes | NULL
        "#]],
    );
}

#[test]
fn reads_numbers_exactly() {
    check(
        &[
            column("n", Numeric),
            Column { typmod: storage::numeric::typmod(5, 2), ..column("p", Numeric) },
            column("d", Double),
        ],
        &[
            r#"{"n":123456789012345678901234567890.12345,"p":"1.005","d":0.1}"#,
            r#"{"n":"NaN","p":1e2,"d":1e308}"#,
            r#"{"p":1000}"#,
            r#"{"d":1e999}"#,
            r#"{"d":"Infinity"}"#,
            r#"{"n":"x"}"#,
            r#"{"d":"1"}"#,
        ],
        expect![[r#"
            0: 123456789012345678901234567890.12345 | 1.01 | 0.1
            1: NaN | 100.00 | 1e308
            2: 22003 field "p": A field with precision 5, scale 2 must round to an absolute value less than 10^3.
            3: 22003 field "d": 1e999 is out of range for type double precision
            4: NULL | NULL | inf
            5: 22P02 field "n": cannot read "x" as numeric
            6: 22P02 field "d": cannot read "1" as double precision
        "#]],
    );
}

#[test]
fn reads_times() {
    let columns = [column("ts", Timestamp), column("tz", TimestampTz), column("d", Date), column("i", Interval)];
    check(
        &columns,
        &[
            r#"{"ts":"2026-01-02 03:04:05.678901","tz":"2026-01-02T03:04:05+02:00","d":"2026-01-02","i":"1 day 02:00:00"}"#,
            r#"{"ts":"2026-01-02T03:04:05Z","tz":"2026-01-02 03:04:05"}"#,
            r#"{"ts":1767322800000}"#,
            r#"{"ts":"2026-02-30 00:00:00"}"#,
            r#"{"tz":true}"#,
        ],
        expect![[r#"
            0: 2026-01-02T03:04:05.678901 | 2026-01-02T01:04:05Z | 2026-01-02 | 1 days 2 hours
            1: 2026-01-02T03:04:05 | 2026-01-02T03:04:05Z | NULL | NULL
            2: 22P02 field "ts": cannot read the number 1767322800000 as a time unless the option timestamp.handling.mode names its unit
            3: 22P02 field "ts": cannot read "2026-02-30 00:00:00" as timestamp
            4: 22P02 field "tz": cannot read true as timestamp with time zone
        "#]],
    );
    let lines = [r#"{"ts":1767322800000,"tz":1767322800}"#, r#"{"ts":-1,"tz":1767322800000000}"#];
    check_with(
        &[("timestamp.handling.mode", "guess_number_unit")],
        &columns[..2],
        &lines,
        expect![[r#"
            0: 2026-01-02T03:00:00 | 2026-01-02T03:00:00Z
            1: 1969-12-31T23:59:59 | 2026-01-02T03:00:00Z
        "#]],
    );
    check_with(
        &[("timestamptz.handling.mode", "milli")],
        &columns[..1],
        &lines,
        expect![[r#"
            0: 2026-01-02T03:00:00
            1: 1969-12-31T23:59:59.999
        "#]],
    );
}

#[test]
fn reads_the_other_types() {
    let columns = [
        column("b", Boolean),
        column("x", Bytea),
        column("u", Uuid),
        column("j", Jsonb),
        column("a", Array(Box::new(Int))),
    ];
    check(
        &columns,
        &[
            r#"{"b":true,"x":"AQI=","u":"0189dd50-0000-7000-8000-0000000000ff","j":{"bb":1,"a":[1.0,"x"]},"a":[1,null,3]}"#,
            r#"{"b":false,"x":"\\x0102","j":"text","a":[]}"#,
            r#"{"j":1e2}"#,
            r#"{"b":"true"}"#,
            r#"{"b":0}"#,
            r#"{"x":"?"}"#,
            r#"{"u":"0189"}"#,
            r#"{"a":[1,"x"]}"#,
            r#"{"a":7}"#,
        ],
        expect![[r#"
            0: true | 0102 | 0189dd500000700080000000000000ff | {"a": [1.0, "x"], "bb": 1} | [1, NULL, 3]
            1: false | 0102 | NULL | "text" | []
            2: NULL | NULL | NULL | 100 | NULL
            3: 22P02 field "b": cannot read "true" as boolean
            4: 22P02 field "b": cannot read 0 as boolean
            5: 22P02 field "x": cannot read "?" as bytea
            6: 22P02 field "u": cannot read "0189" as uuid
            7: 22P02 field "a": cannot read "x" as integer
            8: 22P02 field "a": cannot read 7 as array
        "#]],
    );
}

#[test]
fn keeps_bad_utf8_to_its_record() {
    let columns = [column("t", Text)];
    let mut decoder = Json::new(&[]).unwrap().decoder(&columns).unwrap();
    let mut raw = raw(&[b"{\"t\":\"a\"}", b"{\"t\":\"\xc3\"}", "{\"t\":\"ä\"}".as_bytes()]);
    let expected = "0: a\n1: 22021 invalid byte sequence for encoding \"UTF8\" at byte 7\n2: ä\n";
    assert_eq!(show(decoder.as_mut(), &mut raw, &columns), expected);
    assert_eq!(raw.value(&raw.records[1]), Some(&b"{\"t\":\"\xc3\"}"[..]));
}

#[test]
fn finds_the_end_of_plain_text_at_every_place() {
    for length in 0..20 {
        for (special, is_end) in
            [(b'"', true), (b'\\', true), (0x1f, true), (0x20, false), (b'!', false), (0xff, false)]
        {
            let mut bytes = vec![b'a'; length];
            bytes.push(special);
            bytes.extend_from_slice(b"aaaaaaaaa\"");
            let end = if is_end { length } else { length + 10 };
            assert_eq!(end_of_plain(&bytes, 0), end, "{length} {special}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn agrees_with_another_parser_on_what_is_json(text in r#"[\{\}\[\]:,"\\a0-9.eE+\- truefalsn]{0,40}"#) {
        let line = format!("{{\"k\":{text}}}");
        let columns = [column("k", Jsonb)];
        let mut decoder = Json::new(&[]).unwrap().decoder(&columns).unwrap();
        let mut faults = Faults::default();
        decoder.decode(&mut raw(&[line.as_bytes()]), &mut faults).unwrap();
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&line);
        // Ours also refuses what a jsonb cannot hold, as numbers beyond Postgres' range.
        if theirs.is_err() {
            proptest::prop_assert!(!faults.is_empty(), "{line}");
        } else if !line.contains(['e', 'E', '\\']) {
            proptest::prop_assert!(faults.is_empty(), "{line}");
        }
    }
}
