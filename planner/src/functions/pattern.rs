//! LIKE, SIMILAR TO and regular expressions.
//!
//! Postgres' advanced regular expressions are translated to the regex crate's. What that crate does not have
//! (lookaround, back references) is refused with 0A000. Postgres takes the longest match of an alternation where the
//! crate takes the first, so for functions that return what matched an alternation is tried from the far end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use regex::{Regex, RegexBuilder};
use streaming::expr::EvalError;

use super::rows::*;
use super::{Definition, functions};
use crate::types::error;

/// Compiled patterns that a thread keeps.
const CACHED_MAX: usize = 256;

/// A compiled pattern.
struct Pattern {
    regex: Regex,
    /// The pattern bound to both ends, if an alternation could match more than its first branch.
    whole: Option<Regex>,
    /// Whether greedy and reluctant quantifiers are mixed, which Postgres resolves by rules of its own.
    mixed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Flags {
    ignore_case: bool,
    newline: bool,
    expanded: bool,
    literal: bool,
    global: bool,
}

fn flags(text: &str, global_allowed: bool) -> Row<Flags> {
    let mut flags = Flags::default();
    for c in text.chars() {
        match c {
            'i' => flags.ignore_case = true,
            'c' => flags.ignore_case = false,
            'n' | 'm' => flags.newline = true,
            's' => flags.newline = false,
            'x' => flags.expanded = true,
            't' | 'e' => {}
            'q' => flags.literal = true,
            'g' if global_allowed => flags.global = true,
            'g' => {
                return Err(error("22023", "regexp function does not support the \"global\" option"));
            }
            'p' | 'w' | 'b' => {
                return Err(error("0A000", format!("the regular expression option \"{c}\" is not supported")));
            }
            c => return Err(error("22023", format!("invalid regular expression option: \"{c}\""))),
        }
    }
    Ok(flags)
}

fn invalid(detail: &str) -> EvalError {
    error("2201B", format!("invalid regular expression: {detail}"))
}

/// A pattern translated to the regex crate's language, with what decides how it is searched.
struct Translated {
    text: String,
    alternation: bool,
    greedy: bool,
    reluctant: bool,
}

fn translate(pattern: &str) -> Row<Translated> {
    let mut out = Translated { text: String::new(), alternation: false, greedy: false, reluctant: false };
    let chars: Vec<char> = pattern.strip_prefix("***:").unwrap_or(pattern).chars().collect();
    let (mut i, mut depth) = (0, 0i32);
    while i < chars.len() {
        let c = chars[i];
        i += 1;
        match c {
            '\\' => {
                let escape = *chars.get(i).ok_or_else(|| invalid("invalid escape \\ sequence"))?;
                i += 1;
                match escape {
                    'm' => out.text.push_str("\\b{start}"),
                    'M' => out.text.push_str("\\b{end}"),
                    'y' => out.text.push_str("\\b"),
                    'Y' => out.text.push_str("\\B"),
                    'Z' => out.text.push_str("\\z"),
                    'e' => out.text.push_str("\\x1b"),
                    '1'..='9' => {
                        return Err(error("0A000", "back references in regular expressions are not supported"));
                    }
                    'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'A' | 'n' | 't' | 'r' | 'f' | 'v' | 'a' | 'x' | 'u' | 'U' => {
                        out.text.push('\\');
                        out.text.push(escape);
                    }
                    c if c.is_ascii_alphanumeric() => return Err(invalid("invalid escape \\ sequence")),
                    c if c.is_ascii() => {
                        out.text.push('\\');
                        out.text.push(c);
                    }
                    c => out.text.push(c),
                }
            }
            '[' => i = bracket(&chars, i, &mut out.text)?,
            '(' => {
                depth += 1;
                if chars.get(i) == Some(&'?') {
                    match chars.get(i + 1) {
                        Some('=' | '!' | '<') => {
                            return Err(error("0A000", "lookaround in regular expressions is not supported"));
                        }
                        _ => {
                            out.text.push_str("(?");
                            i += 1;
                            continue;
                        }
                    }
                }
                out.text.push('(');
            }
            ')' => {
                depth -= 1;
                if depth < 0 {
                    return Err(invalid("parentheses () not balanced"));
                }
                out.text.push(')');
            }
            '{' if !chars.get(i).is_some_and(char::is_ascii_digit) => out.text.push_str("\\{"),
            '*' | '+' | '?' | '{' => {
                out.text.push(c);
                if c == '{' {
                    while let Some(c) = chars.get(i) {
                        out.text.push(*c);
                        i += 1;
                        if *c == '}' {
                            break;
                        }
                    }
                }
                if chars.get(i) == Some(&'?') {
                    out.text.push('?');
                    out.reluctant = true;
                    i += 1;
                } else {
                    out.greedy = true;
                }
                if matches!(chars.get(i), Some('*' | '+' | '?')) {
                    return Err(invalid("quantifier operand invalid"));
                }
            }
            '|' => {
                out.alternation = true;
                out.text.push('|');
            }
            '}' | ']' => {
                out.text.push('\\');
                out.text.push(c);
            }
            c => out.text.push(c),
        }
    }
    if depth != 0 {
        return Err(invalid("parentheses () not balanced"));
    }
    Ok(out)
}

/// What is between `[` and `]`; returns the position behind it.
fn bracket(chars: &[char], mut i: usize, out: &mut String) -> Row<usize> {
    let rest: String = chars[i..].iter().take(6).collect();
    for (word, meaning) in [("[:<:]]", "\\b{start}"), ("[:>:]]", "\\b{end}")] {
        if rest == word {
            out.push_str(meaning);
            return Ok(i + 6);
        }
    }
    out.push('[');
    if chars.get(i) == Some(&'^') {
        out.push('^');
        i += 1;
    }
    let mut first = true;
    loop {
        let c = *chars.get(i).ok_or_else(|| invalid("brackets [] not balanced"))?;
        i += 1;
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(i);
            }
            '[' if matches!(chars.get(i), Some(':')) => {
                let end = (i + 1..chars.len())
                    .find(|e| chars[*e] == ']')
                    .ok_or_else(|| invalid("brackets [] not balanced"))?;
                let class: String = chars[i + 1..end].iter().collect();
                let name = class.strip_suffix(':').ok_or_else(|| invalid("invalid character class"))?;
                const CLASSES: [&str; 13] = [
                    "alpha", "digit", "alnum", "upper", "lower", "space", "blank", "punct", "print", "graph", "cntrl",
                    "xdigit", "word",
                ];
                if !CLASSES.contains(&name) {
                    return Err(invalid("invalid character class"));
                }
                out.push_str(&format!("[:{name}:]"));
                i = end + 1;
            }
            '\\' => {
                let escape = *chars.get(i).ok_or_else(|| invalid("invalid escape \\ sequence"))?;
                i += 1;
                out.push('\\');
                out.push(escape);
            }
            ']' | '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
        first = false;
    }
}

fn compile(pattern: &str, flags: Flags) -> Row<Pattern> {
    let translated = if flags.literal || pattern.starts_with("***=") {
        let literal = pattern.strip_prefix("***=").unwrap_or(pattern);
        Translated { text: regex::escape(literal), alternation: false, greedy: false, reluctant: false }
    } else {
        translate(pattern)?
    };
    let build = |text: &str| {
        RegexBuilder::new(text)
            .case_insensitive(flags.ignore_case)
            .dot_matches_new_line(!flags.newline)
            .multi_line(flags.newline)
            .ignore_whitespace(flags.expanded)
            .build()
            .map_err(|e| invalid(&e.to_string().lines().last().unwrap_or("syntax error").replace("error: ", "")))
    };
    let whole = if translated.alternation && !translated.reluctant {
        Some(build(&format!("\\A(?:{})\\z", translated.text))?)
    } else {
        None
    };
    let anchored = translated.text.ends_with('$');
    Ok(Pattern {
        regex: build(&translated.text)?,
        whole,
        mixed: translated.greedy && translated.reluctant && !anchored,
    })
}

fn with<T>(pattern: &str, flags: Flags, f: impl FnOnce(&Pattern) -> Row<T>) -> Row<T> {
    thread_local! {
        static PATTERNS: RefCell<HashMap<(String, Flags), Rc<Pattern>>> = RefCell::default();
    }
    let found = PATTERNS.with_borrow(|patterns| {
        // Looked up by a borrowed key, the common case allocates only the key.
        patterns.get(&(pattern.to_string(), flags)).cloned()
    });
    let compiled = match found {
        Some(compiled) => compiled,
        None => {
            let compiled = Rc::new(compile(pattern, flags)?);
            PATTERNS.with_borrow_mut(|patterns| {
                if patterns.len() >= CACHED_MAX {
                    patterns.clear();
                }
                patterns.insert((pattern.to_string(), flags), compiled.clone());
            });
            compiled
        }
    };
    f(&compiled)
}

fn is_match(text: &str, pattern: &str, ignore_case: bool) -> Row<bool> {
    with(pattern, Flags { ignore_case, ..Flags::default() }, |p| Ok(p.regex.is_match(text)))
}

/// One match: the whole and its groups, as ranges of bytes.
struct Match {
    start: usize,
    end: usize,
    groups: Vec<Option<(usize, usize)>>,
}

impl Pattern {
    /// The first match at or behind `from`.
    fn find(&self, text: &str, from: usize) -> Row<Option<Match>> {
        if self.mixed {
            return Err(error("0A000", "mixed greedy and non-greedy quantifiers are not supported here"));
        }
        let Some(captures) = self.regex.captures_at(text, from) else { return Ok(None) };
        let all = captures.get(0).expect("the whole match");
        if let Some(whole) = &self.whole {
            // Another branch may reach further from the same start.
            let ends = text[all.end()..].char_indices().map(|(i, c)| all.end() + i + c.len_utf8());
            for end in ends.collect::<Vec<_>>().into_iter().rev() {
                if let Some(longer) = whole.captures(&text[all.start()..end]) {
                    let groups = (1..longer.len())
                        .map(|g| longer.get(g).map(|m| (all.start() + m.start(), all.start() + m.end())))
                        .collect();
                    return Ok(Some(Match { start: all.start(), end, groups }));
                }
            }
        }
        let groups = (1..captures.len()).map(|g| captures.get(g).map(|m| (m.start(), m.end()))).collect();
        Ok(Some(Match { start: all.start(), end: all.end(), groups }))
    }

    /// All matches from `from` on, an empty one moving on by a character.
    fn find_all(&self, text: &str, mut from: usize) -> Row<Vec<Match>> {
        let mut matches = Vec::new();
        while from <= text.len() {
            let Some(found) = self.find(text, from)? else { break };
            from = if found.end > found.start {
                found.end
            } else {
                found.end + text[found.end..].chars().next().map_or(1, char::len_utf8)
            };
            matches.push(found);
        }
        Ok(matches)
    }
}

/// The groups of a match, or all of it if there are none.
fn groups(text: &str, m: &Match) -> Vec<Option<String>> {
    match m.groups.is_empty() {
        true => vec![Some(text[m.start..m.end].to_string())],
        false => m.groups.iter().map(|g| g.map(|(a, b)| text[a..b].to_string())).collect(),
    }
}

fn regexp_match(text: &str, pattern: &str, options: &str) -> Row<Option<Vec<Option<String>>>> {
    with(pattern, flags(options, false)?, |p| Ok(p.find(text, 0)?.map(|m| groups(text, &m))))
}

/// The first match, or all of them with the option `g`.
pub(super) fn regexp_matches(text: &str, pattern: &str, options: &str) -> Row<Vec<Vec<Option<String>>>> {
    let options = flags(options, true)?;
    let all = options.global;
    with(pattern, options, |p| {
        let found = if all { p.find_all(text, 0)? } else { p.find(text, 0)?.into_iter().collect() };
        Ok(found.iter().map(|m| groups(text, m)).collect())
    })
}

/// `substring(text from pattern)`: the first group, or the whole.
fn substring(text: &str, pattern: &str) -> Row<Option<String>> {
    with(pattern, Flags::default(), |p| {
        Ok(p.find(text, 0)?.and_then(|m| match m.groups.first() {
            Some(group) => group.map(|(a, b)| text[a..b].to_string()),
            None => Some(text[m.start..m.end].to_string()),
        }))
    })
}

fn replacement(text: &str, m: &Match, template: &str, out: &mut String) {
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.peek() {
            Some(d @ '1'..='9') => {
                if let Some(Some((a, b))) = m.groups.get(*d as usize - '1' as usize) {
                    out.push_str(&text[*a..*b]);
                }
                chars.next();
            }
            Some('&') => {
                out.push_str(&text[m.start..m.end]);
                chars.next();
            }
            Some('\\') => {
                out.push('\\');
                chars.next();
            }
            _ => out.push('\\'),
        }
    }
}

/// Replaces the `n`th match behind the `start`th character, or all of them if `n` is 0.
fn regexp_replace(text: &str, pattern: &str, template: &str, start: i32, n: i32, options: Flags) -> Row<String> {
    let from = start_byte(text, start)?;
    with(pattern, options, |p| {
        let matches = if n == 1 { p.find(text, from)?.into_iter().collect() } else { p.find_all(text, from)? };
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        for (i, m) in matches.iter().enumerate() {
            if n == 0 || i as i32 + 1 == n {
                out.push_str(&text[at..m.start]);
                replacement(text, m, template, &mut out);
                at = m.end;
            }
        }
        out.push_str(&text[at..]);
        Ok(out)
    })
}

fn positive(value: i32, name: &str) -> Row<()> {
    if value < 1 {
        return Err(error("22023", format!("invalid value for parameter \"{name}\": {value}")));
    }
    Ok(())
}

fn start_byte(text: &str, start: i32) -> Row<usize> {
    positive(start, "start")?;
    Ok(text.char_indices().nth(start as usize - 1).map_or(text.len(), |(at, _)| at))
}

fn regexp_count(text: &str, pattern: &str, start: i32, options: &str) -> Row<i32> {
    let (from, options) = (start_byte(text, start)?, flags(options, false)?);
    with(pattern, options, |p| Ok(p.find_all(text, from)?.len() as i32))
}

fn regexp_substr(text: &str, pattern: &str, start: i32, n: i32, options: &str, group: i32) -> Row<Option<String>> {
    let (from, options) = (start_byte(text, start)?, flags(options, false)?);
    positive(n, "n")?;
    if group < 0 {
        return Err(error("22023", format!("invalid value for parameter \"subexpr\": {group}")));
    }
    with(pattern, options, |p| {
        let found = p.find_all(text, from)?.into_iter().nth(n as usize - 1);
        Ok(found.and_then(|m| {
            let range = if group == 0 { Some((m.start, m.end)) } else { *m.groups.get(group as usize - 1)? };
            range.map(|(a, b)| text[a..b].to_string())
        }))
    })
}

fn regexp_instr(text: &str, pattern: &str, start: i32, n: i32) -> Row<i32> {
    let from = start_byte(text, start)?;
    positive(n, "n")?;
    with(pattern, Flags::default(), |p| {
        let found = p.find_all(text, from)?.into_iter().nth(n as usize - 1);
        Ok(found.map_or(0, |m| text[..m.start].chars().count() as i32 + 1))
    })
}

fn split(text: &str, pattern: &str, options: &str) -> Row<Vec<Option<String>>> {
    with(pattern, flags(options, false)?, |p| {
        let (mut parts, mut at) = (Vec::new(), 0);
        for m in p.find_all(text, 0)? {
            // An empty match at either end, or right behind the last split, splits nothing.
            if m.end == m.start && (m.start == text.len() || m.start == at) {
                continue;
            }
            parts.push(Some(text[at..m.start].to_string()));
            at = m.end;
        }
        parts.push(Some(text[at..].to_string()));
        Ok(parts)
    })
}

/// LIKE: `%` is any text, `_` any character, the backslash takes the next one literally.
pub fn like(text: &str, pattern: &str) -> Row<bool> {
    // The common forms without a wildcard inside.
    if !pattern.contains(['_', '\\']) {
        let inner = pattern.trim_matches('%');
        if !inner.contains('%') {
            return Ok(match (pattern.starts_with('%'), pattern.ends_with('%')) {
                _ if inner.is_empty() => !pattern.is_empty() || text.is_empty(),
                (true, true) => text.contains(inner),
                (true, false) => text.ends_with(inner),
                (false, true) => text.starts_with(inner),
                (false, false) => text == inner,
            });
        }
    }
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    // Where to go back to when what follows the last % does not fit.
    let mut retry: Option<(usize, usize)> = None;
    let next = |t: usize| t + 1 + text[t + 1..].iter().take_while(|b| **b & 0xc0 == 0x80).count();
    loop {
        let fits = match pattern.get(p) {
            Some(b'%') => {
                p += 1;
                retry = Some((t, p));
                continue;
            }
            Some(b'_') if t < text.len() => {
                (t, p) = (next(t), p + 1);
                true
            }
            Some(b'\\') => {
                let literal = *pattern
                    .get(p + 1)
                    .ok_or_else(|| error("22025", "LIKE pattern must not end with escape character"))?;
                if text.get(t) == Some(&literal) {
                    (t, p) = (t + 1, p + 2);
                    true
                } else {
                    false
                }
            }
            Some(byte) if text.get(t) == Some(byte) => {
                (t, p) = (t + 1, p + 1);
                true
            }
            None if t == text.len() => return Ok(true),
            _ => false,
        };
        if !fits {
            match retry {
                Some((from, after)) if from < text.len() => {
                    retry = Some((next(from), after));
                    (t, p) = (next(from), after);
                }
                _ => return Ok(false),
            }
        }
    }
}

fn ilike(text: &str, pattern: &str) -> Row<bool> {
    like(&text.to_lowercase(), &pattern.to_lowercase())
}

/// A LIKE pattern with another escape character, written with the backslash.
fn like_escape(pattern: &str, escape: &str) -> Row<String> {
    let mut escapes = escape.chars();
    let (first, rest) = (escapes.next(), escapes.next());
    if rest.is_some() {
        return Err(error("22025", "invalid escape string"));
    }
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == first {
            out.push('\\');
            match chars.next() {
                Some(next) => out.push(next),
                None => return Err(error("22025", "LIKE pattern must not end with escape character")),
            }
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// A SIMILAR TO pattern as a regular expression.
fn similar_to(pattern: &str, escape: Option<&str>) -> Row<String> {
    let escape = match escape {
        None => Some('\\'),
        Some(text) => {
            let mut chars = text.chars();
            let first = chars.next();
            if chars.next().is_some() {
                return Err(error("22019", "invalid escape string"));
            }
            first
        }
    };
    let (mut out, mut chars, mut inside) = (String::from("^(?:"), pattern.chars(), false);
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some('"') => return Err(error("0A000", "SIMILAR TO separators are not supported")),
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => {}
            }
            continue;
        }
        match c {
            '[' => {
                inside = true;
                out.push('[');
            }
            ']' => {
                inside = false;
                out.push(']');
            }
            '\\' => out.push_str("\\\\"),
            c if inside => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    functions! {
        "~~" textlike (Text, Text) -> Bool = like;
        "!~~" textnlike (Text, Text) -> Bool = |a, p| Ok(!like(a, p)?);
        "~~*" texticlike (Text, Text) -> Bool = ilike;
        "!~~*" texticnlike (Text, Text) -> Bool = |a, p| Ok(!ilike(a, p)?);
        "~~" bpcharlike (Char, Text) -> Bool = like;
        "!~~" bpcharnlike (Char, Text) -> Bool = |a, p| Ok(!like(a, p)?);
        "~~*" bpchariclike (Char, Text) -> Bool = ilike;
        "!~~*" bpcharicnlike (Char, Text) -> Bool = |a, p| Ok(!ilike(a, p)?);
        "like" like (Text, Text) -> Bool = like;
        "notlike" notlike (Text, Text) -> Bool = |a, p| Ok(!like(a, p)?);
        "like_escape" like_escape (Text, Text) -> Text = like_escape;
        "similar_to_escape" similar_to_escape (Text) -> Text = |p| similar_to(p, None);
        "similar_to_escape" similar_to_escape_by (Text, Text) -> Text = |p, e| similar_to(p, Some(e));
        "~" textregexeq (Text, Text) -> Bool = |a, p| is_match(a, p, false);
        "~*" texticregexeq (Text, Text) -> Bool = |a, p| is_match(a, p, true);
        "!~" textregexne (Text, Text) -> Bool = |a, p| Ok(!is_match(a, p, false)?);
        "!~*" texticregexne (Text, Text) -> Bool = |a, p| Ok(!is_match(a, p, true)?);
        "substring" textregexsubstr (Text, Text) -> Maybe<Text> = substring;
        "regexp_like" regexp_like (Text, Text) -> Bool = |a, p| is_match(a, p, false);
        "regexp_like" regexp_like_flags (Text, Text, Text) -> Bool = |a, p, f| {
            with(p, flags(f, false)?, |p| Ok(p.regex.is_match(a)))
        };
        "regexp_match" regexp_match (Text, Text) -> Maybe<TextArray> = |a, p| regexp_match(a, p, "");
        "regexp_match" regexp_match_flags (Text, Text, Text) -> Maybe<TextArray> = regexp_match;
        "regexp_replace" textregexreplace_noopt (Text, Text, Text) -> Text = |a, p, r| {
            regexp_replace(a, p, r, 1, 1, Flags::default())
        };
        "regexp_replace" textregexreplace (Text, Text, Text, Text) -> Text = |a, p, r, f| {
            let flags = flags(f, true)?;
            regexp_replace(a, p, r, 1, if flags.global { 0 } else { 1 }, flags)
        };
        "regexp_replace" textregexreplace_start (Text, Text, Text, Int4) -> Text = |a, p, r, start| {
            regexp_replace(a, p, r, start, 1, Flags::default())
        };
        "regexp_replace" textregexreplace_n (Text, Text, Text, Int4, Int4) -> Text = |a, p, r, start, n| {
            regexp_replace(a, p, r, start, n, Flags::default())
        };
        "regexp_replace" textregexreplace_extended (Text, Text, Text, Int4, Int4, Text) -> Text = |a, p, r, start, n, f| {
            regexp_replace(a, p, r, start, n, flags(f, true)?)
        };
        "regexp_count" regexp_count (Text, Text) -> Int4 = |a, p| regexp_count(a, p, 1, "");
        "regexp_count" regexp_count_start (Text, Text, Int4) -> Int4 = |a, p, start| regexp_count(a, p, start, "");
        "regexp_count" regexp_count_flags (Text, Text, Int4, Text) -> Int4 = regexp_count;
        "regexp_substr" regexp_substr (Text, Text) -> Maybe<Text> = |a, p| regexp_substr(a, p, 1, 1, "", 0);
        "regexp_substr" regexp_substr_start (Text, Text, Int4) -> Maybe<Text> = |a, p, start| regexp_substr(a, p, start, 1, "", 0);
        "regexp_substr" regexp_substr_n (Text, Text, Int4, Int4) -> Maybe<Text> = |a, p, start, n| regexp_substr(a, p, start, n, "", 0);
        "regexp_substr" regexp_substr_flags (Text, Text, Int4, Int4, Text) -> Maybe<Text> = |a, p, start, n, f| {
            regexp_substr(a, p, start, n, f, 0)
        };
        "regexp_substr" regexp_substr_group (Text, Text, Int4, Int4, Text, Int4) -> Maybe<Text> = regexp_substr;
        "regexp_instr" regexp_instr (Text, Text) -> Int4 = |a, p| regexp_instr(a, p, 1, 1);
        "regexp_instr" regexp_instr_start (Text, Text, Int4) -> Int4 = |a, p, start| regexp_instr(a, p, start, 1);
        "regexp_instr" regexp_instr_n (Text, Text, Int4, Int4) -> Int4 = regexp_instr;
        "regexp_split_to_array" regexp_split_to_array (Text, Text) -> TextArray = |a, p| split(a, p, "");
        "regexp_split_to_array" regexp_split_to_array_flags (Text, Text, Text) -> TextArray = split;
    }
}
