//! Expressions: every node of the AST to a typed expression of the plan.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{BinaryExpr, Case, InList};
use datafusion::logical_expr::{Expr, Operator};
use sqlparser::ast::{self, Spanned};
use storage::SqlType;

use super::hypothetical::is_hypothetical;
use super::literal::{boolean, literal, text};
use super::names::{fold, position, start_of};
use super::row::row_items;
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::functions::{common_type, resolve_comparison};
use crate::types::{self, CastContext};

impl Binder<'_> {
    /// Binds an expression of the innermost scope.
    #[::recursive::recursive]
    pub(super) fn expr(&mut self, e: &ast::Expr) -> Result<Typed> {
        use ast::Expr::*;
        let place = start_of(e);
        Ok(match e {
            Identifier(ident) => return self.column_named(ident),
            CompoundIdentifier(idents) => return self.column_of(idents),
            CompoundFieldAccess { root, access_chain } => return self.field_access(root, access_chain),
            Nested(e) => return self.expr(e),
            Value(value) => return self.value(&value.value, place),
            TypedString(typed) => {
                let (ty, typmod) = types::from_ast(&typed.data_type).map_err(|e| at(e, place))?;
                let value = self.value(&typed.value.value, start_of(&typed.value))?;
                let expr = self.coerce(value, &ty, typmod, CastContext::Explicit)?;
                Typed { expr, ty, typmod, position: place }
            }
            Interval(interval) => return self.interval(interval, place),
            Cast { kind, expr, data_type, format: None, array: false } => {
                if !matches!(kind, ast::CastKind::Cast | ast::CastKind::DoubleColon) {
                    return Err(at(Error::unsupported("TRY_CAST is not supported"), place));
                }
                return self.cast(expr, data_type, place);
            }
            Collate { expr, collation } => {
                let name = collation.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
                if !matches!(name.as_str(), "default" | "C" | "POSIX" | "c" | "ucs_basic") {
                    return Err(at(Error::unsupported(format!("the collation \"{name}\" is not supported")), place)
                        .with_hint("Text is compared byte by byte, as in the collation \"C\"."));
                }
                return self.expr(expr);
            }
            UnaryOp { op, expr } => return self.unary(op, expr, place),
            BinaryOp { left, op, right } => return self.binary(left, op, right),
            IsNull(e) => self.is_null(e, false)?,
            IsNotNull(e) => self.is_null(e, true)?,
            IsTrue(e) => self.is_truth(e, "IS TRUE", Expr::IsTrue)?,
            IsNotTrue(e) => self.is_truth(e, "IS NOT TRUE", Expr::IsNotTrue)?,
            IsFalse(e) => self.is_truth(e, "IS FALSE", Expr::IsFalse)?,
            IsNotFalse(e) => self.is_truth(e, "IS NOT FALSE", Expr::IsNotFalse)?,
            IsUnknown(e) => self.is_truth(e, "IS UNKNOWN", Expr::IsNull)?,
            IsNotUnknown(e) => self.is_truth(e, "IS NOT UNKNOWN", Expr::IsNotNull)?,
            IsDistinctFrom(a, b) => return self.comparison_of(Operator::IsDistinctFrom, a, b, place),
            IsNotDistinctFrom(a, b) => return self.comparison_of(Operator::IsNotDistinctFrom, a, b, place),
            Between { expr, negated, low, high } => {
                let low = self.comparison_of(Operator::GtEq, expr, low, place)?;
                let high = self.comparison_of(Operator::LtEq, expr, high, place)?;
                negate(low.expr.and(high.expr), *negated)
            }
            InList { expr, list, negated } => return self.in_list(expr, list, *negated, place),
            InSubquery { expr, subquery, negated } => return self.in_subquery(expr, subquery, *negated, place),
            Exists { subquery, negated } => return self.exists(subquery, *negated),
            Subquery(query) => {
                let place = place.map(|p| self.parenthesis_before(p));
                return self.scalar_subquery(query, place);
            }
            AnyOp { left, compare_op, right, .. } => return self.quantified(left, compare_op, right, false, place),
            AllOp { left, compare_op, right } => return self.quantified(left, compare_op, right, true, place),
            Like { negated, any: false, expr, pattern, escape_char } => {
                let name = if *negated { "!~~" } else { "~~" };
                return self.like(name, expr, pattern, escape_char.as_ref(), place);
            }
            ILike { negated, any: false, expr, pattern, escape_char } => {
                let name = if *negated { "!~~*" } else { "~~*" };
                return self.like(name, expr, pattern, escape_char.as_ref(), place);
            }
            SimilarTo { negated, expr, pattern, escape_char } => {
                let mut args = vec![self.expr(pattern)?];
                if let Some(escape) = escape_char {
                    args.push(self.value(&escape.value, None)?);
                }
                let pattern = self.function("similar_to_escape", args, place)?;
                let value = self.expr(expr)?;
                return self.operator(if *negated { "!~" } else { "~" }, vec![value, pattern], place);
            }
            Case { operand, conditions, else_result, .. } => {
                return self
                    .conditionally("CASE", |b| b.case(operand.as_deref(), conditions, else_result.as_deref(), place));
            }
            Array(array) => return self.array(&array.elem, place),
            Tuple(_) => {
                return Err(at(Error::unsupported("a row as a value is not supported"), place));
            }
            AtTimeZone { timestamp, time_zone } => {
                let mut value = self.expr(timestamp)?;
                if value.ty == SqlType::Unknown {
                    let expr = self.implicit(value, &SqlType::TimestampTz)?;
                    value = Typed::new(expr, SqlType::TimestampTz);
                }
                let zone = self.expr(time_zone)?;
                return self.function("timezone", vec![zone, value], place);
            }
            Extract { field, expr, .. } => {
                let field = Typed::new(text(field.to_string().to_lowercase().replace('\'', "")), SqlType::Text);
                let mut value = self.expr(expr)?;
                if value.ty == SqlType::Unknown {
                    // Postgres refuses this as ambiguous unless the literal says what it is.
                    value.position = start_of(expr.as_ref());
                }
                return self.function("extract", vec![field, value], place);
            }
            Position { expr, r#in } => {
                let (part, whole) = (self.expr(expr)?, self.expr(r#in)?);
                return self.function("position", vec![whole, part], place);
            }
            Substring { expr, substring_from, substring_for, .. } => {
                let mut args = vec![self.expr(expr)?];
                match (substring_from, substring_for) {
                    (Some(from), None) => args.push(self.expr(from)?),
                    (None, Some(n)) => {
                        args.push(Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int));
                        args.push(self.expr(n)?);
                    }
                    (Some(from), Some(n)) => {
                        args.push(self.expr(from)?);
                        args.push(self.expr(n)?);
                    }
                    (None, None) => {}
                }
                return self.function("substring", args, place);
            }
            Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args = vec![self.expr(expr)?, self.expr(overlay_what)?, self.expr(overlay_from)?];
                if let Some(n) = overlay_for {
                    args.push(self.expr(n)?);
                }
                return self.function("overlay", args, place);
            }
            Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut args = vec![self.expr(expr)?];
                if let Some(what) = trim_what {
                    args.push(self.expr(what)?);
                }
                for more in trim_characters.iter().flatten() {
                    args.push(self.expr(more)?);
                }
                return self.function(name, args, place);
            }
            Ceil { expr, .. } => {
                let args = vec![self.expr(expr)?];
                return self.function("ceil", args, place);
            }
            Floor { expr, .. } => {
                let args = vec![self.expr(expr)?];
                return self.function("floor", args, place);
            }
            Function(function) => return self.function_call(function, place),
            GroupingSets(_) | Cube(_) | Rollup(_) => {
                return Err(at(Error::unsupported("GROUPING SETS, CUBE and ROLLUP are not supported"), place)
                    .with_hint("Write one query per grouping and combine them with UNION ALL."));
            }
            other => {
                return Err(at(Error::unsupported(format!("the expression {other} is not supported")), place));
            }
        }
        .at(place))
    }

    /// A condition of WHERE, ON, HAVING and the like.
    pub(super) fn condition(&mut self, e: &ast::Expr, what: &str) -> Result<Expr> {
        let typed = self.expr(e)?;
        self.as_boolean(typed, what)
    }

    pub(super) fn as_boolean(&mut self, typed: Typed, what: &str) -> Result<Expr> {
        if !matches!(typed.ty, SqlType::Boolean | SqlType::Unknown) {
            let message = format!("argument of {what} must be type boolean, not type {}", types::name(&typed.ty));
            return Err(at(Error::new("42804", message), typed.position));
        }
        self.implicit(typed, &SqlType::Boolean)
    }

    pub(super) fn is_null(&mut self, e: &ast::Expr, negated: bool) -> Result<Typed> {
        if let Some(items) = row_items(e) {
            return self.row_is_null(&items, negated);
        }
        let typed = self.expr(e)?;
        let typed = self.settle(typed)?;
        let expr = if negated { typed.expr.is_not_null() } else { typed.expr.is_null() };
        Ok(Typed::new(expr, SqlType::Boolean))
    }

    fn is_truth(&mut self, e: &ast::Expr, what: &str, make: fn(Box<Expr>) -> Expr) -> Result<Typed> {
        let condition = self.condition(e, what)?;
        Ok(Typed::new(make(Box::new(condition)), SqlType::Boolean))
    }

    fn cast(&mut self, e: &ast::Expr, data_type: &ast::DataType, place: Option<usize>) -> Result<Typed> {
        let (ty, typmod) = types::from_ast(data_type).map_err(|error| at(error, self.type_position(e)))?;
        // The elements of ARRAY[...] are cast one by one.
        if let (ast::Expr::Array(array), SqlType::Array(item)) = (e, &ty) {
            let mut items = vec![];
            for elem in &array.elem {
                let value = self.expr(elem)?;
                let expr = self.coerce(value, item, typmod, CastContext::Explicit)?;
                items.push(expr);
            }
            return self.array_of(items, item).map(|t| t.at(place));
        }
        if let (ast::DataType::Custom(name, _), ast::Expr::Value(value)) = (data_type, e)
            && name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| fold(ident) == "regproc")
            && let ast::Value::SingleQuotedString(function) = &value.value
        {
            let oid = self.function_oid(function).map_err(|error| at(error, place))?;
            return Ok(Typed { expr: literal(ScalarValue::Int64(Some(oid))), ty, typmod, position: place });
        }
        let value = match e {
            // A double is read from the digits: they may be more, or the exponent larger, than a numeric keeps.
            ast::Expr::Value(value) if matches!(ty, SqlType::Real | SqlType::Double) => match &value.value {
                ast::Value::Number(digits, _) if digits.contains(['e', 'E']) => {
                    Typed::new(text(digits), SqlType::Unknown).at(place)
                }
                _ => self.expr(e)?,
            },
            _ => self.expr(e)?,
        };
        let value = match value.typmod {
            types::VECTOR if matches!(ty, SqlType::Text | SqlType::Varchar) => {
                let blank = Typed::new(text(" "), SqlType::Text);
                self.function("array_to_string", vec![Typed { typmod: -1, ..value }, blank], place)?
            }
            _ => value,
        };
        let expr = self.coerce(value, &ty, typmod, CastContext::Explicit)?;
        Ok(Typed { expr, ty, typmod, position: place })
    }

    /// Where the type behind `e::` stands.
    fn type_position(&self, e: &ast::Expr) -> Option<usize> {
        let end = e.span().end;
        if end.line == 0 {
            return None;
        }
        let from = end.column as usize;
        let rest: String = self.text.chars().skip(from - 1).collect();
        let skipped = rest.chars().take_while(|c| c.is_whitespace() || matches!(c, ':' | ')')).count();
        Some(from + skipped)
    }

    /// Where an operator between two operands stands. For errors: it reads the text again.
    pub(super) fn operator_position(&self, left: &ast::Expr, right: Option<usize>, sign: &str) -> Option<usize> {
        let (from, to) = (start_of(left)?, right?);
        let between = crate::parser::words_between(&self.text, from, to);
        let is_sign = |word: &str| match sign {
            "~~" => word.eq_ignore_ascii_case("like"),
            "~~*" => word.eq_ignore_ascii_case("ilike"),
            "!~~" | "!~~*" => word.eq_ignore_ascii_case("not"),
            "<>" => matches!(word, "<>" | "!="),
            sign => word == sign,
        };
        let words = ["in", "between", "is", "not", "any", "similar"];
        let found = between.iter().rev().find(|(word, _)| is_sign(word) || word.eq_ignore_ascii_case(sign));
        let found = found.or_else(|| between.iter().find(|(w, _)| words.iter().any(|k| w.eq_ignore_ascii_case(k))));
        found.map(|(_, at)| *at).or(Some(from))
    }

    /// The error of an operator at its place, unless an operand has a better one.
    fn at_operator<T>(&self, result: Result<T>, left: &ast::Expr, right: &ast::Expr, sign: &str) -> Result<T> {
        result.map_err(|e| match e.position {
            Some(_) => e,
            None => at(e, self.operator_position(left, start_of(right), sign)),
        })
    }

    /// The error of a comparison with a list at the IN.
    fn at_in<T>(&self, result: Result<T>, left: &ast::Expr, list: &[ast::Expr]) -> Result<T> {
        match list.first() {
            Some(first) => self.at_operator(result, left, first, "in"),
            None => result,
        }
    }

    fn interval(&mut self, interval: &ast::Interval, place: Option<usize>) -> Result<Typed> {
        let value = self.expr(&interval.value)?;
        let fields = interval.leading_field.as_ref().map(|first| match &interval.last_field {
            Some(last) => format!("{first} TO {last}"),
            None => first.to_string(),
        });
        // Plural units are the same fields.
        let fields = fields.map(|f| {
            let words = f.split(' ').map(|w| w.strip_suffix('S').unwrap_or(w).to_string());
            words.collect::<Vec<_>>().join(" ")
        });
        let precision = interval.fractional_seconds_precision.or(interval.leading_precision).map(|p| p as i32);
        let typmod = match (&fields, precision) {
            (None, None) => -1,
            _ => types::interval_typmod_of(fields.as_deref(), precision)
                .ok_or_else(|| at(Error::new("42601", "syntax error in the fields of an interval"), place))?,
        };
        let value = match value.ty {
            // RisingWave's users write numbers too.
            SqlType::Int | SqlType::BigInt | SqlType::Numeric if fields.is_some() => {
                let place = value.position;
                let written = interval.value.to_string();
                Typed::new(text(written), SqlType::Unknown).at(place)
            }
            _ => value,
        };
        let expr = self.coerce(value, &SqlType::Interval, typmod, CastContext::Explicit)?;
        Ok(Typed { expr, ty: SqlType::Interval, typmod, position: place })
    }

    fn unary(&mut self, op: &ast::UnaryOperator, e: &ast::Expr, place: Option<usize>) -> Result<Typed> {
        use ast::UnaryOperator::*;
        let name = match op {
            Not => {
                let condition = self.condition(e, "NOT")?;
                return Ok(negate(condition, true).at(place));
            }
            Minus => {
                if let Some(digits) = signed_number(e).map(opposite) {
                    return self.value(&ast::Value::Number(digits, false), place);
                }
                "-"
            }
            Plus => "+",
            BitwiseNot => "~",
            PGAbs => "@",
            PGSquareRoot => "|/",
            PGCubeRoot => "||/",
            other => return Err(at(Error::unsupported(format!("the operator {other} is not supported")), place)),
        };
        let value = self.expr(e)?;
        self.operator(name, vec![value], place)
    }

    fn binary(&mut self, left: &ast::Expr, op: &ast::BinaryOperator, right: &ast::Expr) -> Result<Typed> {
        use ast::BinaryOperator as B;
        let place = start_of(left);
        if matches!(op, B::And | B::Or) {
            let what = if *op == B::And { "AND" } else { "OR" };
            let (a, b) = (self.condition(left, what)?, self.condition(right, what)?);
            let expr = if *op == B::And { a.and(b) } else { a.or(b) };
            return Ok(Typed::new(expr, SqlType::Boolean).at(place));
        }
        if let Some(op) = comparison(op) {
            return self.comparison_of(op, left, right, place);
        }
        let name = match op {
            B::PGCustomBinaryOperator(parts) => {
                let name = parts.last().cloned().unwrap_or_default();
                let known = match name.as_str() {
                    "=" => Some(Operator::Eq),
                    "<>" | "!=" => Some(Operator::NotEq),
                    "<" => Some(Operator::Lt),
                    "<=" => Some(Operator::LtEq),
                    ">" => Some(Operator::Gt),
                    ">=" => Some(Operator::GtEq),
                    _ => None,
                };
                if let Some(op) = known {
                    return self.comparison_of(op, left, right, place);
                }
                name
            }
            B::Overlaps => {
                let mut args = vec![];
                for side in [left, right] {
                    let ast::Expr::Tuple(items) = side else {
                        return Err(at(Error::new("42601", "OVERLAPS takes two rows of two values"), place));
                    };
                    for item in items {
                        args.push(self.expr(item)?);
                    }
                }
                return self.function("overlaps", args, place);
            }
            op => op.to_string(),
        };
        let args = vec![self.expr(left)?, self.expr(right)?];
        let result = self.operator(&name, args, None).map(|t| t.at(place));
        self.at_operator(result, left, right, &name)
    }

    /// `left <op> right` of values or rows.
    pub(super) fn comparison_of(
        &mut self,
        op: Operator,
        left: &ast::Expr,
        right: &ast::Expr,
        place: Option<usize>,
    ) -> Result<Typed> {
        if row_items(left).is_some() || row_items(right).is_some() {
            return self.row_comparison(op, left, right, place);
        }
        let (a, b) = (self.expr(left)?, self.expr(right)?);
        let result = self.compare(op, a, b, None);
        let expr = self.at_operator(result, left, right, &op.to_string())?;
        Ok(Typed::new(expr, SqlType::Boolean).at(place))
    }

    /// The comparison of two values in the type that Postgres compares them in.
    pub(super) fn compare(&mut self, op: Operator, a: Typed, b: Typed, place: Option<usize>) -> Result<Expr> {
        let sign = match op {
            Operator::NotEq => "<>".to_string(),
            Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => "=".to_string(),
            op => op.to_string(),
        };
        let how = resolve_comparison(&sign, &a.ty, &b.ty).map_err(|e| at(e, place))?;
        let a = self.coerce(a, &how.common, -1, CastContext::Implicit)?;
        let b = self.coerce(b, &how.common, -1, CastContext::Implicit)?;
        let (a, b) = (Self::side_of(&how, a), Self::side_of(&how, b));
        Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(a), op, Box::new(b))))
    }

    fn in_list(&mut self, e: &ast::Expr, list: &[ast::Expr], negated: bool, place: Option<usize>) -> Result<Typed> {
        if row_items(e).is_some() {
            let mut any: Option<Expr> = None;
            for row in list {
                let one = self.row_comparison(Operator::Eq, e, row, place)?.expr;
                any = Some(match any {
                    Some(any) => any.or(one),
                    None => one,
                });
            }
            return Ok(negate(any.unwrap_or_else(|| boolean(false)), negated).at(place));
        }
        let value = self.expr(e)?;
        let items = list.iter().map(|i| self.expr(i)).collect::<Result<Vec<_>>>()?;
        let types: Vec<SqlType> = std::iter::once(&value).chain(&items).map(|t| t.ty.clone()).collect();
        let constants = items.iter().all(|i| matches!(i.expr, Expr::Literal(..)));
        let common = common_type(&types).filter(|_| constants);
        let Some(common) = common else {
            let mut any: Option<Expr> = None;
            for item in items {
                let one = self.compare(Operator::Eq, value.clone(), item, None);
                let one = self.at_in(one, e, list)?;
                any = Some(match any {
                    Some(any) => any.or(one),
                    None => one,
                });
            }
            return Ok(negate(any.unwrap_or_else(|| boolean(false)), negated).at(place));
        };
        let how = self.at_in(resolve_comparison("=", &common, &common).map_err(Error::from), e, list)?;
        let expr = self.implicit(value, &how.common)?;
        let expr = Self::key_of(&how.common, expr);
        let mut list = vec![];
        for item in items {
            let item = self.implicit(item, &how.common)?;
            list.push(Self::key_of(&how.common, item));
        }
        // Numbers and the like are looked up by their keys, which are constants too.
        let list = list
            .into_iter()
            .map(|e| match crate::expr::constant(&e) {
                Some(value) => literal(value),
                None => e,
            })
            .collect();
        Ok(Typed::new(Expr::InList(InList::new(Box::new(expr), list, negated)), SqlType::Boolean).at(place))
    }

    fn like(
        &mut self,
        name: &str,
        e: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::ValueWithSpan>,
        place: Option<usize>,
    ) -> Result<Typed> {
        let value = self.expr(e)?;
        let pattern_expr = pattern;
        let mut pattern = self.expr(pattern)?;
        if let Some(escape) = escape {
            let escape = self.value(&escape.value, None)?;
            pattern = self.function("like_escape", vec![pattern, escape], place)?;
        }
        let result = self.operator(name, vec![value, pattern], None).map(|t| t.at(place));
        self.at_operator(result, e, pattern_expr, name)
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
        place: Option<usize>,
    ) -> Result<Typed> {
        let mut when = vec![];
        let mut results = vec![];
        for branch in conditions {
            when.push(match operand {
                Some(operand) => self.comparison_of(Operator::Eq, operand, &branch.condition, place)?.expr,
                None => self.condition(&branch.condition, "CASE/WHEN")?,
            });
            results.push(self.expr(&branch.result)?);
        }
        // Postgres looks at ELSE first.
        let otherwise = otherwise.map(|e| self.expr(e)).transpose()?;
        let all: Vec<Typed> = otherwise.iter().chain(&results).cloned().collect();
        let (ty, typmod) = self.unify(&all, "CASE")?;
        let mut branches = vec![];
        for (when, result) in when.into_iter().zip(results) {
            branches.push((Box::new(when), Box::new(self.implicit(result, &ty)?)));
        }
        let otherwise = match otherwise {
            Some(e) => self.implicit(e, &ty)?,
            None => literal(types::text::null(&ty)),
        };
        let expr = Expr::Case(Case { expr: None, when_then_expr: branches, else_expr: Some(Box::new(otherwise)) });
        Ok(Typed { expr, ty, typmod, position: place })
    }

    /// The one type of several values, and the modifier if they agree on it.
    pub(super) fn unify(&mut self, values: &[Typed], what: &str) -> Result<(SqlType, i32)> {
        let types: Vec<SqlType> = values.iter().map(|v| v.ty.clone()).collect();
        let Some(ty) = common_type(&types) else {
            let known: Vec<&Typed> = values.iter().filter(|v| v.ty != SqlType::Unknown).collect();
            let mut first = known[0];
            for other in &known[1..] {
                match common_type(&[first.ty.clone(), other.ty.clone()]) {
                    Some(ty) if ty == other.ty => first = other,
                    Some(_) => {}
                    None => {
                        let (a, b) = (types::name(&first.ty), types::name(&other.ty));
                        let message = format!("{what} types {a} and {b} cannot be matched");
                        return Err(at(Error::new("42804", message), other.position));
                    }
                }
            }
            return Err(Error::new("42804", format!("{what} types cannot be matched")));
        };
        let typmod = values.first().map_or(-1, |v| v.typmod);
        let agreed = values.iter().all(|v| v.typmod == typmod && v.ty == ty);
        Ok((ty, if agreed { typmod } else { -1 }))
    }

    fn array(&mut self, items: &[ast::Expr], place: Option<usize>) -> Result<Typed> {
        if items.is_empty() {
            return Err(at(Error::new("42P18", "cannot determine type of empty array"), place)
                .with_hint("Explicitly cast to the desired type, for example ARRAY[]::integer[]."));
        }
        let items = items.iter().map(|i| self.expr(i)).collect::<Result<Vec<_>>>()?;
        let (ty, _) = self.unify(&items, "ARRAY")?;
        if matches!(ty, SqlType::Array(_)) {
            return Err(at(Error::unsupported("multidimensional arrays are not supported"), place));
        }
        let mut values = vec![];
        for item in items {
            values.push(self.implicit(item, &ty)?);
        }
        self.array_of(values, &ty).map(|t| t.at(place))
    }

    /// An array of values of one type: a constant, or appended one by one.
    fn array_of(&mut self, values: Vec<Expr>, item: &SqlType) -> Result<Typed> {
        let ty = SqlType::Array(Box::new(item.clone()));
        let constants: Option<Vec<ScalarValue>> = values
            .iter()
            .map(|e| match e {
                Expr::Literal(value, _) => Some(value.clone()),
                e => crate::expr::constant(e),
            })
            .collect();
        if let Some(constants) = constants {
            let list = ScalarValue::new_list(&constants, &item.arrow(), true);
            return Ok(Typed::new(literal(ScalarValue::List(list)), ty));
        }
        let empty = ScalarValue::new_list(&[], &item.arrow(), true);
        let mut array = Typed::new(literal(ScalarValue::List(empty)), ty);
        for value in values {
            array = self.function("array_append", vec![array, Typed::new(value, item.clone())], None)?;
        }
        Ok(array)
    }

    fn field_access(&mut self, root: &ast::Expr, chain: &[ast::AccessExpr]) -> Result<Typed> {
        // `(t).c` and `s.t.c[1]` come as chains of names.
        let mut value = None;
        let mut rest = chain;
        if let ast::Expr::Identifier(first) = root {
            let mut idents = vec![first.clone()];
            while let Some((ast::AccessExpr::Dot(ast::Expr::Identifier(ident)), more)) = rest.split_first() {
                idents.push(ident.clone());
                rest = more;
            }
            value = Some(if idents.len() > 1 { self.column_of(&idents)? } else { self.column_named(first)? });
        }
        let mut value = match value {
            Some(value) => value,
            None => self.expr(root)?,
        };
        for access in rest {
            let place = value.position;
            let subscript = match access {
                ast::AccessExpr::Subscript(subscript) => subscript,
                ast::AccessExpr::Dot(ast::Expr::Identifier(ident)) => {
                    value = self.record_field(value, &fold(ident))?;
                    continue;
                }
                ast::AccessExpr::Dot(_) => {
                    return Err(at(Error::unsupported("this form of field selection is not supported"), place));
                }
            };
            if value.ty == SqlType::Jsonb {
                let ast::Subscript::Index { index } = subscript else {
                    return Err(at(Error::new("42804", "jsonb subscript does not support slices"), place));
                };
                let index = self.expr(index)?;
                value = self.operator("->", vec![value, index], place)?;
                continue;
            }
            if !matches!(value.ty, SqlType::Array(_)) {
                let message = format!(
                    "cannot subscript type {} because it does not support subscripting",
                    types::name(&value.ty)
                );
                return Err(at(Error::new("42804", message), place));
            }
            value = match subscript {
                ast::Subscript::Index { index } => {
                    let mut index = self.subscript_index(index)?;
                    if value.typmod == types::VECTOR {
                        let one = Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int);
                        index = self.operator("+", vec![index, one], place)?;
                    }
                    self.function("array_get", vec![value, index], place)?
                }
                ast::Subscript::Slice { lower_bound, upper_bound, stride: None } => {
                    let low = match lower_bound {
                        Some(e) => self.subscript_index(e)?,
                        None => Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int),
                    };
                    let high = match upper_bound {
                        Some(e) => self.subscript_index(e)?,
                        None => Typed::new(literal(ScalarValue::Int32(Some(i32::MAX))), SqlType::Int),
                    };
                    self.function("array_slice", vec![value, low, high], place)?
                }
                _ => return Err(at(Error::unsupported("this form of subscript is not supported"), place)),
            };
        }
        Ok(value)
    }

    fn subscript_index(&mut self, e: &ast::Expr) -> Result<Typed> {
        let index = self.expr(e)?;
        let place = index.position;
        let context = CastContext::Assignment;
        if types::cast_context(&index.ty, &SqlType::Int).is_none_or(|least| least > context) {
            return Err(at(Error::new("42804", "array subscript must have type integer"), place));
        }
        let expr = self.coerce(index, &SqlType::Int, -1, context)?;
        Ok(Typed::new(expr, SqlType::Int))
    }

    fn function_call(&mut self, call: &ast::Function, place: Option<usize>) -> Result<Typed> {
        let idents: Vec<&ast::Ident> = call.name.0.iter().filter_map(|p| p.as_ident()).collect();
        let Some(last) = idents.last() else {
            return Err(at(Error::unsupported("this form of function call is not supported"), place));
        };
        let (name, place) = (fold(last), idents.first().and_then(|i| position(i)).or(place));
        if let [schema, _] = idents.as_slice() {
            let schema = fold(schema);
            if schema != "pg_catalog" && (schema.as_str(), name.as_str()) != ("information_schema", "_pg_expandarray") {
                let message = format!("function {schema}.{name} does not exist");
                return Err(at(Error::new("42883", message), place));
            }
        }
        if let ast::FunctionArguments::Subquery(query) = &call.args {
            if name == "array" {
                return self.array_subquery(query, place);
            }
            return Err(at(Error::unsupported("this form of function call is not supported"), place));
        }
        if is_hypothetical(&name, call) {
            return self.hypothetical(call, &name, place);
        }
        if call.over.is_some() {
            return self.window_call(call, &name, place);
        }
        if name == "grouping" {
            return self.grouping_call(call, place);
        }
        if crate::functions::aggregate::is_aggregate(&name) {
            return self.aggregate_call(call, &name, place);
        }
        let not_an_aggregate = |what: &str| {
            let message = format!("{what} specified, but {name} is not an aggregate function");
            at(Error::new("42809", message), place)
        };
        if call.filter.is_some() {
            return Err(not_an_aggregate("FILTER"));
        }
        let args = match name.as_str() {
            "coalesce" => self.conditionally("COALESCE", |b| b.call_arguments(call, &not_an_aggregate))?,
            _ => self.call_arguments(call, &not_an_aggregate)?,
        };
        let what = name.to_uppercase();
        match name.as_str() {
            "coalesce" => {
                let (ty, typmod) = self.unify(&args, &what)?;
                let mut values = vec![];
                for arg in args {
                    values.push(self.implicit(arg, &ty)?);
                }
                let last = values.pop().ok_or_else(|| at(Error::new("42601", "COALESCE takes values"), place))?;
                if values.is_empty() {
                    return Ok(Typed { expr: last, ty, typmod, position: place });
                }
                let when = values.into_iter().map(|v| (Box::new(v.clone().is_not_null()), Box::new(v))).collect();
                let expr = Expr::Case(Case { expr: None, when_then_expr: when, else_expr: Some(Box::new(last)) });
                Ok(Typed { expr, ty, typmod, position: place })
            }
            "nullif" => {
                let [a, b]: [Typed; 2] =
                    args.try_into().map_err(|_| at(Error::new("42601", "NULLIF takes two values"), place))?;
                let a = if a.ty == SqlType::Unknown {
                    let ty = Self::known(b.ty.clone());
                    Typed { expr: self.implicit(a, &ty)?, ty, typmod: -1, position: place }
                } else {
                    a
                };
                let equal = self.compare(Operator::Eq, a.clone(), b, place)?;
                let null = literal(types::text::null(&a.ty));
                let when = vec![(Box::new(equal), Box::new(null))];
                let expr = Expr::Case(Case { expr: None, when_then_expr: when, else_expr: Some(Box::new(a.expr)) });
                Ok(Typed { expr, ty: a.ty, typmod: a.typmod, position: place })
            }
            "greatest" | "least" => {
                let op = if name == "greatest" { Operator::GtEq } else { Operator::LtEq };
                let (ty, typmod) = self.unify(&args, &what)?;
                let mut values = vec![];
                for arg in args {
                    let expr = self.implicit(arg, &ty)?;
                    values.push(Typed::new(expr, ty.clone()));
                }
                let mut when = vec![];
                for (i, value) in values.iter().enumerate() {
                    let mut best = value.expr.clone().is_not_null();
                    for other in values.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| v) {
                        let beats = self.compare(op, value.clone(), other.clone(), place)?;
                        best = best.and(other.expr.clone().is_null().or(beats));
                    }
                    when.push((Box::new(best), Box::new(value.expr.clone())));
                }
                let null = literal(types::text::null(&ty));
                let expr = Expr::Case(Case { expr: None, when_then_expr: when, else_expr: Some(Box::new(null)) });
                Ok(Typed { expr, ty, typmod, position: place })
            }
            "row" => Err(at(Error::unsupported("a row as a value is not supported"), place)),
            "row_number" | "rank" | "dense_rank" | "lag" | "lead" | "first_value" | "last_value" | "ntile"
            | "percent_rank" | "cume_dist" | "nth_value" => {
                Err(at(Error::new("42809", format!("window function {name} requires an OVER clause")), place))
            }
            _ => {
                if let Some(rows) = self.rows_in_select(&name, &args, place)? {
                    return Ok(rows);
                }
                if let Some(constant) = self.constant(&name, &args, place)? {
                    return Ok(constant);
                }
                let args = args.into_iter().map(|a| self.settle_named(a, &name)).collect::<Result<_>>()?;
                self.function(&name, args, place)
            }
        }
    }

    /// Parameters that a function of any type takes are text.
    fn settle_named(&mut self, arg: Typed, name: &str) -> Result<Typed> {
        if matches!(
            name,
            "concat" | "concat_ws" | "format" | "pg_typeof" | "to_jsonb" | "jsonb_build_object" | "json_build_object"
        ) {
            return self.settle(arg);
        }
        Ok(arg)
    }

    /// The arguments of a plain function.
    pub(super) fn call_arguments(
        &mut self,
        call: &ast::Function,
        not_an_aggregate: &dyn Fn(&str) -> Error,
    ) -> Result<Vec<Typed>> {
        let ast::FunctionArguments::List(list) = &call.args else { return Ok(vec![]) };
        if list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct) {
            return Err(not_an_aggregate("DISTINCT"));
        }
        for clause in &list.clauses {
            match clause {
                ast::FunctionArgumentClause::OrderBy(_) => return Err(not_an_aggregate("ORDER BY")),
                other => return Err(Error::unsupported(format!("{other} is not supported"))),
            }
        }
        if list.args.iter().any(|arg| !matches!(arg, ast::FunctionArg::Unnamed(_))) {
            return self.named_arguments(call, &list.args);
        }
        list.args.iter().map(|arg| self.argument(arg)).collect()
    }

    /// `f(a, name => b)`: in the order of the parameters, those left out filled in.
    fn named_arguments(&mut self, call: &ast::Function, args: &[ast::FunctionArg]) -> Result<Vec<Typed>> {
        let function = call.name.0.last().map(|part| part.to_string().to_lowercase()).unwrap_or_default();
        let parameters = crate::functions::parameters(&function)
            .ok_or_else(|| Error::unsupported(format!("named arguments of {function} are not supported")))?;
        let mut values: Vec<Option<Typed>> = parameters.iter().map(|_| None).collect();
        for (i, arg) in args.iter().enumerate() {
            let (at, e) = match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => (Some(i), e),
                ast::FunctionArg::Named { name, arg: ast::FunctionArgExpr::Expr(e), .. } => {
                    let name = name.value.to_lowercase();
                    (parameters.iter().position(|(known, _)| *known == name), e)
                }
                _ => return Err(Error::unsupported("this form of a named argument is not supported")),
            };
            let slot = at.and_then(|at| values.get_mut(at)).filter(|slot| slot.is_none());
            let slot =
                slot.ok_or_else(|| Error::new("42883", format!("function {function} has no such parameters")))?;
            *slot = Some(self.expr(e)?);
        }
        // Parameters behind the last given one may be missing where a shorter overload exists.
        let given = values.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let all_default = parameters.iter().all(|(_, default)| default.is_some());
        let values = values.into_iter().zip(parameters).take(if all_default { parameters.len() } else { given });
        values
            .map(|(value, (name, default))| match (value, default) {
                (Some(value), _) => Ok(value),
                (None, Some(default)) => Ok(Typed::new(text(*default), SqlType::Unknown)),
                (None, None) => Err(Error::new("42883", format!("function {function} misses its argument {name}"))),
            })
            .collect()
    }

    pub(super) fn argument(&mut self, arg: &ast::FunctionArg) -> Result<Typed> {
        match arg {
            ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => self.expr(e),
            ast::FunctionArg::Unnamed(_) => Err(Error::new("42601", "syntax error at or near \"*\"")),
            _ => Err(Error::unsupported("named arguments are not supported")),
        }
    }
}

/// A number under any signs and parentheses, which are part of the constant: it is typed with them.
fn signed_number(e: &ast::Expr) -> Option<String> {
    match e {
        ast::Expr::Nested(e) => signed_number(e),
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => signed_number(expr).map(opposite),
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(digits, _) => Some(digits.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn opposite(digits: String) -> String {
    match digits.strip_prefix('-') {
        Some(positive) => positive.to_string(),
        None => format!("-{digits}"),
    }
}

pub(super) fn comparison(op: &ast::BinaryOperator) -> Option<Operator> {
    use ast::BinaryOperator as B;
    Some(match op {
        B::Eq => Operator::Eq,
        B::NotEq => Operator::NotEq,
        B::Lt => Operator::Lt,
        B::LtEq => Operator::LtEq,
        B::Gt => Operator::Gt,
        B::GtEq => Operator::GtEq,
        _ => return None,
    })
}

pub(super) fn negate(condition: Expr, negated: bool) -> Typed {
    Typed::new(if negated { Expr::Not(Box::new(condition)) } else { condition }, SqlType::Boolean)
}
