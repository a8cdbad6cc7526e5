//! Comma-separated values, as Postgres' COPY reads them: an empty field without quotes is NULL, a quote inside quotes
//! is written twice. Fields stand in the order of the columns, or in that of the header line.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use storage::Column;
use streaming::error::{Error, Result};

use super::fields::{self, BytesText, Epochs, Field, Kind, Rules};
use super::json::refuse_bad_utf8;
use super::{Decoder, Fault, Faults, Format};
use crate::options::{OptionDoc, Options};
use crate::transport::{Framing, RawRecords};

/// The options behind `ENCODE CSV`.
pub const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "delimiter", default: ",", doc: "what stands between two fields: one character, or `tab`" },
    OptionDoc { name: "quote", default: "\"", doc: "what stands around a field with a delimiter or line break in it" },
    OptionDoc { name: "header", default: "false", doc: "whether a file begins with a line of column names" },
    OptionDoc { name: "without_header", default: "true", doc: "the opposite, under RisingWave's name" },
    OptionDoc {
        name: "timestamp.handling.mode",
        default: "",
        doc: "`second`, `milli`, `micro`, `nano` or `guess_number_unit` if times are numbers",
    },
];

/// The format.
pub struct Csv {
    delimiter: u8,
    quote: u8,
    header: bool,
    rules: Rules,
}

impl Csv {
    /// Reads the options behind `ENCODE CSV`.
    pub fn new(options: &[(String, String)]) -> Result<Csv> {
        let options = Options::new("ENCODE CSV", options, &[OPTIONS])?;
        let byte = |name: &str, default: u8| match options.get(name) {
            None => Ok(default),
            Some("tab" | "\\t" | "\t") => Ok(b'\t'),
            Some(one) if one.len() == 1 && !matches!(one.as_bytes()[0], b'\n' | b'\r') => Ok(one.as_bytes()[0]),
            Some(_) => Err(options.bad(name, "one character")),
        };
        let epochs = options.choice(
            "timestamp.handling.mode",
            &[
                ("", Epochs::Refused),
                ("second", Epochs::Seconds),
                ("milli", Epochs::Millis),
                ("micro", Epochs::Micros),
                ("nano", Epochs::Nanos),
                ("guess_number_unit", Epochs::Guess),
            ],
        )?;
        let (delimiter, quote) = (byte("delimiter", b',')?, byte("quote", b'"')?);
        if delimiter == quote {
            return Err(options.bad("quote", "another character than the delimiter"));
        }
        let header = options.boolean("header", !options.boolean("without_header", true)?)?;
        let rules = Rules { untyped: true, epochs, bytes: BytesText::Hex, quote: quote as char };
        Ok(Csv { delimiter, quote, header, rules })
    }
}

impl Format for Csv {
    fn framing(&self) -> Framing {
        Framing { quote: Some(self.quote), header: self.header }
    }

    fn decoder(&self, columns: &[Column]) -> Result<Box<dyn Decoder>> {
        for column in columns {
            fields::check(column, &self.rules)?;
        }
        Ok(Box::new(CsvDecoder {
            delimiter: self.delimiter,
            quote: self.quote,
            rules: self.rules,
            columns: columns.to_vec(),
            places: Vec::new(),
            fields: Vec::new(),
            count: None,
        }))
    }

    fn positional(&self, all: &[Column], decoder: &mut dyn Decoder) -> Result<()> {
        if !self.header { decoder.declared(all) } else { Ok(()) }
    }
}

struct CsvDecoder {
    delimiter: u8,
    quote: u8,
    rules: Rules,
    columns: Vec<Column>,
    /// Field -> column.
    places: Vec<Option<usize>>,
    fields: Vec<Vec<Field>>,
    /// Fields that a record has.
    count: Option<usize>,
}

impl Decoder for CsvDecoder {
    fn header(&mut self, line: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(line).map_err(|_| Error::invalid("22021", "the header is not UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut found: Vec<Field> = Vec::new();
        split(text, 0, text.len(), self.delimiter, self.quote, &mut |field| found.push(field))
            .map_err(|fault| Error::invalid(fault.sqlstate, fault.reason))?;
        let doubled = (self.quote as char).to_string().repeat(2);
        let names: Vec<String> = found
            .iter()
            .map(|field| field.raw(text).replace(&doubled, &(self.quote as char).to_string()).trim().to_string())
            .collect();
        let exact: HashMap<&str, usize> = self.columns.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
        let folded: HashMap<String, usize> =
            self.columns.iter().enumerate().map(|(i, c)| (c.name.to_lowercase(), i)).collect();
        self.places = names
            .iter()
            .map(|name| exact.get(name.as_str()).or_else(|| folded.get(&name.to_lowercase())).copied())
            .collect();
        self.count = Some(names.len());
        Ok(())
    }

    fn declared(&mut self, all: &[Column]) -> Result<()> {
        self.places = all.iter().map(|column| self.columns.iter().position(|c| c.name == column.name)).collect();
        self.count = Some(all.len());
        Ok(())
    }

    fn decode(&mut self, raw: &mut RawRecords, faults: &mut Faults) -> Result<Vec<ArrayRef>> {
        refuse_bad_utf8(raw, faults);
        let empty = String::new();
        let text = std::str::from_utf8(&raw.values).unwrap_or(&empty);
        let rows = raw.records.len();
        self.fields.clear();
        self.fields.resize(self.columns.len(), vec![Field::default(); rows]);
        for (i, record) in raw.records.iter().enumerate() {
            if faults.contains(i) {
                continue;
            }
            let Some(value) = record.value else {
                faults.add(i, Fault::new("22P02", "the record has no value"));
                continue;
            };
            let (start, end) = (value.start as usize, (value.start + value.len) as usize);
            let mut n = 0;
            let outcome = split(text, start, end, self.delimiter, self.quote, &mut |field| {
                if let Some(Some(column)) = self.places.get(n) {
                    self.fields[*column][i] = field;
                }
                n += 1;
            });
            let fault = match (outcome, self.count) {
                (Err(fault), _) => Some(fault),
                (Ok(()), Some(count)) if n < count => {
                    Some(Fault::new("22P04", format!("missing data: {n} fields where {count} were expected")))
                }
                (Ok(()), Some(count)) if n > count => {
                    Some(Fault::new("22P04", format!("extra data: {n} fields where {count} were expected")))
                }
                _ => None,
            };
            if let Some(fault) = fault {
                faults.add(i, fault);
            }
        }
        if !faults.is_empty() {
            for i in (0..rows).filter(|i| faults.contains(*i)) {
                self.fields.iter_mut().for_each(|fields| fields[i] = Field::default());
            }
        }
        let (rules, fields) = (&self.rules, &self.fields);
        let columns = self.columns.iter().zip(fields);
        Ok(columns.map(|(column, fields)| fields::column(column, rules, text, fields, &|i| i, faults)).collect())
    }
}

/// Hands over the fields of the record at `start..end`.
fn split(
    text: &str,
    start: usize,
    end: usize,
    delimiter: u8,
    quote: u8,
    found: &mut dyn FnMut(Field),
) -> Result<(), Fault> {
    let bytes = &text.as_bytes()[..end];
    let field =
        |from: usize, to: usize, kind| Field { start: from as u32, len: (to - from) as u32, kind, exact: false };
    let mut at = start;
    loop {
        if bytes.get(at) == Some(&quote) {
            let from = at + 1;
            let mut kind = Kind::Text;
            at = from;
            loop {
                let Some(n) = memchr::memchr(quote, &bytes[at..]) else {
                    return Err(Fault::new("22P04", "a quoted field has no end"));
                };
                at += n + 1;
                if bytes.get(at) != Some(&quote) {
                    break;
                }
                kind = Kind::DoubledQuotes;
                at += 1;
            }
            found(field(from, at - 1, kind));
            match bytes.get(at) {
                None => return Ok(()),
                Some(byte) if *byte == delimiter => at += 1,
                Some(_) => return Err(Fault::new("22P04", "a quoted field goes on behind its quote")),
            }
        } else {
            let to = memchr::memchr(delimiter, &bytes[at..]).map_or(end, |n| at + n);
            found(field(at, to, if to == at { Kind::Null } else { Kind::Text }));
            if to == end {
                return Ok(());
            }
            at = to + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use storage::SqlType;

    use super::*;
    use crate::transport::RawRecord;

    fn check(options: &[(&str, &str)], header: Option<&str>, lines: &[&str], expected: expect_test::Expect) {
        let options: Vec<_> = options.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let csv = Csv::new(&options).unwrap();
        let all =
            [Column::new("a", SqlType::Int), Column::new("b", SqlType::Text), Column::new("c", SqlType::Timestamp)];
        let mut decoder = csv.decoder(&all).unwrap();
        match header {
            Some(header) => decoder.header(header.as_bytes()).unwrap(),
            None => csv.positional(&all, decoder.as_mut()).unwrap(),
        }
        let mut raw = RawRecords::default();
        for (i, line) in lines.iter().enumerate() {
            let value = Some(raw.push_value(line.as_bytes()));
            raw.records.push(RawRecord { value, offset: i as i64, ..Default::default() });
        }
        expected.assert_eq(&crate::formats::json::tests::show(decoder.as_mut(), &mut raw, &all));
    }

    #[test]
    fn reads_fields_by_position() {
        check(
            &[],
            None,
            &["1,one,2026-01-02 03:04:05", ",\"\",", "2,\"a,\"\"b\"\"\",", "x,y,", "1,2", "1,2,,4", "1,\"open,"],
            expect![[r#"
                0: 1 | one | 2026-01-02T03:04:05
                1: NULL |  | NULL
                2: 2 | a,"b" | NULL
                3: 22P02 field "a": cannot read "x" as integer
                4: 22P04 missing data: 2 fields where 3 were expected
                5: 22P04 extra data: 4 fields where 3 were expected
                6: 22P04 a quoted field has no end
            "#]],
        );
    }

    #[test]
    fn reads_fields_by_the_header() {
        check(
            &[("header", "true"), ("delimiter", "tab")],
            Some("B\tunused\ta"),
            &["x\t?\t7"],
            expect![[r#"
                0: 7 | x | NULL
            "#]],
        );
    }
}
