//! Functions in FROM in the words that sqlparser reads.
//!
//! ```text
//! ROWS FROM (f(...), g(...))               =>  "rows from"(f(...), g(...))
//! jsonb_to_record(...) AS (a int)          =>  jsonb_to_record(...) AS jsonb_to_record (a int)
//! ```

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::stream_joins::is_word;

/// The function that stands for ROWS FROM. Nobody has one of this name.
pub(crate) const ROWS_FROM: &str = "rows from";

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_word(t, word));
    let opens = |i: usize| tokens.get(i).is_some_and(|t| t.token == Token::LParen);
    let record = |i: usize| is(i, "jsonb_to_record") || is(i, "jsonb_to_recordset");
    if !(0..tokens.len()).any(|i| record(i) || (is(i, "rows") && is(i + 1, "from"))) {
        return tokens;
    }
    let word = |value: &str, quote_style: Option<char>| {
        Token::Word(Word { value: value.into(), quote_style, keyword: Keyword::NoKeyword })
    };
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 1);
    // What each open parenthesis belongs to, if that is a function that gives records.
    let mut open: Vec<Option<usize>> = vec![];
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        if is(i, "rows") && is(i + 1, "from") && opens(i + 2) {
            out.push(TokenWithSpan { token: word(ROWS_FROM, Some('"')), span: token.span });
            i += 2;
            continue;
        }
        out.push(token.clone());
        match token.token {
            Token::LParen => open.push(i.checked_sub(1).filter(|&before| record(before))),
            Token::RParen => {
                if let Some(Some(function)) = open.pop()
                    && is(i + 1, "as")
                    && opens(i + 2)
                {
                    let name = tokens[function].token.to_string();
                    out.push(tokens[i + 1].clone());
                    out.push(TokenWithSpan { token: word(&name, None), span: tokens[i + 1].span });
                    i += 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    out
}
