//! Sets within sets, written out: sqlparser reads one level.
//!
//! ```text
//! GROUPING SETS ((a), GROUPING SETS ((b), ()))  =>  GROUPING SETS ((a), (b), ())
//! ```

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::stream_joins::is_word;

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut i = 0;
    while i < tokens.len() {
        if begins(&tokens, i) {
            flatten(&mut tokens, i + 3);
        }
        i += 1;
    }
    tokens
}

/// Whether `GROUPING SETS (` and something within begins at `at`.
fn begins(tokens: &[TokenWithSpan], at: usize) -> bool {
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| is_word(token, word));
    let is = |at: usize, what: &Token| tokens.get(at).is_some_and(|token| token.token == *what);
    word(at, "grouping") && word(at + 1, "sets") && is(at + 2, &Token::LParen) && !is(at + 3, &Token::RParen)
}

/// Puts the sets of each set of sets in its place, in the list that begins at `from`.
fn flatten(tokens: &mut Vec<TokenWithSpan>, from: usize) {
    let (mut at, mut depth) = (from, 0);
    while at < tokens.len() {
        let item = depth == 0 && (at == from || tokens[at - 1].token == Token::Comma);
        if item && begins(tokens, at) {
            let Some(end) = end_of(tokens, at + 3) else { return };
            tokens.remove(end);
            tokens.drain(at..at + 3);
            continue;
        }
        match tokens[at].token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return,
            Token::RParen => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// The parenthesis that closes what begins at `from`.
fn end_of(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0;
    (from..tokens.len()).find(|&at| match tokens[at].token {
        Token::LParen => {
            depth += 1;
            false
        }
        Token::RParen => {
            depth -= 1;
            depth < 0
        }
        _ => false,
    })
}
