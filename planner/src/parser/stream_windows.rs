//! Windows in the words that sqlparser reads.
//!
//! ```text
//! HOP(TABLE t, ...), HOP(DATA => TABLE t, ...)          =>  HOP(t, ...)
//! SESSION(t PARTITION BY a, b, DESCRIPTOR(ts), ...)     =>  SESSION(t, partition_by => ARRAY[a, b], DESCRIPTOR(ts), ...)
//! COUNT_WINDOW(t, 3 PARTITION BY a ORDER BY b DESC)     =>  COUNT_WINDOW(t, 3, partition_by => ARRAY[a],
//!                                                                        order_by => ARRAY["descending"(b)])
//! OVER (w ORDER BY a ROWS ... EXCLUDE TIES)             =>  OVER (w PARTITION BY "exclude ties"() ORDER BY a ROWS ...)
//! OVER (ORDER BY a SESSION WITH GAP x)                  =>  OVER (ORDER BY a GROUPS "session with gap"(x) PRECEDING)
//! ```
//!
//! The names in quotes are functions that do not exist; the binder knows what is meant.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};
use streaming::windows::Exclude;

use super::stream_joins::{end_of_parenthesis, is_word, keyword_token};

/// The functions that put the rows of a table into windows.
pub const WINDOW_TABLES: [&str; 5] = ["tumble", "hop", "cumulate", "session", "count_window"];

/// Stands before an order column of a window table function that is descending.
pub const DESCENDING: &str = "descending";
/// The bound of a frame that is a session.
pub const SESSION_WITH_GAP: &str = "session with gap";

const EXCLUSIONS: [(&[&str], &str, Exclude); 4] = [
    (&["current", "row"], "exclude current row", Exclude::CurrentRow),
    (&["group"], "exclude group", Exclude::Group),
    (&["ties"], "exclude ties", Exclude::Ties),
    (&["no", "others"], "exclude no others", Exclude::NoOthers),
];

/// What the EXCLUDE of a window definition left among its partition columns.
pub fn exclusion(e: &ast::Expr) -> Option<Exclude> {
    let ast::Expr::Function(function) = e else { return None };
    let name = function.name.0.first()?.as_ident()?;
    EXCLUSIONS.iter().find(|(_, said, _)| name.quote_style.is_some() && name.value == *said).map(|(_, _, what)| *what)
}

/// The argument of `"name"(argument)`, a call that stands for something that is no function.
pub fn argument_of<'a>(e: &'a ast::Expr, name: &str) -> Option<&'a ast::Expr> {
    let ast::Expr::Function(function) = e else { return None };
    let called = function.name.0.first()?.as_ident()?;
    let ast::FunctionArguments::List(list) = &function.args else { return None };
    match list.args.as_slice() {
        [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(argument))]
            if called.quote_style.is_some() && called.value == name =>
        {
            Some(argument)
        }
        _ => None,
    }
}

/// Rewrites the tokens of a statement. Each keeps its place, so errors point where the user wrote.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let has = |word: &str| tokens.iter().any(|t| is_word(t, word));
    let over = has("exclude") || (has("session") && has("gap"));
    let tokens = if over { rewrite_over(tokens) } else { tokens };
    if tokens.iter().any(is_window_table) { rewrite_tables(tokens) } else { tokens }
}

fn is_window_table(token: &TokenWithSpan) -> bool {
    WINDOW_TABLES.iter().any(|name| is_word(token, name))
}

fn put(token: Token, span: Span) -> TokenWithSpan {
    TokenWithSpan { token, span }
}

fn quoted(name: &str) -> Token {
    Token::Word(Word { value: name.to_string(), quote_style: Some('"'), keyword: Keyword::NoKeyword })
}

fn rewrite_tables(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len() + 8);
    let mut i = 0;
    while i < tokens.len() {
        out.push(tokens[i].clone());
        let end = if is_window_table(&tokens[i]) { end_of_parenthesis(&tokens, i + 1) } else { None };
        if let Some(end) = end {
            out.push(tokens[i + 1].clone());
            arguments(&tokens[i + 2..end], &mut out);
            out.push(tokens[end].clone());
            i = end;
        }
        i += 1;
    }
    out
}

/// The arguments of a window table function.
fn arguments(tokens: &[TokenWithSpan], out: &mut Vec<TokenWithSpan>) {
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_word(t, word));
    let mut i = 0;
    while i < tokens.len() {
        let first = i == 0 || tokens[i - 1].token == Token::RArrow;
        if first && is(i, "table") {
            i += 1;
            continue;
        }
        if tokens[i].token == Token::LParen
            && let Some(end) = end_of_parenthesis(tokens, i)
        {
            // A query may have windows of its own.
            out.extend(rewrite_tables(tokens[i..=end].to_vec()));
            i = end + 1;
            continue;
        }
        let list = ["partition", "order"].into_iter().find(|word| is(i, word) && is(i + 1, "by"));
        let Some(list) = list else {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        };
        let span = tokens[i].span;
        let end = end_of_list(tokens, i + 2);
        let mut items = &tokens[i + 2..end];
        if let ([open, inner @ .., _], Some(last)) = (items, end_of_parenthesis(items, 0))
            && open.token == Token::LParen
            && last + 1 == items.len()
        {
            items = inner;
        }
        let name = if list == "partition" { "partition_by" } else { "order_by" };
        let word = |name: &str| put(keyword_token(name, Keyword::NoKeyword), span);
        out.extend([put(Token::Comma, span), word(name), put(Token::RArrow, span)]);
        out.extend([put(keyword_token("ARRAY", Keyword::ARRAY), span), put(Token::LBracket, span)]);
        for (n, item) in split(items).into_iter().enumerate() {
            if n > 0 {
                out.push(put(Token::Comma, span));
            }
            match item {
                [item @ .., last] if is_word(last, "desc") => {
                    out.extend([put(quoted(DESCENDING), span), put(Token::LParen, span)]);
                    out.extend_from_slice(item);
                    out.push(put(Token::RParen, span));
                }
                [item @ .., last] if is_word(last, "asc") => out.extend_from_slice(item),
                item => out.extend_from_slice(item),
            }
        }
        out.push(put(Token::RBracket, span));
        i = end;
    }
}

/// Where a list of columns ends: before ORDER BY, and before the next argument, which a list in parentheses stands apart
/// from, and which is otherwise known by its name or as a descriptor.
fn end_of_list(tokens: &[TokenWithSpan], from: usize) -> usize {
    if tokens.get(from).is_some_and(|t| t.token == Token::LParen)
        && let Some(end) = end_of_parenthesis(tokens, from)
    {
        return end + 1;
    }
    let mut depth = 0_usize;
    for i in from..tokens.len() {
        let next = tokens.get(i + 1);
        match tokens[i].token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Comma
                if depth == 0
                    && (next.is_some_and(|t| is_word(t, "descriptor"))
                        || tokens.get(i + 2).is_some_and(|t| t.token == Token::RArrow)) =>
            {
                return i;
            }
            _ if depth == 0 && is_word(&tokens[i], "order") && next.is_some_and(|t| is_word(t, "by")) => return i,
            _ => {}
        }
    }
    tokens.len()
}

/// The parts between the commas that stand in no parentheses.
fn split(tokens: &[TokenWithSpan]) -> Vec<&[TokenWithSpan]> {
    let (mut depth, mut from, mut items) = (0_usize, 0, vec![]);
    for (i, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Comma if depth == 0 => {
                items.push(&tokens[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    items.push(&tokens[from..]);
    items
}

/// Window definitions: EXCLUDE and SESSION WITH GAP.
fn rewrite_over(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 8);
    // Where the open parentheses stand in `out`.
    let mut opened: Vec<usize> = vec![];
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_word(t, word));
        let closes = |i: usize| tokens.get(i).is_some_and(|t| t.token == Token::RParen);
        let exclusion = EXCLUSIONS.iter().find(|(words, ..)| {
            is(i, "exclude")
                && words.iter().enumerate().all(|(n, word)| is(i + 1 + n, word))
                && closes(i + 1 + words.len())
        });
        let framed = opened.last().filter(|open| outer_word(&out, **open, &["rows", "range", "groups"]).is_some());
        if let (Some((words, name, _)), Some(open)) = (exclusion, framed) {
            let call = [put(quoted(name), token.span), put(Token::LParen, token.span), put(Token::RParen, token.span)];
            add_partition(&mut out, *open, &call, token.span);
            i += 1 + words.len();
            continue;
        }
        if is(i, "session") && is(i + 1, "with") && is(i + 2, "gap") && !opened.is_empty() {
            let end = end_of_definition(&tokens, i + 3);
            out.push(put(keyword_token("GROUPS", Keyword::GROUPS), token.span));
            out.extend([put(quoted(SESSION_WITH_GAP), token.span), put(Token::LParen, token.span)]);
            out.extend_from_slice(&tokens[i + 3..end]);
            out.push(put(Token::RParen, token.span));
            out.push(put(keyword_token("PRECEDING", Keyword::PRECEDING), token.span));
            i = end;
            continue;
        }
        match token.token {
            Token::LParen => opened.push(out.len()),
            Token::RParen => {
                opened.pop();
            }
            _ => {}
        }
        out.push(token.clone());
        i += 1;
    }
    out
}

/// Puts `call` before the partition columns of the window definition that opens at `open`.
fn add_partition(out: &mut Vec<TokenWithSpan>, open: usize, call: &[TokenWithSpan], span: Span) {
    let place = outer_word(out, open, &["partition", "order", "rows", "range", "groups"]).unwrap_or(out.len());
    let partition = out.get(place).is_some_and(|t| is_word(t, "partition"));
    let mut added = call.to_vec();
    if partition {
        added.push(put(Token::Comma, span));
        out.splice(place + 2..place + 2, added);
    } else {
        let by =
            [put(keyword_token("PARTITION", Keyword::PARTITION), span), put(keyword_token("BY", Keyword::BY), span)];
        added.splice(0..0, by);
        out.splice(place..place, added);
    }
}

/// Where the first of some words stands behind the parenthesis `open`, in no others.
fn outer_word(tokens: &[TokenWithSpan], open: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0_usize;
    (open + 1..tokens.len()).find(|&i| {
        match tokens[i].token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && words.iter().any(|word| is_word(&tokens[i], word))
    })
}

/// The parenthesis that ends what stands around `from`.
fn end_of_definition(tokens: &[TokenWithSpan], from: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return i,
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}
