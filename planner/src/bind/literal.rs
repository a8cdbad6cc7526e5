//! Constants, parameters and casts: what is untyped is typed by its context.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Placeholder, ScalarFunction};
use datafusion::logical_expr::{Expr, ScalarUDF, Volatility};
use sqlparser::ast;
use storage::SqlType;

use super::{Binder, BoundQuery, Settings, Typed, at};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::functions::{CastStep, Comparison, Function};
use crate::statement::ObjectName;
use crate::types::{self, CastContext};

/// Parameters that a statement may have, as in the protocol.
const PARAMETERS_MAX: usize = 65535;

pub(super) fn literal(value: ScalarValue) -> Expr {
    Expr::Literal(value, None)
}

pub(super) fn boolean(value: bool) -> Expr {
    literal(ScalarValue::Boolean(Some(value)))
}

pub(super) fn text(value: impl Into<String>) -> Expr {
    literal(ScalarValue::Utf8View(Some(value.into())))
}

impl Binder<'_> {
    /// A constant or a parameter.
    pub(super) fn value(&mut self, value: &ast::Value, place: Option<usize>) -> Result<Typed> {
        use ast::Value::*;
        let unknown = |text: &str| Typed::new(self::text(text), SqlType::Unknown);
        let typed = match value {
            Number(digits, _) => number(digits).map_err(|e| at(e, place))?,
            SingleQuotedString(s) | EscapedStringLiteral(s) | UnicodeStringLiteral(s) | NationalStringLiteral(s) => {
                unknown(s)
            }
            DollarQuotedString(s) => unknown(&s.value),
            Boolean(b) => Typed::new(boolean(*b), SqlType::Boolean),
            Null => Typed::new(literal(ScalarValue::Utf8View(None)), SqlType::Unknown),
            Placeholder(name) => self.parameter(name, place)?,
            HexStringLiteral(_) | SingleQuotedByteStringLiteral(_) => {
                return Err(at(Error::unsupported("bit strings are not supported"), place));
            }
            other => return Err(at(Error::unsupported(format!("the literal {other} is not supported")), place)),
        };
        Ok(typed.at(place))
    }

    fn parameter(&mut self, name: &str, place: Option<usize>) -> Result<Typed> {
        let number: usize = match name.strip_prefix('$').and_then(|n| n.parse().ok()) {
            Some(n) if (1..=PARAMETERS_MAX).contains(&n) => n,
            _ => return Err(at(Error::new("42P02", format!("there is no parameter {name}")), place)),
        };
        if self.view {
            return Err(at(Error::new("42P02", format!("there is no parameter {name}")), place));
        }
        if self.params.len() < number {
            self.params.resize(number, None);
        }
        let ty = self.params[number - 1].clone();
        Ok(match ty {
            Some(ty) if ty != SqlType::Unknown => Typed::new(placeholder(name, &ty), ty),
            _ => {
                let untyped = Placeholder::new_with_field(name.to_string(), None);
                Typed::new(Expr::Placeholder(untyped), SqlType::Unknown)
            }
        })
    }

    /// The value as one of `to` where Postgres casts by itself: arguments of functions and operators.
    pub(super) fn implicit(&mut self, typed: Typed, to: &SqlType) -> Result<Expr> {
        self.coerce(typed, to, -1, CastContext::Implicit)
    }

    /// The value as one of `to`.
    pub(super) fn coerce(&mut self, typed: Typed, to: &SqlType, typmod: i32, context: CastContext) -> Result<Expr> {
        let place = typed.position;
        if typed.ty == SqlType::Unknown {
            let expr = match &typed.expr {
                Expr::Literal(ScalarValue::Utf8View(Some(text)), _) => {
                    let (text, to) = (text.clone(), to.clone());
                    // The fields of an interval decide how it is read.
                    let read_as = if to == SqlType::Interval { typmod } else { -1 };
                    let value = self.read_constant(&text, &to, read_as).map_err(|e| at(e, place))?;
                    let typed = Typed { expr: literal(value), ty: to.clone(), typmod: read_as, position: place };
                    if to == SqlType::Interval {
                        return Ok(typed.expr);
                    }
                    return self.coerce(typed, &to, typmod, context);
                }
                Expr::Literal(..) => return Ok(literal(types::text::null(to))),
                Expr::Placeholder(p) => {
                    let number: usize = p.id[1..].parse().expect("it was parsed before");
                    let known = self.params[number - 1].clone();
                    let known = known.filter(|t| *t != SqlType::Unknown);
                    let ty = known.unwrap_or_else(|| to.clone());
                    self.params[number - 1] = Some(ty.clone());
                    let expr = placeholder(&p.id, &ty);
                    let typed = Typed { expr, ty, typmod: -1, position: place };
                    return self.coerce(typed, to, typmod, context);
                }
                other => other.clone(),
            };
            let as_text = Typed { expr, ty: SqlType::Text, typmod: -1, position: place };
            return self.coerce(as_text, to, typmod, CastContext::Explicit);
        }
        if types::category(&typed.ty) == 'S' && matches!(to, SqlType::RegClass | SqlType::RegType) {
            return self.text_to_object(typed, to);
        }
        if matches!(typed.ty, SqlType::RegClass | SqlType::RegType) && types::category(to) == 'S' {
            return self.object_to_text(typed, to);
        }
        let typmod = if typmod == typed.typmod && typed.ty == *to { -1 } else { typmod };
        let steps = crate::functions::cast(&typed.ty, to, typmod, context, &self.settings.timezone)
            .map_err(|e| at(e, place))?;
        let mut expr = typed.expr;
        let nothing_to_do = steps.is_empty() && typed.ty.arrow() != to.arrow();
        if nothing_to_do {
            expr = datafusion::logical_expr::cast(expr, to.arrow());
        }
        for step in steps {
            let call = cast_call(step, expr);
            // A number that an operator wants wider is one from here on, wherever the expression goes.
            let wider = if context == CastContext::Implicit { crate::expr::constant(&call) } else { None };
            expr = wider.map_or(call, literal);
        }
        Ok(expr)
    }

    /// A constant in quotes as a value of a type.
    pub(super) fn read_constant(&mut self, text: &str, ty: &SqlType, typmod: i32) -> Result<ScalarValue> {
        match ty {
            SqlType::RegClass => return Ok(ScalarValue::Int64(Some(self.class_named(text)?))),
            SqlType::RegType => {
                if let Ok(oid) = text.parse::<u32>() {
                    return Ok(ScalarValue::Int64(Some(oid.into())));
                }
                let (ty, _) = types::parse(text)?;
                return Ok(ScalarValue::Int64(Some(types::oid(&ty).into())));
            }
            _ => {}
        }
        if self.view && is_relative_time(text, ty) {
            return Err(no_now(&format!("'{}'", text.trim())));
        }
        Ok(types::text::read_in(text, ty, typmod, &self.text_session)?)
    }

    /// The oid of the relation that a text names.
    pub(super) fn class_named(&self, text: &str) -> Result<i64> {
        relation_oid(self.catalog, self.settings, text)
    }

    /// A call of a function whose arguments have its types.
    pub(super) fn call(&self, function: Function, mut args: Vec<Expr>) -> Typed {
        if function.zoned {
            args.push(text(&self.settings.timezone));
        }
        let call = ScalarFunction::new_udf(function.implementation, args);
        Typed::new(Expr::ScalarFunction(call), function.returns)
    }

    /// A call of a function by name with the arguments cast as its signature says.
    pub(super) fn function(&mut self, name: &str, args: Vec<Typed>, place: Option<usize>) -> Result<Typed> {
        let types: Vec<SqlType> = args.iter().map(|a| a.ty.clone()).collect();
        let resolved = crate::functions::resolve(name, &types).map_err(|e| at(e, place))?;
        if self.view && resolved.function.volatility == Volatility::Volatile {
            // The change that takes a row away must find the values that the row was added with.
            let error = Error::unsupported(format!("the volatile function {name}() is not supported in a view"));
            return Err(at(error, place).with_hint("Call it when you read the view, or store its values in a table."));
        }
        let args = self.implicit_all(args, &resolved.casts)?;
        Ok(self.call(resolved.function, args).at(place))
    }

    /// A call of an operator.
    pub(super) fn operator(&mut self, name: &str, args: Vec<Typed>, place: Option<usize>) -> Result<Typed> {
        let types: Vec<SqlType> = args.iter().map(|a| a.ty.clone()).collect();
        let resolved = crate::functions::resolve_operator(name, &types).map_err(|e| at(e, place))?;
        let args = self.implicit_all(args, &resolved.casts)?;
        Ok(self.call(resolved.function, args).at(place))
    }

    fn implicit_all(&mut self, args: Vec<Typed>, types: &[SqlType]) -> Result<Vec<Expr>> {
        args.into_iter().zip(types).map(|(arg, ty)| self.implicit(arg, ty)).collect()
    }

    /// What a comparison, a group or an order looks at in a value of this type.
    pub(super) fn key_of(ty: &SqlType, expr: Expr) -> Expr {
        Self::through(crate::functions::key(ty).as_ref(), expr)
    }

    /// What an order looks at in a value of this type. Arrays are not stored in their order: NULL elements come first there.
    pub(super) fn order_of(ty: &SqlType, expr: Expr) -> Expr {
        match ty {
            SqlType::Array(_) => Self::through(crate::functions::array_order(ty).as_ref(), expr),
            _ => Self::key_of(ty, expr),
        }
    }

    /// One side of a comparison.
    pub(super) fn side_of(how: &Comparison, expr: Expr) -> Expr {
        Self::through(how.key.as_ref(), expr)
    }

    fn through(key: Option<&Arc<ScalarUDF>>, expr: Expr) -> Expr {
        match key {
            Some(key) => Expr::ScalarFunction(ScalarFunction::new_udf(key.clone(), vec![expr])),
            None => expr,
        }
    }

    /// The columns of a query with text for what nothing typed.
    pub(super) fn without_unknowns(&mut self, query: BoundQuery) -> Result<BoundQuery> {
        if query.fields.iter().all(|f| f.ty != SqlType::Unknown) {
            return Ok(query);
        }
        // The bytes of an untyped literal are those of a text; only parameters have to be told.
        let mut query = query;
        for field in &mut query.fields {
            if field.ty == SqlType::Unknown {
                field.ty = SqlType::Text;
            }
        }
        Ok(query)
    }

    /// A select item or the like: parameters that nothing typed are text.
    pub(super) fn settle(&mut self, typed: Typed) -> Result<Typed> {
        if matches!((&typed.ty, &typed.expr), (SqlType::Unknown, Expr::Placeholder(_))) {
            let place = typed.position;
            let expr = self.implicit(typed, &SqlType::Text)?;
            return Ok(Typed::new(expr, SqlType::Text).at(place));
        }
        Ok(typed)
    }
}

pub(super) fn cast_call(step: CastStep, value: Expr) -> Expr {
    let args = std::iter::once(value).chain(step.extra.into_iter().map(literal)).collect();
    Expr::ScalarFunction(ScalarFunction::new_udf(step.implementation, args))
}

fn placeholder(name: &str, ty: &SqlType) -> Expr {
    let field = arrow_schema::Field::new("", ty.arrow(), true);
    Expr::Placeholder(Placeholder::new_with_field(name.to_string(), Some(field.into())))
}

/// The refusal of the current time where there is no such thing.
pub(super) fn no_now(what: &str) -> Error {
    Error::unsupported(format!("{what} is not supported in a materialized view"))
        .with_hint("Compare with the time when you read the view, or with a time column of the data.")
}

fn is_relative_time(text: &str, ty: &SqlType) -> bool {
    let timed = matches!(ty, SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Time);
    timed && ["now", "today", "tomorrow", "yesterday"].contains(&text.trim().to_lowercase().as_str())
}

/// An unquoted number: the smallest of integer, bigint and numeric that has it.
fn number(digits: &str) -> Result<Typed> {
    let written = digits.replace('_', "");
    let (sign, plain) = match written.strip_prefix('-') {
        Some(plain) => ("-", plain),
        None => ("", written.as_str()),
    };
    let radix = match plain.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let integer = match radix {
        Some(radix) => i64::from_str_radix(&format!("{sign}{}", &plain[2..]), radix).ok(),
        None => written.parse::<i64>().ok(),
    };
    if let Some(n) = integer {
        return Ok(match i32::try_from(n) {
            Ok(n) => Typed::new(literal(ScalarValue::Int32(Some(n))), SqlType::Int),
            Err(_) => Typed::new(literal(ScalarValue::Int64(Some(n))), SqlType::BigInt),
        });
    }
    let value = types::text::read_in(&written, &SqlType::Numeric, -1, &types::text::Session::default())?;
    Ok(Typed::new(literal(value), SqlType::Numeric))
}

/// The parts of a dotted name in a text, folded.
/// The oid that a text means as a `regclass`.
pub fn relation_oid(catalog: &Catalog, settings: &Settings, text: &str) -> Result<i64> {
    if let Ok(oid) = text.trim().parse::<u32>() {
        return Ok(oid.into());
    }
    let mut parts = split_name(text)?.into_iter().rev();
    let name = parts.next().unwrap_or_default();
    let name = ObjectName { name, schema: parts.next(), position: None };
    Ok(catalog.expect(&name, settings)?.id.0.into())
}

fn split_name(text: &str) -> Result<Vec<String>> {
    let mut parts = vec![];
    let mut part = String::new();
    let mut quoted = false;
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    parts.push(part);
    if quoted || parts.iter().any(String::is_empty) {
        return Err(Error::new("42602", "invalid name syntax"));
    }
    Ok(parts)
}
