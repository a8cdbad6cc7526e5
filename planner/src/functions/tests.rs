//! Expressions and what PostgreSQL 15 answers to them: `functions/golden.txt`, one `expression|answer` per line.
//!
//! A few lines of binder evaluate constant expressions over the registry, as the real one would.

use arrow::datatypes::Field;
use datafusion::common::config::ConfigOptions;
use sqlparser::ast::{BinaryOperator, DateTimeField, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Value};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use streaming::expr::EvalError;

use super::*;
use crate::error::hint_of;
use crate::types::datetime::UTC;
use crate::types::text::{self as form, Session};
use crate::types::{self, CastContext, error};

type Typed = (ScalarValue, SqlType);

fn invoke(function: &ScalarUDF, args: Vec<ScalarValue>) -> Result<ScalarValue, EvalError> {
    let args: Vec<ColumnarValue> = args.into_iter().map(ColumnarValue::Scalar).collect();
    let fields = args.iter().map(|a| Arc::new(Field::new("a", a.data_type(), true))).collect::<Vec<_>>();
    let types: Vec<DataType> = args.iter().map(ColumnarValue::data_type).collect();
    let returns = function.return_type(&types).unwrap();
    let args = ScalarFunctionArgs {
        args,
        arg_fields: fields,
        number_rows: 1,
        return_field: Arc::new(Field::new("r", returns.clone(), true)),
        config_options: Arc::new(ConfigOptions::default()),
    };
    match function.invoke_with_args(args) {
        Ok(value) => {
            assert_eq!(value.data_type(), returns, "{}", function.name());
            Ok(ScalarValue::try_from_array(&value.into_array(1).unwrap(), 0).unwrap())
        }
        Err(DataFusionError::External(e)) => Err(e.downcast_ref::<EvalError>().unwrap().clone()),
        Err(e) => panic!("{e}"),
    }
}

fn cast_to((value, from): Typed, to: &SqlType, typmod: i32, context: CastContext) -> Result<Typed, EvalError> {
    if from == SqlType::Unknown {
        if value.is_null() {
            return Ok((form::null(to), to.clone()));
        }
        let ScalarValue::Utf8View(Some(text)) = &value else { panic!("{value}") };
        let own = if *to == SqlType::Interval { typmod } else { -1 };
        let read = form::read_in(text, to, own, &Session { zone: UTC, now: None })?;
        return cast_to((read, to.clone()), to, typmod, context);
    }
    let mut value = value;
    for step in cast(&from, to, typmod, context, "UTC")? {
        let args = std::iter::once(value).chain(step.extra).collect();
        value = invoke(&step.implementation, args)?;
    }
    Ok((value, to.clone()))
}

fn call(resolved: Resolved, args: Vec<Typed>) -> Result<Typed, EvalError> {
    let mut values = Vec::new();
    for (arg, to) in args.into_iter().zip(&resolved.casts) {
        values.push(cast_to(arg, to, -1, CastContext::Implicit)?.0);
    }
    if resolved.function.zoned {
        values.push(ScalarValue::Utf8View(Some("UTC".into())));
    }
    Ok((invoke(&resolved.function.implementation, values)?, resolved.function.returns))
}

fn operator(name: &str, args: Vec<Typed>) -> Result<Typed, EvalError> {
    let types: Vec<SqlType> = args.iter().map(|a| a.1.clone()).collect();
    if matches!(name, "=" | "<>" | "<" | "<=" | ">" | ">=") {
        let comparison = resolve_comparison(name, &types[0], &types[1])?;
        let mut keys = Vec::new();
        for arg in args {
            let (value, _) = cast_to(arg, &comparison.common, -1, CastContext::Implicit)?;
            keys.push(match &comparison.key {
                Some(key) => invoke(key, vec![value])?,
                None => value,
            });
        }
        if keys.iter().any(ScalarValue::is_null) {
            return Ok((ScalarValue::Boolean(None), SqlType::Boolean));
        }
        let (a, b) = (keys[0].to_array().unwrap(), keys[1].to_array().unwrap());
        let order = arrow::array::make_comparator(&a, &b, Default::default()).unwrap()(0, 0);
        let result = match name {
            "=" => order.is_eq(),
            "<>" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        };
        return Ok((ScalarValue::Boolean(Some(result)), SqlType::Boolean));
    }
    call(resolve_operator(name, &types)?, args)
}

fn function(name: &str, args: Vec<Typed>) -> Result<Typed, EvalError> {
    let types: Vec<SqlType> = args.iter().map(|a| a.1.clone()).collect();
    call(resolve(name, &types)?, args)
}

fn unknown(text: impl Into<String>) -> Typed {
    (ScalarValue::Utf8View(Some(text.into())), SqlType::Unknown)
}

fn field(field: &DateTimeField) -> Typed {
    unknown(field.to_string().trim_matches('"').to_lowercase())
}

fn evaluate(e: &Expr) -> Result<Typed, EvalError> {
    match e {
        Expr::Nested(e) => evaluate(e),
        Expr::Value(value) => Ok(match &value.value {
            Value::Number(digits, _) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let ty = match digits.parse::<i64>() {
                    Ok(n) if i32::try_from(n).is_ok() => SqlType::Int,
                    Ok(_) => SqlType::BigInt,
                    Err(_) => SqlType::Numeric,
                };
                (form::read(digits, &ty, -1)?, ty)
            }
            Value::Number(digits, _) => (form::read(digits, &SqlType::Numeric, -1)?, SqlType::Numeric),
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => unknown(text.clone()),
            Value::Boolean(b) => (ScalarValue::Boolean(Some(*b)), SqlType::Boolean),
            Value::Null => (ScalarValue::Utf8View(None), SqlType::Unknown),
            other => panic!("{other}"),
        }),
        Expr::TypedString(typed) => {
            let (ty, typmod) = types::from_ast(&typed.data_type)?;
            cast_to(unknown(typed.value.value.clone().into_string().unwrap()), &ty, typmod, CastContext::Explicit)
        }
        Expr::Interval(interval) => {
            let (text, _) = evaluate(&interval.value)?;
            let fields = interval.leading_field.as_ref().map(|f| f.to_string());
            let typmod = fields.map_or(-1, |f| types::interval_typmod_of(Some(&f), None).unwrap());
            cast_to((text, SqlType::Unknown), &SqlType::Interval, typmod, CastContext::Explicit)
        }
        Expr::Cast { expr, data_type, .. } => {
            let (ty, typmod) = types::from_ast(data_type)?;
            cast_to(evaluate(expr)?, &ty, typmod, CastContext::Explicit)
        }
        Expr::UnaryOp { op, expr } => operator(&op.to_string(), vec![evaluate(expr)?]),
        Expr::BinaryOp { left, op, right } => {
            let op = match op {
                BinaryOperator::PGCustomBinaryOperator(parts) => parts.join("."),
                op => op.to_string(),
            };
            operator(&op, vec![evaluate(left)?, evaluate(right)?])
        }
        Expr::Like { negated, expr, pattern, escape_char, .. }
        | Expr::ILike { negated, expr, pattern, escape_char, .. } => {
            let star = if matches!(e, Expr::ILike { .. }) { "*" } else { "" };
            let mut pattern = evaluate(pattern)?;
            if let Some(escape) = escape_char {
                let escape = unknown(escape.value.clone().into_string().unwrap());
                pattern = function("like_escape", vec![pattern, escape])?;
            }
            let op = format!("{}~~{star}", if *negated { "!" } else { "" });
            operator(&op, vec![evaluate(expr)?, pattern])
        }
        Expr::SimilarTo { expr, pattern, .. } => {
            let pattern = function("similar_to_escape", vec![evaluate(pattern)?])?;
            operator("~", vec![evaluate(expr)?, pattern])
        }
        Expr::Extract { field: what, expr, .. } => function("extract", vec![field(what), evaluate(expr)?]),
        Expr::AtTimeZone { timestamp, time_zone } => {
            function("timezone", vec![evaluate(time_zone)?, evaluate(timestamp)?])
        }
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let mut args = vec![evaluate(expr)?];
            match (substring_from, substring_for) {
                (None, _) => args.push((ScalarValue::Int32(Some(1)), SqlType::Int)),
                (Some(from), _) => args.push(evaluate(from)?),
            }
            if let Some(n) = substring_for {
                args.push(evaluate(n)?);
            }
            function("substring", args)
        }
        Expr::Position { expr, r#in } => function("position", vec![evaluate(r#in)?, evaluate(expr)?]),
        Expr::Floor { expr, .. } => function("floor", vec![evaluate(expr)?]),
        Expr::Ceil { expr, .. } => function("ceil", vec![evaluate(expr)?]),
        Expr::Trim { expr, trim_where, trim_what, .. } => {
            let name = match trim_where.map(|w| w.to_string()).as_deref() {
                Some("LEADING") => "ltrim",
                Some("TRAILING") => "rtrim",
                _ => "btrim",
            };
            let mut args = vec![evaluate(expr)?];
            if let Some(what) = trim_what {
                args.push(evaluate(what)?);
            }
            function(name, args)
        }
        Expr::Array(array) => {
            let items = array.elem.iter().map(evaluate).collect::<Result<Vec<_>, _>>()?;
            let kinds: Vec<SqlType> = items.iter().map(|i| i.1.clone()).collect();
            let ty = common_type(&kinds).ok_or_else(|| error("42804", "ARRAY types cannot be matched"))?;
            let mut values = Vec::new();
            for item in items {
                values.push(cast_to(item, &ty, -1, CastContext::Implicit)?.0);
            }
            let list = ScalarValue::List(ScalarValue::new_list_nullable(&values, &ty.arrow()));
            Ok((list, SqlType::Array(Box::new(ty))))
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            let name = match compare_op.to_string().as_str() {
                "=" => "any_eq",
                ">" => "any_gt",
                _ => "any_ne",
            };
            function(name, vec![evaluate(left)?, evaluate(right)?])
        }
        Expr::Function(call) => {
            let name = call.name.to_string().trim_matches('"').to_lowercase();
            let FunctionArguments::List(list) = &call.args else { return function(&name, vec![]) };
            let mut args = Vec::new();
            for arg in &list.args {
                match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => args.push(evaluate(e)?),
                    FunctionArg::ExprNamed { .. } | FunctionArg::Named { .. } => panic!("{arg}"),
                    other => panic!("{other}"),
                }
            }
            function(&name, args)
        }
        other => panic!("{other:?}"),
    }
}

fn answer(expression: &str) -> String {
    let e = Parser::new(&PostgreSqlDialect {}).try_with_sql(expression).and_then(|mut p| p.parse_expr());
    let e = match e {
        Ok(e) => e,
        Err(e) => return format!("does not parse: {e}"),
    };
    let shown = evaluate(&e).and_then(|typed| cast_to(typed, &SqlType::Text, -1, CastContext::Explicit));
    match shown {
        Ok((ScalarValue::Utf8View(text), _)) => text.unwrap_or_else(|| "NULL".into()),
        Ok((other, _)) => panic!("{other}"),
        Err(error) => format!("{}: {}", error.sqlstate, error.message),
    }
}

#[test]
fn answers_as_postgres() {
    let mut wrong = Vec::new();
    let lines = include_str!("golden.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (expression, expected) = line.rsplit_once(" => ").expect("expression => answer");
        let answer = std::panic::catch_unwind(|| answer(expression)).unwrap_or_else(|_| "panicked".into());
        if answer.replace('\n', "\\n") != expected {
            wrong.push(format!("{line}\n    but: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn symbols_are_unique_and_found_again() {
    let mut seen = std::collections::HashSet::new();
    for definition in all() {
        assert!(seen.insert(definition.symbol), "{} is there twice", definition.symbol);
    }
    for symbol in ["int4pl", "cast[text,integer]", "cast[timestamp with time zone,text]", "cast[integer[],text[]]"] {
        assert_eq!(by_symbol(symbol).unwrap().name(), symbol);
    }
    assert!(by_symbol("nothing").is_none());
    assert!(by_symbol("cast[jsonb,uuid]").is_none());
}

#[test]
fn errors_carry_the_hints_of_postgres() {
    let error = resolve("foo", &[SqlType::Int, SqlType::Text]).unwrap_err();
    assert_eq!(error.message, "function foo(integer, text) does not exist");
    assert_eq!(
        hint_of(&error).unwrap(),
        "No function matches the given name and argument types. You might need to add explicit type casts."
    );
    let error = resolve_operator("+", &[SqlType::Int, SqlType::Text]).unwrap_err();
    assert_eq!(error.message, "operator does not exist: integer + text");
    assert!(hint_of(&error).unwrap().starts_with("No operator matches the given name and argument types."));
    let error = resolve_operator("-", &[SqlType::Text]).unwrap_err();
    assert_eq!(error.message, "operator does not exist: - text");
    assert!(hint_of(&error).unwrap().starts_with("No operator matches the given name and argument type."));
}
