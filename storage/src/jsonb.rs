//! The one text that a `jsonb` value has, so that equal values are equal bytes: keys ordered as Postgres orders them
//! (by length, then by bytes), the last of several equal keys, numbers without exponents, one blank after `:` and `,`.

use std::collections::BTreeMap;

/// Values nested deeper than this are refused: a reader needs stack for each level.
const DEPTH_MAX: usize = 1000;

/// Digits of a number that are written out at most (`1e400` has 401).
const DIGITS_MAX: i64 = 16_383;

/// Why a text is not a `jsonb`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct JsonbError {
    /// What is wrong and where.
    pub reason: String,
    /// `22P02`, `22P05` for a character that text cannot hold, `22003` for a number out of range, `54001` for nesting.
    pub sqlstate: &'static str,
}

type Result<T, E = JsonbError> = std::result::Result<T, E>;

/// The canonical text of the JSON value in `json`.
pub fn canonical(json: &[u8]) -> Result<String> {
    let mut out = String::with_capacity(json.len() + json.len() / 8);
    write_canonical(json, &mut out)?;
    Ok(out)
}

/// [`canonical`] at the end of `out`.
pub fn write_canonical(json: &[u8], out: &mut String) -> Result<()> {
    let text =
        std::str::from_utf8(json).map_err(|e| syntax(format!("invalid UTF-8 at byte {}", e.valid_up_to() + 1)))?;
    let mut parser = Parser { text, bytes: json, at: 0, depth: 0 };
    parser.blanks();
    parser.value(out)?;
    parser.blanks();
    match parser.peek() {
        None => Ok(()),
        Some(_) => Err(parser.unexpected("the end")),
    }
}

fn syntax(reason: String) -> JsonbError {
    JsonbError { reason, sqlstate: "22P02" }
}

/// Appends `text` as a JSON string.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[plain..i]);
        plain = i + 1;
        match escape {
            "" => out.push_str(&format!("\\u{byte:04x}")),
            escape => out.push_str(escape),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// The text that the inside of a JSON string stands for, at the end of `out`.
pub fn unescape(raw: &str, out: &mut String) -> Result<()> {
    let mut rest = raw;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let escape = rest.as_bytes().get(i + 1).copied().unwrap_or(0);
        rest = rest.get(i + 2..).unwrap_or("");
        match escape {
            b'"' | b'\\' | b'/' => out.push(escape as char),
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let mut code = hex4(rest)?;
                rest = &rest[4..];
                if (0xd800..0xdc00).contains(&code) {
                    let low = rest.strip_prefix("\\u").map(hex4).transpose()?;
                    let Some(low @ 0xdc00..0xe000) = low else {
                        return Err(syntax("a high surrogate must be followed by a low one".into()));
                    };
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    rest = &rest[6..];
                }
                if code == 0 {
                    return Err(JsonbError { reason: "\\u0000 cannot be converted to text".into(), sqlstate: "22P05" });
                }
                let Some(c) = char::from_u32(code) else {
                    return Err(syntax("a low surrogate must follow a high one".into()));
                };
                out.push(c);
            }
            _ => return Err(syntax("a backslash must be followed by one of \"\\/bfnrtu".into())),
        }
    }
    out.push_str(rest);
    Ok(())
}

fn hex4(text: &str) -> Result<u32> {
    let digits = text.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    code.ok_or_else(|| syntax("\\u must be followed by four hexadecimal digits".into()))
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> JsonbError {
        match self.text[self.at..].chars().next() {
            Some(c) => syntax(format!("expected {wanted} at byte {} and found {c:?}", self.at + 1)),
            None => syntax(format!("expected {wanted} at byte {} and found the end", self.at + 1)),
        }
    }

    fn value(&mut self, out: &mut String) -> Result<()> {
        match self.peek() {
            Some(b'{') => self.nested(out, Self::object),
            Some(b'[') => self.nested(out, Self::array),
            Some(b'"') => {
                let text = self.string()?;
                write_string(&text, out);
                Ok(())
            }
            Some(b't') => self.word("true", out),
            Some(b'f') => self.word("false", out),
            Some(b'n') => self.word("null", out),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn nested(&mut self, out: &mut String, read: fn(&mut Self, &mut String) -> Result<()>) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(JsonbError { reason: format!("nested deeper than {DEPTH_MAX} levels"), sqlstate: "54001" });
        }
        self.at += 1;
        self.blanks();
        read(self, out)?;
        self.depth -= 1;
        Ok(())
    }

    fn word(&mut self, word: &str, out: &mut String) -> Result<()> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        out.push_str(word);
        Ok(())
    }

    fn array(&mut self, out: &mut String) -> Result<()> {
        out.push('[');
        if self.peek() == Some(b']') {
            self.at += 1;
            out.push(']');
            return Ok(());
        }
        loop {
            self.blanks();
            self.value(out)?;
            self.blanks();
            match self.peek() {
                Some(b',') => out.push_str(", "),
                Some(b']') => out.push(']'),
                _ => return Err(self.unexpected("\",\" or \"]\"")),
            }
            self.at += 1;
            if out.ends_with(']') && self.bytes[self.at - 1] == b']' {
                return Ok(());
            }
        }
    }

    fn object(&mut self, out: &mut String) -> Result<()> {
        // By length, then by bytes; a key that comes again replaces the value before.
        let mut members: BTreeMap<(usize, String), String> = BTreeMap::new();
        if self.peek() != Some(b'}') {
            loop {
                self.blanks();
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a key"));
                }
                let key = self.string()?;
                self.blanks();
                if self.peek() != Some(b':') {
                    return Err(self.unexpected("\":\""));
                }
                self.at += 1;
                self.blanks();
                let mut value = String::new();
                self.value(&mut value)?;
                members.insert((key.len(), key), value);
                self.blanks();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.unexpected("\",\" or \"}\"")),
                }
            }
        }
        self.at += 1;
        out.push('{');
        for (i, ((_, key), value)) in members.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            write_string(key, out);
            out.push_str(": ");
            out.push_str(value);
        }
        out.push('}');
        Ok(())
    }

    fn string(&mut self) -> Result<String> {
        let start = self.at + 1;
        self.at = start;
        loop {
            match self.peek() {
                None => return Err(self.unexpected("the end of a string")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(0..0x20) => return Err(self.unexpected("no control character")),
                Some(_) => self.at += 1,
            }
        }
        let mut out = String::with_capacity(self.at - start);
        unescape(&self.text[start..self.at], &mut out)?;
        self.at += 1;
        Ok(out)
    }

    fn digits(&mut self) -> Result<(usize, usize)> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok((start, self.at)) }
    }

    fn number(&mut self, out: &mut String) -> Result<()> {
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let whole = self.digits()?;
        if whole.1 - whole.0 > 1 && self.bytes[whole.0] == b'0' {
            self.at = whole.0 + 1;
            return Err(self.unexpected("no digit after a leading zero"));
        }
        let mut fraction = (self.at, self.at);
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.digits()?;
        }
        let mut exponent: i64 = 0;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let minus = self.peek() == Some(b'-');
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            let (start, end) = self.digits()?;
            let value: i64 = self.text[start..end].parse().unwrap_or(i64::from(u32::MAX));
            exponent = if minus { -value } else { value };
        }
        let (whole, fraction) = (&self.text[whole.0..whole.1], &self.text[fraction.0..fraction.1]);
        let zero = whole.bytes().chain(fraction.bytes()).all(|b| b == b'0');
        if negative && !zero {
            out.push('-');
        }
        if exponent == 0 {
            out.push_str(whole);
            if !fraction.is_empty() {
                out.push('.');
                out.push_str(fraction);
            }
            return Ok(());
        }
        // The point moves; digits that it passes are zeros.
        let digits = format!("{whole}{fraction}");
        let point = whole.len() as i64 + exponent;
        if (!zero && point > DIGITS_MAX) || fraction.len() as i64 - exponent > DIGITS_MAX {
            return Err(JsonbError { reason: "a number is out of range".into(), sqlstate: "22003" });
        }
        let scale = (fraction.len() as i64 - exponent).max(0) as usize;
        let whole: String = match point {
            ..=0 => String::new(),
            _ => (0..(point as usize).min(DIGITS_MAX as usize))
                .map(|i| digits.as_bytes().get(i).map_or('0', |b| *b as char))
                .collect(),
        };
        let whole = whole.trim_start_matches('0');
        out.push_str(if whole.is_empty() { "0" } else { whole });
        if scale > 0 {
            out.push('.');
            for i in 0..scale as i64 {
                let at = point + i;
                let digit = usize::try_from(at).ok().and_then(|at| digits.as_bytes().get(at));
                out.push(digit.map_or('0', |b| *b as char));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_postgres_writes() {
        for (json, text) in [
            (r#" {"b":1,"aa":2,"a":{"x":[1,2,{}],"y":[]}} "#, r#"{"a": {"x": [1, 2, {}], "y": []}, "b": 1, "aa": 2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a": 2}"#),
            (r#"[1.50,1e2,1.5e3,1.50e1,-0,-0.0,1e-3,12E+1,0e5]"#, "[1.50, 100, 1500, 15.0, 0, 0.0, 0.001, 120, 0]"),
            (r#""\u00e9\ud83d\ude00\n\/\u0001\"""#, "\"é😀\\n/\\u0001\\\"\""),
            ("true", "true"),
            ("null", "null"),
            ("[[]]", "[[]]"),
        ] {
            assert_eq!(canonical(json.as_bytes()).unwrap(), text, "{json}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for json in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "01",
            "1.",
            ".5",
            "1e",
            "tru",
            "\"a",
            "\"\\x\"",
            "\"\\ud800\"",
            "1 2",
        ] {
            assert_eq!(canonical(json.as_bytes()).unwrap_err().sqlstate, "22P02", "{json}");
        }
        assert_eq!(canonical(b"\"\\u0000\"").unwrap_err().sqlstate, "22P05");
        assert_eq!(canonical(b"1e99999").unwrap_err().sqlstate, "22003");
        assert_eq!(canonical("[".repeat(100_000).as_bytes()).unwrap_err().sqlstate, "54001");
        assert_eq!(canonical(b"\"\xff\"").unwrap_err().sqlstate, "22P02");
    }
}
