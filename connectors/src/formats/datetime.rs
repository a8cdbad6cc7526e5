//! Dates, times and intervals as producers write them: ISO 8601, and Postgres' own forms.

/// Microseconds in a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Days since 1970-01-01 of a date in the Gregorian calendar; `None` if there is no such day.
pub fn days(year: i64, month: u32, day: u32) -> Option<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day == 0 || day > last {
        return None;
    }
    // March is the first month of this year, so that a leap day is the last of it.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    i32::try_from(days).ok()
}

/// A date: `2026-01-31`, `infinity`, `-infinity`.
pub fn date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(i32::MIN),
        _ => {}
    }
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    cursor.0.is_empty().then_some(days)
}

/// A time of day in microseconds: `23:59`, `23:59:59.123456`, `24:00:00`.
pub fn time(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let time = cursor.time()?;
    cursor.0.is_empty().then_some(time)
}

/// A point in time in microseconds since 1970 as written, and what to subtract for UTC, if an offset is given.
pub fn timestamp(text: &str) -> Option<(i64, Option<i64>)> {
    match text {
        "infinity" => return Some((i64::MAX, None)),
        "-infinity" => return Some((i64::MIN, None)),
        _ => {}
    }
    let mut cursor = Cursor(text.as_bytes());
    let date = i64::from(cursor.date()?).checked_mul(DAY_US)?;
    if cursor.0.is_empty() {
        return Some((date, None));
    }
    if !matches!(cursor.next()?, b'T' | b't' | b' ') {
        return None;
    }
    let at = date.checked_add(cursor.time()?)?;
    Some((at, cursor.offset()?))
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    /// Between `min` and `max` digits.
    fn number(&mut self, min: usize, max: usize) -> Option<i64> {
        let n = self.0.iter().take(max).take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(n);
        self.0 = rest;
        (n >= min).then(|| digits.iter().fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
    }

    fn date(&mut self) -> Option<i32> {
        let year = self.number(4, 6)?;
        if !self.eat(b'-') {
            return None;
        }
        let month = self.number(1, 2)?;
        if !self.eat(b'-') {
            return None;
        }
        let day = self.number(1, 2)?;
        days(year, month as u32, day as u32)
    }

    fn time(&mut self) -> Option<i64> {
        let hour = self.number(1, 2)?;
        if !self.eat(b':') {
            return None;
        }
        let minute = self.number(2, 2)?;
        let (mut second, mut fraction) = (0, 0);
        if self.eat(b':') {
            second = self.number(2, 2)?;
            if self.eat(b'.') {
                fraction = self.fraction()?;
            }
        }
        let valid = hour <= 24 && minute <= 59 && second <= 60;
        let time = ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction;
        (valid && time <= DAY_US).then_some(time)
    }

    /// Digits behind a point as microseconds, rounded.
    fn fraction(&mut self) -> Option<i64> {
        let n = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(n);
        self.0 = rest;
        if n == 0 {
            return None;
        }
        let mut micros = 0;
        for i in 0..6 {
            micros = micros * 10 + digits.get(i).map_or(0, |b| i64::from(b - b'0'));
        }
        Some(micros + i64::from(digits.get(6).is_some_and(|b| *b >= b'5')))
    }

    /// `Z`, `+02`, `+0200`, `-02:30`, or nothing; in microseconds.
    fn offset(&mut self) -> Option<Option<i64>> {
        while self.eat(b' ') {}
        if self.0.is_empty() {
            return Some(None);
        }
        if matches!(self.0, b"Z" | b"z" | b"UTC" | b"utc") {
            return Some(Some(0));
        }
        let sign = match self.next()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.number(2, 2)?;
        let minutes = if self.eat(b':') || !self.0.is_empty() { self.number(2, 2)? } else { 0 };
        let seconds = if self.eat(b':') { self.number(2, 2)? } else { 0 };
        let valid = self.0.is_empty() && hours <= 15 && minutes <= 59 && seconds <= 59;
        valid.then_some(Some(sign * (hours * 3600 + minutes * 60 + seconds) * 1_000_000))
    }
}

/// An interval as months, days and microseconds: `P1DT2H`, `1 day 02:00:00`, `3 months`.
pub fn interval(text: &str) -> Option<(i32, i32, i64)> {
    let text = text.trim();
    let (months, days, micros) = match text.strip_prefix('P') {
        Some(iso) => iso_interval(iso)?,
        None => postgres_interval(text)?,
    };
    Some((i32::try_from(months).ok()?, i32::try_from(days).ok()?, i64::try_from(micros).ok()?))
}

type Parts = (i64, i64, i128);

fn iso_interval(text: &str) -> Option<Parts> {
    let (mut sum, mut rest, mut in_time) = ((0, 0, 0), text, false);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, in_time) = (time, true);
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+'))?;
        let unit = rest[end..].chars().next()?;
        let name = match (unit, in_time) {
            ('Y', false) => "year",
            ('M', false) => "month",
            ('W', false) => "week",
            ('D', false) => "day",
            ('H', true) => "hour",
            ('M', true) => "minute",
            ('S', true) => "second",
            _ => return None,
        };
        add(&mut sum, &rest[..end], name, 1)?;
        rest = &rest[end + 1..];
    }
    Some(sum)
}

fn postgres_interval(text: &str) -> Option<Parts> {
    let mut sum = (0, 0, 0);
    let mut words = text.split_ascii_whitespace().peekable();
    let ago = text.ends_with(" ago");
    words.peek()?;
    while let Some(word) = words.next() {
        if word == "ago" && words.peek().is_none() {
            continue;
        }
        if word.contains(':') {
            let (sign, clock) = match word.strip_prefix('-') {
                Some(clock) => (-1, clock),
                None => (1, word.strip_prefix('+').unwrap_or(word)),
            };
            let mut parts = clock.split(':');
            add(&mut sum, parts.next()?, "hour", sign)?;
            add(&mut sum, parts.next()?, "minute", sign)?;
            if let Some(seconds) = parts.next() {
                add(&mut sum, seconds, "second", sign)?;
            }
            if parts.next().is_some() {
                return None;
            }
            continue;
        }
        let split = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let unit = if split < word.len() { &word[split..] } else { words.next()? };
        add(&mut sum, &word[..split], unit, 1)?;
    }
    Some(if ago { (-sum.0, -sum.1, -sum.2) } else { sum })
}

/// Adds `number` times `unit`; a fraction goes on into the smaller units as Postgres does it.
fn add(sum: &mut Parts, number: &str, unit: &str, sign: i64) -> Option<()> {
    const SECOND: i128 = 1_000_000;
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite() && v.abs() < 1e15)?;
    let (whole, fraction) = (value.trunc() as i64 * sign, value.fract() * sign as f64);
    let micros = |per: i128| whole as i128 * per + (fraction * per as f64).round() as i128;
    let unit = unit.to_ascii_lowercase();
    match unit.strip_suffix('s').filter(|u| u.len() > 1).unwrap_or(&unit) {
        "year" | "yr" | "y" => sum.0 += whole * 12 + (fraction * 12.0).round() as i64,
        "month" | "mon" => {
            sum.0 += whole;
            sum.1 += (fraction * 30.0).round() as i64;
        }
        "week" | "w" => {
            sum.1 += whole * 7;
            sum.2 += (fraction * 7.0 * 86_400e6).round() as i128;
        }
        "day" | "d" => {
            sum.1 += whole;
            sum.2 += (fraction * 86_400e6).round() as i128;
        }
        "hour" | "hr" | "h" => sum.2 += micros(3600 * SECOND),
        "minute" | "min" | "m" => sum.2 += micros(60 * SECOND),
        "second" | "sec" | "s" => sum.2 += micros(SECOND),
        "millisecond" | "ms" | "msec" => sum.2 += micros(1000),
        "microsecond" | "us" | "usec" => sum.2 += micros(1),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dates_and_timestamps() {
        assert_eq!(date("1970-01-01"), Some(0));
        assert_eq!(date("2000-02-29"), Some(11_016));
        assert_eq!(date("1900-02-29"), None);
        assert_eq!(date("2026-13-01"), None);
        assert_eq!(date("1969-12-31"), Some(-1));
        assert_eq!(timestamp("1970-01-01 00:00:01.5"), Some((1_500_000, None)));
        assert_eq!(timestamp("1970-01-01T00:00:00.1234567Z"), Some((123_457, Some(0))));
        assert_eq!(timestamp("1970-01-02"), Some((DAY_US, None)));
        assert_eq!(timestamp("1970-01-01T01:00+01:00"), Some((3_600_000_000, Some(3_600_000_000))));
        assert_eq!(timestamp("1970-01-01 00:00:00-0330"), Some((0, Some(-12_600_000_000))));
        assert_eq!(timestamp("1970-01-01 00:00:00 x"), None);
        assert_eq!(timestamp("yesterday"), None);
        assert_eq!(time("23:59:59.999999"), Some(DAY_US - 1));
        assert_eq!(time("25:00"), None);
    }

    #[test]
    fn reads_intervals() {
        assert_eq!(interval("P1Y2M3DT4H5M6.5S"), Some((14, 3, 14_706_500_000)));
        assert_eq!(interval("1 day 02:03:04"), Some((0, 1, 7_384_000_000)));
        assert_eq!(interval("-00:00:01"), Some((0, 0, -1_000_000)));
        assert_eq!(interval("1.5 days"), Some((0, 1, 43_200_000_000)));
        assert_eq!(interval("3 mons ago"), Some((-3, 0, 0)));
        assert_eq!(interval("soon"), None);
    }
}
