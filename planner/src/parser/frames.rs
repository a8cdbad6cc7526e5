//! The bounds of window frames as sqlparser reads them: a string it takes for an interval and for nothing else.
//!
//! ```text
//! RANGE '2 days'::interval PRECEDING  =>  RANGE ('2 days'::interval) PRECEDING
//! ```

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::stream_joins::is_word;

/// The longest name of a type, with its parentheses.
const TYPE_TOKENS_MAX: usize = 8;

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut end = None;
    for (i, token) in tokens.iter().enumerate() {
        if end == Some(i) {
            out.push(TokenWithSpan { token: Token::RParen, span: token.span });
            end = None;
        }
        if end.is_none() {
            end = end_of_bound(&tokens, i);
            if end.is_some() {
                out.push(TokenWithSpan { token: Token::LParen, span: token.span });
            }
        }
        out.push(token.clone());
    }
    out
}

/// Where PRECEDING or FOLLOWING stands, if a cast string before them begins at `at`.
fn end_of_bound(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let is_string = matches!(tokens[at].token, Token::SingleQuotedString(_));
    if !is_string || tokens.get(at + 1).is_none_or(|t| t.token != Token::DoubleColon) {
        return None;
    }
    let ends = |t: &TokenWithSpan| is_word(t, "preceding") || is_word(t, "following");
    let in_type =
        |t: &TokenWithSpan| matches!(t.token, Token::Word(_) | Token::Number(..) | Token::LParen | Token::RParen);
    let rest = tokens.get(at + 2..)?.iter().take(TYPE_TOKENS_MAX);
    let n = rest.clone().position(ends)?;
    rest.take(n).all(in_type).then_some(at + 2 + n)
}
