//! `jsonb`: kept as Postgres' canonical text, read in place.
//!
//! Canonical is: keys sorted by length, then bytes; the last of equal keys; numbers as numeric writes them; `", "` and
//! `": "` between. A value inside a canonical text is itself canonical, so that a path is followed by cutting slices.

use std::cmp::Ordering;

use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::error;

/// Nesting that is read; Postgres stops where its stack does.
const DEPTH_MAX: usize = 512;

/// A JSON value as a tree, for what cannot be done on its text.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// null
    Null,
    /// true, false
    Bool(bool),
    /// A number, as its canonical text.
    Number(String),
    /// A string, unescaped.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object; canonical once sorted.
    Object(Vec<(String, Json)>),
}

fn syntax() -> EvalError {
    error("22P02", "invalid input syntax for type json")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn blank(&mut self) {
        while matches!(self.text.as_bytes().get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), EvalError> {
        if self.peek() != Some(byte) {
            return Err(syntax());
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Json, EvalError> {
        if depth > DEPTH_MAX {
            return Err(error("54001", "stack depth limit exceeded"));
        }
        self.blank();
        match self.peek().ok_or_else(syntax)? {
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                self.blank();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(Json::Object(members));
                }
                loop {
                    self.blank();
                    let key = self.string()?;
                    self.blank();
                    self.expect(b':')?;
                    members.push((key, self.value(depth + 1)?));
                    self.blank();
                    if self.peek() != Some(b',') {
                        self.expect(b'}')?;
                        return Ok(Json::object(members));
                    }
                    self.at += 1;
                }
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                self.blank();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(Json::Array(items));
                }
                loop {
                    items.push(self.value(depth + 1)?);
                    self.blank();
                    if self.peek() != Some(b',') {
                        self.expect(b']')?;
                        return Ok(Json::Array(items));
                    }
                    self.at += 1;
                }
            }
            b'"' => Ok(Json::String(self.string()?)),
            b'-' | b'0'..=b'9' => self.number(),
            _ => {
                for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        if self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
                            return Err(syntax());
                        }
                        return Ok(value);
                    }
                }
                Err(syntax())
            }
        }
    }

    fn number(&mut self) -> Result<Json, EvalError> {
        let start = self.at;
        let digits = |reader: &mut Self| {
            let from = reader.at;
            while reader.peek().is_some_and(|b| b.is_ascii_digit()) {
                reader.at += 1;
            }
            reader.at - from
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let zero = self.peek() == Some(b'0');
        let whole = digits(self);
        if whole == 0 || (zero && whole > 1) {
            return Err(syntax());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if digits(self) == 0 {
                return Err(syntax());
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if digits(self) == 0 {
                return Err(syntax());
            }
        }
        if self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(syntax());
        }
        let text = &self.text[start..self.at];
        match Numeric::parse(text) {
            Ok(number) => Ok(Json::Number(number.to_string())),
            // More digits than a numeric keeps: the text is canonical already, unless it has an exponent.
            Err(_) if !text.contains(['e', 'E']) => Ok(Json::Number(text.to_string())),
            Err(overflow) => Err(error(overflow.sqlstate(), overflow.to_string())),
        }
    }

    fn string(&mut self) -> Result<String, EvalError> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let stop = rest.find(|c: char| c == '"' || c == '\\' || c < ' ').ok_or_else(syntax)?;
            out.push_str(&rest[..stop]);
            self.at += stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let escape = self.peek().ok_or_else(syntax)?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' => out.push(escape as char),
                        b'b' => out.push('\u{8}'),
                        b'f' => out.push('\u{c}'),
                        b'n' => out.push('\n'),
                        b'r' => out.push('\r'),
                        b't' => out.push('\t'),
                        b'u' => out.push(self.unicode()?),
                        _ => return Err(syntax()),
                    }
                }
                _ => return Err(syntax()),
            }
        }
    }

    fn hex(&mut self) -> Result<u32, EvalError> {
        let digits = self.text.get(self.at..self.at + 4).ok_or_else(syntax)?;
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| syntax())
    }

    fn unicode(&mut self) -> Result<char, EvalError> {
        let mut code = self.hex()?;
        if code == 0 {
            return Err(error("22P05", "unsupported Unicode escape sequence"));
        }
        if (0xd800..0xdc00).contains(&code) {
            if !self.text[self.at..].starts_with("\\u") {
                return Err(syntax());
            }
            self.at += 2;
            let low = self.hex()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(syntax());
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or_else(syntax)
    }
}

impl Json {
    /// Reads any JSON text.
    pub fn parse(text: &str) -> Result<Json, EvalError> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.blank();
        if reader.at < text.len() { Err(syntax()) } else { Ok(value) }
    }

    /// An object of these members: sorted, the last of equal keys kept.
    pub fn object(mut members: Vec<(String, Json)>) -> Json {
        members.sort_by(|(a, _), (b, _)| key_order(a, b));
        let mut kept: Vec<(String, Json)> = Vec::with_capacity(members.len());
        for member in members {
            match kept.last_mut() {
                Some(last) if last.0 == member.0 => *last = member,
                _ => kept.push(member),
            }
        }
        Json::Object(kept)
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(text) => out.push_str(text),
            Json::String(text) => write_string(text, out),
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    write_string(key, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// The canonical text.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// As `jsonb_pretty` writes it.
    pub fn pretty(&self, depth: usize, out: &mut String) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", depth));
        };
        match self {
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, depth + 1);
                    item.pretty(depth + 1, out);
                }
                line(out, depth);
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, depth + 1);
                    write_string(key, out);
                    out.push_str(": ");
                    value.pretty(depth + 1, out);
                }
                line(out, depth);
                out.push('}');
            }
            other => other.write(out),
        }
    }

    /// `jsonb_typeof`
    pub fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        }
    }

    /// Whether the two are the same value: numbers by value, not by scale.
    pub fn equals(&self, other: &Json) -> bool {
        self.compare(other) == Ordering::Equal
    }

    /// Postgres' order of jsonb: object > array > boolean > number > string > null.
    pub fn compare(&self, other: &Json) -> Ordering {
        let rank = |json: &Json| match json {
            // An empty array sorts before everything, an oddity that Postgres keeps.
            Json::Array(items) if items.is_empty() => 0,
            Json::Null => 1,
            Json::String(_) => 2,
            Json::Number(_) => 3,
            Json::Bool(_) => 4,
            Json::Array(_) => 5,
            Json::Object(_) => 6,
        };
        match (self, other) {
            (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
            (Json::String(a), Json::String(b)) => a.cmp(b),
            (Json::Number(a), Json::Number(b)) => match (Numeric::parse(a), Numeric::parse(b)) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
            (Json::Array(a), Json::Array(b)) if !a.is_empty() && !b.is_empty() => {
                a.len().cmp(&b.len()).then_with(|| {
                    a.iter().zip(b).map(|(a, b)| a.compare(b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
                })
            }
            (Json::Object(a), Json::Object(b)) => a.len().cmp(&b.len()).then_with(|| {
                let pairs = a.iter().zip(b);
                pairs
                    .map(|((k, v), (l, w))| key_order(k, l).then_with(|| v.compare(w)))
                    .find(|o| o.is_ne())
                    .unwrap_or(Ordering::Equal)
            }),
            _ => rank(self).cmp(&rank(other)),
        }
    }

    /// `self @> other`
    pub fn contains(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Object(a), Json::Object(b)) => {
                b.iter().all(|(key, value)| a.iter().any(|(k, v)| k == key && v.contains_inner(value)))
            }
            (Json::Array(a), Json::Array(b)) => b.iter().all(|item| a.iter().any(|i| i.contains_inner(item))),
            // An array contains a primitive, at the top only.
            (Json::Array(a), primitive) if !matches!(primitive, Json::Object(_)) => {
                a.iter().any(|item| item.equals(primitive))
            }
            (a, b) => a.equals(b),
        }
    }

    fn contains_inner(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Object(_), Json::Object(_)) | (Json::Array(_), Json::Array(_)) => self.contains(other),
            (a, b) => a.equals(b),
        }
    }

    /// The text of a string, the JSON text of anything else, `None` for null.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.canonical()),
        }
    }
}

fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Appends a quoted and escaped string.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut from = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            8 => "\\b",
            12 => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..32 => "",
            _ => continue,
        };
        out.push_str(&text[from..i]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
        from = i + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// The canonical text of any JSON text.
pub fn canonical(text: &str) -> Result<String, EvalError> {
    Ok(Json::parse(text)?.canonical())
}

/// The end of the value that starts at `at` of a canonical text.
fn skip(bytes: &[u8], mut at: usize) -> usize {
    match bytes[at] {
        b'"' => skip_string(bytes, at),
        b'{' | b'[' => {
            let mut depth = 0;
            loop {
                match bytes[at] {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    b'"' => at = skip_string(bytes, at) - 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        _ => {
            while at < bytes.len() && !matches!(bytes[at], b',' | b'}' | b']') {
                at += 1;
            }
            at
        }
    }
}

fn skip_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The elements of a canonical array; nothing if it is none.
pub fn elements(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = if bytes.first() == Some(&b'[') && bytes.len() > 2 { 1 } else { bytes.len() };
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let end = skip(bytes, at);
        let item = &text[at..end];
        // Behind it: `, ` or the closing bracket.
        at = if bytes.get(end) == Some(&b',') { end + 2 } else { bytes.len() };
        Some(item)
    })
}

/// The members of a canonical object, keys quoted; nothing if it is none.
pub fn members(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let bytes = text.as_bytes();
    let mut at = if bytes.first() == Some(&b'{') && bytes.len() > 2 { 1 } else { bytes.len() };
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let key_end = skip_string(bytes, at);
        let value_start = key_end + 2;
        let end = skip(bytes, value_start);
        let member = (&text[at..key_end], &text[value_start..end]);
        at = if bytes.get(end) == Some(&b',') { end + 2 } else { bytes.len() };
        Some(member)
    })
}

/// The value of a key of a canonical object.
pub fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    if !text.starts_with('{') {
        return None;
    }
    let plain = !key.bytes().any(|b| b == b'"' || b == b'\\' || b < 32);
    let quoted = (!plain).then(|| {
        let mut quoted = String::new();
        write_string(key, &mut quoted);
        quoted
    });
    members(text)
        .find(|(k, _)| match &quoted {
            Some(quoted) => k == quoted,
            None => &k[1..k.len() - 1] == key,
        })
        .map(|(_, value)| value)
}

/// The element at a position, from the end if negative.
pub fn element(text: &str, index: i64) -> Option<&str> {
    if index >= 0 {
        return elements(text).nth(usize::try_from(index).ok()?);
    }
    let count = elements(text).count() as i64;
    if -index > count { None } else { elements(text).nth((count + index) as usize) }
}

/// The value at a path of keys and positions.
pub fn path<'a, 'b>(text: &'a str, steps: impl Iterator<Item = &'b str>) -> Option<&'a str> {
    let mut value = text;
    for step in steps {
        value = match value.as_bytes().first() {
            Some(b'{') => field(value, step)?,
            Some(b'[') => element(value, step.trim().parse().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// A canonical value as `->>` gives it: a string without its quotes, null as `None`.
pub fn unquote(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    use std::borrow::Cow;
    match text.as_bytes().first() {
        Some(b'n') => None,
        Some(b'"') if !text.contains('\\') => Some(Cow::Borrowed(&text[1..text.len() - 1])),
        Some(b'"') => match Json::parse(text) {
            Ok(Json::String(text)) => Some(Cow::Owned(text)),
            _ => Some(Cow::Borrowed(text)),
        },
        _ => Some(Cow::Borrowed(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_canonical_text() {
        for (text, expected) in [
            (r#"{"b":1, "a" :2,"aa":[1,2.50,1e3],"b":3}"#, r#"{"a": 2, "b": 3, "aa": [1, 2.50, 1000]}"#),
            (r#" "a\u0041\n\/" "#, r#""aA\n/""#),
            (r#"{"a":{},"c":[]}"#, r#"{"a": {}, "c": []}"#),
            ("-0", "0"),
            (r#""\ud83d\ude00""#, "\"😀\""),
            ("true", "true"),
        ] {
            assert_eq!(canonical(text).unwrap(), expected);
        }
        for text in ["", "{", "[1,]", "01", "tru", "1 2", "{\"a\" 1}", "'a'", "nullx", "\"\\u12\""] {
            assert_eq!(canonical(text).unwrap_err().message, "invalid input syntax for type json", "{text}");
        }
    }

    #[test]
    fn follows_paths_in_place() {
        let text = canonical(r#"{"a":[1,{"b":"x, ]} \" y"},null],"k":"v","e":{}}"#).unwrap();
        assert_eq!(field(&text, "k"), Some("\"v\""));
        assert_eq!(path(&text, ["a", "1", "b"].into_iter()), Some(r#""x, ]} \" y""#));
        assert_eq!(element(field(&text, "a").unwrap(), -1), Some("null"));
        assert_eq!(unquote("null"), None);
        assert_eq!(unquote(r#""x \" y""#).unwrap(), "x \" y");
        assert_eq!(field(&text, "z"), None);
        assert_eq!(members("{}").count(), 0);
        assert_eq!(elements("[]").count(), 0);
    }
}
