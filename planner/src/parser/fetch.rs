//! A row count before the offset, in the order that sqlparser reads.
//!
//! ```text
//! FETCH FIRST 2 ROWS WITH TIES OFFSET 1 ROW  =>  OFFSET 1 ROW FETCH FIRST 2 ROWS WITH TIES
//! ```

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::stream_joins::is_word;

/// What can follow an OFFSET in a query.
const AFTER_OFFSET: [&str; 6] = ["fetch", "limit", "for", "union", "intersect", "except"];

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut i = 0;
    while i < tokens.len() {
        let offset = end_of_fetch(&tokens, i).filter(|&at| is(&tokens, at, "offset"));
        if let Some(offset) = offset {
            let ends = |at: usize| AFTER_OFFSET.iter().any(|word| is(&tokens, at, word));
            let end = scan(&tokens, offset + 1, ends).unwrap_or_else(|at| at);
            tokens[i..end].rotate_left(offset - i);
            i = end;
        } else {
            i += 1;
        }
    }
    tokens
}

/// One past `FETCH {FIRST | NEXT} [count] {ROW | ROWS} {ONLY | WITH TIES}`, if that begins at `at`.
fn end_of_fetch(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let is = |at: usize, word: &str| is(tokens, at, word);
    if !is(at, "fetch") || !(is(at + 1, "first") || is(at + 1, "next")) {
        return None;
    }
    let rows = scan(tokens, at + 2, |at| is(at, "row") || is(at, "rows")).ok()?;
    match () {
        () if is(rows + 1, "only") => Some(rows + 2),
        () if is(rows + 1, "with") && is(rows + 2, "ties") => Some(rows + 3),
        () => None,
    }
}

/// Where `found` first holds outside of parentheses; an error with the end of the query if nowhere.
fn scan(tokens: &[TokenWithSpan], from: usize, found: impl Fn(usize) -> bool) -> Result<usize, usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return Err(at),
            Token::RParen => depth -= 1,
            _ if depth == 0 && found(at) => return Ok(at),
            _ => {}
        }
    }
    Err(tokens.len())
}

fn is(tokens: &[TokenWithSpan], at: usize, word: &str) -> bool {
    tokens.get(at).is_some_and(|token| is_word(token, word))
}
