//! What Postgres knows of each SQL type: its OID, its names, its category, its casts.
//!
//! What a type is in Arrow is in `storage::types`; how its values are written is in [`text`] and [`binary`].

pub mod binary;
pub mod datetime;
pub mod json;
pub mod text;

use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType as AstType, ExactNumberInfo, IntervalFields, TimezoneInfo,
};
use storage::SqlType;
use streaming::expr::EvalError;

/// An error with its SQLSTATE, in Postgres' words.
pub fn error(sqlstate: &'static str, message: impl Into<String>) -> EvalError {
    EvalError { sqlstate, message: message.into() }
}

/// All types that values can be stored as but arrays, in the order of their OIDs.
pub const ALL: [SqlType; 24] = [
    SqlType::Boolean,
    SqlType::Bytea,
    SqlType::QuotedChar,
    SqlType::Name,
    SqlType::BigInt,
    SqlType::SmallInt,
    SqlType::Int,
    SqlType::Text,
    SqlType::Oid,
    SqlType::Real,
    SqlType::Double,
    SqlType::Unknown,
    SqlType::Char,
    SqlType::Varchar,
    SqlType::Date,
    SqlType::Time,
    SqlType::Timestamp,
    SqlType::TimestampTz,
    SqlType::Interval,
    SqlType::Numeric,
    SqlType::RegClass,
    SqlType::RegType,
    SqlType::Uuid,
    SqlType::Jsonb,
];

/// One row of `pg_type`, as far as it is ours to say.
struct Facts {
    oid: u32,
    array_oid: u32,
    /// As `format_type` writes it.
    name: &'static str,
    /// As `pg_type.typname` has it.
    typname: &'static str,
    len: i16,
    category: char,
    preferred: bool,
}

const fn facts(
    oid: u32,
    array_oid: u32,
    name: &'static str,
    typname: &'static str,
    len: i16,
    category: char,
    preferred: bool,
) -> Facts {
    Facts { oid, array_oid, name, typname, len, category, preferred }
}

#[rustfmt::skip]
fn facts_of(ty: &SqlType) -> Facts {
    match ty {
        SqlType::Boolean     => facts(16, 1000, "boolean", "bool", 1, 'B', true),
        SqlType::Bytea       => facts(17, 1001, "bytea", "bytea", -1, 'U', false),
        SqlType::QuotedChar  => facts(18, 1002, "\"char\"", "char", 1, 'Z', false),
        SqlType::Name        => facts(19, 1003, "name", "name", 64, 'S', false),
        SqlType::BigInt      => facts(20, 1016, "bigint", "int8", 8, 'N', false),
        SqlType::SmallInt    => facts(21, 1005, "smallint", "int2", 2, 'N', false),
        SqlType::Int         => facts(23, 1007, "integer", "int4", 4, 'N', false),
        SqlType::Text        => facts(25, 1009, "text", "text", -1, 'S', true),
        SqlType::Oid         => facts(26, 1028, "oid", "oid", 4, 'N', true),
        SqlType::Real        => facts(700, 1021, "real", "float4", 4, 'N', false),
        SqlType::Double      => facts(701, 1022, "double precision", "float8", 8, 'N', true),
        SqlType::Unknown     => facts(705, 0, "unknown", "unknown", -2, 'X', false),
        SqlType::Char        => facts(1042, 1014, "character", "bpchar", -1, 'S', false),
        SqlType::Varchar     => facts(1043, 1015, "character varying", "varchar", -1, 'S', false),
        SqlType::Date        => facts(1082, 1182, "date", "date", 4, 'D', false),
        SqlType::Time        => facts(1083, 1183, "time without time zone", "time", 8, 'D', false),
        SqlType::Timestamp   => facts(1114, 1115, "timestamp without time zone", "timestamp", 8, 'D', false),
        SqlType::TimestampTz => facts(1184, 1185, "timestamp with time zone", "timestamptz", 8, 'D', true),
        SqlType::Interval    => facts(1186, 1187, "interval", "interval", 16, 'T', true),
        SqlType::Numeric     => facts(1700, 1231, "numeric", "numeric", -1, 'N', false),
        SqlType::RegClass    => facts(2205, 2210, "regclass", "regclass", 4, 'N', false),
        SqlType::RegType     => facts(2206, 2211, "regtype", "regtype", 4, 'N', false),
        SqlType::Void        => facts(2278, 0, "void", "void", 4, 'P', false),
        SqlType::Uuid        => facts(2950, 2951, "uuid", "uuid", 16, 'U', false),
        SqlType::Jsonb       => facts(3802, 3807, "jsonb", "jsonb", -1, 'U', false),
        SqlType::Array(_)    => facts(0, 0, "", "", -1, 'A', false),
    }
}

/// The element of an array, however deep: Postgres knows no arrays of arrays, only dimensions.
pub fn innermost(ty: &SqlType) -> &SqlType {
    match ty {
        SqlType::Array(item) => innermost(item),
        other => other,
    }
}

/// Its row in `pg_type`.
pub fn oid(ty: &SqlType) -> u32 {
    match ty {
        SqlType::Array(item) => facts_of(innermost(item)).array_oid,
        other => facts_of(other).oid,
    }
}

/// The modifier of the arrays in system relations that are `int2vector` and `oidvector`: they are written with blanks,
/// and counted from 0. No type has it otherwise.
pub const VECTOR: i32 = -33;

/// The OID that a client is told for a column.
pub fn shown_oid(ty: &SqlType, typmod: i32) -> u32 {
    const INT2VECTOR: u32 = 22;
    const OIDVECTOR: u32 = 30;
    match ty {
        SqlType::Array(item) if typmod == VECTOR && **item == SqlType::Oid => OIDVECTOR,
        SqlType::Array(_) if typmod == VECTOR => INT2VECTOR,
        _ => oid(ty),
    }
}

/// The row of the array of it; 0 if there is none.
pub fn array_oid(ty: &SqlType) -> u32 {
    facts_of(innermost(ty)).array_oid
}

/// The type of an OID that a client names, with the aliases that are kept as one of ours.
pub fn from_oid(oid: u32) -> Option<SqlType> {
    // json is jsonb, xid and the like are numbers to a client that asks.
    match oid {
        0 => return None,
        114 => return Some(SqlType::Jsonb),
        199 => return Some(SqlType::Array(Box::new(SqlType::Jsonb))),
        _ => {}
    }
    for ty in ALL {
        let facts = facts_of(&ty);
        if facts.oid == oid {
            return Some(ty);
        }
        if facts.array_oid == oid {
            return Some(SqlType::Array(Box::new(ty)));
        }
    }
    None
}

/// `pg_type.typlen`
pub fn len(ty: &SqlType) -> i16 {
    facts_of(ty).len
}

/// `pg_type.typstorage`
pub fn storage(ty: &SqlType) -> char {
    match ty {
        SqlType::Numeric => 'm',
        _ if len(ty) < 0 => 'x',
        _ => 'p',
    }
}

/// `pg_type.typcategory`
pub fn category(ty: &SqlType) -> char {
    facts_of(ty).category
}

/// Whether it is the preferred type of its category.
pub fn is_preferred(ty: &SqlType) -> bool {
    facts_of(ty).preferred
}

/// `pg_type.typname`: `int4`, `_int4`.
pub fn typname(ty: &SqlType) -> String {
    match ty {
        SqlType::Array(item) => format!("_{}", facts_of(innermost(item)).typname),
        other => facts_of(other).typname.to_string(),
    }
}

/// The name in messages: `integer`, `integer[]`.
pub fn name(ty: &SqlType) -> String {
    format(ty, -1)
}

/// As `format_type` writes a type with its modifier: `character varying(5)`, `numeric(10,2)`.
pub fn format(ty: &SqlType, typmod: i32) -> String {
    if let SqlType::Array(item) = ty {
        return format!("{}[]", format(innermost(item), typmod));
    }
    let name = facts_of(ty).name;
    if typmod < 0 {
        return if *ty == SqlType::Char { "bpchar".to_string() } else { name.to_string() };
    }
    match ty {
        SqlType::Char | SqlType::Varchar if typmod >= 4 => format!("{name}({})", typmod - 4),
        SqlType::Numeric => match storage::numeric::typmod_parts(typmod) {
            Some((precision, scale)) => format!("numeric({precision},{scale})"),
            None => name.to_string(),
        },
        SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz => {
            let (head, tail) = name.split_once(' ').unwrap_or((name, ""));
            format!("{head}({typmod}) {tail}")
        }
        SqlType::Interval => {
            let (range, precision) = interval_typmod(typmod);
            let fields = range.map(|r| format!(" {}", r.to_lowercase())).unwrap_or_default();
            let digits = precision.map(|p| format!("({p})")).unwrap_or_default();
            format!("interval{fields}{digits}")
        }
        _ => name.to_string(),
    }
}

/// The fields of an interval's modifier and their bits.
const INTERVAL_RANGES: [(&str, i32); 13] = [
    ("YEAR", 1 << 2),
    ("MONTH", 1 << 1),
    ("DAY", 1 << 3),
    ("HOUR", 1 << 10),
    ("MINUTE", 1 << 11),
    ("SECOND", 1 << 12),
    ("YEAR TO MONTH", (1 << 2) | (1 << 1)),
    ("DAY TO HOUR", (1 << 3) | (1 << 10)),
    ("DAY TO MINUTE", (1 << 3) | (1 << 10) | (1 << 11)),
    ("DAY TO SECOND", (1 << 3) | (1 << 10) | (1 << 11) | (1 << 12)),
    ("HOUR TO MINUTE", (1 << 10) | (1 << 11)),
    ("HOUR TO SECOND", (1 << 10) | (1 << 11) | (1 << 12)),
    ("MINUTE TO SECOND", (1 << 11) | (1 << 12)),
];
const INTERVAL_FULL_RANGE: i32 = 0x7fff;
const INTERVAL_FULL_PRECISION: i32 = 0xffff;

/// Fields and precision of an interval's modifier.
pub fn interval_typmod(typmod: i32) -> (Option<&'static str>, Option<i32>) {
    if typmod < 0 {
        return (None, None);
    }
    let (bits, precision) = ((typmod >> 16) & INTERVAL_FULL_RANGE, typmod & INTERVAL_FULL_PRECISION);
    let range = INTERVAL_RANGES.iter().find(|(_, b)| *b == bits).map(|(name, _)| *name);
    (range, (precision != INTERVAL_FULL_PRECISION).then_some(precision))
}

/// The modifier of `interval <fields> (precision)`.
pub fn interval_typmod_of(fields: Option<&str>, precision: Option<i32>) -> Option<i32> {
    let bits = match fields {
        None => INTERVAL_FULL_RANGE,
        Some(fields) => INTERVAL_RANGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(fields))?.1,
    };
    Some((bits << 16) | precision.map_or(INTERVAL_FULL_PRECISION, |p| p.min(6)))
}

/// Reads a type name with its modifier: `varchar(5)`, `int4[]`, `timestamp (3) with time zone`, `pg_catalog.int8`.
pub fn parse(text: &str) -> Result<(SqlType, i32), EvalError> {
    let unknown = || error("42704", format!("type \"{}\" does not exist", text.trim()));
    let mut s = text.trim();
    let mut dimensions = 0;
    // Dimensions may name a size, which Postgres ignores too.
    while let Some(open) = s.strip_suffix(']').and_then(|r| r.rfind('[')) {
        if !s[open + 1..s.len() - 1].trim().bytes().all(|b| b.is_ascii_digit()) {
            return Err(unknown());
        }
        dimensions += 1;
        s = s[..open].trim_end();
    }
    let mut lower = if s.starts_with('"') { s.to_string() } else { s.to_lowercase() };
    if let Some(rest) = lower.strip_prefix("pg_catalog.") {
        lower = rest.to_string();
    }
    let mut args = Vec::new();
    if let Some(open) = lower.find('(') {
        let close = lower.rfind(')').ok_or_else(unknown)?;
        for arg in lower[open + 1..close].split(',') {
            args.push(arg.trim().parse::<i32>().map_err(|_| unknown())?);
        }
        lower = format!("{} {}", lower[..open].trim_end(), lower[close + 1..].trim_start());
    }
    let words: Vec<&str> = lower.split_whitespace().collect();
    let ty = named(&words.join(" "));
    let (ty, fields) = match ty {
        Some(ty) => (ty, None),
        None if words.first() == Some(&"interval") => (SqlType::Interval, Some(words[1..].join(" "))),
        None if words.last() == Some(&"array") => {
            dimensions += 1;
            (named(&words[..words.len() - 1].join(" ")).ok_or_else(unknown)?, None)
        }
        None => return Err(unknown()),
    };
    let mut typmod = typmod(&ty, &words.join(" "), &args)?;
    if let Some(fields) = fields {
        typmod = interval_typmod_of(Some(&fields), args.first().copied()).ok_or_else(unknown)?;
    }
    // One dimension or many are the same type to Postgres.
    Ok((if dimensions > 0 { SqlType::Array(Box::new(ty)) } else { ty }, typmod))
}

/// The type that a lower-case name without modifier means.
fn named(name: &str) -> Option<SqlType> {
    Some(match name {
        "bool" | "boolean" => SqlType::Boolean,
        "int2" | "smallint" => SqlType::SmallInt,
        "int4" | "int" | "integer" => SqlType::Int,
        "int8" | "bigint" => SqlType::BigInt,
        "float4" | "real" => SqlType::Real,
        "float8" | "double precision" | "double" | "float" => SqlType::Double,
        "numeric" | "decimal" | "dec" => SqlType::Numeric,
        "text" | "string" => SqlType::Text,
        "varchar" | "character varying" | "char varying" | "nvarchar" => SqlType::Varchar,
        "bpchar" | "char" | "character" | "nchar" => SqlType::Char,
        "name" => SqlType::Name,
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" | "time without time zone" => SqlType::Time,
        "timestamp" | "timestamp without time zone" => SqlType::Timestamp,
        "timestamptz" | "timestamp with time zone" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "jsonb" => SqlType::Jsonb,
        "uuid" => SqlType::Uuid,
        "oid" | "regproc" | "regprocedure" | "regnamespace" | "regrole" | "regoper" | "regoperator" | "regconfig"
        | "regdictionary" | "xid" | "cid" => SqlType::Oid,
        "regclass" => SqlType::RegClass,
        "regtype" => SqlType::RegType,
        "\"char\"" => SqlType::QuotedChar,
        "unknown" => SqlType::Unknown,
        _ => return None,
    })
}

/// The modifier for the numbers in parentheses.
fn typmod(ty: &SqlType, name: &str, args: &[i32]) -> Result<i32, EvalError> {
    let invalid = |message: String| Err(error("22023", message));
    match (ty, args) {
        // `char` alone has one character, `bpchar` any number.
        (SqlType::Char, []) if name != "bpchar" => Ok(5),
        (_, []) => Ok(-1),
        (SqlType::Char | SqlType::Varchar, [n]) => {
            let short = if *ty == SqlType::Char { "char" } else { "varchar" };
            match n {
                ..1 => invalid(format!("length for type {short} must be at least 1")),
                10_485_761.. => invalid(format!("length for type {short} cannot exceed 10485760")),
                n => Ok(n + 4),
            }
        }
        (SqlType::Numeric, [precision] | [precision, _]) => {
            let scale = args.get(1).copied().unwrap_or(0);
            if !(1..=1000).contains(precision) {
                return invalid(format!("NUMERIC precision {precision} must be between 1 and 1000"));
            }
            if !(-1000..=1000).contains(&scale) {
                return invalid(format!("NUMERIC scale {scale} must be between -1000 and 1000"));
            }
            Ok(storage::numeric::typmod(*precision, scale))
        }
        (SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz, [n]) => {
            if *n < 0 {
                let upper = format(ty, -1).to_uppercase();
                return invalid(format!("{upper}({n}) precision must not be negative"));
            }
            Ok((*n).min(6))
        }
        (SqlType::Interval, [n]) => Ok(interval_typmod_of(None, Some(*n)).expect("no fields")),
        (SqlType::Double, [n]) if name == "float" => match n {
            ..1 => invalid("precision for type float must be at least 1 bit".into()),
            54.. => invalid("precision for type float must be less than 54 bits".into()),
            _ => Ok(-1),
        },
        _ => Err(error("42601", format!("type modifier is not allowed for type \"{}\"", facts_of(ty).typname))),
    }
}

/// The type that a parsed type name means.
pub fn from_ast(ast: &AstType) -> Result<(SqlType, i32), EvalError> {
    let length = |n: &Option<CharacterLength>| match n {
        Some(CharacterLength::IntegerLength { length, .. }) => vec![i32::try_from(*length).unwrap_or(i32::MAX)],
        _ => vec![],
    };
    let precision = |p: &Option<u64>| p.iter().map(|p| i32::try_from(*p).unwrap_or(i32::MAX)).collect::<Vec<_>>();
    let (ty, name, args) = match ast {
        AstType::Character(n) | AstType::Char(n) => (SqlType::Char, "char", length(n)),
        AstType::CharacterVarying(n) | AstType::CharVarying(n) | AstType::Varchar(n) | AstType::Nvarchar(n) => {
            (SqlType::Varchar, "varchar", length(n))
        }
        AstType::Numeric(info) | AstType::Decimal(info) | AstType::Dec(info) => {
            let args = match info {
                ExactNumberInfo::None => vec![],
                ExactNumberInfo::Precision(p) => vec![i32::try_from(*p).unwrap_or(i32::MAX)],
                ExactNumberInfo::PrecisionAndScale(p, s) => {
                    vec![i32::try_from(*p).unwrap_or(i32::MAX), i32::try_from(*s).unwrap_or(i32::MAX)]
                }
            };
            (SqlType::Numeric, "numeric", args)
        }
        AstType::Float(info) => match info {
            ExactNumberInfo::Precision(p) if (1..25).contains(p) => (SqlType::Real, "real", vec![]),
            ExactNumberInfo::Precision(p) => (SqlType::Double, "float", vec![i32::try_from(*p).unwrap_or(i32::MAX)]),
            _ => (SqlType::Double, "float", vec![]),
        },
        AstType::Time(p, zone) => match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => (SqlType::Time, "time", precision(p)),
            _ => {
                return Err(error("0A000", "type \"time with time zone\" is not supported"));
            }
        },
        AstType::Timestamp(p, zone) => match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => (SqlType::Timestamp, "timestamp", precision(p)),
            _ => (SqlType::TimestampTz, "timestamptz", precision(p)),
        },
        AstType::Interval { fields, precision } => {
            let fields = fields.as_ref().map(IntervalFields::to_string);
            let precision = precision.map(|p| i32::try_from(p).unwrap_or(i32::MAX));
            if fields.is_none() && precision.is_none() {
                return Ok((SqlType::Interval, -1));
            }
            let typmod = interval_typmod_of(fields.as_deref(), precision)
                .ok_or_else(|| error("42601", format!("syntax error at or near \"{}\"", fields.unwrap_or_default())))?;
            return Ok((SqlType::Interval, typmod));
        }
        AstType::Array(element) => {
            let element = match element {
                ArrayElemTypeDef::SquareBracket(element, _)
                | ArrayElemTypeDef::AngleBracket(element)
                | ArrayElemTypeDef::Parenthesis(element) => element,
                ArrayElemTypeDef::None => return Err(error("42601", "an array type names its element")),
            };
            let (item, typmod) = from_ast(element)?;
            return Ok(match item {
                SqlType::Array(_) => (item, typmod),
                item => (SqlType::Array(Box::new(item)), typmod),
            });
        }
        AstType::JSON => {
            return Ok((SqlType::Jsonb, -1));
        }
        other => return parse(&other.to_string()),
    };
    let typmod = typmod(&ty, name, &args)?;
    Ok((ty, typmod))
}

/// When a cast may be applied without being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CastContext {
    /// Anywhere.
    Implicit,
    /// Where a value is stored in a column.
    Assignment,
    /// Only if it is written.
    Explicit,
}

/// The least context in which Postgres casts `from` to `to`; `None` if it never does.
pub fn cast_context(from: &SqlType, to: &SqlType) -> Option<CastContext> {
    use CastContext::{Assignment, Explicit, Implicit};
    use SqlType::*;
    if from == to || *from == Unknown {
        return Some(Implicit);
    }
    if let (Array(from), Array(to)) = (from, to) {
        return cast_context(from, to);
    }
    let listed = match (from, to) {
        (SmallInt, Int | BigInt | Real | Double | Numeric | Oid | RegClass | RegType) => Some(Implicit),
        (Int, BigInt | Real | Double | Numeric | Oid | RegClass | RegType) => Some(Implicit),
        (Int, SmallInt) => Some(Assignment),
        (Int, Boolean | QuotedChar) => Some(Explicit),
        (BigInt, Real | Double | Numeric | Oid | RegClass | RegType) => Some(Implicit),
        (BigInt, Int | SmallInt) => Some(Assignment),
        (Real, Double) => Some(Implicit),
        (Real | Double, SmallInt | Int | BigInt | Numeric) | (Double, Real) => Some(Assignment),
        (Numeric, Real | Double) => Some(Implicit),
        (Numeric, SmallInt | Int | BigInt) => Some(Assignment),
        (Boolean, Int) => Some(Explicit),
        (Boolean, Text | Varchar | Char) => Some(Assignment),
        (Text, Varchar | Char | Name | RegClass) | (Varchar, Text | Char | Name | RegClass) => Some(Implicit),
        (Char, Text | Varchar | Name) | (Name, Text) | (QuotedChar, Text) => Some(Implicit),
        (Text | Varchar | Char, QuotedChar) | (Name, Varchar | Char) | (QuotedChar, Varchar | Char) => Some(Assignment),
        (QuotedChar, Int) => Some(Explicit),
        (Date, Timestamp | TimestampTz) | (Timestamp, TimestampTz) | (Time, Interval) => Some(Implicit),
        (Timestamp, Date | Time) | (TimestampTz, Date | Time | Timestamp) | (Interval, Time) => Some(Assignment),
        (Jsonb, Boolean | SmallInt | Int | BigInt | Real | Double | Numeric) => Some(Explicit),
        (Oid, RegClass | RegType) | (RegClass | RegType, Oid) => Some(Implicit),
        (Oid | RegClass | RegType, Int | BigInt) => Some(Assignment),
        _ => None,
    };
    // Everything has a text form: to it on assignment, from it when written.
    listed.or(match (category(from), category(to)) {
        (_, 'S') if *from != Unknown => Some(Assignment),
        ('S', _) => Some(Explicit),
        _ => None,
    })
}

/// Whether a value of `from` is one of `to` as it stands.
pub fn is_binary_coercible(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::*;
    from == to
        || matches!(
            (from, to),
            (Varchar, Text | Char)
                | (Text, Varchar | Char)
                | (Int, Oid | RegClass | RegType)
                | (Oid, RegClass | RegType | Int)
                | (RegClass | RegType, Oid | Int)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_types_as_format_type_does() {
        for (written, formatted) in [
            ("int4", "integer"),
            ("INT", "integer"),
            ("float8", "double precision"),
            ("varchar(5)", "character varying(5)"),
            ("character varying", "character varying"),
            ("char", "character(1)"),
            ("bpchar", "bpchar"),
            ("char(7)", "character(7)"),
            ("decimal(10, 2)", "numeric(10,2)"),
            ("numeric(3)", "numeric(3,0)"),
            ("numeric(3,-2)", "numeric(3,-2)"),
            ("timestamptz", "timestamp with time zone"),
            ("timestamp(3) with time zone", "timestamp(3) with time zone"),
            ("timestamp (0)", "timestamp(0) without time zone"),
            ("time", "time without time zone"),
            ("interval day to second(3)", "interval day to second(3)"),
            ("text[]", "text[]"),
            ("int[3][4]", "integer[]"),
            ("numeric(10,2)[]", "numeric(10,2)[]"),
            ("pg_catalog.int8", "bigint"),
            ("\"char\"", "\"char\""),
        ] {
            let (ty, typmod) = parse(written).unwrap();
            assert_eq!(format(&ty, typmod), formatted, "{written}");
        }
        assert_eq!(parse("foo").unwrap_err().message, "type \"foo\" does not exist");
        assert_eq!(parse("varchar(0)").unwrap_err().message, "length for type varchar must be at least 1");
    }

    #[test]
    fn finds_types_by_oid() {
        for ty in ALL {
            assert_eq!(from_oid(oid(&ty)), Some(ty.clone()));
            if ty != SqlType::Unknown {
                assert_eq!(from_oid(array_oid(&ty)), Some(SqlType::Array(Box::new(ty))));
            }
        }
    }
}
