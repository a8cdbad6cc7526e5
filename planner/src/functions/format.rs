//! `to_char`, `to_date`, `to_timestamp` and `to_number` with Postgres' template patterns.

use std::cell::RefCell;
use std::rc::Rc;

use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::arithmetic::num;
use super::cast::date_to_timestamp;
use super::rows::*;
use super::{Definition, functions};
use crate::types::datetime::*;
use crate::types::error;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN_MONTHS: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// The patterns of dates, the longer of two that begin alike first. Letters of both cases are told apart only where
/// what is written differs.
const PATTERNS: [&str; 60] = [
    "A.D.", "A.M.", "B.C.", "P.M.", "a.d.", "a.m.", "b.c.", "p.m.", "HH24", "HH12", "Y,YYY", "YYYY", "IYYY", "SSSSS",
    "SSSS", "MONTH", "Month", "month", "TZH", "TZM", "IYY", "YYY", "DDD", "IDDD", "MON", "Mon", "mon", "DAY", "Day",
    "day", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "AD", "AM", "BC", "PM", "ad", "am", "bc", "pm", "CC", "DD", "DY",
    "Dy", "dy", "HH", "IW", "IY", "MI", "MM", "MS", "OF", "RM", "SS", "TZ", "US",
];
/// The ones that are shorter or that have only one letter, tried after [`PATTERNS`].
const SHORT_PATTERNS: [&str; 10] = ["WW", "YY", "ID", "rm", "tz", "D", "I", "J", "Q", "W"];

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    /// A pattern with its modifiers.
    Field { name: &'static str, fill: bool, ordinal: Option<bool> },
    /// Text that stands for itself; quoted text is not skipped over by separators when reading.
    Text(String),
}

/// Cuts a template into pieces.
fn template(text: &str) -> Row<Vec<Piece>> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    let push = |pieces: &mut Vec<Piece>, c: char| match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push(c),
        _ => pieces.push(Piece::Text(c.to_string())),
    };
    let is = |rest: &str, name: &str| {
        // Only names of months and days and marks of half days tell cases apart.
        let cased = name.chars().any(|c| c.is_ascii_lowercase())
            || matches!(name, "MONTH" | "MON" | "DAY" | "DY" | "AM" | "PM" | "AD" | "BC" | "RM" | "TZ")
            || name.contains('.');
        match rest.get(..name.len()) {
            Some(head) if cased => head == name,
            Some(head) => head.eq_ignore_ascii_case(name),
            None => false,
        }
    };
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let body = &rest[1..];
            let mut end = 0;
            let mut chars = body.char_indices();
            while let Some((i, c)) = chars.next() {
                end = i + c.len_utf8();
                match c {
                    '"' => {
                        end = i;
                        break;
                    }
                    '\\' => {
                        if let Some((_, c)) = chars.next() {
                            push(&mut pieces, c);
                        }
                    }
                    c => push(&mut pieces, c),
                }
            }
            rest = body.get(end + 1..).unwrap_or("");
            continue;
        }
        if c == '\\' && rest[1..].starts_with('"') {
            push(&mut pieces, '"');
            rest = &rest[2..];
            continue;
        }
        let (mut after, mut fill) = (rest, true);
        loop {
            if let Some(behind) = after.strip_prefix("FM").or(after.strip_prefix("fm")) {
                (after, fill) = (behind, false);
            } else if let Some(behind) = after.strip_prefix("TM").or(after.strip_prefix("FX")) {
                after = behind;
            } else {
                break;
            }
        }
        let found = PATTERNS.iter().chain(&SHORT_PATTERNS).find(|name| is(after, name)).copied();
        let found = found.or(if after.starts_with(['Y', 'y']) { Some("Y") } else { None });
        match found {
            Some(name) => {
                rest = &after[name.len()..];
                let mut ordinal = None;
                for (mark, upper) in [("TH", true), ("th", false)] {
                    if let Some(behind) = rest.strip_prefix(mark) {
                        (rest, ordinal) = (behind, Some(upper));
                    }
                }
                pieces.push(Piece::Field { name, fill, ordinal });
            }
            None => {
                // A modifier without a pattern stands for itself.
                push(&mut pieces, c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    Ok(pieces)
}

/// `st`, `nd`, `rd`, `th`
fn ordinal_of(number: &str, upper: bool) -> &'static str {
    let digits = number.as_bytes();
    let teen = digits.len() > 1 && digits[digits.len() - 2] == b'1';
    match (digits.last(), teen, upper) {
        (Some(b'1'), false, true) => "ST",
        (Some(b'2'), false, true) => "ND",
        (Some(b'3'), false, true) => "RD",
        (_, _, true) => "TH",
        (Some(b'1'), false, false) => "st",
        (Some(b'2'), false, false) => "nd",
        (Some(b'3'), false, false) => "rd",
        (_, _, false) => "th",
    }
}

/// What a template shows of a moment or of an interval.
struct Shown {
    year: i64,
    month: i64,
    day: i64,
    /// Days since 1970-01-01; `None` for an interval.
    days: Option<i64>,
    /// Microseconds of the day; of an interval all of its time.
    micros: i64,
    /// Offset in seconds and abbreviation.
    zone: Option<(i64, String)>,
}

impl Shown {
    /// The year; those before Christ by their number.
    fn year_shown(&self) -> i64 {
        if self.days.is_some() && self.year <= 0 { 1 - self.year } else { self.year }
    }
}

thread_local! {
    /// The template that was cut last: nearly always every row has the same one.
    static CUT: RefCell<(String, Rc<[Piece]>)> = RefCell::new((String::new(), Rc::new([])));
}

/// The pieces of a template.
fn pieces_of(format: &str) -> Row<Rc<[Piece]>> {
    CUT.with_borrow_mut(|(text, pieces)| {
        if text != format {
            *pieces = template(format)?.into();
            format.clone_into(text);
        }
        Ok(pieces.clone())
    })
}

fn to_char(shown: &Shown, format: &str) -> Row<String> {
    let mut out = String::with_capacity(format.len());
    for piece in pieces_of(format)?.iter() {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Field { name, fill, ordinal } => {
                let from = out.len();
                match plain_number(shown, name) {
                    Some((value, width)) => push_number(&mut out, value, if *fill { width } else { 0 }),
                    None => out.push_str(&field(shown, name, *fill)?),
                }
                if let Some(upper) = *ordinal {
                    out.push_str(ordinal_of(&out[from..], upper));
                }
            }
        }
    }
    Ok(out)
}

/// The value and the width of the patterns that are a number and nothing else, for intervals too.
fn plain_number(shown: &Shown, name: &str) -> Option<(i64, usize)> {
    let hour = shown.micros / HOUR;
    Some(match name {
        "YYYY" => (shown.year_shown(), 4),
        "MM" => (shown.month, 2),
        "DD" => (shown.day, 2),
        "HH24" => (hour, 2),
        "HH12" | "HH" => (if hour % 12 == 0 { 12 } else { hour % 12 }, 2),
        "MI" => ((shown.micros / MINUTE % 60).abs(), 2),
        "SS" => ((shown.micros / SECOND % 60).abs(), 2),
        _ => return None,
    })
}

/// Decimal digits, with zeros before them up to a width; the sign comes on top of it.
fn push_number(out: &mut String, value: i64, width: usize) {
    let (mut digits, mut left, mut from) = ([b'0'; 20], value.unsigned_abs(), 20);
    while left > 0 || from == 20 {
        from -= 1;
        digits[from] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    if value < 0 {
        out.push('-');
    }
    out.extend(digits[from.min(20 - width)..].iter().map(|digit| char::from(*digit)));
}

fn number(value: i64, width: usize, fill: bool) -> String {
    let mut out = String::new();
    push_number(&mut out, value, if fill { width } else { 0 });
    out
}

fn named(name: &str, width: usize, fill: bool, form: &str) -> String {
    let cased = if form.chars().all(|c| c.is_ascii_uppercase()) {
        name.to_uppercase()
    } else if form.starts_with(|c: char| c.is_ascii_uppercase()) {
        name.to_string()
    } else {
        name.to_lowercase()
    };
    if fill { format!("{cased:width$}") } else { cased }
}

fn field(shown: &Shown, name: &str, fill: bool) -> Row<String> {
    let date_only = || error("22007", "invalid format specification for an interval value");
    let hour = shown.micros / HOUR;
    let days = || shown.days.ok_or_else(date_only);
    let year = shown.year_shown();
    let era = shown.year > 0 || shown.days.is_none();
    let iso_year = |days: i64| {
        let year = iso_week(days).0;
        if year <= 0 { 1 - year } else { year }
    };
    let half = |am: &str, pm: &str| if hour.rem_euclid(24) >= 12 { pm.to_string() } else { am.to_string() };
    let micros = shown.micros % SECOND;
    let zone = |f: &dyn Fn(&(i64, String)) -> String| match (&shown.zone, shown.days) {
        (_, None) => Err(date_only()),
        (Some(zone), _) => Ok(f(zone)),
        (None, _) => Ok(String::new()),
    };
    Ok(match name {
        "A.M." | "P.M." => half("A.M.", "P.M."),
        "AM" | "PM" => half("AM", "PM"),
        "a.m." | "p.m." => half("a.m.", "p.m."),
        "am" | "pm" => half("am", "pm"),
        "A.D." | "B.C." => if era { "A.D." } else { "B.C." }.into(),
        "AD" | "BC" => if era { "AD" } else { "BC" }.into(),
        "a.d." | "b.c." => if era { "a.d." } else { "b.c." }.into(),
        "ad" | "bc" => if era { "ad" } else { "bc" }.into(),
        "MS" => number(micros.abs() / 1000, 3, true),
        "US" => number(micros.abs(), 6, true),
        "FF1" => number(micros.abs() / 100_000, 1, true),
        "FF2" => number(micros.abs() / 10_000, 2, true),
        "FF3" => number(micros.abs() / 1000, 3, true),
        "FF4" => number(micros.abs() / 100, 4, true),
        "FF5" => number(micros.abs() / 10, 5, true),
        "FF6" => number(micros.abs(), 6, true),
        "SSSS" | "SSSSS" => number(shown.micros / SECOND, 1, false),
        "Y,YYY" => {
            format!("{},{:03}", year / 1000, year % 1000)
        }
        "YYY" => number(year % 1000, 3, fill),
        "YY" => number(year % 100, 2, fill),
        "Y" => number(year % 10, 1, fill),
        "IYYY" => number(iso_year(days()?), 4, fill),
        "IYY" => number(iso_year(days()?) % 1000, 3, fill),
        "IY" => number(iso_year(days()?) % 100, 2, fill),
        "I" => number(iso_year(days()?) % 10, 1, fill),
        "CC" => {
            let century = if shown.days.is_none() {
                shown.year / 100
            } else if shown.year > 0 {
                (shown.year - 1) / 100 + 1
            } else {
                shown.year / 100 - 1
            };
            if (-99..=99).contains(&century) { number(century, 2, fill) } else { number(century, 4, fill) }
        }
        "MONTH" | "Month" | "month" => {
            if shown.month == 0 {
                return Ok(String::new());
            }
            named(MONTHS[(shown.month - 1) as usize], 9, fill, name)
        }
        "MON" | "Mon" | "mon" => {
            if shown.month == 0 {
                return Ok(String::new());
            }
            named(&MONTHS[(shown.month - 1) as usize][..3], 0, false, name)
        }
        "RM" | "rm" => {
            if shown.month == 0 {
                return Ok(String::new());
            }
            named(ROMAN_MONTHS[(shown.month - 1) as usize], 4, fill, if name == "RM" { "RM" } else { "rm" })
        }
        "DAY" | "Day" | "day" => named(DAYS[day_of_week(days()?) as usize], 9, fill, name),
        "DY" | "Dy" | "dy" => named(&DAYS[day_of_week(days()?) as usize][..3], 0, false, name),
        "DDD" => number(days()? - days_from_civil(shown.year, 1, 1) + 1, 3, fill),
        "IDDD" => {
            let (year, _) = iso_week(days()?);
            let fourth = days_from_civil(year, 1, 4);
            number(days()? - (fourth - (day_of_week(fourth) + 6) % 7) + 1, 3, fill)
        }
        "D" => number(day_of_week(days()?) + 1, 1, fill),
        "ID" => number((day_of_week(days()?) + 6) % 7 + 1, 1, fill),
        "WW" => number((days()? - days_from_civil(shown.year, 1, 1)) / 7 + 1, 2, fill),
        "IW" => number(iso_week(days()?).1, 2, fill),
        "W" => number((shown.day - 1) / 7 + 1, 1, fill),
        "Q" => {
            if shown.month == 0 {
                return Ok(String::new());
            }
            number((shown.month - 1) / 3 + 1, 1, fill)
        }
        "J" => number(days()? + 2_440_588, 1, fill),
        "TZ" => zone(&|(_, name)| name.to_uppercase())?,
        "tz" => zone(&|(_, name)| name.to_lowercase())?,
        "TZH" => zone(&|(offset, _)| format!("{}{:02}", if *offset < 0 { '-' } else { '+' }, offset.abs() / 3600))?,
        "TZM" => zone(&|(offset, _)| format!("{:02}", offset.abs() / 60 % 60))?,
        "OF" => zone(&|(offset, _)| {
            let minutes = offset.abs() / 60 % 60;
            let hours = format!("{}{:02}", if *offset < 0 { '-' } else { '+' }, offset.abs() / 3600);
            if minutes > 0 { format!("{hours}:{minutes:02}") } else { hours }
        })?,
        other => return Err(error("0A000", format!("the pattern \"{other}\" of to_char is not supported"))),
    })
}

fn moment_to_char(local: i64, zone: Option<(i64, String)>, format: &str) -> Row<Option<String>> {
    if format.is_empty() || is_infinite(local) {
        return Ok(None);
    }
    let days = local.div_euclid(DAY);
    let (year, month, day) = civil_from_days(days);
    let shown = Shown { year, month, day, days: Some(days), micros: local.rem_euclid(DAY), zone };
    to_char(&shown, format).map(Some)
}

fn interval_to_char(span: Interval, format: &str) -> Row<Option<String>> {
    if format.is_empty() {
        return Ok(None);
    }
    let shown = Shown {
        year: (span.months / 12) as i64,
        month: (span.months % 12) as i64,
        day: span.days as i64,
        days: None,
        micros: span.micros,
        zone: None,
    };
    to_char(&shown, format).map(Some)
}

/// What was read by a template.
#[derive(Default)]
struct Read {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    julian: Option<i64>,
    hour: i64,
    twelve: bool,
    pm: Option<bool>,
    minute: i64,
    second: i64,
    micros: i64,
    seconds_of_day: Option<i64>,
    bc: bool,
    zone: Option<i64>,
    iso: bool,
}

/// Takes up to `width` digits; as many as there are if the next piece is not a number.
fn digits<'a>(text: &'a str, width: usize, name: &str, signed: bool) -> Row<(i64, &'a str)> {
    let text = text.trim_start();
    let sign = if signed && text.starts_with(['-', '+']) { 1 } else { 0 };
    let n = text[sign..].bytes().take(width).take_while(u8::is_ascii_digit).count();
    if n == 0 {
        let shown: String = text.chars().take(width).collect();
        return Err(error("22007", format!("invalid value \"{shown}\" for \"{name}\"")));
    }
    let value = text[..sign + n]
        .parse()
        .map_err(|_| error("22008", format!("value for \"{name}\" in source string is out of range")))?;
    Ok((value, &text[sign + n..]))
}

/// Takes the word among `words` that the text starts with, whatever its case.
fn word<'a>(text: &'a str, words: &[&str], name: &str, shortest: usize) -> Row<(usize, &'a str)> {
    let text = text.trim_start();
    for (i, word) in words.iter().enumerate() {
        let lengths = if shortest == 0 { vec![word.len()] } else { vec![shortest] };
        for n in lengths {
            if text.get(..n).is_some_and(|head| head.eq_ignore_ascii_case(&word[..n])) {
                return Ok((i, &text[n..]));
            }
        }
    }
    let shown: String = text.chars().take(words[0].len().max(3)).take_while(|c| !c.is_whitespace()).collect();
    Err(error("22007", format!("invalid value \"{shown}\" for \"{name}\"")))
}

fn read(text: &str, format: &str) -> Row<Read> {
    let pieces = template(format)?;
    let (mut read, mut rest) = (Read::default(), text);
    for (i, piece) in pieces.iter().enumerate() {
        let (name, fill) = match piece {
            Piece::Field { name, fill, .. } => (*name, *fill),
            Piece::Text(separators) => {
                for c in separators.chars() {
                    // Separators and blanks match each other; other text is skipped.
                    let separator = |c: char| !c.is_alphanumeric();
                    if separator(c) {
                        rest = rest.trim_start();
                        if !c.is_whitespace() && rest.starts_with(|r: char| separator(r) && r != '+' && r != '-')
                            || rest.starts_with(c)
                        {
                            rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
                        } else if rest.starts_with('-') && c != '-' && !c.is_whitespace() {
                            rest = &rest[1..];
                        }
                    } else if let Some(first) = rest.chars().next() {
                        rest = &rest[first.len_utf8()..];
                    }
                }
                continue;
            }
        };
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        // Digits may run on unless another number follows at once.
        let adjoining = matches!(pieces.get(i + 1), Some(Piece::Field { .. }));
        let wide = |width: usize| if adjoining && fill { width } else { 10 };
        let take = |rest: &mut &str, width: usize, signed: bool| -> Row<i64> {
            let (value, behind) = digits(rest, width, name, signed)?;
            *rest = &rest[rest.len() - behind.len()..];
            Ok(value)
        };
        match name {
            "YYYY" => read.year = Some(take(&mut rest, wide(4), true)?),
            "IYYY" => (read.year, read.iso) = (Some(take(&mut rest, wide(4), true)?), true),
            "YYY" | "YY" | "Y" => {
                let before = rest.len();
                let value = take(&mut rest, name.len(), false)?;
                let width = before - rest.len();
                read.year = Some(match width {
                    1 | 2 if value < 70 => value + 2000,
                    1 | 2 => value + 1900,
                    3 if value < 100 => value + 2000,
                    3 => value + 1000,
                    _ => value,
                });
            }
            "Y,YYY" => {
                let thousands = take(&mut rest, 3, false)?;
                rest = rest.strip_prefix(',').ok_or_else(|| error("22007", "invalid input string for \"Y,YYY\""))?;
                let (value, behind) = digits(rest, 3, name, false)?;
                rest = behind;
                read.year = Some(thousands * 1000 + value);
            }
            "MM" => read.month = Some(take(&mut rest, wide(2), false)?),
            "DD" => read.day = Some(take(&mut rest, wide(2), false)?),
            "DDD" => read.day_of_year = Some(take(&mut rest, wide(3), false)?),
            "J" => read.julian = Some(take(&mut rest, 10, false)?),
            "HH24" => read.hour = take(&mut rest, wide(2), false)?,
            "HH12" | "HH" => (read.hour, read.twelve) = (take(&mut rest, wide(2), false)?, true),
            "MI" => read.minute = take(&mut rest, wide(2), false)?,
            "SS" => read.second = take(&mut rest, wide(2), false)?,
            "SSSS" | "SSSSS" => read.seconds_of_day = Some(take(&mut rest, 5, false)?),
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let width = match name {
                    "MS" => 3,
                    "US" => 6,
                    other => (other.as_bytes()[2] - b'0') as usize,
                };
                let before = rest.trim_start().len();
                let value = take(&mut rest, width, false)?;
                let n = before - rest.len();
                read.micros += value * 10i64.pow(6 - n.min(6) as u32);
            }
            "MONTH" | "Month" | "month" => {
                let found = word(rest, &MONTHS, name, 0).or_else(|_| word(rest, &MONTHS, name, 3))?;
                (read.month, rest) = (Some(found.0 as i64 + 1), found.1);
            }
            "MON" | "Mon" | "mon" => {
                let found = word(rest, &MONTHS, name, 3)?;
                (read.month, rest) = (Some(found.0 as i64 + 1), found.1);
            }
            "DAY" | "Day" | "day" => rest = word(rest, &DAYS, name, 0)?.1,
            "DY" | "Dy" | "dy" => rest = word(rest, &DAYS, name, 3)?.1,
            "AM" | "PM" | "am" | "pm" => {
                let found = word(rest, &["am", "pm"], name, 0)?;
                (read.pm, rest) = (Some(found.0 == 1), found.1);
            }
            "A.M." | "P.M." | "a.m." | "p.m." => {
                let found = word(rest, &["a.m.", "p.m."], name, 0)?;
                (read.pm, rest) = (Some(found.0 == 1), found.1);
            }
            "AD" | "BC" | "ad" | "bc" => {
                let found = word(rest, &["ad", "bc"], name, 0)?;
                (read.bc, rest) = (found.0 == 1, found.1);
            }
            "TZH" => {
                let negative = rest.starts_with('-');
                let hours = take(&mut rest, 2, true)?;
                read.zone = Some(hours.abs() * if negative { -3600 } else { 3600 });
            }
            "TZM" => {
                let minutes = take(&mut rest, 2, false)?;
                read.zone = read.zone.map(|z| z + minutes * if z < 0 { -60 } else { 60 });
            }
            "Q" | "D" | "ID" | "CC" | "W" => {
                // Postgres reads and ignores these beside a date.
                take(&mut rest, 2, false)?;
                if !matches!(name, "Q" | "D") {
                    return Err(error("0A000", format!("the pattern \"{name}\" is not supported for reading")));
                }
            }
            other => return Err(error("0A000", format!("the pattern \"{other}\" is not supported for reading"))),
        }
    }
    if read.iso {
        return Err(error("0A000", "ISO week dates are not supported for reading"));
    }
    Ok(read)
}

fn range(text: &str) -> EvalError {
    error("22008", format!("date/time field value out of range: \"{text}\""))
}

impl Read {
    fn days(&self, text: &str) -> Row<i64> {
        if let Some(julian) = self.julian {
            return Ok(julian - 2_440_588);
        }
        let mut year = self.year.unwrap_or(0);
        if self.bc && year > 0 {
            year = 1 - year;
        } else if year < 0 {
            year += 1;
        }
        // Without a year it is 1 BC.
        if let Some(day) = self.day_of_year {
            if !(1..=366).contains(&day) {
                return Err(range(text));
            }
            return Ok(days_from_civil(year, 1, 1) + day - 1);
        }
        let (month, day) = (self.month.unwrap_or(1), self.day.unwrap_or(1));
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return Err(range(text));
        }
        Ok(days_from_civil(year, month, day))
    }

    fn time(&self, text: &str) -> Row<i64> {
        if let Some(seconds) = self.seconds_of_day {
            return Ok(seconds * SECOND + self.micros);
        }
        let mut hour = self.hour;
        if self.twelve || self.pm.is_some() {
            if !(1..=12).contains(&hour) {
                return Err(error("22007", format!("hour \"{hour}\" is invalid for the 12-hour clock")));
            }
            hour = hour % 12 + if self.pm == Some(true) { 12 } else { 0 };
        }
        if hour > 23 || self.minute > 59 || self.second > 59 {
            return Err(range(text));
        }
        Ok(hour * HOUR + self.minute * MINUTE + self.second * SECOND + self.micros)
    }
}

fn to_date(text: &str, format: &str) -> Row<i32> {
    i32::try_from(read(text, format)?.days(text)?).map_err(|_| range(text))
}

fn to_timestamp(text: &str, format: &str, zone: &str) -> Row<i64> {
    let read = read(text, format)?;
    let days = read.days(text)?.checked_mul(DAY).ok_or_else(timestamp_range)?;
    let local = days.checked_add(read.time(text)?).ok_or_else(timestamp_range)?;
    Ok(match read.zone {
        Some(offset) => local - offset * SECOND,
        None => Zone::parse(zone)?.to_utc(local),
    })
}

/// The parts of a template for numbers.
#[derive(Default)]
struct NumberFormat {
    /// Places before and behind the point; which of them are `0`.
    whole: usize,
    fraction: usize,
    zero_from: Option<usize>,
    fraction_zero_to: usize,
    fill: bool,
    exponent: bool,
    multiplier: usize,
    sign: Sign,
    sign_last: bool,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Sign {
    #[default]
    Leading,
    S,
    Plus,
    Minus,
    Pr,
    Sg,
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Digit,
    Point,
    Group,
    Sign(&'static str),
    Ordinal(bool),
    Currency,
    Text(String),
}

fn number_template(format: &str) -> Row<NumberFormat> {
    let mut f = NumberFormat { fill: true, ..NumberFormat::default() };
    let (mut rest, mut behind, mut power) = (format, false, false);
    while let Some(c) = rest.chars().next() {
        let upper = rest.get(..2).unwrap_or("").to_ascii_uppercase();
        let two = |rest: &mut &str| *rest = &rest[2..];
        match upper.as_str() {
            "FM" => {
                f.fill = false;
                two(&mut rest);
                continue;
            }
            "PR" => {
                f.sign = Sign::Pr;
                two(&mut rest);
                continue;
            }
            "MI" | "PL" | "SG" => {
                let kind = match upper.as_str() {
                    "MI" => "MI",
                    "PL" => "PL",
                    _ => "SG",
                };
                f.sign = match kind {
                    "MI" => Sign::Minus,
                    "PL" => Sign::Plus,
                    _ => Sign::Sg,
                };
                f.items.push(Item::Sign(kind));
                two(&mut rest);
                continue;
            }
            "TH" => {
                f.items.push(Item::Ordinal(rest.starts_with('T')));
                two(&mut rest);
                continue;
            }
            "RN" => return Err(error("0A000", "the pattern \"RN\" of to_char is not supported")),
            "EE" if rest.get(..4).is_some_and(|e| e.eq_ignore_ascii_case("EEEE")) => {
                f.exponent = true;
                rest = &rest[4..];
                continue;
            }
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '9' | '0' if power => f.multiplier += 1,
            '9' | '0' => {
                if behind {
                    f.fraction += 1;
                    if c == '0' {
                        f.fraction_zero_to = f.fraction;
                    }
                } else {
                    if c == '0' && f.zero_from.is_none() {
                        f.zero_from = Some(f.whole);
                    }
                    f.whole += 1;
                }
                f.items.push(Item::Digit);
            }
            '.' | 'D' | 'd' => {
                if behind {
                    return Err(error("42601", "multiple decimal points"));
                }
                behind = true;
                f.items.push(Item::Point);
            }
            ',' | 'G' | 'g' => f.items.push(Item::Group),
            'S' | 's' => {
                f.sign = Sign::S;
                f.sign_last = f.whole > 0 || behind;
            }
            'L' | 'l' => f.items.push(Item::Currency),
            'V' | 'v' => power = true,
            '"' => {
                let end = rest.find('"').unwrap_or(rest.len());
                f.items.push(Item::Text(rest[..end].to_string()));
                rest = rest.get(end + 1..).unwrap_or("");
            }
            c => f.items.push(Item::Text(c.to_string())),
        }
    }
    if power {
        f.whole += f.multiplier;
        f.items.extend(std::iter::repeat_n(Item::Digit, f.multiplier));
    }
    Ok(f)
}

fn number_to_char(value: &Numeric, format: &str) -> Row<String> {
    if format.is_empty() {
        return Ok(String::new());
    }
    let f = number_template(format)?;
    if f.exponent {
        return scientific(value, &f);
    }
    let special = !value.is_finite();
    let scaled = if f.multiplier > 0 && !special {
        num(value.mul(&num(Numeric::parse(&format!("1e{}", f.multiplier)))?))?
    } else {
        *value
    };
    let rounded = num(scaled.round(f.fraction as i32))?;
    let negative = rounded.is_negative();
    let text = rounded.abs().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    // A number below one has no digit before the point unless the template asks for a zero.
    let overflow = whole.len() > f.whole;
    let whole = if whole == "0" && f.fraction > 0 { "" } else { whole };
    let digits: Vec<char> = if overflow {
        vec!['#'; f.whole]
    } else {
        let mut places = vec![' '; f.whole - whole.len()];
        places.extend(whole.chars());
        if let Some(from) = f.zero_from {
            places.iter_mut().skip(from).filter(|c| **c == ' ').for_each(|c| *c = '0');
        }
        places
    };
    let mut fraction: Vec<char> = if overflow {
        vec!['#'; f.fraction]
    } else {
        fraction.chars().chain(std::iter::repeat('0')).take(f.fraction).collect()
    };
    if !f.fill && !overflow {
        while fraction.len() > f.fraction_zero_to && fraction.last() == Some(&'0') {
            fraction.pop();
        }
    }
    let sign = match (f.sign, negative) {
        (Sign::Leading | Sign::Plus, true) => "-",
        (Sign::Leading | Sign::Plus, false) => " ",
        (Sign::S, true) => "-",
        (Sign::S, false) => "+",
        (Sign::Pr, true) => "<",
        (Sign::Pr, false) => " ",
        _ => "",
    };
    let lead = if f.sign_last { "" } else { sign };
    let mut body = String::new();
    let (mut place, mut seen, mut behind, mut signed) = (0, false, false, lead.is_empty());
    let mut decimals = fraction.iter();
    for item in &f.items {
        match item {
            Item::Digit if !behind => {
                let c = digits[place];
                place += 1;
                if c == ' ' {
                    if f.fill {
                        body.push(' ');
                    }
                    continue;
                }
                if !signed {
                    push_sign(&mut body, lead, f.fill);
                    signed = true;
                }
                seen = true;
                body.push(c);
            }
            Item::Digit => body.extend(decimals.next()),
            Item::Point => {
                behind = true;
                if !signed {
                    push_sign(&mut body, lead, f.fill);
                    signed = true;
                }
                // Zero would be a lone point.
                if !f.fill && !seen && fraction.is_empty() && f.whole > 0 {
                    body.push('0');
                }
                body.push('.');
            }
            Item::Group if seen => body.push(','),
            Item::Group => {
                if f.fill {
                    body.push(' ');
                }
            }
            Item::Sign("MI") => body.push_str(if negative {
                "-"
            } else if f.fill {
                " "
            } else {
                ""
            }),
            Item::Sign("PL") => body.push_str(if !negative {
                "+"
            } else if f.fill {
                " "
            } else {
                ""
            }),
            Item::Sign(_) => body.push(if negative { '-' } else { '+' }),
            Item::Ordinal(upper) => {
                if f.fraction == 0 && !negative {
                    let shown: String = digits.iter().collect();
                    body.push_str(ordinal_of(shown.trim(), *upper));
                }
            }
            Item::Currency => body.push(' '),
            Item::Text(text) => body.push_str(text),
        }
    }
    if !signed {
        push_sign(&mut body, lead, f.fill);
    }
    if f.sign == Sign::Pr {
        body.push_str(if negative {
            ">"
        } else if f.fill {
            " "
        } else {
            ""
        });
    }
    if f.sign_last {
        body.push_str(sign);
    }
    Ok(body)
}

/// The sign stands right before the first digit; what would be a blank is left out without filling.
fn push_sign(body: &mut String, sign: &str, fill: bool) {
    if sign == " " && !fill {
        return;
    }
    // Blanks are before the sign, so it takes the place of none of them.
    body.push_str(sign);
}

fn scientific(value: &Numeric, f: &NumberFormat) -> Row<String> {
    if !value.is_finite() {
        return Ok(format!(" {}", "#".repeat(f.whole + f.fraction + 6)));
    }
    let mut exponent = value.exponent();
    let shift = |exponent: i32| num(value.mul(&num(Numeric::parse(&format!("1e{}", -exponent)))?));
    let mut mantissa = num(shift(exponent)?.round(f.fraction as i32))?;
    if mantissa.exponent() > 0 {
        exponent += 1;
        mantissa = num(shift(exponent)?.round(f.fraction as i32))?;
    }
    let sign = if value.is_negative() {
        "-"
    } else if f.sign == Sign::S {
        "+"
    } else {
        " "
    };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    Ok(format!("{sign}{}e{exponent_sign}{:02}", mantissa.abs(), exponent.abs()))
}

fn to_number(text: &str, format: &str) -> Row<Numeric> {
    let f = number_template(format)?;
    let mut digits = String::new();
    let negative = text.contains('-') || (f.sign == Sign::Pr && text.contains('<'));
    let (mut whole, mut fraction, mut point) = (0, 0, false);
    for c in text.chars() {
        match c {
            '0'..='9' if point && fraction < f.fraction => {
                fraction += 1;
                digits.push(c);
            }
            '0'..='9' if !point && whole < f.whole => {
                whole += 1;
                digits.push(c);
            }
            '.' if !point && f.fraction > 0 => {
                point = true;
                digits.push(c);
            }
            _ => {}
        }
    }
    if digits.is_empty() {
        return Err(error("22P02", format!("invalid input syntax for type numeric: \"{text}\"")));
    }
    let number = num(Numeric::parse(&digits))?;
    Ok(if negative { number.neg() } else { number })
}

fn double_to_char(value: f64, format: &str) -> Row<String> {
    let number = if value.is_finite() && value.abs() < 1e30 {
        num(Numeric::from_f64(value))?
    } else if value.is_nan() {
        Numeric::NAN
    } else {
        Numeric::INFINITY
    };
    number_to_char(&number, format)
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "to_char" timestamp_to_char (Timestamp, Text) -> Maybe<Text> = |a, f| moment_to_char(a, None, f);
        "to_char" date_to_char (Date, Text) -> Maybe<Text> = |a, f| moment_to_char(date_to_timestamp(a)?, None, f);
        "to_char" interval_to_char (Span, Text) -> Maybe<Text> = interval_to_char;
        "to_char" int4_to_char (Int4, Text) -> Text = |a, f| number_to_char(&Numeric::from_i64(a as i64), f);
        "to_char" int8_to_char (Int8, Text) -> Text = |a, f| number_to_char(&Numeric::from_i64(a), f);
        "to_char" numeric_to_char (Num, Text) -> Text = |a, f| number_to_char(&a, f);
        "to_char" float4_to_char (Float4, Text) -> Text = |a, f| number_to_char(&num(Numeric::from_f32(a))?, f);
        "to_char" float8_to_char (Float8, Text) -> Text = double_to_char;
        "to_date" to_date (Text, Text) -> Date = to_date;
        "to_number" numeric_to_number (Text, Text) -> Num = to_number;
    };
    list.extend(functions! {
        "to_char" timestamptz_to_char (TimestampTz, Text, Text) -> Maybe<Text> = |a, f, z| {
            let zone = Zone::parse(z)?;
            let named = (!is_infinite(a)).then(|| (zone.offset_at(a), zone.abbreviation_at(a)));
            moment_to_char(zone.to_local(a), named, f)
        };
        "to_timestamp" to_timestamp (Text, Text, Text) -> TimestampTz = to_timestamp;
    }.into_iter().map(Definition::zoned));
    list
}
