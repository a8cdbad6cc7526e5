//! What a rename does to the texts that are kept: the definition says the new name, and those that read it name it anew.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{self, Visit, Visitor};
use sqlparser::tokenizer::Token;

use crate::catalog::quote_ident;
use crate::error::{Error, Result};
use crate::parser::names::fold;
use crate::parser::{parse, token_places};
use crate::statement::{ObjectName, Query, SinkFrom, Statement};

/// A relation's old name and its new one.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// The schema, which stays.
    pub schema: String,
    /// The old name.
    pub old: String,
    /// The new one.
    pub new: String,
}

/// A `CREATE` statement's text with another name for what it creates.
///
/// # Errors
/// If the text is no such statement.
pub fn definition(sql: &str, new: &str) -> Result<String> {
    let mut text = Text::new(sql)?;
    let created = match &text.statement {
        Statement::CreateTable(create) => Some(&create.name),
        Statement::CreateSource(create) => Some(&create.name),
        Statement::CreateMaterializedView(create) => Some(&create.name),
        Statement::CreateView(create) => Some(&create.name),
        Statement::CreateSink(create) => Some(&create.name),
        Statement::CreateIndex(create) => create.name.as_ref(),
        _ => return Err(Error::new("XX000", "a definition is no CREATE statement")),
    };
    match created.cloned() {
        Some(name) => text.replace(&name, new)?,
        // An index whose name was made up.
        None => {
            let place = text.tokens.windows(2).find(|pair| is_word(&pair[0].0, "index") && is_word(&pair[1].0, "on"));
            let end = place.map(|pair| pair[0].2).ok_or_else(lost)?;
            text.edits.push((end, end, format!(" {}", quote_ident(new))));
        }
    }
    text.edited()
}

/// A `CREATE SOURCE` statement's text with another `FORMAT ... ENCODE ...`, which `clause` is.
///
/// # Errors
/// If the text is no such statement.
pub fn encoded(sql: &str, clause: &str) -> Result<String> {
    let mut text = Text::new(sql)?;
    let mut depth = 0;
    let mut begin = None;
    for (i, (token, ..)) in text.tokens.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ if depth == 0 && is_word(token, "format") && i > 1 => begin = Some(i),
            _ => {}
        }
    }
    let Some(begin) = begin else {
        let end = text.tokens.iter().rfind(|(token, ..)| *token != Token::SemiColon).ok_or_else(lost)?.2;
        text.edits.push((end, end, format!(" {clause}")));
        return text.edited();
    };
    // FORMAT f ENCODE e, and what is in parentheses behind it.
    let mut end = begin + 3;
    if text.tokens.get(end + 1).is_some_and(|(token, ..)| *token == Token::LParen) {
        let closing = text.tokens.iter().skip(end).position(|(token, ..)| *token == Token::RParen);
        end += closing.ok_or_else(lost)?;
    }
    let (from, to) = (text.tokens[begin].1, text.tokens.get(end).ok_or_else(lost)?.2);
    text.edits.push((from, to, clause.to_owned()));
    text.edited()
}

/// A `CREATE` statement's text where it reads renamed relations.
///
/// # Errors
/// `0A000` where the text cannot say the same with another name.
pub fn reader(sql: &str, renamed: &[Renamed]) -> Result<String> {
    let mut text = Text::new(sql)?;
    let statement = text.statement.clone();
    let mut named: Vec<&ObjectName> = Vec::new();
    let query: Option<&Query> = match &statement {
        Statement::CreateTable(create) => create.query.as_ref(),
        Statement::CreateMaterializedView(create) => Some(&create.query),
        Statement::CreateView(create) => Some(&create.query),
        Statement::CreateSink(create) => {
            named.extend(&create.into);
            match &create.from {
                SinkFrom::Relation(name) => {
                    named.push(name);
                    None
                }
                SinkFrom::Query(query) => Some(query),
            }
        }
        Statement::CreateIndex(create) => {
            named.push(&create.relation);
            None
        }
        _ => None,
    };
    for name in named {
        let is = |r: &&Renamed| r.old == name.name && name.schema().is_none_or(|schema| schema == r.schema);
        if let Some(renamed) = renamed.iter().find(is) {
            text.replace(name, &renamed.new)?;
        }
    }
    if let Some(query) = query {
        let mut references = References { renamed, found: Vec::new(), ctes: BTreeSet::new(), hidden: None };
        let _ = query.ast.visit(&mut references);
        let clash = renamed.iter().find(|r| references.ctes.contains(&r.old)).map(|r| r.old.clone());
        if let Some(name) = references.hidden.or(clash) {
            let message = format!("cannot rename \"{name}\": a query names it in a way that cannot be written anew");
            return Err(Error::unsupported(message).with_hint("Drop what reads it and create it again."));
        }
        for (parts, renamed, place) in references.found {
            let new = if references.ctes.contains(&renamed.new) && parts == 1 {
                format!("{}.{}", quote_ident(&renamed.schema), quote_ident(&renamed.new))
            } else {
                quote_ident(&renamed.new)
            };
            // What is named by the old name in the query still is.
            let alias = if place.needed { format!(" AS {}", quote_ident(&renamed.old)) } else { String::new() };
            text.replace_at(place.at, parts, &(new + &alias))?;
        }
    }
    text.edited()
}

/// A `CREATE` statement's text where its `WITH (...)` says another value for the option with one of these names.
///
/// # Errors
/// If there is no such option.
pub fn option(sql: &str, names: &[&str], name: &str, value: &str) -> Result<String> {
    let mut text = Text::new(sql)?;
    let begin = text.tokens.windows(2).position(|pair| is_word(&pair[0].0, "with") && pair[1].0 == Token::LParen);
    let within = text.tokens[begin.ok_or_else(lost)?..].windows(3);
    let given = within.into_iter().find(|three| {
        names.iter().any(|name| is_word(&three[0].0, name))
            && three[1].0 == Token::Eq
            && matches!(three[2].0, Token::SingleQuotedString(_) | Token::Number(..))
    });
    let (start, end) = given.map(|three| (three[0].1, three[2].2)).ok_or_else(lost)?;
    text.edits.push((start, end, format!("{name} = '{}'", value.replace('\'', "''"))));
    text.edited()
}

/// A statement's text, and what is to be changed in it.
struct Text {
    chars: Vec<char>,
    statement: Statement,
    /// Tokens with the characters that they begin and end at.
    tokens: Vec<(Token, usize, usize)>,
    edits: Vec<(usize, usize, String)>,
}

impl Text {
    fn new(sql: &str) -> Result<Text> {
        let parsed = parse(sql)?.pop().ok_or_else(lost)?;
        let tokens = token_places(&parsed.text)?;
        Ok(Text { chars: parsed.text.chars().collect(), statement: parsed.statement, tokens, edits: Vec::new() })
    }

    fn replace(&mut self, name: &ObjectName, new: &str) -> Result<()> {
        let parts = if name.schema().is_some() { 2 } else { 1 };
        self.replace_at(name.position.ok_or_else(lost)?, parts, &quote_ident(new))
    }

    /// Replaces the last of `parts` names that begin at a position (the first is 1).
    fn replace_at(&mut self, at: usize, parts: usize, new: &str) -> Result<()> {
        let first = self.tokens.iter().position(|(_, start, _)| start + 1 == at).ok_or_else(lost)?;
        let (token, start, end) = self.tokens.get(first + 2 * (parts - 1)).ok_or_else(lost)?;
        if !matches!(token, Token::Word(_)) {
            return Err(lost());
        }
        self.edits.push((*start, *end, new.to_owned()));
        Ok(())
    }

    fn edited(mut self) -> Result<String> {
        self.edits.sort_unstable();
        for (start, end, new) in self.edits.into_iter().rev() {
            self.chars.splice(start..end, new.chars());
        }
        let text: String = self.chars.into_iter().collect();
        parse(&text)?;
        Ok(text)
    }
}

fn lost() -> Error {
    Error::new("XX000", "a name is not where its definition has it")
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// Where a relation is named, and whether it has to be given its old name there.
struct Place {
    at: usize,
    needed: bool,
}

/// The places in FROM that name renamed relations.
struct References<'a> {
    renamed: &'a [Renamed],
    found: Vec<(usize, &'a Renamed, Place)>,
    /// The names of all WITH queries.
    ctes: BTreeSet<String>,
    /// A name that stands where it cannot be changed.
    hidden: Option<String>,
}

impl References<'_> {
    fn of(&self, parts: &[&ast::Ident]) -> Option<usize> {
        let (schema, name) = match parts {
            [name] => (None, fold(name)),
            [schema, name] => (Some(fold(schema)), fold(name)),
            _ => return None,
        };
        self.renamed.iter().position(|r| r.old == name && schema.as_ref().is_none_or(|schema| *schema == r.schema))
    }

    /// A function in FROM may name a relation in its arguments.
    fn refuse_names_in(&mut self, arguments: &impl Visit) {
        struct Names<'a, 'b>(&'a References<'b>, Option<usize>);
        impl Visitor for Names<'_, '_> {
            type Break = ();
            fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
                let found = match expr {
                    ast::Expr::Identifier(name) => self.0.of(&[name]),
                    ast::Expr::CompoundIdentifier(parts) => self.0.of(&parts.iter().collect::<Vec<_>>()),
                    _ => None,
                };
                self.1 = self.1.or(found);
                ControlFlow::Continue(())
            }
        }
        let mut names = Names(self, None);
        let _ = arguments.visit(&mut names);
        if let Some(at) = names.1 {
            self.hidden = Some(self.renamed[at].old.clone());
        }
    }
}

impl Visitor for References<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        self.ctes.extend(ctes.map(|cte| fold(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<()> {
        match factor {
            ast::TableFactor::Table { args: Some(args), .. } => self.refuse_names_in(&args.args),
            ast::TableFactor::TableFunction { expr, .. } => self.refuse_names_in(expr),
            ast::TableFactor::Function { args, .. } => self.refuse_names_in(args),
            ast::TableFactor::Table { name, alias, version, .. } => {
                let parts: Vec<&ast::Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
                if let Some(which) = self.of(&parts) {
                    let renamed = &self.renamed[which];
                    if alias.is_none() && version.is_some() {
                        self.hidden = Some(renamed.old.clone());
                    }
                    let at = parts[0].span.start.column as usize;
                    self.found.push((parts.len(), renamed, Place { at, needed: alias.is_none() }));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_say_the_new_name() {
        for (sql, expected) in [
            ("CREATE TABLE t (t int)", "CREATE TABLE u (t int)"),
            ("create table if not exists Public.\"T\" (a int)", "create table if not exists Public.u (a int)"),
            ("CREATE OR REPLACE VIEW v AS SELECT 1 AS v", "CREATE OR REPLACE VIEW u AS SELECT 1 AS v"),
            ("CREATE INDEX ON t (a)", "CREATE INDEX u ON t (a)"),
            ("CREATE INDEX i ON t (a)", "CREATE INDEX u ON t (a)"),
            ("CREATE SINK s FROM s WITH (connector = 's')", "CREATE SINK u FROM s WITH (connector = 's')"),
        ] {
            assert_eq!(definition(sql, "u").expect(sql), expected);
        }
        assert_eq!(definition("CREATE TABLE t (a int)", "ein \"T").unwrap(), "CREATE TABLE \"ein \"\"T\" (a int)");
    }

    #[test]
    fn readers_name_it_anew() {
        let renamed = |sql: &str| {
            let both = |old: &str, new: &str| Renamed { schema: "public".into(), old: old.into(), new: new.into() };
            reader(sql, &[both("t", "u"), both("t$errors", "u$errors")])
        };
        for (sql, expected) in [
            ("CREATE VIEW v AS SELECT t.a FROM t", "CREATE VIEW v AS SELECT t.a FROM u AS t"),
            ("CREATE VIEW v AS SELECT x.a FROM public.t x", "CREATE VIEW v AS SELECT x.a FROM public.u x"),
            (
                "CREATE MATERIALIZED VIEW t2 AS SELECT * FROM a JOIN T USING (k) WHERE EXISTS (SELECT 1 FROM other.t)",
                "CREATE MATERIALIZED VIEW t2 AS SELECT * FROM a JOIN u AS t USING (k) WHERE EXISTS (SELECT 1 FROM other.t)",
            ),
            (
                "CREATE VIEW v AS WITH u AS (SELECT 1) SELECT * FROM u, t",
                "CREATE VIEW v AS WITH u AS (SELECT 1) SELECT * FROM u, public.u AS t",
            ),
            ("CREATE VIEW v AS SELECT * FROM \"t$errors\" e", "CREATE VIEW v AS SELECT * FROM \"u$errors\" e"),
            ("CREATE INDEX i ON t (t)", "CREATE INDEX i ON u (t)"),
            ("CREATE SINK s INTO t FROM t", "CREATE SINK s INTO u FROM u"),
        ] {
            assert_eq!(renamed(sql).expect(sql), expected);
        }
        for sql in [
            "CREATE VIEW v AS WITH t AS (SELECT 1) SELECT * FROM t",
            "CREATE VIEW v AS SELECT * FROM TUMBLE(t, at, INTERVAL '1 minute')",
        ] {
            assert_eq!(renamed(sql).expect_err(sql).sqlstate, "0A000", "{sql}");
        }
    }
}
