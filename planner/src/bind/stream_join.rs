//! The joins that Postgres does not have: `ASOF JOIN`, and `JOIN ... FOR SYSTEM_TIME AS OF` now or a time.

use datafusion::common::NullEquality;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, JoinType, LogicalPlan, Operator};
use sqlparser::ast;
use storage::SqlType;

use super::from::From;
use super::names::{Clause, ScopeTable, start_of};
use super::{Binder, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::nodes::{Asof, AsofJoin, TemporalJoin, Versions, reads_only};

impl Binder<'_> {
    /// `left ASOF [LEFT] JOIN factor [MATCH_CONDITION (...)] ON ...`
    pub(super) fn asof_join(
        &mut self,
        left: From,
        factor: &ast::TableFactor,
        outer: bool,
        constraint: &ast::JoinConstraint,
        nearest: Option<&ast::Expr>,
    ) -> Result<From> {
        let place = start_of(factor);
        let right = self.factor(factor, Some(&left))?;
        let right_fields: Vec<OutField> = right.1.columns.iter().map(|c| c.field.clone()).collect();
        let tables = right.1.tables.clone();
        let kind = if outer { JoinType::Left } else { JoinType::Inner };
        let (plan, scope) = self.join(left, right, kind, constraint)?;
        let (mut pairs, mut scope) = (Pairs::of(plan, place)?, scope);
        if let Some(nearest) = nearest {
            let (condition, after) =
                self.with_scope(scope, |b| b.within(Clause::On, |b| b.condition(nearest, "MATCH_CONDITION")))?;
            scope = after;
            pairs.take(condition);
        }
        let comparisons: Vec<_> = pairs.rest.iter().map(|term| pairs.comparison(term)).collect();
        let [Some((l, sign, r))] = comparisons.as_slice() else {
            let error = Error::new("42601", "an ASOF JOIN takes equalities and exactly one of <, <=, > and >=");
            return Err(at(error, place).with_hint("For example: a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts."));
        };
        let (times, sign) = ((l.clone(), r.clone()), *sign);
        let ties = self.ties(&right_fields, &tables)?;
        let names = [self.fresh(), self.fresh()];
        let Pairs { left, right, on, .. } = pairs;
        Ok((AsofJoin::plan(left, right, Asof { on, times, sign, ties, outer, names })?, scope))
    }

    /// What tells rows of the same time apart: the table's key if it has one, or else everything in them.
    fn ties(&mut self, fields: &[OutField], tables: &[ScopeTable]) -> Result<Vec<Expr>> {
        if let [table] = tables
            && !table.key.is_empty()
        {
            return Ok(table.key.iter().map(column).collect());
        }
        let tie = |field: &OutField| match field.ty {
            _ if crate::functions::key(&field.ty).is_none() && !matches!(field.ty, SqlType::Array(_)) => {
                Ok(field.expr())
            }
            _ => self.look_of(field),
        };
        fields.iter().map(tie).collect()
    }

    /// `left JOIN t FOR SYSTEM_TIME AS OF time ON ...`
    pub(super) fn temporal_join(
        &mut self,
        left: From,
        factor: &ast::TableFactor,
        version: &ast::TableVersion,
        kind: JoinType,
        constraint: &ast::JoinConstraint,
    ) -> Result<From> {
        let place = start_of(factor);
        if !matches!(kind, JoinType::Inner | JoinType::Left) {
            return Err(at(Error::unsupported("FOR SYSTEM_TIME AS OF is for inner and left joins"), place));
        }
        let ast::TableVersion::ForSystemTimeAsOf(time) = version else {
            return Err(at(Error::unsupported("this form of a table's version is not supported"), place));
        };
        let mut now = factor.clone();
        if let ast::TableFactor::Table { version, .. } = &mut now {
            *version = None;
        }
        let (left, as_of) = match is_proctime(version) {
            true => (left, None),
            false => {
                let (plan, scope) = left;
                let (time, scope) = self.with_scope(scope, |b| b.within(Clause::On, |b| b.expr(time)))?;
                ((plan, scope), Some(time))
            }
        };
        // Only what is named here itself: in a subquery there are others.
        self.looks_up = as_of.is_none() && matches!(now, ast::TableFactor::Table { .. });
        let right = self.factor(&now, Some(&left));
        self.looks_up = false;
        let right = right?;
        let found = as_of.map(|as_of| self.versions(as_of, &right, place)).transpose()?;
        let (plan, scope) = self.join(left, right, kind, constraint)?;
        let Pairs { left, right, mut on, mut rest } = Pairs::of(plan, place)?;
        let versions = match found {
            None => None,
            Some((versions, key)) => {
                if !key.is_empty() {
                    let name = |e: &Expr| if let Expr::Column(c) = e { Some(c.name.clone()) } else { None };
                    let is_key = |e: &Expr| name(e).is_some_and(|name| key.contains(&name));
                    let (keys, others): (Vec<_>, Vec<_>) = on.into_iter().partition(|(_, r)| is_key(r));
                    if !key.iter().all(|k| keys.iter().any(|(_, r)| name(r).as_ref() == Some(k))) {
                        let error = Error::unsupported("FOR SYSTEM_TIME AS OF a time asks for the table's whole key");
                        return Err(at(error, place).with_hint("Compare each column of its PRIMARY KEY in ON."));
                    }
                    on = keys;
                    rest.extend(others.into_iter().map(|(l, r)| l.eq(r)));
                }
                if on.is_empty() || !reads_only(&versions.as_of, &left) {
                    let error =
                        Error::unsupported("FOR SYSTEM_TIME AS OF a time needs an equality between the two sides");
                    return Err(at(error, place).with_hint("The time has to be one of the left side."));
                }
                Some(versions)
            }
        };
        Ok((TemporalJoin::plan(left, right, on, rest, kind == JoinType::Left, versions)?, scope))
    }

    /// What is meant by the right side as of `as_of`, and the key of which it has versions, if that is declared.
    fn versions(&mut self, as_of: Typed, right: &From, place: Option<usize>) -> Result<(Versions, Vec<String>)> {
        let refused = |hint: &str| {
            let error = Error::unsupported("this table has no versions to be joined as of a time");
            Err(at(error, place).with_hint(hint))
        };
        let Some(source) = crate::batch::scanned(&right.0) else {
            return refused("Join a table, source or materialized view with a watermark, or AS OF PROCTIME().");
        };
        let schema = datafusion::logical_expr::TableSource::schema(source);
        let marked: Vec<usize> = (0..schema.fields().len()).filter(|c| source.watermark(*c).is_some()).collect();
        let [time] = marked[..] else {
            return refused("Declare one with WATERMARK FOR, or join AS OF PROCTIME().");
        };
        let [table] = &right.1.tables[..] else {
            return refused("Join a table, source or materialized view with a watermark, or AS OF PROCTIME().");
        };
        let key = match source.is_append_only() {
            true => vec![],
            false if self.catalog.by_id(source.relation()).is_some_and(|table| table.generated.contains(&time)) => {
                return refused("Its times are those at which it was written; declare one with WATERMARK FOR.");
            }
            false if !table.key.is_empty() => table.key.clone(),
            false => {
                return refused("It must be a table with a PRIMARY KEY, or be APPEND ONLY with a row per version.");
            }
        };
        let name = schema.field(time).name().clone();
        let Some(field) = right.1.columns.iter().map(|c| &c.field).find(|field| field.internal == name) else {
            return refused("The column of its watermark is not visible.");
        };
        if field.ty != as_of.ty {
            let (is, wanted) = (crate::types::format(&as_of.ty, -1), crate::types::format(&field.ty, -1));
            let message = format!("FOR SYSTEM_TIME AS OF is of type {is}, and \"{}\" of type {wanted}", field.name);
            return Err(at(Error::new("42804", message), as_of.position.or(place)));
        }
        let fields: Vec<OutField> = right.1.columns.iter().map(|c| c.field.clone()).collect();
        let tables = right.1.tables.clone();
        let ties = if key.is_empty() { self.ties(&fields, &tables)? } else { vec![] };
        let names = [self.fresh(), self.fresh()];
        Ok((Versions { as_of: as_of.expr, time: column(name), ties, names }, key))
    }
}

fn is_proctime(version: &ast::TableVersion) -> bool {
    let ast::TableVersion::ForSystemTimeAsOf(ast::Expr::Function(call)) = version else { return false };
    let no_arguments = match &call.args {
        ast::FunctionArguments::None => true,
        ast::FunctionArguments::List(list) => list.args.is_empty(),
        ast::FunctionArguments::Subquery(_) => false,
    };
    no_arguments && call.name.to_string().eq_ignore_ascii_case("proctime")
}

/// A join taken apart: its equalities between the two sides, and its other conditions.
struct Pairs {
    left: LogicalPlan,
    right: LogicalPlan,
    on: Vec<(Expr, Expr)>,
    rest: Vec<Expr>,
}

impl Pairs {
    fn of(plan: LogicalPlan, place: Option<usize>) -> Result<Pairs> {
        let refused = || at(Error::unsupported("this form of JOIN is not supported beside a subquery"), place);
        let LogicalPlan::Join(join) = plan else { return Err(refused()) };
        if matches!(join.right.as_ref(), LogicalPlan::Subquery(_))
            || join.null_equality != NullEquality::NullEqualsNothing
        {
            return Err(refused());
        }
        let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
        let mut pairs = Pairs { left, right, on: join.on, rest: vec![] };
        join.filter.into_iter().for_each(|filter| pairs.take(filter));
        Ok(pairs)
    }

    fn take(&mut self, condition: Expr) {
        for term in split_conjunction_owned(condition) {
            match self.sides(&term) {
                Some((l, Operator::Eq, r)) => self.on.push((l, r)),
                _ => self.rest.push(term),
            }
        }
    }

    /// `left <op> right`, each over its side only.
    fn sides(&self, term: &Expr) -> Option<(Expr, Operator, Expr)> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = term else { return None };
        if reads_only(left, &self.left) && reads_only(right, &self.right) {
            Some((left.as_ref().clone(), *op, right.as_ref().clone()))
        } else if reads_only(left, &self.right) && reads_only(right, &self.left) {
            Some((right.as_ref().clone(), op.swap()?, left.as_ref().clone()))
        } else {
            None
        }
    }

    /// The same, of a comparison that orders.
    fn comparison(&self, term: &Expr) -> Option<(Expr, Operator, Expr)> {
        let orders = |op| matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
        self.sides(term).filter(|(_, op, _)| orders(*op))
    }
}
