//! Dates, times, timestamps and intervals: the calendar, time zones and Postgres' text of each.
//!
//! A timestamp is microseconds since 1970-01-01. Postgres counts from 2000 and so reaches 294276 AD; here the last
//! moment is in January 294247. `i64::MAX` and `i64::MIN` (for dates `i32::MAX` and `i32::MIN`) are the infinities.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::OnceLock;

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Offset, TimeZone};
use chrono_tz::{OffsetName, Tz};
use streaming::expr::EvalError;

use super::error;

/// Microseconds of a second, a minute, an hour and a day.
pub const SECOND: i64 = 1_000_000;
/// See [`SECOND`].
pub const MINUTE: i64 = 60 * SECOND;
/// See [`SECOND`].
pub const HOUR: i64 = 60 * MINUTE;
/// See [`SECOND`].
pub const DAY: i64 = 24 * HOUR;
/// From 1970-01-01 to Postgres' 2000-01-01.
pub const DAYS_TO_2000: i32 = 10_957;
/// Postgres' first day: 4714-11-24 BC.
const DAYS_MIN: i64 = -2_440_588;
/// Postgres' last day for dates: 5874897-12-31.
const DATE_DAYS_MAX: i64 = 2_145_042_905;

/// A span of time in the three units that do not convert into each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl From<IntervalMonthDayNano> for Interval {
    fn from(value: IntervalMonthDayNano) -> Interval {
        Interval { months: value.months, days: value.days, micros: value.nanoseconds.div_euclid(1000) }
    }
}

impl Interval {
    /// As Arrow keeps it; `interval out of range` where its nanoseconds end (292 years of time alone).
    pub fn to_arrow(self) -> Result<IntervalMonthDayNano, EvalError> {
        let nanoseconds = self.micros.checked_mul(1000).ok_or_else(interval_range)?;
        Ok(IntervalMonthDayNano { months: self.months, days: self.days, nanoseconds })
    }

    /// Its length with months of 30 days: what Postgres compares.
    pub fn total_micros(self) -> i128 {
        (self.months as i128 * 30 + self.days as i128) * DAY as i128 + self.micros as i128
    }
}

fn interval_range() -> EvalError {
    error("22008", "interval out of range")
}

/// `timestamp out of range`
pub fn timestamp_range() -> EvalError {
    error("22008", "timestamp out of range")
}

/// Days since 1970-01-01 of a day of the proleptic Gregorian calendar. Year 0 is 1 BC.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + (month <= 2) as i64, month, day)
}

/// Days of a month.
pub fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// 0 for Sunday.
pub fn day_of_week(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

/// ISO 8601 year and week.
pub fn iso_week(days: i64) -> (i64, i64) {
    let weekday = (day_of_week(days) + 6) % 7;
    let thursday = days - weekday + 3;
    let year = civil_from_days(thursday).0;
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

/// A time zone of a session or of `AT TIME ZONE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// A zone of the IANA database.
    Named(Tz),
    /// Seconds east of UTC.
    Fixed(i32),
}

/// UTC.
pub const UTC: Zone = Zone::Fixed(0);

/// The abbreviations of Postgres' default set that name one offset (in seconds).
const ABBREVIATIONS: [(&str, i32); 31] = [
    ("utc", 0),
    ("gmt", 0),
    ("z", 0),
    ("zulu", 0),
    ("ut", 0),
    ("wet", 0),
    ("est", -5 * 3600),
    ("edt", -4 * 3600),
    ("cst", -6 * 3600),
    ("cdt", -5 * 3600),
    ("mst", -7 * 3600),
    ("mdt", -6 * 3600),
    ("pst", -8 * 3600),
    ("pdt", -7 * 3600),
    ("akst", -9 * 3600),
    ("akdt", -8 * 3600),
    ("hst", -10 * 3600),
    ("cet", 3600),
    ("cest", 2 * 3600),
    ("met", 3600),
    ("mest", 2 * 3600),
    ("mez", 3600),
    ("bst", 3600),
    ("west", 3600),
    ("eet", 2 * 3600),
    ("eest", 3 * 3600),
    ("ist", 2 * 3600),
    ("msk", 3 * 3600),
    ("jst", 9 * 3600),
    ("kst", 9 * 3600),
    ("aest", 10 * 3600),
];

/// The IANA zones by lower-case name.
fn zones() -> &'static HashMap<String, Tz> {
    static ZONES: OnceLock<HashMap<String, Tz>> = OnceLock::new();
    ZONES.get_or_init(|| chrono_tz::TZ_VARIANTS.iter().map(|tz| (tz.name().to_ascii_lowercase(), *tz)).collect())
}

impl Zone {
    /// The zone of that name, abbreviation or offset.
    pub fn parse(name: &str) -> Result<Zone, EvalError> {
        let unknown = || error("22023", format!("time zone \"{name}\" not recognized"));
        let trimmed = name.trim();
        let lower = trimmed.to_ascii_lowercase();
        if let Some((_, seconds)) = ABBREVIATIONS.iter().find(|(abbreviation, _)| *abbreviation == lower) {
            return Ok(Zone::Fixed(*seconds));
        }
        if let Some(seconds) = parse_offset(trimmed) {
            return Ok(Zone::Fixed(seconds));
        }
        zones().get(&lower).map(|tz| Zone::Named(*tz)).ok_or_else(unknown)
    }

    /// Seconds east of UTC at a moment.
    pub fn offset_at(&self, utc: i64) -> i64 {
        match self {
            Zone::Fixed(seconds) => *seconds as i64,
            Zone::Named(tz) => tz.offset_from_utc_datetime(&naive(utc)).fix().local_minus_utc() as i64,
        }
    }

    /// The zone's abbreviation at a moment.
    pub fn abbreviation_at(&self, utc: i64) -> String {
        match self {
            Zone::Fixed(0) => "UTC".into(),
            Zone::Fixed(seconds) => offset_text(*seconds as i64),
            Zone::Named(tz) => tz
                .offset_from_utc_datetime(&naive(utc))
                .abbreviation()
                .map_or_else(|| offset_text(self.offset_at(utc)), str::to_string),
        }
    }

    /// The wall clock at a moment.
    pub fn to_local(&self, utc: i64) -> i64 {
        if is_infinite(utc) { utc } else { utc.saturating_add(self.offset_at(utc) * SECOND) }
    }

    /// The moment of a wall clock time. In the hour that an autumn repeats it is the later one, in the hour that a
    /// spring skips it is read with the offset before, as Postgres does.
    pub fn to_utc(&self, local: i64) -> i64 {
        if is_infinite(local) {
            return local;
        }
        let offset = match self {
            Zone::Fixed(seconds) => *seconds as i64,
            Zone::Named(tz) => {
                let seconds = |offset: &<Tz as TimeZone>::Offset| offset.fix().local_minus_utc() as i64;
                match tz.offset_from_local_datetime(&naive(local)) {
                    chrono::LocalResult::Single(offset) => seconds(&offset),
                    chrono::LocalResult::Ambiguous(_, later) => seconds(&later),
                    chrono::LocalResult::None => self.offset_at(self.to_utc(local - 3 * HOUR)),
                }
            }
        };
        local.saturating_sub(offset * SECOND)
    }
}

/// Whether it is one of the infinities.
pub fn is_infinite(timestamp: i64) -> bool {
    timestamp == i64::MAX || timestamp == i64::MIN
}

/// Chrono's form of a moment; far away years are read as the last ones that it knows, whose zones are the same.
fn naive(micros: i64) -> NaiveDateTime {
    DateTime::from_timestamp_micros(micros).map(|t| t.naive_utc()).unwrap_or_else(|| {
        let year = if micros > 0 { 262_000 } else { -262_000 };
        NaiveDate::from_ymd_opt(year, 1, 1).and_then(|d| d.and_hms_opt(0, 0, 0)).expect("a day that chrono knows")
    })
}

/// `+05`, `-03:30`, `+05:41:16` and `+0530` in seconds.
fn parse_offset(text: &str) -> Option<i32> {
    let (sign, body) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    if body.is_empty() || !body.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let parts: Vec<&str> = match body.contains(':') {
        true => body.split(':').collect(),
        false if body.len() <= 2 => vec![body],
        false if body.len() <= 4 => vec![&body[..body.len() - 2], &body[body.len() - 2..]],
        false if body.len() == 6 => vec![&body[..2], &body[2..4], &body[4..]],
        false => return None,
    };
    let mut seconds = 0;
    for (part, unit) in parts.iter().zip([3600, 60, 1]) {
        seconds += part.parse::<i32>().ok()? * unit;
    }
    (parts.len() <= 3 && seconds < 16 * 3600).then_some(sign * seconds)
}

/// `+02`, `+05:30`, `-00:01:15`
pub fn offset_text(seconds: i64) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let s = seconds.abs();
    let mut text = format!("{sign}{:02}", s / 3600);
    if s % 3600 != 0 {
        write!(text, ":{:02}", s / 60 % 60).expect("to a string");
    }
    if s % 60 != 0 {
        write!(text, ":{:02}", s % 60).expect("to a string");
    }
    text
}

fn push_padded(out: &mut String, value: i64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value);
    for _ in digits.len()..width {
        out.push('0');
    }
    out.push_str(digits);
}

fn push_civil(out: &mut String, days: i64) -> bool {
    let (year, month, day) = civil_from_days(days);
    let bc = year <= 0;
    push_padded(out, if bc { 1 - year } else { year }, 4);
    out.push('-');
    push_padded(out, month, 2);
    out.push('-');
    push_padded(out, day, 2);
    bc
}

/// Writes a date as ISO does: `2026-11-21`, `0044-03-15 BC`, `infinity`.
pub fn write_date(days: i32, out: &mut String) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        _ => {
            if push_civil(out, days as i64) {
                out.push_str(" BC");
            }
        }
    }
}

/// Writes a time of day: `04:05:06.789`.
pub fn write_time(micros: i64, out: &mut String) {
    push_padded(out, micros / HOUR, 2);
    out.push(':');
    push_padded(out, micros / MINUTE % 60, 2);
    out.push(':');
    push_padded(out, micros / SECOND % 60, 2);
    push_fraction(micros % SECOND, out);
}

fn push_fraction(micros: i64, out: &mut String) {
    if micros != 0 {
        out.push('.');
        push_padded(out, micros, 6);
        while out.ends_with('0') {
            out.pop();
        }
    }
}

fn push_timestamp(local: i64, out: &mut String) -> bool {
    let bc = push_civil(out, local.div_euclid(DAY));
    out.push(' ');
    write_time(local.rem_euclid(DAY), out);
    bc
}

fn push_infinity(timestamp: i64, out: &mut String) -> bool {
    match timestamp {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        _ => return false,
    }
    true
}

/// Writes a timestamp without zone.
pub fn write_timestamp(micros: i64, out: &mut String) {
    if !push_infinity(micros, out) && push_timestamp(micros, out) {
        out.push_str(" BC");
    }
}

/// Writes a timestamp with time zone as its wall clock in `zone` with the offset.
pub fn write_timestamptz(utc: i64, zone: &Zone, out: &mut String) {
    if push_infinity(utc, out) {
        return;
    }
    let offset = zone.offset_at(utc);
    let bc = push_timestamp(utc.saturating_add(offset * SECOND), out);
    out.push_str(&offset_text(offset));
    if bc {
        out.push_str(" BC");
    }
}

/// Writes an interval in the style `postgres`: `1 year 2 mons -3 days +04:05:06.789`.
pub fn write_interval(interval: Interval, out: &mut String) {
    let (mut first, mut before) = (true, false);
    let months = interval.months as i64;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (interval.days as i64, "day")] {
        if value == 0 {
            continue;
        }
        let (space, plus) = (if first { "" } else { " " }, if before && value > 0 { "+" } else { "" });
        write!(out, "{space}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" }).expect("to a string");
        (first, before) = (false, value < 0);
    }
    if first || interval.micros != 0 {
        out.push_str(if first { "" } else { " " });
        out.push_str(match interval.micros < 0 {
            true => "-",
            false if before => "+",
            false => "",
        });
        let micros = interval.micros.unsigned_abs();
        write!(out, "{:02}:", micros / HOUR as u64).expect("to a string");
        push_padded(out, (micros / MINUTE as u64 % 60) as i64, 2);
        out.push(':');
        push_padded(out, (micros / SECOND as u64 % 60) as i64, 2);
        push_fraction((micros % SECOND as u64) as i64, out);
    }
}

/// Writes an interval in the style `iso_8601`: `P1Y2M-3DT4H5M6.789S`.
pub fn write_iso_interval(interval: Interval, out: &mut String) {
    let months = interval.months as i64;
    let (hours, minutes) = (interval.micros / HOUR, interval.micros / MINUTE % 60);
    let micros = interval.micros % MINUTE;
    if months == 0 && interval.days == 0 && interval.micros == 0 {
        return out.push_str("PT0S");
    }
    out.push('P');
    let part = |out: &mut String, value: i64, unit: char| {
        if value != 0 {
            write!(out, "{value}{unit}").expect("to a string");
        }
    };
    part(out, months / 12, 'Y');
    part(out, months % 12, 'M');
    part(out, interval.days as i64, 'D');
    if interval.micros != 0 {
        out.push('T');
        part(out, hours, 'H');
        part(out, minutes, 'M');
        if micros != 0 {
            let sign = if micros < 0 { "-" } else { "" };
            write!(out, "{sign}{}", micros.unsigned_abs() / SECOND as u64).expect("to a string");
            push_fraction(micros.abs() % SECOND, out);
            out.push('S');
        }
    }
}

/// The month that a name or its first three letters mean.
pub fn month_named(word: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let word = word.to_ascii_lowercase();
    if word == "sept" {
        return Some(9);
    }
    MONTHS.iter().position(|m| *m == word || (word.len() == 3 && m[..3] == word)).map(|i| i as i64 + 1)
}

fn is_day_name(word: &str) -> bool {
    const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    DAYS.iter().any(|d| *d == word || (word.len() >= 3 && d.starts_with(word)))
}

/// What a text says about a moment.
#[derive(Default)]
struct Moment {
    date: Option<(i64, i64, i64)>,
    time: Option<i64>,
    zone: Option<Zone>,
    special: Option<&'static str>,
}

/// Which of the three kinds of text is read: it decides the words of the errors.
struct Reading<'a> {
    text: &'a str,
    type_name: &'static str,
}

impl Reading<'_> {
    fn syntax(&self) -> EvalError {
        error("22007", format!("invalid input syntax for type {}: \"{}\"", self.type_name, self.text))
    }

    fn field(&self) -> EvalError {
        error("22008", format!("date/time field value out of range: \"{}\"", self.text))
    }

    /// Splits at blanks and reads each word as a part of a date, a time or a zone.
    fn moment(&self) -> Result<Moment, EvalError> {
        let mut moment = Moment::default();
        let (mut numbers, mut month): (Vec<&str>, Option<i64>) = (Vec::new(), None);
        let (mut bc, mut half) = (false, None);
        let lower = self.text.trim().to_ascii_lowercase();
        if lower.is_empty() {
            return Err(self.syntax());
        }
        for word in lower.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()) {
            // `2026-11-21T10:00`: the T parts date and time.
            let mut parts = vec![word];
            if let Some(at) = word.find('t')
                && at > 0
                && word.as_bytes()[at - 1].is_ascii_digit()
                && word.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit)
            {
                parts = vec![&word[..at], &word[at + 1..]];
            }
            for part in parts {
                match part {
                    "epoch" | "infinity" | "-infinity" | "now" | "today" | "tomorrow" | "yesterday" => {
                        moment.special = Some(match part {
                            "epoch" => "epoch",
                            "infinity" => "infinity",
                            "-infinity" => "-infinity",
                            "now" => "now",
                            "today" => "today",
                            "tomorrow" => "tomorrow",
                            _ => "yesterday",
                        });
                    }
                    "bc" => bc = true,
                    "ad" | "allballs" => {}
                    "am" | "pm" => half = Some(part == "pm"),
                    _ if is_day_name(part) => {}
                    _ if let Some(named) = month_named(part) => month = Some(named),
                    _ if part.starts_with(|c: char| c.is_ascii_digit()) => {
                        if part.contains(':') {
                            self.time(part, &mut moment)?;
                        } else {
                            self.date(part, &mut moment, &mut numbers, &mut month)?;
                        }
                    }
                    _ if part.starts_with(['+', '-']) && moment.time.is_some() => {
                        moment.zone = Some(Zone::Fixed(parse_offset(part).ok_or_else(|| self.syntax())?));
                    }
                    _ => {
                        moment.zone =
                            Some(Zone::parse(part).map_err(
                                |unknown| {
                                    if part.contains('/') { unknown } else { self.syntax() }
                                },
                            )?)
                    }
                }
            }
        }
        self.numbers(&mut moment, &numbers, month)?;
        if let (Some(pm), Some(time)) = (half, &mut moment.time) {
            if *time >= 13 * HOUR {
                return Err(self.field());
            }
            *time = *time % (12 * HOUR) + if pm { 12 * HOUR } else { 0 };
        }
        if let Some((year, month, day)) = &mut moment.date {
            if bc {
                if *year <= 0 {
                    return Err(self.field());
                }
                *year = 1 - *year;
            } else if *year == 0 {
                return Err(self.field());
            }
            if !(1..=12).contains(month) || *day < 1 || *day > days_in_month(*year, *month) {
                return Err(self.field());
            }
        }
        Ok(moment)
    }

    fn number(&self, digits: &str) -> Result<i64, EvalError> {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.syntax());
        }
        digits.parse().map_err(|_| self.field())
    }

    /// A number or a group of them with `-`, `/` or `.` between.
    fn date<'a>(
        &self,
        part: &'a str,
        moment: &mut Moment,
        numbers: &mut Vec<&'a str>,
        month: &mut Option<i64>,
    ) -> Result<(), EvalError> {
        let pieces: Vec<&str> = part.split(['-', '/', '.']).collect();
        match pieces[..] {
            [year, m, d] if year.len() >= 3 => {
                let m = month_named(m).map_or_else(|| self.number(m), Ok)?;
                moment.date = Some((self.number(year)?, m, self.number(d)?));
            }
            [d, m, year] if let Some(m) = month_named(m) => {
                moment.date = Some((self.short_year(year)?, m, self.number(d)?));
            }
            // The date style is MDY.
            [m, d, year] => moment.date = Some((self.short_year(year)?, self.number(m)?, self.number(d)?)),
            [digits] if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.len() {
                8 if month.is_none() && moment.date.is_none() => {
                    let n = self.number(digits)?;
                    moment.date = Some((n / 10_000, n / 100 % 100, n % 100));
                }
                6 if moment.date.is_some() => {
                    let n = self.number(digits)?;
                    self.clock(moment, n / 10_000, n / 100 % 100, (n % 100) * SECOND)?;
                }
                6 if month.is_none() && numbers.is_empty() => {
                    let n = self.number(digits)?;
                    moment.date = Some((self.short_year(&digits[..2])?, n / 100 % 100, n % 100));
                }
                _ => numbers.push(digits),
            },
            // `10pm`, `100000+02`
            _ => return Err(self.syntax()),
        }
        Ok(())
    }

    fn short_year(&self, digits: &str) -> Result<i64, EvalError> {
        let year = self.number(digits)?;
        Ok(match (digits.len(), year) {
            (1 | 2, 0..70) => year + 2000,
            (1 | 2, _) => year + 1900,
            _ => year,
        })
    }

    /// What stood alone: `Nov 21 2026`, `21 Nov 2026`, `2026 Nov 21`.
    fn numbers(&self, moment: &mut Moment, numbers: &[&str], month: Option<i64>) -> Result<(), EvalError> {
        match (month, numbers) {
            (None, []) => Ok(()),
            (Some(month), [a, b]) if moment.date.is_none() => {
                let (year, day) = if a.len() >= 3 { (a, b) } else { (b, a) };
                moment.date = Some((self.short_year(year)?, month, self.number(day)?));
                Ok(())
            }
            _ => Err(self.syntax()),
        }
    }

    fn clock(&self, moment: &mut Moment, hour: i64, minute: i64, micros: i64) -> Result<(), EvalError> {
        if hour > 24 || minute > 59 || micros > 60 * SECOND {
            return Err(self.field());
        }
        let time = hour * HOUR + minute * MINUTE + micros;
        if time > DAY {
            return Err(self.field());
        }
        moment.time = Some(time);
        Ok(())
    }

    /// `10:00`, `10:00:01.5`, with the zone behind it: `+02`, `z`, `pm`.
    fn time(&self, part: &str, moment: &mut Moment) -> Result<(), EvalError> {
        let end = part.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(part.len());
        let (clock, zone) = part.split_at(end);
        let pieces: Vec<&str> = clock.split(':').collect();
        let minute = pieces.get(1).ok_or_else(|| self.syntax())?;
        let (hour, minute) = (self.number(pieces[0])?, self.number(minute)?);
        let micros = match pieces.get(2) {
            None => 0,
            Some(seconds) => {
                let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
                let whole = self.number(whole)?.checked_mul(SECOND).ok_or_else(|| self.field())?;
                whole.saturating_add(fraction_micros(fraction).ok_or_else(|| self.syntax())?)
            }
        };
        if pieces.len() > 3 {
            return Err(self.syntax());
        }
        self.clock(moment, hour, minute, micros)?;
        match zone {
            "" => {}
            "am" | "pm" => {
                if hour > 12 {
                    return Err(self.field());
                }
                let time = moment.time.unwrap_or(0) % (12 * HOUR);
                moment.time = Some(time + if zone == "pm" { 12 * HOUR } else { 0 });
            }
            zone => {
                let offset = parse_offset(zone).map(Zone::Fixed);
                moment.zone = Some(offset.map_or_else(|| Zone::parse(zone).map_err(|_| self.syntax()), Ok)?);
            }
        }
        Ok(())
    }

    /// Days since 1970-01-01.
    fn days(&self, date: (i64, i64, i64), days_max: i64, what: &str) -> Result<i64, EvalError> {
        let days = days_from_civil(date.0, date.1, date.2);
        if !(DAYS_MIN..=days_max).contains(&days) {
            return Err(error("22008", format!("{what} out of range: \"{}\"", self.text)));
        }
        Ok(days)
    }
}

/// Microseconds of the digits behind a point, rounded.
fn fraction_micros(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut micros = 0;
    for i in 0..6 {
        micros = micros * 10 + digits.as_bytes().get(i).map_or(0, |b| (b - b'0') as i64);
    }
    Some(micros + digits.as_bytes().get(6).is_some_and(|b| *b >= b'5') as i64)
}

/// Words like `now` and `today` need a clock, which a stored expression does not have.
fn clock_word(word: &str, text: &str, now: Option<i64>) -> Result<i64, EvalError> {
    let now = now.ok_or_else(|| {
        error("0A000", format!("the date/time value \"{}\" is not supported here: use now()", text.trim()))
    })?;
    Ok(match word {
        "now" => now,
        "today" => now.div_euclid(DAY) * DAY,
        "tomorrow" => (now.div_euclid(DAY) + 1) * DAY,
        _ => (now.div_euclid(DAY) - 1) * DAY,
    })
}

/// Reads a date. `now` is the statement's time on the session's wall clock.
pub fn read_date(text: &str, now: Option<i64>) -> Result<i32, EvalError> {
    let reading = Reading { text, type_name: "date" };
    let moment = reading.moment()?;
    match (moment.special, moment.date) {
        (Some("infinity"), None) => Ok(i32::MAX),
        (Some("-infinity"), None) => Ok(i32::MIN),
        (Some("epoch"), None) => Ok(0),
        (Some(word), None) => Ok(clock_word(word, text, now)?.div_euclid(DAY) as i32),
        (None, Some(date)) => Ok(reading.days(date, DATE_DAYS_MAX, "date")? as i32),
        _ => Err(reading.syntax()),
    }
}

/// Reads a time of day.
pub fn read_time(text: &str, typmod: i32) -> Result<i64, EvalError> {
    let reading = Reading { text, type_name: "time" };
    let moment = reading.moment()?;
    let time = match (moment.time, moment.special) {
        (Some(time), None) => time,
        _ => return Err(reading.syntax()),
    };
    Ok(round_to(time, typmod).min(DAY))
}

/// Rounds microseconds to the digits of a modifier, half away from zero.
pub fn round_to(micros: i64, typmod: i32) -> i64 {
    if !(0..6).contains(&typmod) || is_infinite(micros) {
        return micros;
    }
    let unit = 10i64.pow(6 - typmod as u32);
    let half = if micros < 0 { -unit / 2 } else { unit / 2 };
    micros.saturating_add(half) / unit * unit
}

/// Reads a timestamp; a zone in the text is ignored, as Postgres does.
pub fn read_timestamp(text: &str, typmod: i32, now: Option<i64>) -> Result<i64, EvalError> {
    let (local, _) = read_moment(text, "timestamp", now)?;
    Ok(round_to(local, typmod))
}

/// Reads a timestamp with time zone; without a zone in the text it is a wall clock time in `zone`.
pub fn read_timestamptz(text: &str, typmod: i32, zone: &Zone, now: Option<i64>) -> Result<i64, EvalError> {
    let (local, own) = read_moment(text, "timestamp with time zone", now.map(|now| zone.to_local(now)))?;
    Ok(round_to(own.unwrap_or(*zone).to_utc(local), typmod))
}

fn read_moment(text: &str, type_name: &'static str, now: Option<i64>) -> Result<(i64, Option<Zone>), EvalError> {
    let reading = Reading { text, type_name };
    let moment = reading.moment()?;
    match (moment.special, moment.date) {
        (Some("infinity"), None) => Ok((i64::MAX, None)),
        (Some("-infinity"), None) => Ok((i64::MIN, None)),
        (Some("epoch"), None) => Ok((0, Some(UTC))),
        (Some(word), None) => Ok((clock_word(word, text, now)? + moment.time.unwrap_or(0), moment.zone)),
        (None, Some(date)) => {
            let days = reading.days(date, i32::MAX as i64, "timestamp")?;
            let micros = days.checked_mul(DAY).and_then(|d| d.checked_add(moment.time.unwrap_or(0)));
            let micros = micros.ok_or_else(|| error("22008", format!("timestamp out of range: \"{text}\"")))?;
            Ok((micros, moment.zone))
        }
        _ => Err(reading.syntax()),
    }
}

/// One unit of an interval's text: what it adds per whole unit, and what a fraction of it spills into.
enum Unit {
    Months(i64),
    Days(i64),
    Micros(i64),
}

fn unit_named(word: &str) -> Option<Unit> {
    Some(match word {
        "microsecond" | "microseconds" | "us" | "usec" | "usecs" | "usecond" | "useconds" => Unit::Micros(1),
        "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" | "msecond" | "mseconds" => Unit::Micros(1000),
        "second" | "seconds" | "s" | "sec" | "secs" => Unit::Micros(SECOND),
        "minute" | "minutes" | "m" | "min" | "mins" => Unit::Micros(MINUTE),
        "hour" | "hours" | "h" | "hr" | "hrs" => Unit::Micros(HOUR),
        "day" | "days" | "d" => Unit::Days(1),
        "week" | "weeks" | "w" => Unit::Days(7),
        "month" | "months" | "mon" | "mons" => Unit::Months(1),
        "year" | "years" | "y" | "yr" | "yrs" => Unit::Months(12),
        "decade" | "decades" | "dec" | "decs" => Unit::Months(120),
        "century" | "centuries" | "c" | "cent" => Unit::Months(1200),
        "millennium" | "millennia" | "mil" | "mils" => Unit::Months(12_000),
        _ => return None,
    })
}

/// Adds `value` units. A fraction of a month is days of 30, a fraction of a day is time.
fn add_units(total: &mut (i64, i64, i64), value: f64, unit: &Unit) -> Option<()> {
    let (whole, fraction) = (value.trunc(), value.fract());
    let add = |field: &mut i64, n: f64| -> Option<()> {
        if n.abs() >= i64::MAX as f64 {
            return None;
        }
        *field = field.checked_add(n as i64)?;
        Some(())
    };
    match unit {
        Unit::Months(months) => {
            let months = *months as f64;
            add(&mut total.0, whole * months)?;
            if months == 1.0 {
                let days = fraction * 30.0;
                add(&mut total.1, days.trunc())?;
                add(&mut total.2, (days.fract() * DAY as f64).round())
            } else {
                // Postgres rounds a fraction of years to months.
                add(&mut total.0, (fraction * months).round())
            }
        }
        Unit::Days(days) => {
            let days = *days as f64;
            add(&mut total.1, whole * days)?;
            let rest = fraction * days;
            add(&mut total.1, rest.trunc())?;
            add(&mut total.2, (rest.fract() * DAY as f64).round())
        }
        Unit::Micros(micros) => {
            total.2 = total.2.checked_add((whole as i64).checked_mul(*micros)?)?;
            add(&mut total.2, (fraction * *micros as f64).round())
        }
    }
}

/// Reads an interval: `1 day 02:03:04`, `1-2`, `P1Y2M3DT4H5M6S`, `3 hours ago`; `typmod` may say what a bare number is.
pub fn read_interval(text: &str, typmod: i32) -> Result<Interval, EvalError> {
    let syntax = || error("22007", format!("invalid input syntax for type interval: \"{text}\""));
    let range = || error("22015", format!("interval field value out of range: \"{text}\""));
    let (fields, precision) = super::interval_typmod(typmod);
    let last = fields.map_or("SECOND", |f| f.rsplit(' ').next().unwrap_or(f)).to_ascii_lowercase();
    let lower = text.trim().to_ascii_lowercase();
    let mut total = (0i64, 0i64, 0i64);
    if let Some(iso) = lower.strip_prefix('p') {
        read_iso_interval(iso, &mut total).ok_or_else(syntax)?;
    } else {
        let mut words: Vec<&str> = lower.split_whitespace().filter(|w| *w != "@").collect();
        let ago = words.last() == Some(&"ago");
        if ago {
            words.pop();
        }
        if words.is_empty() {
            return Err(syntax());
        }
        let mut at = 0;
        while at < words.len() {
            let word = words[at];
            at += 1;
            if word.contains(':') {
                let time = read_clock(word, fields).ok_or_else(syntax)?;
                total.2 = total.2.checked_add(time).ok_or_else(range)?;
                continue;
            }
            // `1day` as `1 day`.
            let digits = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
            let (number, mut unit) = word.split_at(digits);
            if number.is_empty() {
                return Err(syntax());
            }
            if let Some((years, months)) = year_month(number) {
                total.0 += years * 12 + months;
                continue;
            }
            let value: f64 = number.parse().map_err(|_| syntax())?;
            if !number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+')) {
                return Err(syntax());
            }
            if unit.is_empty() {
                match words.get(at) {
                    Some(next) if next.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                        unit = next;
                        at += 1;
                    }
                    // `1 02:03:04` is a day and a time.
                    Some(next) if next.contains(':') => unit = "day",
                    Some(_) => return Err(syntax()),
                    None => unit = &last,
                }
            }
            let unit = unit_named(unit).ok_or_else(syntax)?;
            // A whole number of microseconds must not go through a double.
            if let (Unit::Micros(micros), Ok(whole)) = (&unit, number.parse::<i64>()) {
                let add = whole.checked_mul(*micros).ok_or_else(range)?;
                total.2 = total.2.checked_add(add).ok_or_else(range)?;
            } else {
                add_units(&mut total, value, &unit).ok_or_else(range)?;
            }
        }
        if ago {
            total = (-total.0, -total.1, -total.2);
        }
    }
    let interval = Interval {
        months: total.0.try_into().map_err(|_| range())?,
        days: total.1.try_into().map_err(|_| range())?,
        micros: total.2,
    };
    let _ = precision;
    apply_interval_typmod(interval, typmod)
}

/// `1-2`: one year and two months.
fn year_month(word: &str) -> Option<(i64, i64)> {
    let (sign, body) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (years, months) = body.split_once('-')?;
    let months: i64 = months.parse().ok().filter(|m| (0..12).contains(m))?;
    Some((sign * years.parse::<i64>().ok()?, sign * months))
}

/// `02:03`, `-02:03:04.5`; of two parts they are minutes and seconds if the type says MINUTE TO SECOND.
fn read_clock(word: &str, fields: Option<&str>) -> Option<i64> {
    let (sign, body) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let parts: Vec<&str> = body.split(':').collect();
    let minutes_first = parts.len() == 2 && (fields == Some("MINUTE TO SECOND") || parts[1].contains('.'));
    let (hours, minutes, seconds) = match parts[..] {
        [m, s] if minutes_first => ("0", m, s),
        [h, m] => (h, m, "0"),
        [h, m, s] => (h, m, s),
        _ => return None,
    };
    let digits = |s: &str| if s.bytes().all(|b| b.is_ascii_digit()) { s.parse::<i64>().ok() } else { None };
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let (hours, minutes, seconds) = (digits(hours)?, digits(minutes)?, digits(whole)?);
    if minutes > 59 || seconds > 60 {
        return None;
    }
    let time =
        hours.checked_mul(HOUR)?.checked_add(minutes * MINUTE + seconds * SECOND + fraction_micros(fraction)?)?;
    Some(sign * time)
}

/// What follows the P of ISO 8601.
fn read_iso_interval(text: &str, total: &mut (i64, i64, i64)) -> Option<()> {
    let (mut in_time, mut number) = (false, String::new());
    for c in text.chars() {
        match c {
            't' => in_time = true,
            '0'..='9' | '.' | '-' | '+' => number.push(c),
            unit => {
                let value: f64 = std::mem::take(&mut number).parse().ok()?;
                let unit = match (in_time, unit) {
                    (false, 'y') => Unit::Months(12),
                    (false, 'm') => Unit::Months(1),
                    (false, 'w') => Unit::Days(7),
                    (false, 'd') => Unit::Days(1),
                    (true, 'h') => Unit::Micros(HOUR),
                    (true, 'm') => Unit::Micros(MINUTE),
                    (true, 's') => Unit::Micros(SECOND),
                    _ => return None,
                };
                add_units(total, value, &unit)?;
            }
        }
    }
    (number.is_empty() && !text.is_empty()).then_some(())
}

/// Cuts an interval to the fields and digits of its modifier.
pub fn apply_interval_typmod(interval: Interval, typmod: i32) -> Result<Interval, EvalError> {
    let (fields, precision) = super::interval_typmod(typmod);
    let Interval { mut months, mut days, mut micros } = interval;
    match fields {
        Some("YEAR") => (months, days, micros) = (months / 12 * 12, 0, 0),
        Some("MONTH" | "YEAR TO MONTH") => (days, micros) = (0, 0),
        Some("DAY") => micros = 0,
        Some("HOUR" | "DAY TO HOUR") => micros = micros / HOUR * HOUR,
        Some("MINUTE" | "DAY TO MINUTE" | "HOUR TO MINUTE") => micros = micros / MINUTE * MINUTE,
        _ => {}
    }
    if let Some(precision) = precision {
        micros = round_to(micros, precision);
    }
    let interval = Interval { months, days, micros };
    interval.to_arrow()?;
    Ok(interval)
}
