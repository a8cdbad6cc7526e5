//! PostgreSQL's dialect of sqlparser, corrected where its precedences differ from the server's.

use std::any::TypeId;

use sqlparser::ast::{BinaryOperator, Expr, TrimWhereField, UnaryOperator};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// Unary plus and minus bind tighter than every binary operator but `::`, `[]` and `.`.
const SIGN_PREC: u8 = 125;
/// All operators without a level of their own.
const OTHER_PREC: u8 = 70;
const LIKE_PREC: u8 = 60;
const IS_PREC: u8 = 40;

/// The dialect of this server. It says that it is PostgreSQL's, so that the parser takes it for that everywhere.
#[derive(Debug, Default)]
pub struct HeadwaterDialect {
    pub(crate) postgres: PostgreSqlDialect,
    /// Whether `FOR SYSTEM_TIME AS OF` may follow a table's name. Not everywhere: `at` and `before` cannot be aliases then.
    pub(crate) versions: bool,
}

macro_rules! as_postgres {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { self.postgres.$name() })* };
}

impl Dialect for HeadwaterDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }
    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        self.postgres.identifier_quote_style(identifier)
    }
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.postgres.is_delimited_identifier_start(ch)
    }
    fn is_identifier_start(&self, ch: char) -> bool {
        self.postgres.is_identifier_start(ch)
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        self.postgres.is_identifier_part(ch)
    }
    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        self.postgres.is_reserved_for_identifier(kw)
    }
    fn is_custom_operator_part(&self, ch: char) -> bool {
        self.postgres.is_custom_operator_part(ch)
    }
    fn prec_value(&self, prec: Precedence) -> u8 {
        self.postgres.prec_value(prec)
    }
    fn supports_table_versioning(&self) -> bool {
        self.versions
    }
    as_postgres! {
        supports_unicode_string_literal supports_filter_during_aggregation supports_group_by_expr allow_extract_custom
        allow_extract_single_quotes supports_create_index_with_clause supports_explain_with_utility_options
        supports_listen_notify supports_bitwise_shift_operators supports_comment_on
        supports_empty_projections supports_nested_comments supports_string_escape_constant
        supports_numeric_literal_underscores supports_array_typedef_with_brackets supports_set_names
        supports_alter_column_type_using supports_notnull_operator supports_interval_options
        supports_insert_table_alias supports_create_table_like_parenthesized supports_comma_separated_trim
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::Word(w) if w.keyword == Keyword::NOT => match &parser.peek_nth_token_ref(1).token {
                // `DEFAULT 1 NOT NULL` is two things.
                Token::Word(w) if w.keyword == Keyword::NULL => Some(Ok(self.prec_unknown())),
                _ => None,
            },
            Token::Word(w) if w.keyword == Keyword::OPERATOR => Some(Ok(OTHER_PREC)),
            Token::Tilde
            | Token::TildeAsterisk
            | Token::ExclamationMarkTilde
            | Token::ExclamationMarkTildeAsterisk
            | Token::DoubleTilde
            | Token::DoubleTildeAsterisk
            | Token::ExclamationMarkDoubleTilde
            | Token::ExclamationMarkDoubleTildeAsterisk => Some(Ok(OTHER_PREC)),
            _ => self.postgres.get_next_precedence(parser),
        }
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let op = match &parser.peek_token_ref().token {
            Token::Word(w) if w.keyword == Keyword::TRIM => return trim_from(parser),
            Token::Word(w) if w.keyword == Keyword::NOT => return not_exists(self, parser),
            Token::Minus => UnaryOperator::Minus,
            Token::Plus => UnaryOperator::Plus,
            _ => return None,
        };
        parser.advance_token();
        let operand = parser.parse_subexpr(SIGN_PREC);
        Some(operand.map(|e| Expr::UnaryOp { op, expr: Box::new(e) }))
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        if parser.peek_keyword(Keyword::IS) {
            let negated = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
                false
            } else if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
                true
            } else {
                return None;
            };
            let left = Box::new(expr.clone());
            return Some(parser.parse_subexpr(IS_PREC).map(|right| match negated {
                false => Expr::IsDistinctFrom(left, Box::new(right)),
                true => Expr::IsNotDistinctFrom(left, Box::new(right)),
            }));
        }
        if let Some(quantified) = quantified(parser, expr) {
            return Some(Ok(quantified));
        }
        let at = usize::from(parser.peek_keyword(Keyword::NOT));
        let is_word = |token: &Token, word: &str| matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
        if !is_word(&parser.peek_nth_token_ref(at).token, "between") {
            return None;
        }
        let symmetric = is_word(&parser.peek_nth_token_ref(at + 1).token, "symmetric");
        if !symmetric && !is_word(&parser.peek_nth_token_ref(at + 1).token, "asymmetric") {
            return None;
        }
        for _ in 0..at + 2 {
            parser.advance_token();
        }
        Some(between(parser, expr, at == 1, symmetric))
    }
}

/// `= ANY ((SELECT ...) UNION (SELECT ...))`: sqlparser reads an expression where a query begins with a parenthesis.
fn quantified(parser: &mut Parser, left: &Expr) -> Option<Expr> {
    let compare_op = match parser.peek_token_ref().token {
        Token::Eq => BinaryOperator::Eq,
        Token::Neq => BinaryOperator::NotEq,
        Token::Lt => BinaryOperator::Lt,
        Token::LtEq => BinaryOperator::LtEq,
        Token::Gt => BinaryOperator::Gt,
        Token::GtEq => BinaryOperator::GtEq,
        _ => return None,
    };
    let keyword = match &parser.peek_nth_token_ref(1).token {
        Token::Word(word) => word.keyword,
        _ => return None,
    };
    let opens = [2, 3].into_iter().all(|at| parser.peek_nth_token_ref(at).token == Token::LParen);
    if !opens || !matches!(keyword, Keyword::ANY | Keyword::SOME | Keyword::ALL) {
        return None;
    }
    let query = parser.maybe_parse(|parser| {
        for _ in 0..3 {
            parser.advance_token();
        }
        let query = parser.parse_query()?;
        parser.expect_token(&Token::RParen)?;
        Ok(query)
    });
    let right = Box::new(Expr::Subquery(query.ok()??));
    let left = Box::new(left.clone());
    Some(match keyword {
        Keyword::ALL => Expr::AllOp { left, compare_op, right },
        _ => Expr::AnyOp { left, compare_op, right, is_some: keyword == Keyword::SOME },
    })
}

/// `NOT EXISTS (...)`, which sqlparser takes for one thing: `NOT EXISTS (...)::text` is NOT of a text. `None` for every other NOT.
fn not_exists(dialect: &HeadwaterDialect, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
    let is_exists = matches!(&parser.peek_nth_token_ref(1).token, Token::Word(w) if w.keyword == Keyword::EXISTS);
    if !is_exists {
        return None;
    }
    parser.advance_token();
    let operand = parser.parse_subexpr(dialect.prec_value(Precedence::UnaryNot));
    Some(operand.map(|operand| match operand {
        Expr::Exists { subquery, negated } => Expr::Exists { subquery, negated: !negated },
        other => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(other) },
    }))
}

/// `TRIM(LEADING FROM x)`, which sqlparser does not know; `None` for every other form.
fn trim_from(parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
    let word = |n: usize| match &parser.peek_nth_token_ref(n).token {
        Token::Word(w) => w.keyword,
        _ => Keyword::NoKeyword,
    };
    let (side, from) = match word(2) {
        Keyword::LEADING => (Some(TrimWhereField::Leading), 3),
        Keyword::TRAILING => (Some(TrimWhereField::Trailing), 3),
        Keyword::BOTH => (Some(TrimWhereField::Both), 3),
        _ => (None, 2),
    };
    if parser.peek_nth_token_ref(1).token != Token::LParen || word(from) != Keyword::FROM {
        return None;
    }
    for _ in 0..=from {
        parser.advance_token();
    }
    Some((|| {
        let expr = Box::new(parser.parse_expr()?);
        parser.expect_token(&Token::RParen)?;
        Ok(Expr::Trim { trim_where: side, trim_what: None, expr, trim_characters: None })
    })())
}

/// `[NOT] BETWEEN SYMMETRIC low AND high`, behind those words: either way round.
fn between(parser: &mut Parser, expr: &Expr, negated: bool, symmetric: bool) -> Result<Expr, ParserError> {
    let low = parser.parse_subexpr(LIKE_PREC)?;
    parser.expect_keyword_is(Keyword::AND)?;
    let high = parser.parse_subexpr(LIKE_PREC)?;
    let one = |low: &Expr, high: &Expr| Expr::Between {
        expr: Box::new(expr.clone()),
        negated: false,
        low: Box::new(low.clone()),
        high: Box::new(high.clone()),
    };
    let inside = match symmetric {
        true => Expr::Nested(Box::new(Expr::BinaryOp {
            left: Box::new(one(&low, &high)),
            op: BinaryOperator::Or,
            right: Box::new(one(&high, &low)),
        })),
        false => one(&low, &high),
    };
    Ok(match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(inside) },
        false => inside,
    })
}
