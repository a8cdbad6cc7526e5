//! `CREATE`, `DROP`, `ALTER`, `COMMENT`.

use sqlparser::tokenizer::Token;

use super::Reader;
use crate::error::{Error, Result};
use crate::statement::*;

impl Reader<'_> {
    pub(super) fn create(&mut self) -> Result<Statement> {
        self.expect(&["create"])?;
        let or_replace = self.eat(&["or", "replace"]);
        if self.eat(&["view"]) {
            return self.create_view(or_replace);
        }
        if or_replace && !self.at(&["function"]) {
            return self.unexpected();
        }
        if self.eat(&["source"]) {
            return self.create_source();
        }
        if self.eat(&["table"]) {
            return self.create_table();
        }
        if self.eat(&["materialized", "view"]) {
            return self.create_materialized_view();
        }
        if self.eat(&["index"]) {
            return self.create_index(false);
        }
        if self.eat(&["unique", "index"]) {
            return self.create_index(true);
        }
        // A sink may have that name.
        let third = &self.p.peek_nth_token_ref(2).token;
        if self.at(&["sink", "group"]) && !["from", "as", "into"].iter().any(|word| Self::is_word(third, word)) {
            return self.create_sink_group();
        }
        if self.eat(&["sink"]) {
            return self.create_sink();
        }
        if let Some(can_login) = self.eat_role() {
            return self.create_role(can_login);
        }
        if self.eat(&["savepoint", "point"]) {
            let if_not_exists = self.if_not_exists();
            return Ok(Statement::CreateSavepointPoint { name: self.ident()?, if_not_exists });
        }
        for words in [
            "temporary table",
            "temp table",
            "temporary view",
            "temp view",
            "temporary source",
            "unlogged table",
            "user mapping",
            "database",
            "schema",
            "function",
            "aggregate",
            "type",
            "domain",
            "sequence",
            "extension",
            "secret",
            "connection",
            "subscription",
            "trigger",
            "rule",
            "server",
            "procedure",
            "cast",
            "operator",
            "collation",
            "publication",
            "policy",
            "statistics",
            "event trigger",
        ] {
            if self.at(&words.split(' ').collect::<Vec<_>>()) {
                let what = words.replace("temp ", "temporary ").to_uppercase();
                return self.unsupported(&format!("CREATE {what}"));
            }
        }
        self.unexpected()
    }

    fn create_view(&mut self, or_replace: bool) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let columns = self.optional_names()?;
        self.expect(&["as"])?;
        let query = self.query()?;
        Ok(Statement::CreateView(CreateView { name, or_replace, if_not_exists, columns, query }))
    }

    fn create_materialized_view(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let columns = self.optional_names()?;
        let options = if self.eat(&["with"]) { self.options()? } else { vec![] };
        self.expect(&["as"])?;
        let (query, emit) = self.emitting_query()?;
        if !self.eat(&["with", "data"]) && self.at(&["with", "no", "data"]) {
            return Err(Error::unsupported("CREATE MATERIALIZED VIEW ... WITH NO DATA is not supported")
                .at(self.position())
                .with_hint("A materialized view is kept up to date from its creation on."));
        }
        let view = CreateMaterializedView { name, if_not_exists, columns, options, query, emit };
        Ok(Statement::CreateMaterializedView(view))
    }

    /// A query and `EMIT ON WINDOW CLOSE`, `EMIT IMMEDIATELY` or `EMIT EVERY INTERVAL '...'` behind it. `emit` would be
    /// taken for an alias.
    fn emitting_query(&mut self) -> Result<(Query, Emit)> {
        let from = self.p.index();
        let words = |n: usize| {
            let tail = &self.tokens[self.tokens.len().saturating_sub(n)..];
            tail.iter().map(|t| t.token.to_string().to_lowercase()).collect::<Vec<_>>()
        };
        let every = |n: usize| words(n).starts_with(&["emit".into(), "every".into(), "interval".into()]);
        let (n, emit) = match () {
            _ if words(4) == ["emit", "on", "window", "close"] => (4, Emit::OnWindowClose),
            _ if words(2) == ["emit", "immediately"] => (2, Emit::Immediately),
            _ if every(4) => (4, self.emit_every(&words(1))?),
            // INTERVAL '10' SECOND
            _ if every(5) => (5, self.emit_every(&words(2))?),
            _ => return Ok((self.query()?, Emit::Immediately)),
        };
        let end = self.tokens.len() - n;
        let query = self.query_between(from, end)?;
        self.skip();
        Ok((query, emit))
    }

    /// The interval that the last words of a statement are.
    fn emit_every(&self, words: &[String]) -> Result<Emit> {
        let text = words.join(" ").replace('\'', "");
        let read = crate::types::text::read(&text, &storage::SqlType::Interval, -1);
        let span = match read.map_err(|error| Error::new(error.sqlstate, error.message))? {
            datafusion::common::ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 => span,
            _ => return Err(Error::new("22023", "EMIT EVERY takes an interval of days and time")),
        };
        let nanos = i128::from(span.days) * 86_400_000_000_000 + i128::from(span.nanoseconds);
        match u64::try_from(nanos) {
            Ok(nanos) if nanos >= 1_000_000 => Ok(Emit::Every(std::time::Duration::from_nanos(nanos))),
            _ => Err(Error::new("22023", "EMIT EVERY takes an interval of at least a millisecond")),
        }
    }

    /// The query that is the tokens `from..to`.
    fn query_between(&mut self, from: usize, to: usize) -> Result<Query> {
        let mut inner = Reader::new(&self.text, self.tokens[from.min(to)..to].to_vec());
        let query = inner.query()?;
        inner.end()?;
        Ok(query)
    }

    fn create_source(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let columns = if self.peek().token == Token::LParen { self.columns(&name)? } else { Columns::default() };
        let connection = self.connection(true)?;
        Ok(Statement::CreateSource(CreateSource { name, if_not_exists, columns, connection }))
    }

    fn create_table(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let mut table = CreateTable {
            name,
            if_not_exists,
            columns: Columns::default(),
            append_only: false,
            on_conflict: None,
            connection: Connection::default(),
            query: None,
            query_columns: vec![],
        };
        if self.peek().token == Token::LParen && self.is_list_of_names() {
            table.query_columns = self.names()?;
            self.expect(&["as"])?;
            table.query = Some(self.query()?);
            return Ok(Statement::CreateTable(table));
        }
        if self.peek().token == Token::LParen {
            table.columns = self.columns(&table.name.clone())?;
        }
        loop {
            if self.eat(&["append", "only"]) {
                table.append_only = true;
            } else if self.eat(&["on", "conflict"]) {
                let mut words = Vec::new();
                while !["with", "include", "format", "as"].iter().any(|w| self.at(&[w])) && !self.at_end() {
                    words.push(self.label()?);
                }
                table.on_conflict = Some(words.join(" "));
            } else {
                break;
            }
        }
        table.connection = self.connection(false)?;
        if self.eat(&["as"]) {
            table.query = Some(self.query()?);
            let _ = self.eat(&["with", "data"]);
        }
        Ok(Statement::CreateTable(table))
    }

    /// Whether what is in the parentheses that come are names only, as before `AS query`.
    fn is_list_of_names(&self) -> bool {
        let mut i = 1;
        loop {
            if !matches!(self.p.peek_nth_token_ref(i).token, Token::Word(_)) {
                return false;
            }
            match self.p.peek_nth_token_ref(i + 1).token {
                Token::Comma => i += 2,
                Token::RParen => return Self::is_word(&self.p.peek_nth_token_ref(i + 2).token, "as"),
                _ => return false,
            }
        }
    }

    /// `(column type ..., PRIMARY KEY (...), WATERMARK FOR c AS e, *)`
    fn columns(&mut self, table: &ObjectName) -> Result<Columns> {
        let mut all = Columns::default();
        self.expect_token(Token::LParen)?;
        if self.eat_token(Token::RParen) {
            return Ok(all);
        }
        loop {
            self.column_or_constraint(&mut all, table)?;
            if !self.eat_token(Token::Comma) {
                break;
            }
        }
        self.expect_token(Token::RParen)?;
        for (i, column) in all.columns.iter().enumerate() {
            if all.columns[..i].iter().any(|c| c.name == column.name) {
                let message = format!("column \"{}\" specified more than once", column.name);
                return Err(Error::new("42701", message));
            }
        }
        Ok(all)
    }

    fn column_or_constraint(&mut self, all: &mut Columns, table: &ObjectName) -> Result<()> {
        let position = self.position();
        if self.eat_token(Token::Mul) {
            all.wildcard = true;
            return Ok(());
        }
        if self.eat(&["watermark", "for"]) {
            let column = self.ident()?;
            self.expect(&["as"])?;
            let position = self.position();
            let expr = self.expr_text()?;
            let ttl = self.eat(&["with", "ttl"]);
            all.watermarks.push(Watermark { column, expr, position, ttl });
            return Ok(());
        }
        if self.eat(&["constraint"]) {
            self.ident()?;
        }
        if self.eat(&["primary", "key"]) {
            if !all.primary_key.is_empty() {
                return Err(several_keys(table).at(position));
            }
            all.primary_key = self.names()?;
            all.primary_key_position = Some(position);
            return Ok(());
        }
        for refused in ["unique", "check", "foreign", "exclude", "like"] {
            if self.at(&[refused]) {
                return Err(unsupported_constraint(refused).at(position));
            }
        }
        let (column, key) = self.column()?;
        if let Some(position) = key {
            if !all.primary_key.is_empty() {
                return Err(several_keys(table).at(position));
            }
            all.primary_key.push(column.name.clone());
        }
        all.columns.push(column);
        Ok(())
    }

    /// A column, and where it says that it is the key.
    fn column(&mut self) -> Result<(ColumnDef, Option<usize>)> {
        let mut key = None;
        let position = self.position();
        let name = self.ident()?;
        // Flink gives a computed column no type.
        let (ty, typmod) =
            if self.at(&["as", "proctime"]) { (storage::SqlType::TimestampTz, -1) } else { self.data_type()? };
        let mut column = ColumnDef {
            name,
            ty,
            typmod,
            not_null: false,
            primary_key: false,
            default: None,
            default_position: 0,
            generated: None,
            position,
        };
        loop {
            let position = self.position();
            if self.eat(&["not", "null"]) {
                column.not_null = true;
            } else if self.eat(&["null"]) {
            } else if self.eat(&["primary", "key"]) {
                column.primary_key = true;
                key = Some(position);
            } else if self.eat(&["default"]) {
                column.default_position = self.position();
                column.default = Some(self.expr_text()?);
            } else if self.eat(&["generated", "always", "as"]) {
                if !self.at_token(Token::LParen) {
                    return Err(Error::unsupported("identity columns are not supported").at(position));
                }
                column.generated = Some(self.expr_text()?);
                let _ = self.eat(&["stored"]);
            } else if self.eat(&["as"]) {
                column.generated = Some(self.expr_text()?);
            } else if self.eat(&["collate"]) {
                self.object_name()?;
            } else if self.eat(&["constraint"]) {
                self.ident()?;
            } else if let Some(refused) = ["unique", "check", "references", "generated"].iter().find(|w| self.at(&[w]))
            {
                return Err(unsupported_constraint(refused).at(position));
            } else {
                return Ok((column, key));
            }
        }
    }

    fn at_token(&self, token: Token) -> bool {
        self.peek().token == token
    }

    /// `[INCLUDE ...] [WITH (...)] [FORMAT f ENCODE e (...)] [KEY ENCODE e]`
    fn connection(&mut self, required: bool) -> Result<Connection> {
        let mut connection = Connection::default();
        loop {
            if self.eat(&["include"]) {
                let include = self.include()?;
                connection.includes.push(include);
            } else if self.at(&["with"]) && self.p.peek_nth_token_ref(1).token == Token::LParen {
                self.p.advance_token();
                connection.options.extend(self.options()?);
            } else if self.eat(&["format"]) {
                connection.format = Some(self.label()?);
                self.expect(&["encode"])?;
                connection.encode = Some(self.label()?);
                if self.at_token(Token::LParen) {
                    connection.encode_options = self.options()?;
                }
                if self.eat(&["key", "encode"]) {
                    connection.key_encode = Some(self.label()?);
                    if self.at_token(Token::LParen) {
                        self.options()?;
                    }
                }
            } else if self.at(&["row", "format"]) {
                return Err(Error::unsupported("ROW FORMAT is not supported")
                    .at(self.position())
                    .with_hint("Write FORMAT PLAIN ENCODE JSON."));
            } else {
                break;
            }
        }
        if required && connection.options.is_empty() {
            return self.unexpected();
        }
        Ok(connection)
    }

    fn include(&mut self) -> Result<Include> {
        let what = self.label()?;
        let key = match self.peek().token {
            Token::SingleQuotedString(_) => Some(self.string()?),
            _ => None,
        };
        if !self.at(&["as"]) && !self.at_end() && matches!(self.peek().token, Token::Word(_)) {
            let next = ["with", "include", "format"].iter().any(|w| self.at(&[w]));
            if !next {
                // The type of a header's value.
                self.data_type()?;
            }
        }
        let alias = if self.eat(&["as"]) { Some(self.ident()?) } else { None };
        Ok(Include { what, key, alias })
    }

    fn create_index(&mut self, unique: bool) -> Result<Statement> {
        let _ = self.eat(&["concurrently"]);
        let if_not_exists = self.if_not_exists();
        let name = if self.at(&["on"]) { None } else { Some(self.object_name()?) };
        self.expect(&["on"])?;
        let relation = self.object_name()?;
        let using = if self.eat(&["using"]) { Some(self.ident()?) } else { None };
        self.expect_token(Token::LParen)?;
        let columns = self.comma_separated(|r| {
            let position = r.position();
            if !matches!(r.peek().token, Token::Word(_)) || matches!(r.p.peek_nth_token_ref(1).token, Token::LParen) {
                return Err(Error::unsupported("an index on an expression is not supported")
                    .at(position)
                    .with_hint("Index a materialized view that computes the expression."));
            }
            let name = r.ident()?;
            let descending = r.eat(&["desc"]);
            let _ = !descending && r.eat(&["asc"]);
            let nulls_first = if r.eat(&["nulls", "first"]) {
                true
            } else if r.eat(&["nulls", "last"]) {
                false
            } else {
                descending
            };
            Ok(IndexColumn { name, descending, nulls_first, position })
        })?;
        self.expect_token(Token::RParen)?;
        let include = if self.eat(&["include"]) { self.names()? } else { vec![] };
        if self.eat(&["distributed", "by"]) {
            self.names()?;
        }
        if self.at(&["where"]) {
            return Err(Error::unsupported("a partial index is not supported")
                .at(self.position())
                .with_hint("Index a materialized view that selects the rows."));
        }
        let index = CreateIndex { name, if_not_exists, unique, relation, using, columns, include };
        Ok(Statement::CreateIndex(index))
    }

    fn create_sink_group(&mut self) -> Result<Statement> {
        self.expect(&["sink", "group"])?;
        let if_not_exists = self.if_not_exists();
        let name = self.ident()?;
        let options = if self.eat(&["with"]) { self.options()? } else { vec![] };
        Ok(Statement::CreateSinkGroup { name, if_not_exists, options })
    }

    fn create_sink(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.object_name()?;
        let into = if self.eat(&["into"]) { Some(self.object_name()?) } else { None };
        let into_columns = if into.is_some() { self.optional_names()? } else { vec![] };
        let from = if self.eat(&["from"]) {
            SinkFrom::Relation(self.object_name()?)
        } else {
            self.expect(&["as"])?;
            // The query would take WITH (...) for hints of its last table.
            let from = self.p.index();
            let mut depth = 0;
            let mut end = self.tokens.len();
            for i in from..self.tokens.len() {
                match &self.tokens[i].token {
                    Token::LParen => depth += 1,
                    Token::RParen => depth -= 1,
                    t if depth == 0
                        && (Self::is_word(t, "with")
                            && self.tokens.get(i + 1).is_some_and(|t| t.token == Token::LParen)
                            || Self::is_word(t, "format")) =>
                    {
                        end = i;
                        break;
                    }
                    _ => {}
                }
            }
            let query = self.query_between(from, end)?;
            while self.p.index() < end {
                self.p.advance_token();
            }
            SinkFrom::Query(query)
        };
        let connection = self.connection(false)?;
        let sink = CreateSink { name, if_not_exists, into, into_columns, from, connection };
        Ok(Statement::CreateSink(sink))
    }

    /// `TABLE`, `MATERIALIZED VIEW`, ...
    fn kind(&mut self) -> Option<NamedKind> {
        use ObjectKind::*;
        const KINDS: [(&[&str], NamedKind); 9] = [
            (&["table"], NamedKind::Relation(Table)),
            (&["source"], NamedKind::Relation(Source)),
            (&["materialized", "view"], NamedKind::Relation(MaterializedView)),
            (&["view"], NamedKind::Relation(View)),
            (&["index"], NamedKind::Relation(Index)),
            (&["sink"], NamedKind::Relation(Sink)),
            (&["column"], NamedKind::Column),
            (&["schema"], NamedKind::Schema),
            (&["database"], NamedKind::Database),
        ];
        KINDS.into_iter().find(|(words, _)| self.eat(words)).map(|(_, kind)| kind)
    }

    pub(super) fn drop(&mut self) -> Result<Statement> {
        self.expect(&["drop"])?;
        if self.eat_role().is_some() {
            return self.drop_role();
        }
        if self.eat(&["savepoint", "point"]) {
            let if_exists = self.if_exists();
            return Ok(Statement::DropSavepointPoint { name: self.ident()?, if_exists });
        }
        for words in [
            "function",
            "aggregate",
            "type",
            "domain",
            "sequence",
            "extension",
            "secret",
            "connection",
            "subscription",
            "trigger",
            "schema",
            "database",
            "owned",
        ] {
            if self.at(&[words]) {
                return self.unsupported(&format!("DROP {}", words.to_uppercase()));
            }
        }
        // A sink may have that name.
        if self.at(&["sink", "group"]) && matches!(self.p.peek_nth_token_ref(2).token, Token::Word(_)) {
            self.expect(&["sink", "group"])?;
            let if_exists = self.if_exists();
            return Ok(Statement::DropSinkGroup { name: self.ident()?, if_exists });
        }
        let kind = match self.kind() {
            Some(NamedKind::Column) | None => return self.unexpected(),
            Some(kind) => kind,
        };
        let _ = self.eat(&["concurrently"]);
        let if_exists = self.if_exists();
        let names = self.comma_separated(Self::object_name)?;
        let cascade = self.eat(&["cascade"]);
        let _ = !cascade && self.eat(&["restrict"]);
        Ok(Statement::Drop(Drop { kind, names, if_exists, cascade }))
    }

    pub(super) fn alter(&mut self) -> Result<Statement> {
        self.expect(&["alter"])?;
        if self.eat_role().is_some() {
            return self.alter_role();
        }
        let words: Vec<String> = (0..2)
            .filter_map(|i| match &self.p.peek_nth_token_ref(i).token {
                Token::Word(w) => Some(w.value.to_uppercase()),
                _ => None,
            })
            .collect();
        let what = words.first().cloned().unwrap_or_default();
        let kind = match self.kind() {
            Some(kind @ NamedKind::Relation(_)) => kind,
            Some(NamedKind::Column) => return self.unexpected(),
            _ if ["SYSTEM", "DATABASE", "SCHEMA", "FUNCTION", "TYPE", "DEFAULT", "SEQUENCE"]
                .contains(&what.as_str()) =>
            {
                return self.unsupported(&format!("ALTER {what}"));
            }
            _ => return self.unexpected(),
        };
        let _ = self.if_exists();
        let _ = self.eat(&["only"]);
        let name = self.object_name()?;
        if kind == NamedKind::Relation(ObjectKind::Sink) {
            let pause = self.eat(&["pause"]);
            if pause || self.eat(&["resume"]) {
                return Ok(Statement::AlterSink { name, pause });
            }
        } else if matches!(kind, NamedKind::Relation(_)) && self.eat(&["resume"]) {
            return Ok(Statement::AlterResume { kind, name });
        }
        if kind == NamedKind::Relation(ObjectKind::Source) && self.at(&["format"]) {
            return Ok(Statement::AlterFormat { name, connection: self.connection(false)? });
        }
        if matches!(self.p.peek_nth_token_ref(1).token, Token::LParen) && self.eat(&["set"]) {
            return Ok(Statement::AlterSet { kind, name, options: self.options()? });
        }
        if !self.eat(&["rename"]) {
            return self.unsupported(&format!("this form of ALTER {}", kind.words()));
        }
        let column = if self.eat(&["to"]) {
            None
        } else {
            let _ = self.eat(&["column"]);
            let column = self.ident()?;
            self.expect(&["to"])?;
            Some(column)
        };
        let new_name = self.ident()?;
        Ok(Statement::AlterRename(AlterRename { kind, name, column, new_name }))
    }

    pub(super) fn comment(&mut self) -> Result<Statement> {
        self.expect(&["comment", "on"])?;
        let Some(kind) = self.kind() else { return self.unsupported("this form of COMMENT ON") };
        let mut name = self.object_name()?;
        let mut column = None;
        if kind == NamedKind::Column {
            let Some(relation) = name.schema.take() else {
                let error = Error::new("42601", "column name must be qualified");
                return Err(name.position.map_or(error.clone(), |p| error.at(p)));
            };
            column = Some(std::mem::replace(&mut name.name, relation));
        }
        self.expect(&["is"])?;
        let text = if self.eat(&["null"]) { None } else { Some(self.string()?) };
        Ok(Statement::Comment(Comment { kind, name, column, text }))
    }
}

fn several_keys(table: &ObjectName) -> Error {
    let message = format!("multiple primary keys for table \"{}\" are not allowed", table.name);
    Error::new("42P16", message)
}

fn unsupported_constraint(word: &str) -> Error {
    let what = match word {
        "unique" => "UNIQUE constraints are",
        "check" => "CHECK constraints are",
        "foreign" | "references" => "foreign keys are",
        "exclude" => "exclusion constraints are",
        "like" => "LIKE is",
        _ => "generated columns of this form are",
    };
    Error::unsupported(format!("{what} not supported"))
}
