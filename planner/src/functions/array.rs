//! Functions and operators of arrays, and comparisons with any or all of their elements.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanBuilder, DynComparator, Int32Builder, ListArray, ListBuilder,
    StringViewBuilder, make_comparator,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, concat, take};
use arrow::datatypes::{DataType, Field, Int32Type, UInt32Type};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{ScalarUDF, Volatility};
use storage::SqlType;

use super::rows::*;
use super::text::zone_behind;
use super::{Definition, Param, comparison, generic};
use crate::types::error;
use crate::types::text as form;

type Result<T> = std::result::Result<T, DataFusionError>;

/// Builds an array column from, per row, the places of its elements in `pool`; `None` is NULL.
fn gather(pool: &ArrayRef, item: &SqlType, rows: Vec<Option<Vec<u32>>>) -> Result<ArrayRef> {
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let nulls: NullBuffer = rows.iter().map(Option::is_some).collect();
    let places: arrow::array::UInt32Array = rows.into_iter().flatten().flatten().collect();
    let values = take(pool, &places, None)?;
    let field = Arc::new(Field::new("item", item.arrow(), true));
    Ok(Arc::new(ListArray::new(field, offsets, values, Some(nulls))))
}

fn item_of(ty: &SqlType) -> SqlType {
    match ty {
        SqlType::Array(item) => item.as_ref().clone(),
        other => other.clone(),
    }
}

/// The places of the elements of one row of an array argument.
fn places(array: &ListArray, at: usize, base: u32) -> impl Iterator<Item = u32> + use<> {
    let offsets = array.value_offsets();
    (offsets[at] as u32 + base)..(offsets[at + 1] as u32 + base)
}

/// `array_cat`, `array_append` and `array_prepend`; a NULL array is an empty one, a NULL element an element.
fn join(types: &[SqlType]) -> Run {
    let types = types.to_vec();
    Arc::new(move |args: &Args| {
        let item = types.iter().find(|t| matches!(t, SqlType::Array(_))).map(item_of).expect("one is an array");
        let mut pools: Vec<ArrayRef> = Vec::new();
        let mut bases = Vec::new();
        for (arg, ty) in args.arrays.iter().zip(&types) {
            bases.push(pools.iter().map(|p| p.len() as u32).sum::<u32>());
            pools.push(match ty {
                SqlType::Array(_) => arg.as_list::<i32>().values().clone(),
                _ => arg.clone(),
            });
        }
        let pool = concat(&pools.iter().map(|p| p.as_ref()).collect::<Vec<_>>())?;
        let mut rows = Vec::with_capacity(args.rows);
        for row in 0..args.rows {
            let (mut all, mut any) = (Vec::new(), false);
            for (i, ty) in types.iter().enumerate() {
                let at = args.at(i, row);
                match ty {
                    SqlType::Array(_) if args.arrays[i].is_null(at) => {}
                    SqlType::Array(_) => {
                        any = true;
                        all.extend(places(args.arrays[i].as_list::<i32>(), at, bases[i]));
                    }
                    _ => {
                        any = true;
                        all.push(at as u32 + bases[i]);
                    }
                }
            }
            rows.push(any.then_some(all));
        }
        gather(&pool, &item, rows)
    })
}

/// The values of a type in the form that compares, as an array of keys.
fn keys(array: &ArrayRef, ty: &SqlType) -> Result<ArrayRef> {
    let symbol = match ty {
        SqlType::Numeric => "numeric_key",
        SqlType::Interval => "interval_key",
        SqlType::Real => "float4_key",
        SqlType::Double => "float8_key",
        SqlType::Char => "bpchar_key",
        SqlType::Jsonb => "jsonb_key",
        _ => return Ok(array.clone()),
    };
    let run = comparison::functions().into_iter().find(|d| d.symbol == symbol).map(|d| d.body);
    let Some(super::Body::Fixed(run)) = run else { unreachable!("the table has it") };
    run(&Args { arrays: vec![array.clone()], constant: vec![false], rows: array.len() })
}

/// The arrays of the keys of their elements: how arrays of numerics and the like are compared.
pub(super) fn key(symbol: &str, ty: &SqlType) -> Option<Arc<ScalarUDF>> {
    let SqlType::Array(item) = ty else { return None };
    let item = item.as_ref().clone();
    let returns = keys(&arrow::array::new_empty_array(&item.arrow()), &item).ok()?.data_type().clone();
    let field = Arc::new(Field::new("item", returns, true));
    let list = DataType::List(field.clone());
    let run: Run = Arc::new(move |args: &Args| {
        let array = args.arrays[0].as_list::<i32>();
        let values = keys(array.values(), &item)?;
        Ok(Arc::new(ListArray::new(field.clone(), array.offsets().clone(), values, array.nulls().cloned())))
    });
    Some(super::udf(symbol.into(), vec![Some(ty.arrow())], list, true, Volatility::Immutable, run))
}

/// Bytes that sort as arrays do: element by element, NULL behind every value, and what is at its end first.
pub(super) fn order_key(symbol: &str, ty: &SqlType) -> Option<Arc<ScalarUDF>> {
    let SqlType::Array(item) = ty else { return None };
    let item = item.as_ref().clone();
    let run: Run = Arc::new(move |args: &Args| {
        let array = args.arrays[0].as_list::<i32>();
        let values = keys(array.values(), &item)?;
        let field = Arc::new(Field::new("item", values.data_type().clone(), true));
        let list = ListArray::new(field, array.offsets().clone(), values, array.nulls().cloned());
        let bytes = storage::keys::encode(&[Arc::new(list)], &[storage::keys::SortOption::default()])
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let sorted = bytes.iter().enumerate().map(|(row, key)| array.is_valid(row).then_some(key));
        Ok(Arc::new(sorted.collect::<BinaryArray>()))
    });
    Some(super::udf(symbol.into(), vec![Some(ty.arrow())], DataType::Binary, true, Volatility::Immutable, run))
}

fn comparator(a: &ArrayRef, b: &ArrayRef, ty: &SqlType) -> Result<DynComparator> {
    Ok(make_comparator(&keys(a, ty)?, &keys(b, ty)?, SortOptions::default())?)
}

/// `value <op> ANY(array)` and `ALL`, three-valued.
fn quantified(types: &[SqlType], all: bool, test: fn(Ordering) -> bool) -> Run {
    let ty = types[0].clone();
    Arc::new(move |args: &Args| {
        let list = args.arrays[1].as_list::<i32>();
        let compare = comparator(&args.arrays[0], list.values(), &ty)?;
        let mut out = BooleanBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            let (left, right) = (args.at(0, row), args.at(1, row));
            if list.is_null(right) {
                out.append_null();
                continue;
            }
            let (mut unknown, mut decided) = (false, false);
            for place in places(list, right, 0) {
                if args.arrays[0].is_null(left) || list.values().is_null(place as usize) {
                    unknown = true;
                } else if test(compare(left, place as usize)) != all {
                    decided = true;
                    break;
                }
            }
            out.append_option(match (decided, unknown) {
                (true, _) => Some(!all),
                (false, true) => None,
                (false, false) => Some(all),
            });
        }
        Ok(Arc::new(out.finish()))
    })
}

/// A function of each row of an array that is not NULL.
fn measure(f: fn(&ListArray, usize) -> Option<i32>, dimension: bool) -> Run {
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let mut out = Int32Builder::with_capacity(args.rows);
        for row in 0..args.rows {
            let null = (0..args.arrays.len()).any(|arg| args.is_null(arg, row));
            let first = !dimension || null || args.arrays[1].as_primitive::<Int32Type>().value(args.at(1, row)) == 1;
            out.append_option(if null || !first { None } else { f(list, args.at(0, row)) });
        }
        Ok(Arc::new(out.finish()))
    })
}

fn length(list: &ListArray, row: usize) -> Option<i32> {
    Some(list.value_length(row)).filter(|n| *n > 0)
}

/// The 1-based subscript; outside there is NULL.
fn subscript(_: &[SqlType]) -> Run {
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let indexes = args.arrays[1].as_primitive::<Int32Type>();
        let found = (0..args.rows).map(|row| {
            let (at, i) = (args.at(0, row), args.at(1, row));
            if list.is_null(at) || indexes.is_null(i) {
                return None;
            }
            let index = indexes.value(i);
            (1..=list.value_length(at)).contains(&index).then(|| (list.value_offsets()[at] + index - 1) as u32)
        });
        let found: arrow::array::PrimitiveArray<UInt32Type> = found.collect();
        Ok(take(list.values(), &found, None)?)
    })
}

/// `array[low:high]`, a missing bound being NULL.
fn slice(types: &[SqlType]) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let bound = |arg: usize, row: usize| {
            let at = args.at(arg, row);
            args.arrays[arg].is_valid(at).then(|| args.arrays[arg].as_primitive::<Int32Type>().value(at))
        };
        let rows = (0..args.rows).map(|row| {
            let at = args.at(0, row);
            if list.is_null(at) {
                return None;
            }
            let n = list.value_length(at);
            let (low, high) = (bound(1, row).unwrap_or(1).max(1), bound(2, row).unwrap_or(n).min(n));
            let base = list.value_offsets()[at];
            Some((low..=high).map(|i| (base + i - 1) as u32).collect())
        });
        gather(list.values(), &item, rows.collect())
    })
}

/// Elements of the second argument by those of the first that are equal to it; NULL is equal to NULL.
fn equal_places(args: &Args, ty: &SqlType) -> Result<impl Fn(usize, usize) -> bool> {
    let list = args.arrays[0].as_list::<i32>();
    let compare = comparator(list.values(), &args.arrays[1], ty)?;
    let (values, needles) = (list.values().clone(), args.arrays[1].clone());
    Ok(move |place: usize, needle: usize| match (values.is_null(place), needles.is_null(needle)) {
        (true, true) => true,
        (false, false) => compare(place, needle).is_eq(),
        _ => false,
    })
}

fn remove(types: &[SqlType]) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let equal = equal_places(args, &item)?;
        let rows = (0..args.rows).map(|row| {
            let (at, needle) = (args.at(0, row), args.at(1, row));
            list.is_valid(at).then(|| places(list, at, 0).filter(|p| !equal(*p as usize, needle)).collect())
        });
        gather(list.values(), &item, rows.collect())
    })
}

fn replace(types: &[SqlType]) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let equal = equal_places(args, &item)?;
        let pool = concat(&[list.values().as_ref(), args.arrays[2].as_ref()])?;
        let base = list.values().len() as u32;
        let rows = (0..args.rows).map(|row| {
            let (at, needle, new) = (args.at(0, row), args.at(1, row), args.at(2, row) as u32 + base);
            let swap = |p: u32| if equal(p as usize, needle) { new } else { p };
            list.is_valid(at).then(|| places(list, at, 0).map(swap).collect())
        });
        gather(&pool, &item, rows.collect())
    })
}

fn find(types: &[SqlType]) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let equal = equal_places(args, &item)?;
        let mut out = Int32Builder::with_capacity(args.rows);
        for row in 0..args.rows {
            let (at, needle) = (args.at(0, row), args.at(1, row));
            let start = match args.arrays.get(2) {
                Some(start) => start.as_primitive::<Int32Type>().value(args.at(2, row)).max(1),
                None => 1,
            };
            let found = list.is_valid(at).then(|| {
                let places = places(list, at, 0).enumerate().skip(start as usize - 1);
                places.into_iter().find(|(_, p)| equal(*p as usize, needle)).map(|(i, _)| i as i32 + 1)
            });
            out.append_option(found.flatten());
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `@>`, `<@` and `&&` of two arrays; NULL elements are equal to nothing.
fn sets(types: &[SqlType], test: fn(&dyn Fn(usize, usize) -> bool, &[usize], &[usize]) -> bool) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let (a, b) = (args.arrays[0].as_list::<i32>(), args.arrays[1].as_list::<i32>());
        let compare = comparator(a.values(), b.values(), &item)?;
        let equal = |i: usize, j: usize| a.values().is_valid(i) && b.values().is_valid(j) && compare(i, j).is_eq();
        let mut out = BooleanBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) || args.is_null(1, row) {
                out.append_null();
                continue;
            }
            let left: Vec<usize> = places(a, args.at(0, row), 0).map(|p| p as usize).collect();
            let right: Vec<usize> = places(b, args.at(1, row), 0).map(|p| p as usize).collect();
            out.append_value(test(&equal, &left, &right));
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `array_to_string`: NULLs are left out or written as the third argument says.
fn array_to_string(types: &[SqlType]) -> Run {
    let (item, n) = (item_of(&types[0]), types.len());
    Arc::new(move |args: &Args| {
        let zone = zone_behind(args, n)?;
        let list = args.arrays[0].as_list::<i32>();
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) || args.is_null(1, row) {
                out.append_null();
                continue;
            }
            let text = |arg: usize| {
                let array = args.arrays[..n].get(arg)?;
                (!args.is_null(arg, row)).then(|| array.as_string_view().value(args.at(arg, row)).to_string())
            };
            let null = text(2);
            let mut parts = Vec::new();
            for place in places(list, args.at(0, row), 0) {
                if list.values().is_null(place as usize) {
                    parts.extend(null.clone());
                    continue;
                }
                let mut shown = String::new();
                form::write_in(list.values(), place as usize, &item, &zone, &mut shown);
                parts.push(shown);
            }
            out.append_value(parts.join(&text(1).unwrap_or_default()));
        }
        Ok(Arc::new(out.finish()))
    })
}

fn dims(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            let n = if args.is_null(0, row) { None } else { length(list, args.at(0, row)) };
            out.append_option(n.map(|n| format!("[1:{n}]")));
        }
        Ok(Arc::new(out.finish()))
    })
}

fn fill(types: &[SqlType]) -> Run {
    let item = item_of(&types[0]);
    Arc::new(move |args: &Args| {
        let lengths = args.arrays[1].as_list::<i32>();
        let mut rows = Vec::new();
        for row in 0..args.rows {
            let (value, at) = (args.at(0, row), args.at(1, row));
            if lengths.is_null(at) {
                return Err(external(error("22004", "dimension array or low bound array cannot be null")));
            }
            let sizes = lengths.value(at);
            let sizes = sizes.as_primitive::<Int32Type>();
            rows.push(match sizes.len() {
                0 => Some(vec![]),
                1 => Some(vec![value as u32; sizes.value(0).max(0) as usize]),
                _ => return Err(external(error("0A000", "multidimensional arrays are not supported"))),
            });
        }
        gather(&args.arrays[0], &item, rows)
    })
}

/// `generate_subscripts(array, dimension [, reverse])`, as an array.
fn subscripts(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let dimensions = args.arrays[1].as_primitive::<Int32Type>();
        let reverse = args.arrays.get(2).map(|array| array.as_boolean());
        let mut out = ListBuilder::new(Int32Builder::new());
        for row in 0..args.rows {
            let known = (0..args.arrays.len()).all(|i| !args.is_null(i, row));
            if known && dimensions.value(args.at(1, row)) == 1 {
                let n = list.value_length(args.at(0, row));
                match reverse.is_some_and(|reverse| reverse.value(args.at(2, row))) {
                    true => (1..=n).rev().for_each(|i| out.values().append_value(i)),
                    false => (1..=n).for_each(|i| out.values().append_value(i)),
                }
            }
            out.append(known);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `_pg_expandarray(array)`, as an array of the pairs (element, place).
fn expand(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        let list = args.arrays[0].as_list::<i32>();
        let values = arrow::compute::cast(list.values(), &DataType::Int32)?;
        let values = values.as_primitive::<Int32Type>();
        let mut out = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
        for row in 0..args.rows {
            let known = !args.is_null(0, row);
            if known {
                for (n, at) in (1..).zip(places(list, args.at(0, row), 0)) {
                    let pair = out.values().values();
                    pair.append_value(values.value(at as usize));
                    pair.append_value(n);
                    out.values().append(true);
                }
            }
            out.append(known);
        }
        Ok(Arc::new(out.finish()))
    })
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let (element, array) = (|| Param::AnyElement, || Param::AnyArray);
    let (text, int) = (|| Param::Type(SqlType::Text), || Param::Type(SqlType::Int));
    let bool = || Param::Type(SqlType::Boolean);
    let ints = || Param::Type(SqlType::Array(Box::new(SqlType::Int)));
    let any = |name, make| generic(name, name, vec![Param::AnyElement, Param::AnyArray], Param::Type(SqlType::Boolean), make);
    vec![
        generic("||", "array_cat_op", vec![array(), array()], array(), join),
        generic("||", "array_append_op", vec![array(), element()], array(), join),
        generic("||", "array_prepend_op", vec![element(), array()], array(), join),
        generic("array_cat", "array_cat", vec![array(), array()], array(), join),
        generic("array_append", "array_append", vec![array(), element()], array(), join),
        generic("array_prepend", "array_prepend", vec![element(), array()], array(), join),
        generic("array_length", "array_length", vec![array(), int()], int(), |_| measure(length, true)),
        generic("array_upper", "array_upper", vec![array(), int()], int(), |_| measure(length, true)),
        generic("array_lower", "array_lower", vec![array(), int()], int(), |_| measure(|l, r| length(l, r).map(|_| 1), true)),
        generic("array_ndims", "array_ndims", vec![array()], int(), |_| measure(|l, r| length(l, r).map(|_| 1), false)),
        generic("cardinality", "array_cardinality", vec![array()], int(), |_| measure(|l, r| Some(l.value_length(r)), false)),
        generic("array_dims", "array_dims", vec![array()], text(), dims),
        generic("array_position", "array_position", vec![array(), element()], int(), find),
        generic("array_position", "array_position_start", vec![array(), element(), int()], int(), find),
        generic("array_remove", "array_remove", vec![array(), element()], array(), remove),
        generic("array_replace", "array_replace", vec![array(), element(), element()], array(), replace),
        generic("array_to_string", "array_to_text", vec![array(), text()], text(), array_to_string).stable().in_zone(),
        generic("array_to_string", "array_to_text_null", vec![array(), text(), text()], text(), array_to_string).stable().in_zone(),
        generic("array_fill", "array_fill", vec![element(), ints()], array(), fill),
        generic("array_get", "array_get", vec![array(), int()], element(), subscript),
        generic("array_subscripts", "array_subscripts", vec![array(), int()], ints(), subscripts),
        generic("array_subscripts", "array_subscripts_reverse", vec![array(), int(), bool()], ints(), subscripts),
        generic("_pg_expandarray", "pg_expandarray", vec![array()], Param::Type(SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Int))))), expand),
        generic("array_slice", "array_slice", vec![array(), int(), int()], array(), slice),
        generic("@>", "arraycontains", vec![array(), array()], bool(), |t| sets(t, |equal, a, b| b.iter().all(|j| a.iter().any(|i| equal(*i, *j))))),
        generic("<@", "arraycontained", vec![array(), array()], bool(), |t| sets(t, |equal, a, b| a.iter().all(|i| b.iter().any(|j| equal(*i, *j))))),
        generic("&&", "arrayoverlap", vec![array(), array()], bool(), |t| sets(t, |equal, a, b| a.iter().any(|i| b.iter().any(|j| equal(*i, *j))))),
        any("any_eq", |t| quantified(t, false, Ordering::is_eq)),
        any("any_ne", |t| quantified(t, false, Ordering::is_ne)),
        any("any_lt", |t| quantified(t, false, Ordering::is_lt)),
        any("any_le", |t| quantified(t, false, Ordering::is_le)),
        any("any_gt", |t| quantified(t, false, Ordering::is_gt)),
        any("any_ge", |t| quantified(t, false, Ordering::is_ge)),
        any("all_eq", |t| quantified(t, true, Ordering::is_eq)),
        any("all_ne", |t| quantified(t, true, Ordering::is_ne)),
        any("all_lt", |t| quantified(t, true, Ordering::is_lt)),
        any("all_le", |t| quantified(t, true, Ordering::is_le)),
        any("all_gt", |t| quantified(t, true, Ordering::is_gt)),
        any("all_ge", |t| quantified(t, true, Ordering::is_ge)),
    ]
}
