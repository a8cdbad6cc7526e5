//! Statements around queries: DML, `COPY`, `EXPLAIN`, `SUBSCRIBE`, prepared statements and cursors.

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use super::Reader;
use super::names::object_name;
use crate::error::{Error, Result};
use crate::statement::*;

impl Reader<'_> {
    /// The name of a table as sqlparser has it.
    fn named(&self, name: &ast::ObjectName) -> Result<ObjectName> {
        object_name(name)
    }

    pub(super) fn insert(&mut self) -> Result<Statement> {
        let position = self.position();
        let statement = self.parse(|p| {
            let token = p.next_token();
            p.parse_insert(token)
        })?;
        let ast::Statement::Insert(insert) = statement else { return Err(self.error_at(position)) };
        if !insert.into || insert.overwrite || insert.has_table_keyword || insert.partitioned.is_some() {
            return Err(self.error_at(position));
        }
        let table = match &insert.table {
            ast::TableObject::TableName(name) => self.named(name)?,
            _ => return Err(self.error_at(position)),
        };
        Ok(Statement::Insert(Insert { table, ast: Box::new(insert), text: self.text.clone() }))
    }

    pub(super) fn update(&mut self) -> Result<Statement> {
        let position = self.position();
        let statement = self.parse(|p| {
            let token = p.next_token();
            p.parse_update(token)
        })?;
        let ast::Statement::Update(update) = statement else { return Err(self.error_at(position)) };
        let ast::TableFactor::Table { name, .. } = &update.table.relation else { return Err(self.error_at(position)) };
        let table = self.named(name)?;
        Ok(Statement::Update(Update { table, ast: Box::new(update), text: self.text.clone() }))
    }

    pub(super) fn delete(&mut self) -> Result<Statement> {
        let position = self.position();
        let statement = self.parse(|p| {
            let token = p.next_token();
            p.parse_delete(token)
        })?;
        let ast::Statement::Delete(delete) = statement else { return Err(self.error_at(position)) };
        let ast::FromTable::WithFromKeyword(from) = &delete.from else { return Err(self.error_at(position)) };
        let [table] = from.as_slice() else { return Err(self.error_at(position)) };
        let ast::TableFactor::Table { name, .. } = &table.relation else { return Err(self.error_at(position)) };
        let table = self.named(name)?;
        Ok(Statement::Delete(Delete { table, ast: Box::new(delete), text: self.text.clone() }))
    }

    pub(super) fn truncate(&mut self) -> Result<Statement> {
        self.expect(&["truncate"])?;
        let _ = self.eat(&["table"]);
        let _ = self.eat(&["only"]);
        let tables = self.comma_separated(Self::object_name)?;
        let _ = self.eat(&["restart", "identity"]) || self.eat(&["continue", "identity"]);
        let cascade = self.eat(&["cascade"]);
        let _ = !cascade && self.eat(&["restrict"]);
        Ok(Statement::Truncate(Truncate { tables, cascade }))
    }

    pub(super) fn copy(&mut self) -> Result<Statement> {
        self.expect(&["copy"])?;
        let source = if self.eat_token(Token::LParen) {
            let query = self.query()?;
            self.expect_token(Token::RParen)?;
            CopySource::Query(query)
        } else {
            let name = self.object_name()?;
            let columns = self.optional_names()?;
            CopySource::Table(name, columns)
        };
        let to = self.eat(&["to"]);
        if !to && (matches!(source, CopySource::Query(_)) || !self.eat(&["from"])) {
            return self.unexpected();
        }
        let position = self.position();
        if !self.eat(&[if to { "stdout" } else { "stdin" }]) {
            if matches!(self.peek().token, Token::SingleQuotedString(_)) || self.at(&["program"]) {
                let way = if to { "to" } else { "from" };
                return Err(Error::unsupported(format!("COPY {way} a file or program is not supported"))
                    .at(position)
                    .with_hint("Use COPY ... FROM STDIN or COPY ... TO STDOUT; psql's \\copy does."));
            }
            return self.unexpected();
        }
        let options = self.copy_options()?;
        Ok(Statement::Copy(Copy { source, to, options }))
    }

    fn copy_options(&mut self) -> Result<CopyOptions> {
        let mut options = CopyOptions::default();
        let _ = self.eat(&["with"]);
        if self.eat_token(Token::LParen) {
            self.comma_separated(|r| {
                let name = r.label()?;
                let value = match &r.peek().token {
                    Token::Comma | Token::RParen => String::new(),
                    Token::LParen => {
                        let names = r.names()?;
                        names.join(", ")
                    }
                    Token::Number(..) => r.number()?,
                    Token::Mul => {
                        r.p.advance_token();
                        "*".into()
                    }
                    Token::Word(_) => r.label()?,
                    _ => r.string()?,
                };
                set_copy_option(&mut options, name, value)
            })?;
            self.expect_token(Token::RParen)?;
            return Ok(options);
        }
        // The form before Postgres 9.
        while !self.at_end() {
            let name = self.label()?;
            match name.as_str() {
                "csv" | "binary" | "text" => options.format = name,
                "header" => options.header = true,
                "delimiter" | "null" | "quote" | "escape" => {
                    let _ = self.eat(&["as"]);
                    let value = self.string()?;
                    set_copy_option(&mut options, name, value)?;
                }
                _ => return Err(self.error_at(self.p.get_current_token().span.start.column as usize)),
            }
        }
        Ok(options)
    }

    pub(super) fn explain(&mut self) -> Result<Statement> {
        self.expect(&["explain"])?;
        let (mut analyze, mut options) = (false, vec![]);
        let is_list = self.peek().token == Token::LParen
            && !["select", "with", "values", "table"]
                .iter()
                .any(|w| Self::is_word(&self.p.peek_nth_token_ref(1).token, w))
            && self.p.peek_nth_token_ref(1).token != Token::LParen;
        if is_list {
            self.p.advance_token();
            options = self.comma_separated(|r| {
                let name = r.label()?;
                let value = match r.peek().token {
                    Token::Comma | Token::RParen => String::new(),
                    Token::Number(..) => r.number()?,
                    Token::SingleQuotedString(_) => r.string()?,
                    _ => r.label()?,
                };
                Ok((name, value))
            })?;
            self.expect_token(Token::RParen)?;
            let off = ["off", "false", "0"];
            analyze = options.iter().any(|(n, v)| n == "analyze" && !off.contains(&v.as_str()));
            options.retain(|(n, _)| n != "analyze");
        } else {
            analyze |= self.eat(&["analyze"]);
            if self.eat(&["verbose"]) {
                options.push(("verbose".into(), String::new()));
            }
        }
        let explainable =
            ["select", "with", "values", "table", "create", "insert", "update", "delete", "execute", "declare"];
        if self.peek().token != Token::LParen && !explainable.iter().any(|w| self.at(&[w])) {
            return self.unexpected();
        }
        let statement = Box::new(self.statement()?);
        Ok(Statement::Explain(Explain { analyze, options, statement }))
    }

    pub(super) fn subscribe(&mut self) -> Result<Statement> {
        self.expect(&["subscribe"])?;
        let _ = self.eat(&["to"]);
        let to = if self.eat_token(Token::LParen) {
            let query = self.query()?;
            self.expect_token(Token::RParen)?;
            SubscribeTo::Query(query)
        } else {
            SubscribeTo::Relation(self.object_name()?)
        };
        let (mut snapshot, mut progress) = (true, false);
        if self.at(&["with"]) {
            self.p.advance_token();
            let position = self.position();
            for (name, value) in self.options()? {
                let on = match value.as_str() {
                    "true" | "on" | "1" => true,
                    "false" | "off" | "0" => false,
                    _ => {
                        let message = format!("{name} requires a Boolean value");
                        return Err(Error::new("22023", message).at(position));
                    }
                };
                match name.as_str() {
                    "snapshot" => snapshot = on,
                    "progress" => progress = on,
                    _ => {
                        return Err(Error::new("42601", format!("unrecognized SUBSCRIBE option \"{name}\""))
                            .at(position)
                            .with_hint("The options are SNAPSHOT and PROGRESS."));
                    }
                }
            }
        }
        Ok(Statement::Subscribe(Subscribe { to, snapshot, progress }))
    }

    pub(super) fn prepare(&mut self) -> Result<Statement> {
        self.expect(&["prepare"])?;
        if self.at(&["transaction"]) {
            return self.unsupported("PREPARE TRANSACTION");
        }
        let name = self.ident()?;
        let mut types = vec![];
        if self.eat_token(Token::LParen) {
            types = self.comma_separated(|r| {
                let (ty, _) = r.data_type()?;
                Ok((ty != storage::SqlType::Unknown).then_some(ty))
            })?;
            self.expect_token(Token::RParen)?;
        }
        self.expect(&["as"])?;
        let start = self.position();
        let preparable = ["select", "with", "values", "table", "insert", "update", "delete"];
        if self.peek().token != Token::LParen && !preparable.iter().any(|w| self.at(&[w])) {
            return self.unexpected();
        }
        let statement = Box::new(self.statement()?);
        let text = self.slice(start, self.text.chars().count() + 1);
        Ok(Statement::Prepare(Prepare { name, types, statement, text, offset: start - 1 }))
    }

    pub(super) fn execute(&mut self) -> Result<Statement> {
        self.expect(&["execute"])?;
        let name = self.ident()?;
        let values = if self.peek().token == Token::LParen {
            // The arguments are bound as the one row of `VALUES (...)`.
            let from = self.p.index();
            let mut tokens = vec![self.tokens[from].clone()];
            tokens[0].token = Token::make_keyword("VALUES");
            tokens.extend_from_slice(&self.tokens[from..]);
            let mut inner = Reader::new(&self.text, tokens);
            let query = inner.query()?;
            inner.end()?;
            self.skip();
            Some(query)
        } else {
            None
        };
        Ok(Statement::Execute(Execute { name, values }))
    }

    pub(super) fn deallocate(&mut self) -> Result<Statement> {
        self.expect(&["deallocate"])?;
        let _ = self.eat(&["prepare"]);
        Ok(Statement::Deallocate(if self.eat(&["all"]) { None } else { Some(self.ident()?) }))
    }

    pub(super) fn declare(&mut self) -> Result<Statement> {
        self.expect(&["declare"])?;
        let name = self.ident()?;
        let (mut hold, mut binary, mut scroll) = (false, false, false);
        loop {
            if self.eat(&["binary"]) {
                binary = true;
            } else if self.eat(&["scroll"]) {
                scroll = true;
            } else if !(self.eat(&["no", "scroll"]) || self.eat(&["insensitive"]) || self.eat(&["asensitive"])) {
                break;
            }
        }
        self.expect(&["cursor"])?;
        if self.eat(&["with", "hold"]) {
            hold = true;
        } else {
            let _ = self.eat(&["without", "hold"]);
        }
        self.expect(&["for"])?;
        let query = self.query()?;
        Ok(Statement::Declare(Declare { name, hold, binary, scroll, query }))
    }

    pub(super) fn fetch(&mut self) -> Result<Statement> {
        let is_move = self.eat(&["move"]) || !self.eat(&["fetch"]);
        let position = self.position();
        let backward = || {
            Error::unsupported("cursors can only be read forward")
                .at(position)
                .with_hint("Declare the cursor again to start over.")
        };
        for refused in ["prior", "first", "last", "absolute", "relative", "backward"] {
            let is_name = matches!(self.p.peek_nth_token_ref(1).token, Token::EOF);
            if self.at(&[refused]) && !is_name {
                return Err(backward());
            }
        }
        let forward = self.at(&["forward"]) && self.p.peek_nth_token_ref(1).token != Token::EOF;
        if forward {
            self.p.advance_token();
        }
        let count = if self.at(&["next"]) && self.p.peek_nth_token_ref(1).token != Token::EOF {
            self.p.advance_token();
            FetchCount::Next(1)
        } else if self.eat(&["all"]) {
            FetchCount::All
        } else if matches!(self.peek().token, Token::Number(..) | Token::Minus) {
            let n = self.number()?;
            if n.starts_with('-') {
                return Err(backward());
            }
            FetchCount::Next(n.parse().map_err(|_| self.error_at(position))?)
        } else {
            FetchCount::Next(1)
        };
        let _ = self.eat(&["from"]) || self.eat(&["in"]);
        let cursor = self.ident()?;
        Ok(Statement::Fetch(Fetch { cursor, count, is_move }))
    }

    pub(super) fn close(&mut self) -> Result<Statement> {
        self.expect(&["close"])?;
        Ok(Statement::Close(if self.eat(&["all"]) { None } else { Some(self.ident()?) }))
    }
}

fn set_copy_option(options: &mut CopyOptions, name: String, value: String) -> Result<()> {
    let single = |value: &str| -> Result<Option<char>> {
        let mut chars = value.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) if c.is_ascii() => Ok(Some(c)),
            _ => Err(Error::new("0A000", format!("COPY {name} must be a single one-byte character"))),
        }
    };
    match name.as_str() {
        "format" => {
            if !["text", "csv", "binary"].contains(&value.as_str()) {
                return Err(Error::new("22023", format!("COPY format \"{value}\" not recognized")));
            }
            options.format = value;
        }
        "delimiter" => options.delimiter = single(&value)?,
        "quote" => options.quote = single(&value)?,
        "escape" => options.escape = single(&value)?,
        "null" => options.null = Some(value),
        "header" => options.header = !["false", "off", "0"].contains(&value.as_str()),
        "freeze" | "encoding" => {}
        "force_quote" | "force_not_null" | "force_null" | "default" => options.others.push((name, value)),
        _ => return Err(Error::new("42601", format!("option \"{name}\" not recognized"))),
    }
    Ok(())
}
