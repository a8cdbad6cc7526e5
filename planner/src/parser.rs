//! Text to statements: sqlparser reads queries and expressions, everything around them is read here.
//!
//! Tokens carry character offsets instead of lines and columns (see [`crate::statement::Query`]), so errors and the
//! binder know where in its statement everything stands.

mod create;
mod fetch;
mod frames;
mod grouping_sets;
mod groups;
pub mod names;
mod query;
mod role;
mod session;
mod stream_joins;
pub mod stream_windows;
mod table_functions;

use std::sync::Arc;

use sqlparser::ast;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use storage::SqlType;

use crate::dialect::HeadwaterDialect;
use crate::error::{Error, Result};
use crate::statement::{ObjectName, Query, Statement};

pub(crate) use self::groups::GROUP_BY_DISTINCT;
pub(crate) use self::table_functions::ROWS_FROM;

/// How deep expressions and subqueries may be nested: the parser recurses.
const DEPTH_MAX: usize = 96;
/// How many operators in a row an expression may have, those around it included: the binder recurses over them.
const CHAIN_MAX: usize = 1000;

/// Knows more operators than the parser's dialect does: there `box` and `point` would be types and no names.
static TOKENS: sqlparser::dialect::PostgreSqlDialect = sqlparser::dialect::PostgreSqlDialect {};
static DIALECT: HeadwaterDialect = dialect(false);
static WITH_VERSIONS: HeadwaterDialect = dialect(true);

const fn dialect(versions: bool) -> HeadwaterDialect {
    HeadwaterDialect { postgres: sqlparser::dialect::PostgreSqlDialect {}, versions }
}

/// One statement of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its own text, without the semicolon.
    pub text: String,
    /// Where its text starts in the whole text: characters, the first is 0.
    pub offset: usize,
}

/// Parses all statements of a text. Positions in errors count from the start of the whole text.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let mut statements = Vec::new();
    for (text, offset, tokens) in split(sql)? {
        check_nesting(&tokens).map_err(|e| shift(e, offset))?;
        let text: Arc<str> = text.into();
        let statement = statement_of(&text, tokens).map_err(|e| shift(e, offset))?;
        statements.push(Parsed { statement, text: text.to_string(), offset });
    }
    Ok(statements)
}

/// Parses a query that is the whole text.
pub fn parse_query(sql: &str) -> Result<Query> {
    let mut parsed = parse(sql)?;
    match parsed.pop().map(|p| p.statement) {
        Some(Statement::Query(query)) if parsed.is_empty() => Ok(query),
        _ => Err(Error::new("42601", "a query is expected")),
    }
}

/// Parses an expression that is the whole text: a column's default.
pub fn parse_expr(text: &str) -> Result<ast::Expr> {
    let tokens = split(text)?.into_iter().next().map(|(_, _, tokens)| tokens).unwrap_or_default();
    check_nesting(&tokens)?;
    let mut reader = Reader::new(&text.into(), tokens);
    let expr = reader.expr()?;
    reader.end()?;
    Ok(expr)
}

fn statement_of(text: &Arc<str>, tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let mut reader = Reader::new(text, tokens);
    let statement = reader.statement()?;
    reader.end()?;
    Ok(statement)
}

fn shift(mut error: Error, offset: usize) -> Error {
    error.position = error.position.map(|p| p + offset);
    error
}

/// The statements of a text: each with its own text, the offset of that, and its tokens with offsets into it.
fn split(sql: &str) -> Result<Vec<(String, usize, Vec<TokenWithSpan>)>> {
    let lines = line_starts(sql);
    let offset_of = |at: Location| -> usize {
        let line = lines.get((at.line as usize).saturating_sub(1)).or(lines.last()).copied().unwrap_or(0);
        line + (at.column as usize).saturating_sub(1)
    };
    let mut tokens = Vec::new();
    let mut tokenizer = Tokenizer::new(&TOKENS, sql);
    if let Err(error) = tokenizer.tokenize_with_location_into_buf(&mut tokens) {
        return Err(lexical(sql, &error.message, offset_of(error.location)));
    }
    let chars: Vec<char> = sql.chars().collect();
    let mut statements = Vec::new();
    let mut current: Vec<(usize, usize, Token)> = Vec::new();
    let mut finish = |current: &mut Vec<(usize, usize, Token)>| {
        while current.last().is_some_and(|(_, _, t)| matches!(t, Token::Whitespace(_))) {
            current.pop();
        }
        let (Some(&(start, ..)), Some(&(_, end, _))) = (current.first(), current.last()) else { return };
        let text: String = chars[start.min(chars.len())..end.min(chars.len())].iter().collect();
        let at = |offset: usize| Location { line: 1, column: (offset - start + 1) as u64 };
        let tokens = current
            .drain(..)
            .map(|(from, to, token)| TokenWithSpan { token, span: Span { start: at(from), end: at(to.max(from)) } });
        statements.push((text, start, tokens.collect()));
    };
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::SemiColon => finish(&mut current),
            Token::Whitespace(_) if current.is_empty() => {}
            Token::EOF => {}
            // Only what is between words matters, not how much.
            Token::Whitespace(_) => {}
            token => current.push((offset_of(span.start), offset_of(span.end), token)),
        }
    }
    finish(&mut current);
    Ok(statements)
}

fn line_starts(sql: &str) -> Vec<usize> {
    let newlines = sql.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(i, _)| i + 1);
    std::iter::once(0).chain(newlines).collect()
}

/// The tokens of a statement's text with the characters that they begin and end at, from 0.
pub(crate) fn token_places(text: &str) -> Result<Vec<(Token, usize, usize)>> {
    let places = split(text)?.into_iter().flat_map(|(_, offset, tokens)| {
        let place = move |at: Location| at.column as usize - 1 + offset;
        tokens.into_iter().map(move |t| (t.token, place(t.span.start), place(t.span.end)))
    });
    Ok(places.collect())
}

/// The words of a text between two positions, each with its own.
pub(crate) fn words_between(text: &str, from: usize, to: usize) -> Vec<(String, usize)> {
    let statements = split(text).unwrap_or_default();
    let tokens = statements.into_iter().flat_map(|(_, offset, tokens)| {
        tokens.into_iter().map(move |t| (t.token.to_string(), t.span.start.column as usize + offset))
    });
    tokens.filter(|(_, at)| (from..to).contains(at)).collect()
}

/// What Postgres says where a token does not end.
fn lexical(sql: &str, message: &str, offset: usize) -> Error {
    let rest: String = sql.chars().skip(offset).collect();
    let what = if message.contains("multi-line comment") || message.contains("comment") {
        "unterminated /* comment"
    } else if message.contains("dollar") {
        "unterminated dollar-quoted string"
    } else if rest.starts_with('"') {
        "unterminated quoted identifier"
    } else if message.contains("nterminated") {
        "unterminated quoted string"
    } else {
        "syntax error"
    };
    Error::new("42601", format!("{what} at or near \"{rest}\"")).at(offset + 1)
}

/// Refuses what would be parsed and bound too deep.
fn check_nesting(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut chains = vec![0_usize];
    let mut sum = 0;
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => chains.push(0),
            Token::RParen | Token::RBracket | Token::RBrace => {
                sum -= chains.pop().unwrap_or(0);
                if chains.is_empty() {
                    chains.push(0);
                }
            }
            Token::Comma => sum -= std::mem::take(chains.last_mut().expect("never empty")),
            Token::Word(w) if w.quote_style.is_some() || !is_connective(&w.value) => {}
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            _ => {
                *chains.last_mut().expect("never empty") += 1;
                sum += 1;
            }
        }
        if chains.len() > DEPTH_MAX || sum > CHAIN_MAX {
            return Err(too_deep().at(span.start.column as usize));
        }
    }
    Ok(())
}

fn is_connective(word: &str) -> bool {
    ["and", "or", "not", "union", "intersect", "except", "join", "is", "in", "between", "like", "when", "isnull", "at"]
        .iter()
        .any(|w| word.eq_ignore_ascii_case(w))
}

fn too_deep() -> Error {
    Error::new("54001", "statement is nested too deeply")
        .with_hint("Write fewer operators in one expression, or put intermediate results into views.")
}

/// Reads the tokens of one statement.
struct Reader<'a> {
    p: Parser<'a>,
    text: Arc<str>,
    tokens: Vec<TokenWithSpan>,
}

impl Reader<'static> {
    fn new(text: &Arc<str>, tokens: Vec<TokenWithSpan>) -> Reader<'static> {
        let tokens = table_functions::rewrite(stream_joins::rewrite(stream_windows::rewrite(tokens)));
        let tokens = grouping_sets::rewrite(fetch::rewrite(tokens));
        let tokens = frames::rewrite(groups::rewrite(tokens));
        let dialect = if stream_joins::has_versions(&tokens) { &WITH_VERSIONS } else { &DIALECT };
        let p = Parser::new(dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens.clone());
        Reader { p, text: text.clone(), tokens }
    }
}

impl Reader<'_> {
    /// The next token.
    fn peek(&self) -> &TokenWithSpan {
        self.p.peek_token_ref()
    }

    /// Where the next token stands.
    fn position(&self) -> usize {
        match self.peek() {
            t if t.token == Token::EOF => self.text.chars().count() + 1,
            t => t.span.start.column as usize,
        }
    }

    /// Where the last token ended.
    fn last_end(&self) -> usize {
        self.p.get_current_token().span.end.column as usize
    }

    /// The text from one position to another.
    fn slice(&self, from: usize, to: usize) -> String {
        self.text.chars().skip(from - 1).take(to.saturating_sub(from)).collect()
    }

    fn is_word(token: &Token, word: &str) -> bool {
        matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// Whether the next tokens are these words.
    fn at(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| Self::is_word(&self.p.peek_nth_token_ref(i).token, word))
    }

    /// Takes these words if they are next.
    fn eat(&mut self, words: &[&str]) -> bool {
        let found = self.at(words);
        if found {
            words.iter().for_each(|_| self.p.advance_token());
        }
        found
    }

    fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.eat(&[word]) {
                return self.unexpected();
            }
        }
        Ok(())
    }

    fn eat_token(&mut self, token: Token) -> bool {
        self.p.consume_token(&token)
    }

    fn expect_token(&mut self, token: Token) -> Result<()> {
        if self.eat_token(token) { Ok(()) } else { self.unexpected() }
    }

    /// The error that the next token does not belong there.
    fn unexpected<T>(&self) -> Result<T> {
        Err(self.error_at(self.position()))
    }

    fn error_at(&self, position: usize) -> Error {
        let token = self.tokens.iter().find(|t| t.span.start.column as usize == position);
        let message = match token {
            Some(t) => {
                let written = self.slice(position, t.span.end.column as usize);
                format!("syntax error at or near \"{written}\"")
            }
            None => "syntax error at end of input".to_string(),
        };
        Error::new("42601", message).at(position)
    }

    /// sqlparser's error as Postgres has it.
    fn wrong(&self, error: ParserError) -> Error {
        let message = match error {
            ParserError::RecursionLimitExceeded => return too_deep().at(self.position()),
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
        };
        let column = message.rsplit_once("Column: ").and_then(|(_, n)| n.trim().parse::<usize>().ok());
        let position = match column {
            Some(column) => column,
            None if message.contains("found: EOF") => self.text.chars().count() + 1,
            None => self.position(),
        };
        self.error_at(position)
    }

    fn parse<T>(&mut self, f: impl FnOnce(&mut Parser) -> Result<T, ParserError>) -> Result<T> {
        f(&mut self.p).map_err(|e| self.wrong(e))
    }

    /// That the statement ends here.
    fn end(&mut self) -> Result<()> {
        if self.peek().token == Token::EOF { Ok(()) } else { self.unexpected() }
    }

    fn at_end(&self) -> bool {
        self.peek().token == Token::EOF
    }

    /// A name, case folded.
    fn ident(&mut self) -> Result<String> {
        match &self.peek().token {
            Token::Word(w) if w.quote_style.is_some() => {}
            Token::Word(w) if !is_reserved(&w.value) => {}
            _ => return self.unexpected(),
        }
        self.label()
    }

    /// A name where reserved words are names too.
    fn label(&mut self) -> Result<String> {
        let name = match &self.peek().token {
            Token::Word(w) if w.quote_style.is_some() => w.value.clone(),
            Token::Word(w) => w.value.to_lowercase(),
            _ => return self.unexpected(),
        };
        self.p.advance_token();
        Ok(name)
    }

    /// `[[database.]schema.]name`
    fn object_name(&mut self) -> Result<ObjectName> {
        let position = self.position();
        let mut parts = vec![self.ident()?];
        while self.eat_token(Token::Period) {
            parts.push(self.label()?);
        }
        if parts.len() > 3 {
            let name = parts.join(".");
            let message = format!("improper qualified name (too many dotted names): {name}");
            return Err(Error::new("42601", message).at(position));
        }
        let name = parts.pop().expect("one at least");
        Ok(ObjectName { schema: parts.pop(), name, position: Some(position) })
    }

    fn comma_separated<T>(&mut self, mut f: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![f(self)?];
        while self.eat_token(Token::Comma) {
            items.push(f(self)?);
        }
        Ok(items)
    }

    /// `(a, b)` of names
    fn names(&mut self) -> Result<Vec<String>> {
        self.expect_token(Token::LParen)?;
        let names = self.comma_separated(Self::ident)?;
        self.expect_token(Token::RParen)?;
        Ok(names)
    }

    fn optional_names(&mut self) -> Result<Vec<String>> {
        if self.peek().token == Token::LParen { self.names() } else { Ok(vec![]) }
    }

    /// A string in quotes of any kind.
    fn string(&mut self) -> Result<String> {
        let text = match &self.peek().token {
            Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) => s.clone(),
            Token::DollarQuotedString(s) => s.value.clone(),
            _ => return self.unexpected(),
        };
        self.p.advance_token();
        Ok(text)
    }

    fn number(&mut self) -> Result<String> {
        let negative = self.eat_token(Token::Minus);
        let Token::Number(digits, _) = &self.peek().token else { return self.unexpected() };
        let text = format!("{}{digits}", if negative { "-" } else { "" });
        self.p.advance_token();
        Ok(text)
    }

    fn expr(&mut self) -> Result<ast::Expr> {
        self.parse(|p| p.parse_expr())
    }

    /// An expression, as it is written.
    fn expr_text(&mut self) -> Result<String> {
        let start = self.position();
        self.expr()?;
        Ok(self.slice(start, self.last_end()))
    }

    fn data_type(&mut self) -> Result<(SqlType, i32)> {
        let position = self.position();
        let written = self.parse(|p| p.parse_data_type())?;
        crate::types::from_ast(&written).map_err(|e| Error::from(e).at(position))
    }

    /// A query, `TABLE t` included.
    fn query(&mut self) -> Result<Query> {
        let starts = ["select", "with", "values", "table"].iter().any(|w| self.at(&[w]));
        if !starts && self.peek().token != Token::LParen {
            return self.unexpected();
        }
        if self.at(&["table"]) {
            return self.table_query();
        }
        let ast = self.parse(|p| p.parse_query())?;
        if matches!(
            *ast.body,
            ast::SetExpr::Insert(_) | ast::SetExpr::Update(_) | ast::SetExpr::Delete(_) | ast::SetExpr::Merge(_)
        ) {
            return Err(Error::unsupported("INSERT, UPDATE and DELETE behind WITH are not supported yet"));
        }
        Ok(Query { ast, text: self.text.clone() })
    }

    /// `TABLE t ...` is `SELECT * FROM t ...`.
    fn table_query(&mut self) -> Result<Query> {
        let from = self.p.index();
        let table = self.tokens[from].clone();
        let words = [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")];
        let mut tokens: Vec<TokenWithSpan> =
            words.into_iter().map(|token| TokenWithSpan { token, span: table.span }).collect();
        tokens.extend_from_slice(&self.tokens[from + 1..]);
        let mut inner = Reader::new(&self.text, tokens);
        let ast = inner.parse(|p| p.parse_query())?;
        for _ in 0..inner.p.index() - 2 {
            self.p.advance_token();
        }
        Ok(Query { ast, text: self.text.clone() })
    }

    /// `RETRY ERRORS FROM s [WHERE ...]` chooses as `SELECT error_id FROM "s$errors" [WHERE ...]` does.
    fn retry_errors(&mut self) -> Result<Statement> {
        let first = self.tokens[self.p.index()].clone();
        self.expect(&["retry", "errors", "from"])?;
        let name = self.object_name()?;
        if !self.at_end() && !self.at(&["where"]) {
            return self.unexpected();
        }
        let mut words = vec![Token::make_keyword("SELECT"), Token::make_word("error_id", Some('"'))];
        words.push(Token::make_keyword("FROM"));
        if let Some(schema) = name.schema() {
            words.extend([Token::make_word(schema, Some('"')), Token::Period]);
        }
        words.push(Token::make_word(&format!("{}{}", name.last(), crate::catalog::ERRORS_SUFFIX), Some('"')));
        let n = words.len();
        let mut tokens: Vec<TokenWithSpan> =
            words.into_iter().map(|token| TokenWithSpan { token, span: first.span }).collect();
        tokens.extend_from_slice(&self.tokens[self.p.index()..]);
        let mut inner = Reader::new(&self.text, tokens);
        let ast = inner.parse(|p| p.parse_query())?;
        for _ in 0..inner.p.index() - n {
            self.p.advance_token();
        }
        Ok(Statement::RetryErrors { name, query: Query { ast, text: self.text.clone() } })
    }

    /// The options of a statement up to the closing parenthesis: `(a.b = 'x', c = 5, d)`.
    fn options(&mut self) -> Result<Vec<(String, String)>> {
        self.expect_token(Token::LParen)?;
        if self.eat_token(Token::RParen) {
            return Ok(vec![]);
        }
        let options = self.comma_separated(|r| {
            let mut name = r.option_word()?;
            while r.eat_token(Token::Period) {
                name = format!("{name}.{}", r.option_word()?);
            }
            let _ = r.eat_token(Token::Eq) || r.eat_token(Token::RArrow);
            let value = match &r.peek().token {
                Token::Comma | Token::RParen => "true".to_string(),
                Token::Number(..) | Token::Minus => r.number()?,
                Token::Word(w) if w.quote_style.is_none() => {
                    let mut value = w.value.to_lowercase();
                    r.p.advance_token();
                    // `secret s`, `debezium.x`
                    while let Token::Word(_) | Token::Period = &r.peek().token {
                        let part = r.p.next_token().token.to_string().to_lowercase();
                        let gap = if part == "." || value.ends_with('.') { "" } else { " " };
                        value = format!("{value}{gap}{part}");
                    }
                    value
                }
                _ => r.string()?,
            };
            Ok((name, value))
        })?;
        self.expect_token(Token::RParen)?;
        Ok(options)
    }

    fn option_word(&mut self) -> Result<String> {
        match &self.peek().token {
            Token::SingleQuotedString(s) => {
                let name = s.clone();
                self.p.advance_token();
                Ok(name)
            }
            // `a-b` is one key.
            _ => {
                let mut name = self.label()?;
                while self.peek().token == Token::Minus {
                    self.p.advance_token();
                    name = format!("{name}-{}", self.label()?);
                }
                Ok(name)
            }
        }
    }

    fn if_not_exists(&mut self) -> bool {
        self.eat(&["if", "not", "exists"])
    }

    fn if_exists(&mut self) -> bool {
        self.eat(&["if", "exists"])
    }

    /// A whole statement.
    fn statement(&mut self) -> Result<Statement> {
        let word = match &self.peek().token {
            Token::Word(w) if w.quote_style.is_none() => w.value.to_lowercase(),
            Token::LParen => "select".into(),
            _ => return self.unexpected(),
        };
        match word.as_str() {
            "select" | "with" | "values" | "table" => Ok(Statement::Query(self.query()?)),
            "insert" => self.insert(),
            "update" => self.update(),
            "delete" => self.delete(),
            "truncate" => self.truncate(),
            "copy" => self.copy(),
            "explain" => self.explain(),
            "subscribe" => self.subscribe(),
            "prepare" => self.prepare(),
            "execute" => self.execute(),
            "deallocate" => self.deallocate(),
            "declare" => self.declare(),
            "fetch" | "move" => self.fetch(),
            "close" => self.close(),
            "create" => self.create(),
            "drop" => self.drop(),
            "alter" => self.alter(),
            "comment" => self.comment(),
            "show" => self.show(),
            "describe" | "desc" => {
                self.p.advance_token();
                Ok(Statement::Describe(self.object_name()?))
            }
            "set" => self.set(),
            "reset" => self.reset(),
            "discard" => self.discard(),
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => self.transaction(),
            "flush" => {
                self.p.advance_token();
                Ok(Statement::Flush)
            }
            "wait" => {
                self.skip();
                Ok(Statement::Wait)
            }
            "backup" => {
                self.expect(&["backup", "to"])?;
                Ok(Statement::Backup(self.string()?))
            }
            "listen" => self.no_op("LISTEN"),
            "unlisten" => self.no_op("UNLISTEN"),
            "notify" => self.no_op("NOTIFY"),
            "vacuum" => self.no_op("VACUUM"),
            "analyze" | "analyse" => self.no_op("ANALYZE"),
            "checkpoint" => self.no_op("CHECKPOINT"),
            "lock" => self.unsupported("LOCK TABLE"),
            "retry" => self.retry_errors(),
            "grant" => self.unsupported("GRANT"),
            "revoke" => self.unsupported("REVOKE"),
            "merge" => self.unsupported("MERGE"),
            "call" => self.unsupported("CALL"),
            "do" => self.unsupported("DO"),
            "cluster" => self.unsupported("CLUSTER"),
            "reindex" => self.unsupported("REINDEX"),
            "refresh" => self.unsupported("REFRESH MATERIALIZED VIEW"),
            _ => self.unexpected(),
        }
    }

    /// Passes over the rest of the statement.
    fn skip(&mut self) {
        while !self.at_end() {
            self.p.advance_token();
        }
    }

    fn no_op(&mut self, tag: &'static str) -> Result<Statement> {
        self.skip();
        Ok(Statement::NoOp { tag })
    }

    fn unsupported(&mut self, what: &str) -> Result<Statement> {
        self.skip();
        Ok(Statement::Unsupported { what: what.to_string() })
    }
}

/// Postgres' reserved words: none of them names a thing without quotes.
pub(crate) fn is_reserved(word: &str) -> bool {
    const RESERVED: &[&str] = &[
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "current_catalog",
        "current_date",
        "current_role",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "intersect",
        "into",
        "lateral",
        "leading",
        "limit",
        "localtime",
        "localtimestamp",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "placing",
        "primary",
        "references",
        "returning",
        "select",
        "session_user",
        "some",
        "symmetric",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "when",
        "where",
        "window",
        "with",
    ];
    RESERVED.iter().any(|r| word.eq_ignore_ascii_case(r))
}

#[cfg(test)]
mod tests;
