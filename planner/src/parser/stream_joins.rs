//! `ASOF JOIN` in the words that sqlparser reads: it knows one form of it, there are three.
//!
//! ```text
//! ASOF [INNER] JOIN b ON ...        =>  RIGHT SEMI JOIN b ON ...         these two joins nobody can write: Postgres
//! ASOF LEFT [OUTER] JOIN b ON ...   =>  RIGHT ANTI JOIN b ON ...         has neither SEMI JOIN nor ANTI JOIN
//! ... MATCH_CONDITION (c) ON d      =>  ... ON (c) AND d
//! ```

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_word(t, word));
    if !(0..tokens.len()).any(|i| is(i, "asof") || is(i, "semi") || is(i, "anti")) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 1);
    // The parenthesis that ends a MATCH_CONDITION.
    let mut closing = None;
    let mut asof = false;
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        let put =
            |word: &str, keyword: Keyword| TokenWithSpan { token: keyword_token(word, keyword), span: token.span };
        let kind = usize::from(is(i + 1, "inner") || is(i + 1, "left"));
        let outer = usize::from(is(i + 1, "left") && is(i + 2, "outer"));
        if is(i, "asof") && is(i + 1 + kind + outer, "join") {
            let left = is(i + 1, "left");
            out.push(put("RIGHT", Keyword::RIGHT));
            out.push(if left { put("ANTI", Keyword::ANTI) } else { put("SEMI", Keyword::SEMI) });
            i += 1 + kind + outer;
            asof = true;
            continue;
        }
        // What was put here before, for a part of a statement that is read on its own, is in one place with its RIGHT.
        let ours = i > 0 && tokens[i - 1].span == token.span;
        if (is(i, "semi") || is(i, "anti")) && is(i + 1, "join") && !ours {
            out.push(put(&token.token.to_string(), Keyword::NoKeyword));
        } else if asof && is(i, "match_condition") {
            closing = end_of_parenthesis(&tokens, i + 1).filter(|end| is(end + 1, "on"));
            out.push(if closing.is_some() { put("ON", Keyword::ON) } else { token.clone() });
        } else if closing.is_some_and(|end| i == end + 1) {
            out.push(put("AND", Keyword::AND));
        } else {
            out.push(token.clone());
        }
        i += 1;
    }
    out
}

/// Whether a statement asks for a table as of a time.
pub(super) fn has_versions(tokens: &[TokenWithSpan]) -> bool {
    tokens.windows(2).any(|pair| is_word(&pair[0], "for") && is_word(&pair[1], "system_time"))
}

pub(super) fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

pub(super) fn keyword_token(word: &str, keyword: Keyword) -> Token {
    Token::Word(Word { value: word.to_string(), quote_style: None, keyword })
}

/// Where the parenthesis that opens at `from` closes.
pub(super) fn end_of_parenthesis(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (i > from).then_some(i);
        }
    }
    None
}
