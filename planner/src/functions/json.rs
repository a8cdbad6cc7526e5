//! Functions and operators of jsonb.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, StringViewBuilder};
use storage::SqlType;

use super::rows::*;
use super::text::{shown, zone_behind};
use super::{Definition, Param, functions, generic};
use crate::types::datetime::Zone;
use crate::types::json::{self, Json};
use crate::types::text as form;
use crate::types::{category, error};

fn text_of(value: Option<&str>) -> Row<Option<String>> {
    Ok(value.and_then(json::unquote).map(Cow::into_owned))
}

fn owned(value: Option<&str>) -> Row<Option<String>> {
    Ok(value.map(str::to_string))
}

/// The steps of a path; `None` if one is NULL.
fn steps(path: &StringViewArray) -> Option<Vec<&str>> {
    path.iter().collect()
}

fn at_path<'a>(value: &'a str, path: &StringViewArray) -> Option<&'a str> {
    json::path(value, steps(path)?.into_iter())
}

/// `?`: a key of an object, a string of an array, or the string itself.
fn exists(value: &str, key: &str) -> bool {
    match value.as_bytes().first() {
        Some(b'{') => json::field(value, key).is_some(),
        Some(b'[') => json::elements(value)
            .any(|item| item.starts_with('"') && json::unquote(item).is_some_and(|text| text == key)),
        Some(b'"') => json::unquote(value).is_some_and(|text| text == key),
        _ => false,
    }
}

fn typeof_(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

fn array_length(value: &str) -> Row<i32> {
    match typeof_(value) {
        "array" => Ok(json::elements(value).count() as i32),
        "object" => Err(error("22023", "cannot get array length of a non-array")),
        _ => Err(error("22023", "cannot get array length of a scalar")),
    }
}

fn parse(text: &str) -> Row<Json> {
    Json::parse(text)
}

/// `||`
fn concat(a: &str, b: &str) -> Row<String> {
    let list = |json: Json| match json {
        Json::Array(items) => items,
        other => vec![other],
    };
    Ok(match (parse(a)?, parse(b)?) {
        (Json::Object(mut a), Json::Object(b)) => {
            a.extend(b);
            Json::object(a)
        }
        (a, b) => Json::Array(list(a).into_iter().chain(list(b)).collect()),
    }
    .canonical())
}

/// `jsonb - text`
fn delete_key(value: &str, keys: &[&str]) -> Row<String> {
    Ok(match parse(value)? {
        Json::Object(members) => {
            Json::Object(members.into_iter().filter(|(key, _)| !keys.contains(&key.as_str())).collect())
        }
        Json::Array(items) => Json::Array(
            items.into_iter().filter(|item| !matches!(item, Json::String(s) if keys.contains(&s.as_str()))).collect(),
        ),
        _ => return Err(error("22023", "cannot delete from scalar")),
    }
    .canonical())
}

/// `jsonb - integer`
fn delete_index(value: &str, index: i32) -> Row<String> {
    match parse(value)? {
        Json::Array(mut items) => {
            if let Some(at) = position(&items, index as i64) {
                items.remove(at);
            }
            Ok(Json::Array(items).canonical())
        }
        Json::Object(_) => Err(error("22023", "cannot delete from object using integer index")),
        _ => Err(error("22023", "cannot delete from scalar")),
    }
}

/// The position that an index means, from the end if it is negative.
fn position(items: &[Json], index: i64) -> Option<usize> {
    let at = if index < 0 { items.len() as i64 + index } else { index };
    usize::try_from(at).ok().filter(|at| *at < items.len())
}

fn step_index(step: &str, n: usize) -> Row<i64> {
    step.trim()
        .parse()
        .map_err(|_| error("22P02", format!("path element at position {n} is not an integer: \"{step}\"")))
}

/// `#-`
fn delete_path(json: &mut Json, path: &[&str], n: usize) -> Row<()> {
    let [step, rest @ ..] = path else { return Ok(()) };
    match json {
        Json::Object(members) => {
            if rest.is_empty() {
                members.retain(|(key, _)| key != step);
            } else if let Some((_, value)) = members.iter_mut().find(|(key, _)| key == step) {
                delete_path(value, rest, n + 1)?;
            }
        }
        Json::Array(items) => {
            if let Some(at) = position(items, step_index(step, n)?) {
                if rest.is_empty() {
                    items.remove(at);
                } else {
                    delete_path(&mut items[at], rest, n + 1)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// What `jsonb_set` and `jsonb_insert` do at the end of the path.
#[derive(Clone, Copy, PartialEq)]
enum Put {
    /// Replaces; adds if `create`.
    Set { create: bool },
    /// Inserts before, or after.
    Insert { after: bool },
}

fn put(json: &mut Json, path: &[&str], new: &Json, how: Put, n: usize) -> Row<()> {
    let [step, rest @ ..] = path else { return Ok(()) };
    match json {
        Json::Object(members) => match members.iter_mut().find(|(key, _)| key == step) {
            Some((_, value)) if !rest.is_empty() => put(value, rest, new, how, n + 1)?,
            Some((_, value)) => match how {
                Put::Set { .. } => *value = new.clone(),
                Put::Insert { .. } => return Err(error("22023", "cannot replace existing key")),
            },
            None if rest.is_empty() && how != (Put::Set { create: false }) => {
                members.push((step.to_string(), new.clone()));
                *json = Json::object(std::mem::take(members));
            }
            None => {}
        },
        Json::Array(items) => {
            let index = step_index(step, n)?;
            match position(items, index) {
                Some(at) if !rest.is_empty() => put(&mut items[at], rest, new, how, n + 1)?,
                Some(at) => match how {
                    Put::Set { .. } => items[at] = new.clone(),
                    Put::Insert { after } => items.insert(at + after as usize, new.clone()),
                },
                None if rest.is_empty() && how != (Put::Set { create: false }) => {
                    let at = if index < 0 { 0 } else { items.len() };
                    items.insert(at, new.clone());
                }
                None => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn change(value: &str, path: &StringViewArray, new: &str, how: Put) -> Row<String> {
    let path = path_of(path)?;
    let mut json = parse(value)?;
    if !matches!(json, Json::Object(_) | Json::Array(_)) {
        return Err(error("22023", "cannot set path in scalar"));
    }
    put(&mut json, &path, &parse(new)?, how, 1)?;
    Ok(json.canonical())
}

fn path_of(path: &StringViewArray) -> Row<Vec<&str>> {
    let mut steps = Vec::new();
    for (i, step) in path.iter().enumerate() {
        steps.push(step.ok_or_else(|| error("22004", format!("path element at position {} is null", i + 1)))?);
    }
    Ok(steps)
}

fn strip_nulls(json: Json) -> Json {
    match json {
        Json::Object(members) => Json::Object(
            members.into_iter().filter(|(_, v)| *v != Json::Null).map(|(k, v)| (k, strip_nulls(v))).collect(),
        ),
        Json::Array(items) => Json::Array(items.into_iter().map(strip_nulls).collect()),
        other => other,
    }
}

/// A SQL value as JSON.
fn to_json(array: &ArrayRef, row: usize, ty: &SqlType, zone: &Zone) -> Row<Json> {
    if array.is_null(row) {
        return Ok(Json::Null);
    }
    let mut text = String::new();
    if let SqlType::Array(item) = ty {
        let items = array.as_list::<i32>().value(row);
        let items: Row<Vec<Json>> = (0..items.len()).map(|i| to_json(&items, i, item, zone)).collect();
        return Ok(Json::Array(items?));
    }
    form::write_in(array, row, ty, zone, &mut text);
    Ok(match ty {
        SqlType::Boolean => Json::Bool(text == "t"),
        SqlType::Jsonb => parse(&text)?,
        // NaN and the infinities are no JSON numbers.
        ty if category(ty) == 'N' && text.ends_with(|c: char| c.is_ascii_digit()) && !is_reg(ty) => parse(&text)?,
        // ISO 8601 with the T.
        SqlType::Timestamp => Json::String(text.replacen(' ', "T", 1)),
        SqlType::TimestampTz => {
            // The offset always with its minutes.
            let text = text.replacen(' ', "T", 1);
            let short = text.len() > 3 && matches!(text.as_bytes()[text.len() - 3], b'+' | b'-');
            Json::String(if short { text + ":00" } else { text })
        }
        _ => Json::String(text),
    })
}

fn is_reg(ty: &SqlType) -> bool {
    matches!(ty, SqlType::RegClass | SqlType::RegType)
}

fn to_jsonb(types: &[SqlType]) -> Run {
    let ty = types[0].clone();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, 1)?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) {
                out.append_null();
            } else {
                let json = to_json(&args.arrays[0], args.at(0, row), &ty, &zone).map_err(external)?;
                out.append_value(json.canonical());
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

fn build_array(types: &[SqlType]) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, types.len())?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            let items: Row<Vec<Json>> =
                types.iter().enumerate().map(|(i, ty)| to_json(&args.arrays[i], args.at(i, row), ty, &zone)).collect();
            out.append_value(Json::Array(items.map_err(external)?).canonical());
        }
        Ok(Arc::new(out.finish()))
    })
}

fn build_object(types: &[SqlType]) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, types.len())?;
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if types.len() % 2 != 0 {
                return Err(external(error("22023", "argument list must have even number of elements")));
            }
            let mut members = Vec::new();
            for i in (0..types.len()).step_by(2) {
                let key = match &types[i] {
                    SqlType::Boolean => shown(args, i, row, &types[i], &zone)
                        .map(|t| if t == "t" { "true".into() } else { "false".to_string() }),
                    ty => shown(args, i, row, ty, &zone),
                };
                let key =
                    key.ok_or_else(|| external(error("22023", format!("argument {}: key must not be null", i + 1))))?;
                let value =
                    to_json(&args.arrays[i + 1], args.at(i + 1, row), &types[i + 1], &zone).map_err(external)?;
                members.push((key, value));
            }
            out.append_value(Json::object(members).canonical());
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `jsonb_extract_path` and its text form, with the steps as arguments.
fn extract_path(as_text: bool) -> Run {
    Arc::new(move |args: &Args| {
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if (0..args.arrays.len()).any(|arg| args.is_null(arg, row)) {
                out.append_null();
                continue;
            }
            let text = |arg: usize| args.arrays[arg].as_string_view().value(args.at(arg, row));
            let found = json::path(text(0), (1..args.arrays.len()).map(text));
            if as_text {
                out.append_option(found.and_then(json::unquote));
            } else {
                out.append_option(found);
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

/// What `->` finds at a position: to Postgres a scalar on its own is the only element of an array.
fn element_of(value: &str, index: i64) -> Option<&str> {
    match value.as_bytes().first() {
        Some(b'[' | b'{') => json::element(value, index),
        _ => matches!(index, 0 | -1).then_some(value),
    }
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "->" jsonb_object_field (Jsonb, Text) -> Maybe<Jsonb> = |a, key| owned(json::field(a, key));
        "->" jsonb_array_element (Jsonb, Int4) -> Maybe<Jsonb> = |a, i| owned(element_of(a, i as i64));
        "->>" jsonb_object_field_text (Jsonb, Text) -> Maybe<Text> = |a, key| text_of(json::field(a, key));
        "->>" jsonb_array_element_text (Jsonb, Int4) -> Maybe<Text> = |a, i| text_of(element_of(a, i as i64));
        "#>" jsonb_extract_path_op (Jsonb, TextArray) -> Maybe<Jsonb> = |a, path| owned(at_path(a, &path));
        "#>>" jsonb_extract_path_text_op (Jsonb, TextArray) -> Maybe<Text> = |a, path| text_of(at_path(a, &path));
        "@>" jsonb_contains (Jsonb, Jsonb) -> Bool = |a, b| Ok(parse(a)?.contains(&parse(b)?));
        "<@" jsonb_contained (Jsonb, Jsonb) -> Bool = |a, b| Ok(parse(b)?.contains(&parse(a)?));
        "?" jsonb_exists (Jsonb, Text) -> Bool = |a, key| Ok(exists(a, key));
        "?|" jsonb_exists_any (Jsonb, TextArray) -> Bool = |a, keys| Ok(keys.iter().flatten().any(|key| exists(a, key)));
        "?&" jsonb_exists_all (Jsonb, TextArray) -> Bool = |a, keys| Ok(keys.iter().flatten().all(|key| exists(a, key)));
        "jsonb_exists" jsonb_exists_function (Jsonb, Text) -> Bool = |a, key| Ok(exists(a, key));
        "||" jsonb_concat (Jsonb, Jsonb) -> Jsonb = concat;
        "-" jsonb_delete (Jsonb, Text) -> Jsonb = |a, key| delete_key(a, &[key]);
        "-" jsonb_delete_idx (Jsonb, Int4) -> Jsonb = delete_index;
        "-" jsonb_delete_array (Jsonb, TextArray) -> Jsonb = |a, keys| delete_key(a, &keys.iter().flatten().collect::<Vec<_>>());
        "#-" jsonb_delete_path (Jsonb, TextArray) -> Jsonb = |a, path| {
            let mut json = parse(a)?;
            if !matches!(json, Json::Object(_) | Json::Array(_)) {
                return Err(error("22023", "cannot delete path in scalar"));
            }
            delete_path(&mut json, &path_of(&path)?, 1)?;
            Ok(json.canonical())
        };
        "jsonb_typeof" jsonb_typeof (Jsonb) -> Text = |a| Ok(typeof_(a).to_string());
        "jsonb_array_length" jsonb_array_length (Jsonb) -> Int4 = array_length;
        "jsonb_pretty" jsonb_pretty (Jsonb) -> Text = |a| {
            let mut out = String::new();
            parse(a)?.pretty(0, &mut out);
            Ok(out)
        };
        "jsonb_strip_nulls" jsonb_strip_nulls (Jsonb) -> Jsonb = |a| Ok(strip_nulls(parse(a)?).canonical());
        "jsonb_set" jsonb_set (Jsonb, TextArray, Jsonb) -> Jsonb = |a, path, new| change(a, &path, new, Put::Set { create: true });
        "jsonb_set" jsonb_set_create (Jsonb, TextArray, Jsonb, Bool) -> Jsonb = |a, path, new, create| change(a, &path, new, Put::Set { create });
        "jsonb_insert" jsonb_insert (Jsonb, TextArray, Jsonb) -> Jsonb = |a, path, new| change(a, &path, new, Put::Insert { after: false });
        "jsonb_insert" jsonb_insert_after (Jsonb, TextArray, Jsonb, Bool) -> Jsonb = |a, path, new, after| change(a, &path, new, Put::Insert { after });
    };
    let (jsonb, text, any) = (|| Param::Type(SqlType::Jsonb), || Param::Type(SqlType::Text), || Param::Any);
    let variadic = |definition: Definition| Definition { variadic: true, ..definition };
    list.extend([
        generic("to_jsonb", "to_jsonb", vec![Param::AnyElement], jsonb(), to_jsonb).stable().in_zone(),
        variadic(generic("jsonb_build_array", "jsonb_build_array", vec![any()], jsonb(), build_array).stable().in_zone()),
        // There is no json type: what its functions give is jsonb.
        variadic(generic("json_build_object", "json_build_object", vec![any()], jsonb(), build_object).stable().in_zone()),
        variadic(generic("jsonb_build_object", "jsonb_build_object", vec![any()], jsonb(), build_object).stable().in_zone()),
        variadic(generic("jsonb_extract_path", "jsonb_extract_path", vec![jsonb(), text()], jsonb(), |_| extract_path(false))),
        variadic(generic("jsonb_extract_path_text", "jsonb_extract_path_text", vec![jsonb(), text()], text(), |_| extract_path(true))),
    ]);
    list
}
