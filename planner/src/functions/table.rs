//! What the functions with several rows make: one list per column, which the plan unnests.
//!
//! SQL sees these under the names of the set-returning functions only; their own begin with `_`.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Builder, ListArray, ListBuilder};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use storage::SqlType;

use super::rows::*;
use super::{Definition, Param, functions, generic};
use crate::types::error;
use crate::types::json;

type Texts = Vec<Option<String>>;

fn kind(value: &str) -> u8 {
    value.as_bytes().first().copied().unwrap_or(b'n')
}

fn elements<T>(value: &str, each: impl Fn(&str) -> T) -> Row<Vec<T>> {
    match kind(value) {
        b'[' => Ok(json::elements(value).map(each).collect()),
        b'{' => Err(error("22023", "cannot extract elements from an object")),
        _ => Err(error("22023", "cannot extract elements from a scalar")),
    }
}

fn members<T>(value: &str, function: &str, each: impl Fn(&str, &str) -> T) -> Row<Vec<T>> {
    match kind(value) {
        b'{' => Ok(json::members(value).map(|(key, value)| each(key, value)).collect()),
        _ => Err(error("22023", format!("cannot call {function} on a non-object"))),
    }
}

fn object_keys(value: &str) -> Row<Texts> {
    match kind(value) {
        b'{' => Ok(json::members(value).map(|(key, _)| text_of(key)).collect()),
        b'[' => Err(error("22023", "cannot call jsonb_object_keys on an array")),
        _ => Err(error("22023", "cannot call jsonb_object_keys on a scalar")),
    }
}

/// A JSON value as text; `None` for null.
fn text_of(value: &str) -> Option<String> {
    json::unquote(value).map(|text| text.into_owned())
}

/// A member of an object as a column of a record.
fn field_of(object: &str, name: &str, as_text: bool) -> Option<String> {
    let value = json::field(object, name)?;
    if as_text { text_of(value) } else { Some(value.to_string()).filter(|v| v != "null") }
}

fn record(value: &str, name: &str, as_text: bool) -> Row<Texts> {
    match kind(value) {
        b'{' => Ok(vec![field_of(value, name, as_text)]),
        b'[' => Err(error("22023", "cannot call populate_composite on an array")),
        _ => Err(error("22023", "cannot call populate_composite on a scalar")),
    }
}

fn recordset(value: &str, name: &str, as_text: bool) -> Row<Texts> {
    if kind(value) != b'[' {
        return Err(error("22023", "cannot call jsonb_to_recordset on a non-array"));
    }
    let each = json::elements(value).map(|element| match kind(element) {
        b'{' => Ok(field_of(element, name, as_text)),
        _ => Err(error("22023", "argument of jsonb_to_recordset must be an array of objects")),
    });
    each.collect()
}

/// The elements of an array as texts, for a column of an array type.
fn array_texts(value: &str) -> Row<Texts> {
    match kind(value) {
        b'[' => Ok(json::elements(value).map(text_of).collect()),
        _ => Err(error("22P02", "expected JSON array")),
    }
}

/// The part of an option `name=value` before the sign, or behind it.
fn option_part(option: Option<&str>, behind: bool) -> Option<String> {
    let option = option?;
    let (name, value) = option.split_once('=').unwrap_or((option, option));
    Some(if behind { value } else { name }.to_string())
}

/// 1, 2, 3, ... up to the length of the longest list.
fn numbers(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        let length = |arg: usize, row: usize| match args.is_null(arg, row) {
            true => 0,
            false => args.arrays[arg].as_list::<i32>().value_length(args.at(arg, row)),
        };
        let mut out = ListBuilder::new(Int64Builder::new());
        for row in 0..args.rows {
            let longest = (0..args.arrays.len()).map(|arg| length(arg, row)).max().unwrap_or(0);
            out.values().append_slice(&(1..=i64::from(longest)).collect::<Vec<_>>());
            out.append(true);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// A list with one element, which may be NULL.
fn list_of_one(types: &[SqlType]) -> Run {
    let item = types[0].arrow();
    Arc::new(move |args: &Args| {
        let rows: arrow::array::UInt32Array = (0..args.rows).map(|row| Some(args.at(0, row) as u32)).collect();
        let values = arrow::compute::take(&args.arrays[0], &rows, None)?;
        let field = Arc::new(Field::new("item", item.clone(), true));
        Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(vec![1; args.rows]), values, None)))
    })
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "_jsonb_array_elements" _jsonb_array_elements (Jsonb) -> JsonbArray = |a| elements(a, |e| Some(e.to_string()));
        "_jsonb_array_elements_text" _jsonb_array_elements_text (Jsonb) -> TextArray = |a| elements(a, text_of);
        "_jsonb_object_keys" _jsonb_object_keys (Jsonb) -> TextArray = object_keys;
        "_jsonb_each_keys" _jsonb_each_keys (Jsonb) -> TextArray = |a| members(a, "jsonb_each", |k, _| text_of(k));
        "_jsonb_each_values" _jsonb_each_values (Jsonb) -> JsonbArray = |a| members(a, "jsonb_each", |_, v| Some(v.to_string()));
        "_jsonb_each_members" _jsonb_each_members (Jsonb) -> TextArrays = |a| members(a, "jsonb_each", |k, v| vec![text_of(k), Some(v.to_string())]);
        "_jsonb_each_text_keys" _jsonb_each_text_keys (Jsonb) -> TextArray = |a| members(a, "jsonb_each_text", |k, _| text_of(k));
        "_jsonb_each_text_values" _jsonb_each_text_values (Jsonb) -> TextArray = |a| members(a, "jsonb_each_text", |_, v| text_of(v));
        "_jsonb_each_text_members" _jsonb_each_text_members (Jsonb) -> TextArrays = |a| members(a, "jsonb_each_text", |k, v| vec![text_of(k), text_of(v)]);
        "_jsonb_to_record_values" _jsonb_to_record_values (Jsonb, Text) -> JsonbArray = |a, name| record(a, name, false);
        "_jsonb_to_record_texts" _jsonb_to_record_texts (Jsonb, Text) -> TextArray = |a, name| record(a, name, true);
        "_jsonb_to_recordset_values" _jsonb_to_recordset_values (Jsonb, Text) -> JsonbArray = |a, name| recordset(a, name, false);
        "_jsonb_to_recordset_texts" _jsonb_to_recordset_texts (Jsonb, Text) -> TextArray = |a, name| recordset(a, name, true);
        "_jsonb_array_texts" _jsonb_array_texts (Jsonb) -> TextArray = array_texts;
        "_regexp_matches" _regexp_matches (Text, Text) -> TextArrays = |a, p| super::pattern::regexp_matches(a, p, "");
        "_regexp_matches" _regexp_matches_flags (Text, Text, Text) -> TextArrays = super::pattern::regexp_matches;
        "_option_names" _option_names (TextArray) -> TextArray = |a| Ok(a.iter().map(|o| option_part(o, false)).collect());
        "_option_values" _option_values (TextArray) -> TextArray = |a| Ok(a.iter().map(|o| option_part(o, true)).collect());
    };
    let any = |name, params, returns, make| Definition { strict: false, ..generic(name, name, params, returns, make) };
    let bigints = Param::Type(SqlType::Array(Box::new(SqlType::BigInt)));
    list.extend([
        Definition { variadic: true, ..any("_list_numbers", vec![Param::Any], bigints, numbers) },
        any("_list_of_one", vec![Param::AnyElement], Param::AnyArray, list_of_one),
    ]);
    list
}
