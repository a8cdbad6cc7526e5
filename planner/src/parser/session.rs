//! `SET`, `SHOW`, transactions and the like.

use sqlparser::tokenizer::Token;

use super::Reader;
use crate::error::Result;
use crate::statement::*;

impl Reader<'_> {
    pub(super) fn set(&mut self) -> Result<Statement> {
        self.expect(&["set"])?;
        let local = self.eat(&["local"]);
        if self.eat(&["session", "characteristics", "as", "transaction"]) {
            let read_only = self.transaction_modes()?;
            return Ok(Statement::SetTransaction { read_only, session: true });
        }
        if self.at(&["session", "authorization"]) {
            return self.no_op("SET");
        }
        let _ = !local && self.eat(&["session"]);
        if self.at(&["role"]) && !matches!(self.p.peek_nth_token_ref(1).token, Token::Eq) {
            return self.no_op("SET");
        }
        if self.eat(&["transaction"]) {
            if self.at(&["snapshot"]) {
                return self.unsupported("SET TRANSACTION SNAPSHOT");
            }
            let read_only = self.transaction_modes()?;
            return Ok(Statement::SetTransaction { read_only, session: false });
        }
        if self.eat(&["time", "zone"]) {
            let value = if self.eat(&["local"]) || self.eat(&["default"]) {
                None
            } else if self.eat(&["interval"]) {
                let value = self.string()?;
                self.skip();
                Some(value)
            } else {
                Some(self.setting_value()?)
            };
            return Ok(Statement::Set(Set { name: "timezone".into(), value, local }));
        }
        if self.eat(&["names"]) {
            let value = if self.eat(&["default"]) || self.at_end() { None } else { Some(self.setting_value()?) };
            return Ok(Statement::Set(Set { name: "client_encoding".into(), value, local }));
        }
        if self.eat(&["schema"]) {
            let value = Some(self.setting_value()?);
            return Ok(Statement::Set(Set { name: "search_path".into(), value, local }));
        }
        let name = self.setting_name()?;
        if !self.eat_token(Token::Eq) {
            self.expect(&["to"])?;
        }
        if self.eat(&["default"]) {
            return Ok(Statement::Set(Set { name, value: None, local }));
        }
        let values = self.comma_separated(Self::setting_value)?;
        Ok(Statement::Set(Set { name, value: Some(values.join(", ")), local }))
    }

    fn setting_name(&mut self) -> Result<String> {
        let mut name = self.label()?;
        while self.eat_token(Token::Period) {
            name = format!("{name}.{}", self.label()?);
        }
        Ok(name)
    }

    fn setting_value(&mut self) -> Result<String> {
        match &self.peek().token {
            Token::Number(..) | Token::Minus => self.number(),
            Token::Plus => {
                self.p.advance_token();
                self.number()
            }
            Token::Word(_) => self.label(),
            _ => self.string(),
        }
    }

    pub(super) fn reset(&mut self) -> Result<Statement> {
        self.expect(&["reset"])?;
        if self.eat(&["all"]) {
            return Ok(Statement::Reset(None));
        }
        if self.eat(&["time", "zone"]) {
            return Ok(Statement::Reset(Some("timezone".into())));
        }
        if self.at(&["session", "authorization"]) || self.at(&["role"]) {
            return self.no_op("RESET");
        }
        Ok(Statement::Reset(Some(self.setting_name()?)))
    }

    pub(super) fn discard(&mut self) -> Result<Statement> {
        self.expect(&["discard"])?;
        for what in ["all", "plans", "sequences", "temporary", "temp"] {
            if self.eat(&[what]) {
                return Ok(Statement::Discard(what.replace("temporary", "temp")));
            }
        }
        self.unexpected()
    }

    /// `ISOLATION LEVEL x, READ ONLY | READ WRITE, [NOT] DEFERRABLE`
    fn transaction_modes(&mut self) -> Result<Option<bool>> {
        let mut read_only = None;
        while !self.at_end() {
            if self.eat(&["isolation", "level"]) {
                let known = self.eat(&["serializable"])
                    || self.eat(&["repeatable", "read"])
                    || self.eat(&["read", "committed"])
                    || self.eat(&["read", "uncommitted"]);
                if !known {
                    return self.unexpected();
                }
            } else if self.eat(&["read", "only"]) {
                read_only = Some(true);
            } else if self.eat(&["read", "write"]) {
                read_only = Some(false);
            } else if !(self.eat(&["deferrable"]) || self.eat(&["not", "deferrable"])) {
                return self.unexpected();
            }
            let _ = self.eat_token(Token::Comma);
        }
        Ok(read_only)
    }

    pub(super) fn transaction(&mut self) -> Result<Statement> {
        if self.eat(&["begin"]) {
            let _ = self.eat(&["work"]) || self.eat(&["transaction"]);
            return Ok(Statement::Begin(Begin { read_only: self.transaction_modes()?, start: false }));
        }
        if self.eat(&["start"]) {
            self.expect(&["transaction"])?;
            return Ok(Statement::Begin(Begin { read_only: self.transaction_modes()?, start: true }));
        }
        if self.eat(&["savepoint"]) {
            return self.ident().map(Statement::Savepoint);
        }
        if self.eat(&["release"]) {
            let _ = self.eat(&["savepoint"]);
            return self.ident().map(Statement::Release);
        }
        let commit = self.eat(&["commit"]) || self.eat(&["end"]);
        if !commit {
            self.p.advance_token();
        }
        if self.at(&["prepared"]) {
            return self.unsupported("prepared transactions");
        }
        let _ = self.eat(&["work"]) || self.eat(&["transaction"]);
        if !commit && self.eat(&["to"]) {
            let _ = self.eat(&["savepoint"]);
            return self.ident().map(Statement::RollbackTo);
        }
        let chain = self.eat(&["and", "chain"]);
        let _ = !chain && self.eat(&["and", "no", "chain"]);
        Ok(if commit { Statement::Commit { chain } } else { Statement::Rollback { chain } })
    }

    pub(super) fn show(&mut self) -> Result<Statement> {
        self.expect(&["show"])?;
        Ok(Statement::Show(self.shown()?))
    }

    fn shown(&mut self) -> Result<Show> {
        use ObjectKind::*;
        const LISTS: [(&[&str], ObjectKind); 6] = [
            (&["tables"], Table),
            (&["sources"], Source),
            (&["materialized", "views"], MaterializedView),
            (&["views"], View),
            (&["indexes"], Index),
            (&["sinks"], Sink),
        ];
        if self.eat(&["all"]) {
            return Ok(Show::All);
        }
        if self.eat(&["time", "zone"]) {
            return Ok(Show::Setting("timezone".into()));
        }
        if self.eat(&["transaction", "isolation", "level"]) {
            return Ok(Show::Setting("transaction_isolation".into()));
        }
        if self.eat(&["session", "authorization"]) {
            return Ok(Show::Setting("session_authorization".into()));
        }
        if self.eat(&["columns"]) || self.eat(&["fields"]) {
            if !self.eat(&["in"]) {
                self.expect(&["from"])?;
            }
            return Ok(Show::Columns(self.object_name()?));
        }
        if self.at(&["indexes", "from"]) || self.at(&["index", "from"]) {
            self.p.advance_token();
            self.p.advance_token();
            return Ok(Show::IndexesOf(self.object_name()?));
        }
        if self.eat(&["sink", "groups"]) {
            return Ok(Show::SinkGroups);
        }
        for (words, kind) in LISTS {
            if self.eat(words) {
                let schema = if self.eat(&["from"]) || self.eat(&["in"]) { Some(self.ident()?) } else { None };
                let like = if self.eat(&["like"]) { Some(self.string()?) } else { None };
                return Ok(Show::Objects { kind, schema, like });
            }
        }
        if self.eat(&["create"]) {
            use NamedKind::Relation;
            const KINDS: [(&[&str], NamedKind); 6] = [
                (&["table"], Relation(Table)),
                (&["source"], Relation(Source)),
                (&["materialized", "view"], Relation(MaterializedView)),
                (&["view"], Relation(View)),
                (&["index"], Relation(Index)),
                (&["sink"], Relation(Sink)),
            ];
            let Some((_, kind)) = KINDS.into_iter().find(|(words, _)| self.eat(words)) else {
                return self.unexpected();
            };
            return Ok(Show::Create(kind, self.object_name()?));
        }
        if self.eat(&["schemas"]) {
            return Ok(Show::Schemas);
        }
        if self.eat(&["databases"]) {
            return Ok(Show::Databases);
        }
        if self.eat(&["jobs"]) {
            return Ok(Show::Jobs);
        }
        for other in
            ["subscriptions", "secrets", "connections", "functions", "cluster", "processlist", "cursors", "parameters"]
        {
            if self.eat(&[other]) {
                self.skip();
                return Ok(Show::Other(other.into()));
            }
        }
        Ok(Show::Setting(self.setting_name()?))
    }
}
