//! The types of the generated SQL: what a column of one is called, and which values it gets.

use rand::Rng;
use rand::rngs::StdRng;

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `smallint`
    Small,
    /// `integer`
    Int,
    /// `bigint`
    Big,
    /// `double precision`
    Float,
    /// `numeric`
    Numeric,
    /// `text`
    Text,
    /// `boolean`
    Bool,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    Timestamptz,
    /// `interval`
    Interval,
    /// `jsonb`
    Jsonb,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// `int[]`
    Ints,
    /// `text[]`
    Texts,
}

use Kind::*;

/// All of them, each as often as it should be chosen.
pub const CHOICE: &[Kind] = &[
    Int,
    Int,
    Int,
    Int,
    Int,
    Text,
    Text,
    Text,
    Bool,
    Big,
    Big,
    Small,
    Numeric,
    Numeric,
    Float,
    Float,
    Date,
    Timestamp,
    Timestamp,
    Timestamptz,
    Interval,
    Jsonb,
    Uuid,
    Bytea,
    Ints,
    Texts,
    Time,
];

/// Those whose equal values are written alike: they can be keys of groups and sets without a choice between writings.
pub const EXACT: &[Kind] = &[
    Int,
    Int,
    Int,
    Int,
    Int,
    Text,
    Text,
    Text,
    Text,
    Bool,
    Big,
    Big,
    Small,
    Date,
    Timestamp,
    Timestamptz,
    Uuid,
    Bytea,
    Ints,
    Texts,
    Time,
];

impl Kind {
    /// The letter that means it in a template.
    pub fn of_letter(letter: char) -> Option<Kind> {
        Some(match letter {
            's' => Small,
            'i' => Int,
            'l' => Big,
            'f' => Float,
            'n' => Numeric,
            't' => Text,
            'b' => Bool,
            'd' => Date,
            'k' => Time,
            'm' => Timestamp,
            'z' => Timestamptz,
            'v' => Interval,
            'j' => Jsonb,
            'u' => Uuid,
            'y' => Bytea,
            'a' => Ints,
            'x' => Texts,
            _ => return None,
        })
    }

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Small => "smallint",
            Int => "int",
            Big => "bigint",
            Float => "double precision",
            Numeric => "numeric",
            Text => "text",
            Bool => "boolean",
            Date => "date",
            Time => "time",
            Timestamp => "timestamp",
            Timestamptz => "timestamptz",
            Interval => "interval",
            Jsonb => "jsonb",
            Uuid => "uuid",
            Bytea => "bytea",
            Ints => "int[]",
            Texts => "text[]",
        }
    }

    /// Whether equal values are always written alike.
    pub fn is_exact(self) -> bool {
        !matches!(self, Float | Numeric | Interval | Jsonb)
    }

    /// The literal that a failing expression is cut down to.
    pub fn simplest(self) -> &'static str {
        match self {
            Int => "1",
            Small => "1::smallint",
            Big => "1::bigint",
            Float => "1::float8",
            Numeric => "1.5",
            Text => "'a'::text",
            Bool => "true",
            Date => "'2024-01-01'::date",
            Time => "'10:00'::time",
            Timestamp => "'2024-01-01'::timestamp",
            Timestamptz => "'2024-01-01 00:00+00'::timestamptz",
            Interval => "'1 day'::interval",
            Jsonb => "'1'::jsonb",
            Uuid => "'00000000-0000-0000-0000-000000000001'::uuid",
            Bytea => "'\\x61'::bytea",
            Ints => "'{1}'::int[]",
            Texts => "'{a}'::text[]",
        }
    }

    /// The texts of the values that columns hold. Equal ones are written alike.
    fn domain(self) -> &'static [&'static str] {
        match self {
            Small => &["0", "1", "2", "3", "5", "-1"],
            Int => &["0", "1", "2", "3", "4", "5", "7", "-1", "-4"],
            Big => &["0", "1", "2", "3", "-2", "1000000000000"],
            Float => &["0", "1", "-1.5", "2.5", "0.25", "3", "1024", "-8"],
            Numeric => &["0.00", "1.00", "1.50", "-2.50", "10.00", "3.00", "99.75"],
            Text => &["", "a", "b", "ab", "Ab", "a b", "ä", "abc", "12", "zz"],
            Bool => &["true", "false"],
            Date => &["2024-02-28", "2024-02-29", "2024-03-01", "1999-12-31", "2024-12-30", "2023-01-01"],
            Time => &["00:00:00", "10:30:00", "23:59:59.5", "12:00:00"],
            Timestamp => &[
                "2024-02-28 23:00:00",
                "2024-02-29 00:00:00",
                "2024-02-29 10:30:00.25",
                "2024-03-01 12:00:00",
                "1999-12-31 23:59:59",
                "2024-03-31 01:30:00",
            ],
            Timestamptz => &[
                "2024-02-28 23:00:00+00",
                "2024-02-29 00:00:00+00",
                "2024-02-29 10:30:00.25+00",
                "2024-03-31 01:30:00+00",
                "2024-10-27 01:30:00+00",
            ],
            Interval => &["1 day", "02:00:00", "1 mon", "-3 days", "1 year 2 mons", "00:00:00", "-00:30:00"],
            Jsonb => &[
                "null",
                "1",
                "\"a\"",
                "true",
                "[]",
                "[1, 2, null]",
                "{}",
                "{\"a\": 1}",
                "{\"a\": \"x\", \"b\": [1, 2]}",
                "{\"b\": {\"c\": 3}}",
                "[\"a\", {\"a\": 2}]",
            ],
            Uuid => &[
                "00000000-0000-0000-0000-000000000000",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ],
            Bytea => &["\\x", "\\x00", "\\x61", "\\x6162", "\\xff"],
            Ints => &["{}", "{1}", "{1,2}", "{2,1}", "{NULL,3}", "{0,0,5}"],
            Texts => &["{}", "{a}", "{a,b}", "{NULL,ab}", "{\"\",b}"],
        }
    }

    /// A value for a column, as it stands in `VALUES`.
    pub fn value(self, random: &mut StdRng) -> String {
        let domain = self.domain();
        let text = domain[random.random_range(0..domain.len())];
        match self {
            Small | Int | Big | Float | Numeric | Bool => text.to_string(),
            _ => format!("'{text}'"),
        }
    }

    /// A literal that is of this type wherever it stands.
    pub fn literal(self, random: &mut StdRng) -> String {
        let value = self.value(random);
        match self {
            Int | Numeric if value.starts_with('-') => format!("({value})"),
            Int | Numeric | Bool => value,
            Small | Big | Float if value.starts_with('-') => format!("({value})::{}", self.name()),
            _ => format!("{value}::{}", self.name()),
        }
    }
}
