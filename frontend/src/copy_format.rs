//! The text of COPY: rows as lines, lines as rows, in Postgres' text format or as CSV.

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::fields::{Field, Style};

/// How rows are written.
#[derive(Clone, Debug)]
pub struct Options {
    /// CSV or text.
    pub csv: bool,
    /// Whether the first line names the columns.
    pub header: bool,
    /// What stands between columns.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    /// What stands around a CSV value.
    pub quote: u8,
    /// What stands before a quote inside of one.
    pub escape: u8,
}

impl Options {
    /// The options of a statement.
    pub fn new(given: &planner::statement::CopyOptions) -> Result<Options> {
        let csv = match given.format.as_str() {
            "csv" => true,
            "text" => false,
            "binary" => {
                return Err(Error::unsupported("COPY in binary format is not supported").hint("Use FORMAT csv."));
            }
            other => return Err(Error::new("22023", format!("COPY format \"{other}\" not recognized"))),
        };
        if let Some((name, _)) = given.others.iter().find(|(n, _)| !matches!(n.as_str(), "encoding" | "freeze")) {
            return Err(Error::new("42601", format!("option \"{name}\" not recognized")));
        }
        let byte = |name: &str, value: Option<char>, default: u8| match value {
            None => Ok(default),
            Some(c) if c.is_ascii() => Ok(c as u8),
            Some(_) => Err(Error::new("0A000", format!("COPY {name} must be a single one-byte character"))),
        };
        let quote = byte("quote", given.quote, b'"')?;
        Ok(Options {
            csv,
            header: given.header,
            delimiter: byte("delimiter", given.delimiter, if csv { b',' } else { b'\t' })?,
            null: given.null.clone().unwrap_or_else(|| if csv { String::new() } else { "\\N".into() }),
            quote,
            escape: byte("escape", given.escape, quote)?,
        })
    }

    /// The first line, if there is to be one.
    pub fn header(&self, fields: &[Field]) -> String {
        let mut text = String::new();
        if self.header {
            for (i, field) in fields.iter().enumerate() {
                if i > 0 {
                    text.push(self.delimiter as char);
                }
                self.write_value(&field.name, &mut text);
            }
            text.push('\n');
        }
        text
    }

    /// Appends a row as a line.
    pub fn write_row(&self, fields: &[Field], style: &Style, batch: &RecordBatch, row: usize, out: &mut String) {
        let mut value = String::new();
        for (i, field) in fields.iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter as char);
            }
            let array = batch.column(i).as_ref();
            if arrow::array::Array::is_null(array, row) {
                out.push_str(&self.null);
                continue;
            }
            value.clear();
            style.write(array, row, &field.ty, &mut value);
            self.write_value(&value, out);
        }
        out.push('\n');
    }

    fn write_value(&self, value: &str, out: &mut String) {
        let o = self;
        if o.csv {
            let special = |b: u8| b == o.delimiter || b == o.quote || b == b'\n' || b == b'\r';
            // An empty string is quoted to tell it from NULL, and a lone `\.` from the end of the data.
            if value == o.null || value == "\\." || value.bytes().any(special) {
                out.push(o.quote as char);
                for c in value.chars() {
                    if c == o.quote as char || c == o.escape as char {
                        out.push(o.escape as char);
                    }
                    out.push(c);
                }
                out.push(o.quote as char);
            } else {
                out.push_str(value);
            }
            return;
        }
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\u{b}' => out.push_str("\\v"),
                c if c == o.delimiter as char => {
                    out.push('\\');
                    out.push(c);
                }
                c => out.push(c),
            }
        }
    }
}

/// A line's values; `None` is NULL.
pub type Line = Vec<Option<String>>;

/// Makes rows of the data as it comes.
pub struct LineReader {
    options: Options,
    /// For errors: where the rows go.
    relation: String,
    columns: Vec<String>,
    /// What is not a whole line yet.
    rest: Vec<u8>,
    line: usize,
    ended: bool,
}

impl LineReader {
    /// Reads lines with these columns.
    pub fn new(options: Options, relation: String, columns: Vec<String>) -> LineReader {
        LineReader { options, relation, columns, rest: Vec::new(), line: 0, ended: false }
    }

    /// The number of the line that was read last, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Takes more of the data, and gives the lines that are whole.
    pub fn push(&mut self, data: &[u8]) -> Result<Vec<Line>> {
        let mut text = std::mem::take(&mut self.rest);
        text.extend_from_slice(data);
        let mut rows = Vec::new();
        let mut at = 0;
        while let Some(end) = self.end_of_line(&text[at..]) {
            self.take_line(&text[at..at + end], &mut rows)?;
            at += end + 1;
        }
        self.rest = text.split_off(at);
        Ok(rows)
    }

    /// The last line, which needs no end.
    pub fn finish(&mut self) -> Result<Vec<Line>> {
        let rest = std::mem::take(&mut self.rest);
        let mut rows = Vec::new();
        if !rest.is_empty() {
            self.take_line(&rest, &mut rows)?;
        }
        Ok(rows)
    }

    /// Where the line ends: CSV values may contain line breaks.
    fn end_of_line(&self, text: &[u8]) -> Option<usize> {
        if !self.options.csv {
            return text.iter().position(|&b| b == b'\n');
        }
        let mut quoted = false;
        for (i, &byte) in text.iter().enumerate() {
            if byte == self.options.quote {
                quoted = !quoted;
            } else if byte == b'\n' && !quoted {
                return Some(i);
            }
        }
        None
    }

    fn take_line(&mut self, line: &[u8], rows: &mut Vec<Line>) -> Result<()> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.ended || line == b"\\." {
            self.ended = true;
            return Ok(());
        }
        self.line += 1;
        if self.options.header && self.line == 1 {
            return Ok(());
        }
        let line = std::str::from_utf8(line)
            .map_err(|_| Error::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
        let values = if self.options.csv { self.csv_values(line)? } else { self.text_values(line) };
        let wanted = self.columns.len();
        if values.len() != wanted {
            let (name, n) = (&self.relation, self.line);
            let message = if values.len() < wanted {
                format!("missing data for column \"{}\"", self.columns[values.len()])
            } else {
                "extra data after last expected column".to_owned()
            };
            return Err(Error::new("22P04", message).context(format!("COPY {name}, line {n}: \"{line}\"")));
        }
        rows.push(values);
        Ok(())
    }

    fn text_values(&self, line: &str) -> Line {
        let delimiter = self.options.delimiter as char;
        let (mut values, mut raw, mut value) = (Vec::new(), String::new(), String::new());
        let mut chars = line.chars();
        loop {
            let c = chars.next();
            match c {
                None => (),
                Some(c) if c == delimiter => (),
                Some('\\') => {
                    let Some(escaped) = chars.next() else { continue };
                    raw.push('\\');
                    raw.push(escaped);
                    value.push(match escaped {
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\u{b}',
                        other => other,
                    });
                    continue;
                }
                Some(c) => {
                    raw.push(c);
                    value.push(c);
                    continue;
                }
            }
            values.push((raw != self.options.null).then(|| std::mem::take(&mut value)));
            raw.clear();
            value.clear();
            if c.is_none() {
                return values;
            }
        }
    }

    fn csv_values(&self, line: &str) -> Result<Line> {
        let o = &self.options;
        let (delimiter, quote, escape) = (o.delimiter as char, o.quote as char, o.escape as char);
        let mut values = Vec::new();
        let (mut value, mut was_quoted, mut quoted) = (String::new(), false, false);
        let mut chars = line.chars().peekable();
        loop {
            match chars.next() {
                Some(c) if quoted && c == escape && chars.peek().is_some_and(|&n| n == quote || n == escape) => {
                    value.extend(chars.next());
                }
                Some(c) if quoted && c == quote => quoted = false,
                Some(c) if quoted => value.push(c),
                Some(c) if c == quote => (quoted, was_quoted) = (true, true),
                Some(c) if c != delimiter => value.push(c),
                None if quoted => return Err(Error::new("22P04", "unterminated CSV quoted field")),
                end => {
                    let value = std::mem::take(&mut value);
                    values.push((was_quoted || value != o.null).then_some(value));
                    was_quoted = false;
                    if end.is_none() {
                        return Ok(values);
                    }
                }
            }
        }
    }
}
