//! `WITH (...)`: every option is known to its connector, or the statement is refused with what was probably meant.

use std::time::Duration;

use streaming::error::{Error, Result};

/// One option that a connector or a format knows; the tables in `docs/connectors/` show these.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// Its name; one that ends in `*` stands for every name that begins so.
    pub name: &'static str,
    /// The value when it is left out, for people; empty if there is none.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// The options of one statement, checked against those that exist.
#[derive(Clone, Debug)]
pub struct Options {
    /// What they belong to, for messages: `connector "kafka"`.
    owner: String,
    values: Vec<(String, String)>,
}

impl Options {
    /// Takes `given`, and refuses a name that is in none of `known` or that stands there twice.
    pub fn new(owner: impl Into<String>, given: &[(String, String)], known: &[&[OptionDoc]]) -> Result<Options> {
        let owner = owner.into();
        let mut values: Vec<(String, String)> = Vec::with_capacity(given.len());
        for (name, value) in given {
            let name = name.to_ascii_lowercase();
            if !known.iter().any(|docs| docs.iter().any(|doc| matches(doc.name, &name))) {
                return Err(unknown(&owner, &name, known));
            }
            if values.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!("option \"{name}\" is given twice")));
            }
            values.push((name, value.clone()));
        }
        Ok(Options { owner, values })
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name`, which must be there.
    pub fn required(&self, name: &str) -> Result<&str> {
        match self.get(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(invalid(format!("{} needs the option \"{name}\"", self.owner))),
        }
    }

    /// The options whose names begin with `prefix`, without it.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.values.iter().filter_map(move |(name, value)| name.strip_prefix(prefix).map(|rest| (rest, value.as_str())))
    }

    /// `name` as a number, or `default`.
    pub fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.trim().parse().map_err(|_| self.bad(name, "a number in range")),
        }
    }

    /// `name` as a truth value, or `default`.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "t" | "on" | "yes" | "1") => Ok(true),
            Some("false" | "f" | "off" | "no" | "0") => Ok(false),
            Some(_) => Err(self.bad(name, "true or false")),
        }
    }

    /// `name` as a length of time with its unit (`500ms`, `5s`, `2 minutes`), or `default`.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => parse_duration(value).ok_or_else(|| self.bad(name, "a time with its unit, as 500ms or 5s")),
        }
    }

    /// `name` as one of `choices` (compared without regard to case), or the first of them.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&'static str, T)]) -> Result<T> {
        let Some(value) = self.get(name) else { return Ok(choices[0].1) };
        let found = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value.trim()));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.bad(name, &format!("one of {}", words.join(", ")))
        })
    }

    /// The error that the value of `name` is not `wanted`.
    pub fn bad(&self, name: &str, wanted: &str) -> Error {
        invalid(format!("option \"{name}\" must be {wanted}, not \"{}\"", self.get(name).unwrap_or_default()))
    }
}

/// An invalid parameter value, as Postgres numbers it.
pub fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("22023", message)
}

/// The same, with advice. The server shows what follows `HINT:` in the field for hints.
pub fn invalid_hint(message: impl std::fmt::Display, hint: impl std::fmt::Display) -> Error {
    invalid(format!("{message}\nHINT:  {hint}"))
}

/// The table of `docs` for a page of `docs/connectors/`.
pub fn table(docs: &[OptionDoc]) -> String {
    let mut out = String::from("| option | default | meaning |\n|---|---|---|\n");
    for OptionDoc { name, default, doc } in docs {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        out += &format!("| `{name}` | {default} | {doc} |\n");
    }
    out
}

fn matches(pattern: &str, name: &str) -> bool {
    if pattern.contains('*') {
        // `fields.*.kind`: something must stand for the star.
        let (head, tail) = pattern.split_once('*').unwrap_or((pattern, ""));
        return name.len() > head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail);
    }
    pattern == name
}

fn unknown(owner: &str, name: &str, known: &[&[OptionDoc]]) -> Error {
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .flat_map(|docs| docs.iter())
        .filter(|doc| !doc.name.contains('*'))
        .map(|doc| {
            let similar = doc.name.ends_with(&format!(".{name}")) || name.ends_with(&format!(".{}", doc.name));
            // One that is far longer is far away, and a client's name may be of any length.
            let is_longer = name.len() > 4 * (doc.name.len() + 4);
            (
                if similar {
                    0
                } else if is_longer {
                    usize::MAX
                } else {
                    distance(name, doc.name)
                },
                doc.name,
            )
        })
        .filter(|(far, known)| *far <= 2 + known.len() / 6)
        .collect();
    near.sort_unstable();
    near.truncate(3);
    let message = format!("{owner} has no option \"{name}\"");
    if near.is_empty() {
        let mut all: Vec<&str> = known.iter().flat_map(|docs| docs.iter().map(|doc| doc.name)).collect();
        all.sort_unstable();
        return invalid_hint(message, format!("The options are: {}.", all.join(", ")));
    }
    let near: Vec<String> = near.iter().map(|(_, name)| format!("\"{name}\"")).collect();
    invalid_hint(message, format!("Perhaps you meant {}.", near.join(" or ")))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `500ms`, `5s`, `2 minutes`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    let seconds = match text[split..].trim().to_ascii_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => number / 1e6,
        "ms" | "millisecond" | "milliseconds" => number / 1e3,
        "s" | "sec" | "secs" | "second" | "seconds" => number,
        "m" | "min" | "mins" | "minute" | "minutes" => number * 60.0,
        "h" | "hour" | "hours" => number * 3600.0,
        "d" | "day" | "days" => number * 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &[OptionDoc] = &[
        OptionDoc { name: "connector", default: "", doc: "" },
        OptionDoc { name: "scan.startup.mode", default: "earliest", doc: "" },
        OptionDoc { name: "properties.*", default: "", doc: "" },
    ];

    fn options(given: &[(&str, &str)]) -> Result<Options> {
        let given: Vec<_> = given.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Options::new("connector \"kafka\"", &given, &[DOCS])
    }

    #[test]
    fn names_what_was_probably_meant() {
        let error = options(&[("scan.startup.mod", "latest")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "connector \"kafka\" has no option \"scan.startup.mod\"\nHINT:  Perhaps you meant \"scan.startup.mode\"."
        );
        let error = options(&[("frobnicate", "1")]).unwrap_err().to_string();
        assert!(error.contains("HINT:  The options are: connector, "), "{error}");
    }

    #[test]
    fn takes_names_in_any_case_and_prefixes() {
        let options = options(&[("Scan.Startup.Mode", "LATEST"), ("properties.fetch.min.bytes", "1")]).unwrap();
        assert!(options.choice("scan.startup.mode", &[("earliest", false), ("latest", true)]).unwrap());
        assert_eq!(options.with_prefix("properties.").collect::<Vec<_>>(), [("fetch.min.bytes", "1")]);
    }

    #[test]
    fn reads_durations_with_units_only() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2 minutes"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration("five s"), None);
    }
}
