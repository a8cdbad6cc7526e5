//! `INSERT ... ON CONFLICT`: what happens to a row whose key is there already.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use sqlparser::ast;

use super::dml::target_scope;
use super::names::{Clause, ScopeTable, fold, object_name, position};
use super::{Binder, Bound, BoundQuery, OutField, at};
use crate::batch::RelationSource;
use crate::catalog::Object;
use crate::error::{Error, Result};
use crate::expr::column;
use storage::{RelationId, SqlType};

/// The relation that the plan of `DO UPDATE` reads: for each conflict all columns of the row that is there, then the
/// visible columns of the row that was to be inserted, then the number of the conflict. Whoever runs the plan provides
/// its rows.
pub const CONFLICTS: RelationId = RelationId(u32::MAX - 1);

/// What an INSERT does with a row whose key is there already.
#[derive(Clone, Debug)]
pub enum OnConflict {
    /// Leaves it out.
    DoNothing,
    /// Changes the row that is there: a query over [`CONFLICTS`] gives for each row to change all its old columns, all
    /// its new ones, and the number of the conflict.
    DoUpdate(Bound),
}

impl Binder<'_> {
    pub(super) fn on_conflict(
        &mut self,
        table: &Object,
        alias: Option<&String>,
        clause: &ast::OnInsert,
    ) -> Result<OnConflict> {
        let ast::OnInsert::OnConflict(clause) = clause else {
            return Err(Error::new("42601", "syntax error at or near \"DUPLICATE\""));
        };
        match &clause.conflict_target {
            Some(target) => self.conflict_target(table, target)?,
            None if matches!(clause.action, ast::OnConflictAction::DoUpdate(_)) => {
                let message = "ON CONFLICT DO UPDATE requires inference specification or constraint name";
                return Err(at(Error::new("42601", message), self.place_of_on_conflict())
                    .with_hint("For example, ON CONFLICT (column_name)."));
            }
            None => {}
        }
        match &clause.action {
            ast::OnConflictAction::DoNothing => Ok(OnConflict::DoNothing),
            ast::OnConflictAction::DoUpdate(update) => self.do_update(table, alias, update),
        }
    }

    fn do_update(&mut self, table: &Object, alias: Option<&String>, update: &ast::DoUpdate) -> Result<OnConflict> {
        let visible = table.visible().len();
        let fields = |binder: &mut Self, columns: &[storage::Column]| -> Vec<OutField> {
            let field = |c: &storage::Column| {
                let (name, ty) = (c.name.clone(), c.ty.clone());
                OutField { internal: binder.fresh(), name, ty, typmod: c.typmod }
            };
            columns.iter().map(field).collect()
        };
        let old = fields(self, &table.columns);
        let excluded = fields(self, table.visible());
        let number = OutField { internal: self.fresh(), name: String::new(), ty: SqlType::BigInt, typmod: -1 };
        let mut arrow: Vec<Field> =
            old.iter().chain(&excluded).map(|f| Field::new(&f.internal, f.ty.arrow(), true)).collect();
        arrow.push(Field::new(&number.internal, DataType::Int64, true));
        let names = (table.columns.iter().map(|c| c.name.clone()))
            .chain(table.columns[..visible].iter().map(|c| format!("excluded.{}", c.name)))
            .chain(["number".to_string()])
            .collect();
        let mut plan = RelationSource::new(CONFLICTS, Arc::new(Schema::new(arrow)), vec![])
            .named(&table.name, names)
            .scan_plan()?;

        let read = std::mem::replace(&mut self.relations, vec![CONFLICTS]);
        let mut scope = target_scope(table, alias.cloned(), &old);
        let name = "excluded".to_string();
        scope.add(ScopeTable::named(name), excluded);
        self.scopes.push(scope);
        let condition = match &update.selection {
            Some(condition) => self.within(Clause::Where, |b| b.condition(condition, "WHERE")).map(Some),
            None => Ok(None),
        };
        let new = condition.and_then(|condition| Ok((condition, self.new_values(table, &update.assignments)?)));
        self.scopes.pop();
        let (condition, new) = new?;
        if let Some(condition) = condition {
            plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        }
        let (mut exprs, mut fields) = self.old_and_new(&old, new);
        exprs.push(column(&number.internal));
        fields.push(number);
        let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        let bound = self.bound(BoundQuery { plan, fields });
        self.relations = read;
        Ok(OnConflict::DoUpdate(bound))
    }

    /// That a target names the primary key: there are no other unique constraints.
    fn conflict_target(&self, table: &Object, target: &ast::ConflictTarget) -> Result<()> {
        match target {
            ast::ConflictTarget::Columns(names) => {
                let mut columns = vec![];
                for name in names {
                    let Some(index) = table.column(&fold(name)) else {
                        let place = position(name).map(|p| self.parenthesis_before(p));
                        return Err(at(
                            Error::new("42703", format!("column \"{}\" does not exist", fold(name))),
                            place,
                        ));
                    };
                    if !columns.contains(&index) {
                        columns.push(index);
                    }
                }
                let mut key = table.primary_key.clone();
                columns.sort_unstable();
                key.sort_unstable();
                if key.is_empty() || key != columns {
                    let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
                    return Err(Error::new("42P10", message));
                }
            }
            ast::ConflictTarget::OnConstraint(name) => {
                let name = object_name(name)?;
                if table.primary_key.is_empty() || name.name != format!("{}_pkey", table.name) {
                    let message = format!("constraint \"{}\" for table \"{}\" does not exist", name.name, table.name);
                    return Err(Error::new("42704", message));
                }
            }
        }
        Ok(())
    }

    /// The last `ON CONFLICT` of the statement. For errors: it reads the text again.
    fn place_of_on_conflict(&self) -> Option<usize> {
        let words = crate::parser::words_between(&self.text, 1, usize::MAX);
        let is = |word: &(String, usize), known: &str| word.0.eq_ignore_ascii_case(known);
        let words: Vec<_> = words.into_iter().filter(|(word, _)| !word.trim().is_empty()).collect();
        words.windows(2).rev().find(|w| is(&w[0], "on") && is(&w[1], "conflict")).map(|w| w[0].1)
    }

    /// The columns of a table before and after a change.
    pub(super) fn old_and_new(&mut self, old: &[OutField], new: Vec<Option<Expr>>) -> (Vec<Expr>, Vec<OutField>) {
        let mut exprs: Vec<Expr> = old.iter().map(OutField::expr).collect();
        let mut fields = old.to_vec();
        for (new, old) in new.into_iter().zip(old) {
            let field = OutField { internal: self.fresh(), ..old.clone() };
            exprs.push(new.unwrap_or_else(|| old.expr()).alias(&field.internal));
            fields.push(field);
        }
        (exprs, fields)
    }
}
