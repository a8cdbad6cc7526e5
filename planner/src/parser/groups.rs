//! GROUP BY in the words that sqlparser reads.
//!
//! ```text
//! GROUP BY DISTINCT ROLLUP (a), CUBE (a)   =>  GROUP BY "group by distinct", ROLLUP (a), CUBE (a)
//! ROLLUP ((a)[1], b)                       =>  ROLLUP (((a)[1]), b)
//! ```

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::stream_joins::{end_of_parenthesis, is_word};

/// What stands for DISTINCT, before the first element. Nobody has a column of this name.
pub(crate) const GROUP_BY_DISTINCT: &str = "group by distinct";

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.windows(2).any(|pair| is_word(&pair[0], "group") && is_word(&pair[1], "by")) {
        return tokens;
    }
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_word(t, word));
    // What is put before, or behind, the token at a place.
    let (mut before, mut behind) = (vec![0_usize; tokens.len()], vec![0_usize; tokens.len()]);
    for i in 0..tokens.len() {
        let list = match () {
            () if is(i, "rollup") || is(i, "cube") => i + 1,
            () if is(i, "grouping") && is(i + 1, "sets") => i + 2,
            () => continue,
        };
        for (from, to) in elements(&tokens, list) {
            // An element that begins with a parenthesis is read as a row of elements.
            let whole = end_of_parenthesis(&tokens, from).is_none_or(|end| end + 1 == to);
            if tokens[from].token == Token::LParen && !whole {
                before[from] += 1;
                behind[to - 1] += 1;
            }
        }
    }
    let mut out = Vec::with_capacity(tokens.len() + 4);
    for (i, token) in tokens.iter().enumerate() {
        let put = |token: Token| TokenWithSpan { token, span: tokens[i].span };
        if is(i, "distinct") && i >= 2 && is(i - 1, "by") && is(i - 2, "group") {
            let word = Word { value: GROUP_BY_DISTINCT.into(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
            out.extend([put(Token::Word(word)), put(Token::Comma)]);
            continue;
        }
        out.extend((0..before[i]).map(|_| put(Token::LParen)));
        out.push(token.clone());
        out.extend((0..behind[i]).map(|_| put(Token::RParen)));
    }
    out
}

/// From where to where the elements of the list in the parentheses at `open` stand.
fn elements(tokens: &[TokenWithSpan], open: usize) -> Vec<(usize, usize)> {
    let is_open = tokens.get(open).is_some_and(|t| t.token == Token::LParen);
    let Some(close) = end_of_parenthesis(tokens, open).filter(|_| is_open) else { return vec![] };
    let (mut found, mut from, mut depth) = (vec![], open + 1, 0);
    for (at, token) in tokens.iter().enumerate().take(close + 1).skip(open + 1) {
        match token.token {
            Token::Comma if depth == 0 => {
                found.push((from, at));
                from = at + 1;
            }
            _ if at == close => found.push((from, at)),
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth -= 1,
            _ => {}
        }
    }
    found.retain(|(from, to)| from < to);
    found
}
