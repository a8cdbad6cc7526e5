//! Functions of text and bytes.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{AsArray, StringViewBuilder};
use arrow::datatypes::{Int16Type, Int32Type, Int64Type};
use base64::Engine;
use datafusion::common::DataFusionError;
use md5::Digest;
use storage::SqlType;
use streaming::expr::EvalError;

use super::arithmetic::integer_range;
use super::rows::*;
use super::{Definition, Param, functions, generic};
use crate::types::datetime::Zone;
use crate::types::error;
use crate::types::text::{self as form, push_hex};

/// Longest text that a function makes, as Postgres' allocations end there.
const BYTES_MAX: usize = 1 << 30;

fn too_long() -> EvalError {
    error("54000", "requested length too large")
}

fn count(text: &str) -> i32 {
    text.chars().count() as i32
}

/// The byte range of `n` characters from the 1-based `start`, which may lie before the text.
fn substring(text: &str, start: i32, n: Option<i32>) -> Row<String> {
    let end = match n {
        Some(n) if n < 0 => return Err(error("22011", "negative substring length not allowed")),
        Some(n) => start as i64 + n as i64,
        None => i64::MAX,
    };
    let from = (start as i64).max(1);
    if end <= from {
        return Ok(String::new());
    }
    Ok(text.chars().skip((from - 1) as usize).take((end - from).min(i64::MAX / 2) as usize).collect())
}

fn substring_bytes(bytes: &[u8], start: i32, n: Option<i32>) -> Row<Vec<u8>> {
    let end = match n {
        Some(n) if n < 0 => return Err(error("22011", "negative substring length not allowed")),
        Some(n) => start as i64 + n as i64,
        None => i64::MAX,
    };
    let len = bytes.len() as i64;
    let (from, end) = ((start as i64).clamp(1, len + 1), end.clamp(1, len + 1));
    Ok(if end <= from { vec![] } else { bytes[(from - 1) as usize..(end - 1) as usize].to_vec() })
}

fn overlay(text: &str, new: &str, start: i32, n: i32) -> Row<String> {
    if start <= 0 {
        return Err(error("22011", "negative substring length not allowed"));
    }
    let behind = start.checked_add(n).ok_or_else(integer_range)?;
    Ok(substring(text, 1, Some(start - 1))? + new + &substring(text, behind, None)?)
}

/// The first `n` characters; all but the last `-n` if it is negative.
fn left(text: &str, n: i32) -> String {
    let keep = if n < 0 { count(text).saturating_add(n) } else { n };
    text.chars().take(keep.max(0) as usize).collect()
}

fn right(text: &str, n: i32) -> String {
    let skip = if n < 0 { n.unsigned_abs() as i64 } else { count(text) as i64 - n as i64 };
    text.chars().skip(skip.max(0) as usize).collect()
}

fn pad(text: &str, n: i32, fill: &str, before: bool) -> Row<String> {
    let n = n.max(0) as usize;
    let have = text.chars().count();
    if have >= n {
        return Ok(text.chars().take(n).collect());
    }
    if (n - have).saturating_mul(4) > BYTES_MAX {
        return Err(too_long());
    }
    if fill.is_empty() {
        return Ok(text.to_string());
    }
    let padding: String = fill.chars().cycle().take(n - have).collect();
    Ok(if before { padding + text } else { text.to_string() + &padding })
}

fn translate(text: &str, from: &str, to: &str) -> String {
    let to: Vec<char> = to.chars().collect();
    let mapped = |c: char| match from.chars().position(|f| f == c) {
        Some(i) => to.get(i).copied(),
        None => Some(c),
    };
    text.chars().filter_map(mapped).collect()
}

fn initcap(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn trim<'a>(text: &'a str, set: &str, start: bool, end: bool) -> &'a str {
    let is = |c: char| set.contains(c);
    let text = if start { text.trim_start_matches(is) } else { text };
    if end { text.trim_end_matches(is) } else { text }
}

/// The 1-based position of a text in another, in characters; 0 if it is not there.
fn position(text: &str, part: &str) -> i32 {
    text.find(part).map_or(0, |at| count(&text[..at]) + 1)
}

fn split_part(text: &str, delimiter: &str, n: i32) -> Row<String> {
    if n == 0 {
        return Err(error("22023", "field position must not be zero"));
    }
    if delimiter.is_empty() {
        return Ok(if n == 1 || n == -1 { text.to_string() } else { String::new() });
    }
    let part = match n {
        1.. => text.split(delimiter).nth(n as usize - 1),
        _ => text.rsplit(delimiter).nth(n.unsigned_abs() as usize - 1),
    };
    Ok(part.unwrap_or("").to_string())
}

fn replace(text: &str, from: &str, to: &str) -> String {
    if from.is_empty() { text.to_string() } else { text.replace(from, to) }
}

fn repeat(text: &str, n: i32) -> Row<String> {
    let n = n.max(0) as usize;
    if text.len().saturating_mul(n) >= BYTES_MAX {
        return Err(too_long());
    }
    Ok(text.repeat(n))
}

fn chr(code: i32) -> Row<String> {
    match code {
        0 => Err(error("54000", "null character not permitted")),
        ..0 => Err(error("22023", "character number must be positive")),
        _ => char::from_u32(code as u32)
            .map(String::from)
            .ok_or_else(|| error("54000", format!("requested character too large for encoding: {code}"))),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_hex(bytes, &mut out);
    out
}

fn encode(bytes: &[u8], format: &str) -> Row<String> {
    match format.to_ascii_lowercase().as_str() {
        "hex" => Ok(hex(bytes)),
        "base64" => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            let lines: Vec<&str> =
                (0..encoded.len()).step_by(76).map(|i| &encoded[i..encoded.len().min(i + 76)]).collect();
            Ok(lines.join("\n"))
        }
        "escape" => {
            let mut out = String::new();
            for byte in bytes {
                match byte {
                    0 | 128.. => write!(out, "\\{byte:03o}").expect("to a string"),
                    b'\\' => out.push_str("\\\\"),
                    byte => out.push(*byte as char),
                }
            }
            Ok(out)
        }
        _ => Err(error("22023", format!("unrecognized encoding: \"{format}\""))),
    }
}

fn decode(text: &str, format: &str) -> Row<Vec<u8>> {
    match format.to_ascii_lowercase().as_str() {
        "hex" => form::read_hex(text),
        "base64" => {
            let dense: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if let Some(bad) = dense.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='))) {
                return Err(error("22023", format!("invalid symbol \"{bad}\" found while decoding base64 sequence")));
            }
            base64::engine::general_purpose::STANDARD
                .decode(dense)
                .map_err(|_| error("22023", "invalid base64 end sequence"))
        }
        "escape" => form::read_bytea(text.strip_prefix("\\x").map_or(text, |_| text)),
        _ => Err(error("22023", format!("unrecognized encoding: \"{format}\""))),
    }
}

/// The keywords that cannot be names without quotes.
const KEYWORDS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// A name as it must be written in SQL.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && KEYWORDS.binary_search(&name).is_err();
    if plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A text as it must be written in SQL.
pub fn quote_literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''").replace('\\', "\\\\"));
    if text.contains('\\') { format!("E{quoted}") } else { quoted }
}

fn string_to_array(text: &str, delimiter: Option<&str>, null: Option<&str>) -> Vec<Option<String>> {
    if text.is_empty() {
        return vec![];
    }
    let item = |part: &str| if null == Some(part) { None } else { Some(part.to_string()) };
    match delimiter {
        None => text.chars().map(|c| item(&c.to_string())).collect(),
        Some("") => vec![item(text)],
        Some(delimiter) => text.split(delimiter).map(item).collect(),
    }
}

/// The time zone that follows the `n` arguments of SQL.
pub(super) fn zone_behind(args: &Args, n: usize) -> Result<Zone, DataFusionError> {
    Zone::parse(args.arrays[n].as_string_view().value(0)).map_err(external)
}

/// The text of an argument of any type; `None` for NULL.
pub(super) fn shown(args: &Args, arg: usize, row: usize, ty: &SqlType, zone: &Zone) -> Option<String> {
    if args.is_null(arg, row) {
        return None;
    }
    let mut out = String::new();
    form::write_in(&args.arrays[arg], args.at(arg, row), ty, zone, &mut out);
    Some(out)
}

/// The same as a cast to text writes it: booleans in full, a char(n) without its blanks.
fn cast(args: &Args, arg: usize, row: usize, ty: &SqlType, zone: &Zone) -> Option<String> {
    let text = shown(args, arg, row, ty, zone)?;
    Some(match ty {
        SqlType::Boolean => if text == "t" { "true" } else { "false" }.to_string(),
        SqlType::Char => text.trim_end_matches(' ').to_string(),
        _ => text,
    })
}

/// `concat` and `concat_ws`: NULLs are left out.
fn concat(types: &[SqlType], separated: bool) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, types.len())?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            let separator = if separated { shown(args, 0, row, &types[0], &zone) } else { Some(String::new()) };
            let Some(separator) = separator else {
                out.append_null();
                continue;
            };
            let parts: Vec<String> =
                (separated as usize..types.len()).filter_map(|i| shown(args, i, row, &types[i], &zone)).collect();
            out.append_value(parts.join(&separator));
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `text || anything` and the reverse; strict.
fn concat_operator(types: &[SqlType]) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, 2)?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            match (cast(args, 0, row, &types[0], &zone), cast(args, 1, row, &types[1], &zone)) {
                (Some(left), Some(right)) => out.append_value(left + &right),
                _ => out.append_null(),
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `quote_literal(anything)` and `quote_nullable(anything)`.
fn quote(types: &[SqlType], nullable: bool) -> Run {
    let ty = types[0].clone();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, 1)?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            match cast(args, 0, row, &ty, &zone) {
                Some(text) => out.append_value(quote_literal(&text)),
                None if nullable => out.append_value("NULL"),
                None => out.append_null(),
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `format(pattern, ...)`: `%s`, `%I`, `%L`, `%%`, `%2$s`, `%-10s`, `%*s`.
fn format(types: &[SqlType]) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, types.len())?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) {
                out.append_null();
                continue;
            }
            let pattern = args.arrays[0].as_string_view().value(args.at(0, row));
            let value = |i: usize| {
                if i >= types.len() {
                    return Err(error("22023", "too few arguments for format()"));
                }
                Ok(shown(args, i, row, &types[i], &zone))
            };
            out.append_value(format_row(pattern, &value).map_err(external)?);
        }
        Ok(Arc::new(out.finish()))
    })
}

fn format_row(pattern: &str, value: &dyn Fn(usize) -> Row<Option<String>>) -> Row<String> {
    let unterminated = || error("22023", "unterminated format() type specifier");
    let (mut out, mut chars, mut next) = (String::new(), pattern.chars().peekable(), 1);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut n: Option<usize> = None;
            while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
                n = Some(n.unwrap_or(0).saturating_mul(10).saturating_add(d as usize));
                chars.next();
            }
            n
        };
        let (mut argument, mut left, mut width) = (None, false, number(&mut chars));
        if width.is_some() && chars.next_if_eq(&'$').is_some() {
            argument = width.take();
            if argument == Some(0) {
                return Err(error("22023", "format specifies argument 0, but arguments are numbered from 1"));
            }
        }
        if width.is_none() {
            while chars.next_if_eq(&'-').is_some() {
                left = true;
            }
            if chars.next_if_eq(&'*').is_some() {
                let at = number(&mut chars).inspect(|_| {
                    chars.next_if_eq(&'$');
                });
                let at = at.unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
                let given: i64 = value(at)?.map_or(Ok(0), |text| form::read_integer(&text, "integer"))?;
                left |= given < 0;
                width = Some(given.unsigned_abs() as usize);
            } else {
                width = number(&mut chars);
            }
        }
        let kind = chars.next().ok_or_else(unterminated)?;
        if !matches!(kind, 's' | 'I' | 'L') {
            return Err(error("22023", format!("unrecognized format() type specifier \"{kind}\"")));
        }
        let at = argument.unwrap_or(next);
        next = at + 1;
        let text = match (kind, value(at)?) {
            ('s', text) => text.unwrap_or_default(),
            ('I', Some(text)) => quote_ident(&text),
            ('I', None) => return Err(error("22004", "null values cannot be formatted as an SQL identifier")),
            (_, Some(text)) => quote_literal(&text),
            (_, None) => "NULL".to_string(),
        };
        let missing = width.unwrap_or(0).saturating_sub(text.chars().count());
        if missing > BYTES_MAX {
            return Err(too_long());
        }
        let padding = " ".repeat(missing);
        let _ = if left { write!(out, "{text}{padding}") } else { write!(out, "{padding}{text}") };
    }
    Ok(out)
}

/// `num_nulls` and `num_nonnulls`.
fn count_nulls(nulls: bool) -> Run {
    Arc::new(move |args: &Args| {
        let mut out = Int4::builder(args.rows);
        for row in 0..args.rows {
            let n = (0..args.arrays.len()).filter(|arg| args.is_null(*arg, row) == nulls).count();
            out.append_value(n as i32);
        }
        Ok(Int4::finish(out))
    })
}

/// `string_to_array`, whose delimiter and null text may be NULL.
fn string_to_array_run(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        let text = |arg: usize, row: usize| {
            args.arrays
                .get(arg)
                .filter(|_| !args.is_null(arg, row))
                .map(|a| a.as_string_view().value(args.at(arg, row)))
        };
        let mut out = TextArray::builder(args.rows);
        for row in 0..args.rows {
            match text(0, row) {
                None => TextArray::push_null(&mut out),
                Some(value) => {
                    TextArray::push(&mut out, string_to_array(value, text(1, row), text(2, row))).map_err(external)?;
                }
            }
        }
        Ok(TextArray::finish(out))
    })
}

fn size_pretty(array: &Args, row: usize, ty: &SqlType) -> i128 {
    let at = array.at(0, row);
    match ty {
        SqlType::SmallInt => array.arrays[0].as_primitive::<Int16Type>().value(at) as i128,
        SqlType::Int => array.arrays[0].as_primitive::<Int32Type>().value(at) as i128,
        _ => array.arrays[0].as_primitive::<Int64Type>().value(at) as i128,
    }
}

/// `pg_size_pretty`: up to 10 kB in bytes, then in the next unit.
fn pg_size_pretty(types: &[SqlType]) -> Run {
    let ty = types[0].clone();
    Arc::new(move |args: &Args| {
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) {
                out.append_null();
                continue;
            }
            let mut size = size_pretty(args, row, &ty);
            let mut unit = "bytes";
            for next in ["kB", "MB", "GB", "TB", "PB"] {
                if size.abs() < 10_240 * if unit == "bytes" { 1 } else { 2 } {
                    break;
                }
                // One bit more is kept, for the rounding at the end.
                size /= if unit == "bytes" { 512 } else { 1024 };
                unit = next;
            }
            if unit != "bytes" {
                size = (size + size.signum()) / 2;
            }
            out.append_value(format!("{size} {unit}"));
        }
        Ok(Arc::new(out.finish()))
    })
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "||" textcat (Text, Text) -> Text = |a, b| {
            let bytes = a.len() + b.len() + 4;
            if bytes >= BYTES_MAX {
                return Err(error("XX000", format!("invalid memory alloc request size {bytes}")));
            }
            Ok([a, b].concat())
        };
        "||" byteacat (Bytea, Bytea) -> Bytea = |a, b| Ok([a, b].concat());
        "length" textlen (Text) -> Int4 = |a| Ok(count(a));
        "length" bpcharlen (Char) -> Int4 = |a| Ok(count(a.trim_end_matches(' ')));
        "length" bytealen (Bytea) -> Int4 = |a| Ok(a.len() as i32);
        "char_length" char_length (Text) -> Int4 = |a| Ok(count(a));
        "char_length" bpchar_length (Char) -> Int4 = |a| Ok(count(a.trim_end_matches(' ')));
        "character_length" character_length (Text) -> Int4 = |a| Ok(count(a));
        "octet_length" textoctetlen (Text) -> Int4 = |a| Ok(a.len() as i32);
        "octet_length" bpcharoctetlen (Char) -> Int4 = |a| Ok(a.len() as i32);
        "octet_length" byteaoctetlen (Bytea) -> Int4 = |a| Ok(a.len() as i32);
        "bit_length" textbitlen (Text) -> Int4 = |a| Ok(a.len() as i32 * 8);
        "bit_length" byteabitlen (Bytea) -> Int4 = |a| Ok(a.len() as i32 * 8);
        "upper" upper (Text) -> Text = |a| Ok(a.to_uppercase());
        "lower" lower (Text) -> Text = |a| Ok(a.to_lowercase());
        "initcap" initcap (Text) -> Text = |a| Ok(initcap(a));
        "btrim" btrim (Text) -> Text = |a| Ok(trim(a, " ", true, true).into());
        "btrim" btrim_set (Text, Text) -> Text = |a, set| Ok(trim(a, set, true, true).into());
        "ltrim" ltrim (Text) -> Text = |a| Ok(trim(a, " ", true, false).into());
        "ltrim" ltrim_set (Text, Text) -> Text = |a, set| Ok(trim(a, set, true, false).into());
        "rtrim" rtrim (Text) -> Text = |a| Ok(trim(a, " ", false, true).into());
        "rtrim" rtrim_set (Text, Text) -> Text = |a, set| Ok(trim(a, set, false, true).into());
        "substring" text_substr_from (Text, Int4) -> Text = |a, start| substring(a, start, None);
        "substring" text_substr (Text, Int4, Int4) -> Text = |a, start, n| substring(a, start, Some(n));
        "substring" bytea_substr_from (Bytea, Int4) -> Bytea = |a, start| substring_bytes(a, start, None);
        "substring" bytea_substr (Bytea, Int4, Int4) -> Bytea = |a, start, n| substring_bytes(a, start, Some(n));
        "substr" substr_from (Text, Int4) -> Text = |a, start| substring(a, start, None);
        "substr" substr (Text, Int4, Int4) -> Text = |a, start, n| substring(a, start, Some(n));
        "substr" substr_bytea_from (Bytea, Int4) -> Bytea = |a, start| substring_bytes(a, start, None);
        "substr" substr_bytea (Bytea, Int4, Int4) -> Bytea = |a, start, n| substring_bytes(a, start, Some(n));
        "overlay" textoverlay (Text, Text, Int4, Int4) -> Text = overlay;
        "overlay" textoverlay_all (Text, Text, Int4) -> Text = |a, new, start| overlay(a, new, start, count(new));
        "left" text_left (Text, Int4) -> Text = |a, n| Ok(left(a, n));
        "right" text_right (Text, Int4) -> Text = |a, n| Ok(right(a, n));
        "lpad" lpad (Text, Int4) -> Text = |a, n| pad(a, n, " ", true);
        "lpad" lpad_fill (Text, Int4, Text) -> Text = |a, n, fill| pad(a, n, fill, true);
        "rpad" rpad (Text, Int4) -> Text = |a, n| pad(a, n, " ", false);
        "rpad" rpad_fill (Text, Int4, Text) -> Text = |a, n, fill| pad(a, n, fill, false);
        "replace" replace_text (Text, Text, Text) -> Text = |a, from, to| Ok(replace(a, from, to));
        "translate" translate (Text, Text, Text) -> Text = |a, from, to| Ok(translate(a, from, to));
        "repeat" repeat (Text, Int4) -> Text = repeat;
        "reverse" text_reverse (Text) -> Text = |a| Ok(a.chars().rev().collect());
        "position" textpos (Text, Text) -> Int4 = |a, part| Ok(position(a, part));
        "strpos" strpos (Text, Text) -> Int4 = |a, part| Ok(position(a, part));
        "split_part" split_part (Text, Text, Int4) -> Text = split_part;
        "starts_with" starts_with (Text, Text) -> Bool = |a, start| Ok(a.starts_with(start));
        "^@" starts_with_op (Text, Text) -> Bool = |a, start| Ok(a.starts_with(start));
        "ascii" ascii (Text) -> Int4 = |a| Ok(a.chars().next().map_or(0, |c| c as i32));
        "chr" chr (Int4) -> Text = chr;
        "md5" md5_text (Text) -> Text = |a| Ok(hex(&md5::Md5::digest(a.as_bytes())));
        "md5" md5_bytea (Bytea) -> Text = |a| Ok(hex(&md5::Md5::digest(a)));
        "sha224" sha224 (Bytea) -> Bytea = |a| Ok(sha2::Sha224::digest(a).to_vec());
        "sha256" sha256 (Bytea) -> Bytea = |a| Ok(sha2::Sha256::digest(a).to_vec());
        "sha384" sha384 (Bytea) -> Bytea = |a| Ok(sha2::Sha384::digest(a).to_vec());
        "sha512" sha512 (Bytea) -> Bytea = |a| Ok(sha2::Sha512::digest(a).to_vec());
        "encode" binary_encode (Bytea, Text) -> Text = encode;
        "decode" binary_decode (Text, Text) -> Bytea = decode;
        "convert_to" convert_to (Text, Name) -> Bytea = |a, encoding| match encoding.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8" => Ok(a.as_bytes().to_vec()),
            _ => Err(error("0A000", format!("encoding \"{encoding}\" is not supported"))),
        };
        "convert_from" convert_from (Bytea, Name) -> Text = |a, encoding| match encoding.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8" => String::from_utf8(a.to_vec())
                .map_err(|_| error("22021", "invalid byte sequence for encoding \"UTF8\"")),
            _ => Err(error("0A000", format!("encoding \"{encoding}\" is not supported"))),
        };
        "get_byte" byteaGetByte (Bytea, Int4) -> Int4 = |a, n| usize::try_from(n)
            .ok()
            .and_then(|i| a.get(i))
            .map(|b| *b as i32)
            .ok_or_else(|| error("2202E", format!("index {n} out of valid range, 0..{}", a.len() as i64 - 1)));
        "to_hex" to_hex32 (Int4) -> Text = |a| Ok(format!("{a:x}"));
        "to_hex" to_hex64 (Int8) -> Text = |a| Ok(format!("{a:x}"));
        "quote_ident" quote_ident (Text) -> Text = |a| Ok(quote_ident(a));
        "quote_literal" quote_literal (Text) -> Text = |a| Ok(quote_literal(a));
    };
    let (text, any) = (|| Param::Type(SqlType::Text), || Param::Any);
    let text_array = || Param::Type(SqlType::Array(Box::new(SqlType::Text)));
    let variadic = |definition: Definition| Definition { variadic: true, ..definition };
    list.extend([
        variadic(generic("concat", "text_concat", vec![any()], text(), |t| concat(t, false)).stable()).in_zone(),
        variadic(generic("concat_ws", "text_concat_ws", vec![text(), any()], text(), |t| concat(t, true)).stable()).in_zone(),
        variadic(generic("format", "text_format", vec![text(), any()], text(), format).stable()).in_zone(),
        generic("||", "textanycat", vec![text(), Param::AnyNonArray], text(), concat_operator).in_zone(),
        generic("||", "anytextcat", vec![Param::AnyNonArray, text()], text(), concat_operator).in_zone(),
        generic("quote_literal", "quote_literal_any", vec![Param::AnyElement], text(), |t| quote(t, false)).in_zone(),
        generic("quote_nullable", "quote_nullable", vec![text()], text(), |t| quote(t, true)).in_zone(),
        generic("quote_nullable", "quote_nullable_any", vec![Param::AnyElement], text(), |t| quote(t, true)).in_zone(),
        variadic(generic("num_nulls", "pg_num_nulls", vec![any()], Param::Type(SqlType::Int), |_| count_nulls(true))),
        variadic(generic("num_nonnulls", "pg_num_nonnulls", vec![any()], Param::Type(SqlType::Int), |_| count_nulls(false))),
        generic("string_to_array", "text_to_array", vec![text(), text()], text_array(), string_to_array_run),
        generic("string_to_array", "text_to_array_null", vec![text(), text(), text()], text_array(), string_to_array_run),
        generic("pg_size_pretty", "pg_size_pretty", vec![Param::Type(SqlType::BigInt)], text(), pg_size_pretty),
    ]);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_sorted() {
        assert!(KEYWORDS.is_sorted());
    }
}
