//! Arithmetic and fields of dates, times, timestamps and intervals.

use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::arithmetic::{integer_range, num, zero};
use super::cast::{date_to_timestamp, timestamp_to_date};
use super::rows::*;
use super::{Definition, functions};
use crate::types::datetime::*;
use crate::types::error;

fn interval_range() -> EvalError {
    error("22008", "interval out of range")
}

fn date_range() -> EvalError {
    error("22008", "date out of range")
}

/// Adds months (the day clamped to the end of the month), then days, then time.
pub fn add(timestamp: i64, span: Interval) -> Row<i64> {
    if is_infinite(timestamp) {
        return Ok(timestamp);
    }
    let mut result = timestamp;
    if span.months != 0 {
        let (year, month, day) = civil_from_days(result.div_euclid(DAY));
        let months = year * 12 + month - 1 + span.months as i64;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        let days = days_from_civil(year, month, day.min(days_in_month(year, month)));
        result =
            days.checked_mul(DAY).and_then(|d| d.checked_add(result.rem_euclid(DAY))).ok_or_else(timestamp_range)?;
    }
    let days = (span.days as i64).checked_mul(DAY).ok_or_else(timestamp_range)?;
    result = result.checked_add(days).and_then(|r| r.checked_add(span.micros)).ok_or_else(timestamp_range)?;
    if is_infinite(result) { Err(timestamp_range()) } else { Ok(result) }
}

/// The same for a moment: months and days are those of the wall clock, time is that of a stop watch.
pub fn add_zoned(utc: i64, span: Interval, zone: &Zone) -> Row<i64> {
    let date = Interval { micros: 0, ..span };
    let moved = if date == Interval::default() { utc } else { zone.to_utc(add(zone.to_local(utc), date)?) };
    add(moved, Interval { months: 0, days: 0, micros: span.micros })
}

fn negate(span: Interval) -> Row<Interval> {
    Ok(Interval {
        months: span.months.checked_neg().ok_or_else(interval_range)?,
        days: span.days.checked_neg().ok_or_else(interval_range)?,
        micros: span.micros.checked_neg().ok_or_else(interval_range)?,
    })
}

fn add_spans(a: Interval, b: Interval) -> Row<Interval> {
    Ok(Interval {
        months: a.months.checked_add(b.months).ok_or_else(interval_range)?,
        days: a.days.checked_add(b.days).ok_or_else(interval_range)?,
        micros: a.micros.checked_add(b.micros).ok_or_else(interval_range)?,
    })
}

/// Multiplies or divides an interval; what is left of months spills into days of 30, of days into time.
fn scale(span: Interval, by: impl Fn(f64) -> f64) -> Row<Interval> {
    const DAY_SECONDS: f64 = 86_400.0;
    let round = |value: f64| (value * 1e6).round_ties_even() / 1e6;
    let (exact_months, exact_days) = (by(span.months as f64), by(span.days as f64));
    let (months, days) = (exact_months.trunc(), exact_days.trunc());
    let mut month_days = round((exact_months - months) * 30.0);
    let mut seconds = round((exact_days - days + month_days - month_days.trunc()) * DAY_SECONDS);
    // A whole day that came out of the fractions is a day.
    if seconds.abs() >= DAY_SECONDS {
        let full = (seconds / DAY_SECONDS).trunc();
        (month_days, seconds) = (month_days + full, seconds - full * DAY_SECONDS);
    }
    let days = days + month_days.trunc();
    let micros = (by(span.micros as f64) + seconds * 1e6).round_ties_even();
    let fits = |value: f64, limit: f64| value.abs() <= limit;
    if !fits(months, i32::MAX as f64) || !fits(days, i32::MAX as f64) || !fits(micros, 9.2e18) {
        return Err(interval_range());
    }
    Ok(Interval { months: months as i32, days: days as i32, micros: micros as i64 })
}

/// Days of 24 hours out of time.
fn justify_hours(span: Interval) -> Row<Interval> {
    let extra = span.micros / DAY;
    let days = i32::try_from(span.days as i64 + extra).map_err(|_| interval_range())?;
    let (mut days, mut micros) = (days, span.micros - extra * DAY);
    if days > 0 && micros < 0 {
        (days, micros) = (days - 1, micros + DAY);
    } else if days < 0 && micros > 0 {
        (days, micros) = (days + 1, micros - DAY);
    }
    Ok(Interval { days, micros, ..span })
}

/// Months of 30 days out of days.
fn justify_days(span: Interval) -> Row<Interval> {
    let months = span.months.checked_add(span.days / 30).ok_or_else(interval_range)?;
    let (mut months, mut days) = (months, span.days % 30);
    if months > 0 && days < 0 {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && days > 0 {
        (months, days) = (months + 1, days - 30);
    }
    Ok(Interval { months, days, ..span })
}

fn justify_interval(span: Interval) -> Row<Interval> {
    let extra = span.micros / DAY;
    let mut days = i32::try_from(span.days as i64 + extra).map_err(|_| interval_range())?;
    let mut micros = span.micros - extra * DAY;
    let mut months = span.months.checked_add(days / 30).ok_or_else(interval_range)?;
    days %= 30;
    if months > 0 && (days < 0 || (days == 0 && micros < 0)) {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && (days > 0 || (days == 0 && micros > 0)) {
        (months, days) = (months + 1, days - 30);
    }
    if days > 0 && micros < 0 {
        (days, micros) = (days - 1, micros + DAY);
    } else if days < 0 && micros > 0 {
        (days, micros) = (days + 1, micros - DAY);
    }
    Ok(Interval { months, days, micros })
}

/// `a - b` in days and time, no months.
fn difference(a: i64, b: i64) -> Row<Interval> {
    if is_infinite(a) || is_infinite(b) {
        return Err(error("22008", "cannot subtract infinite timestamps"));
    }
    let micros = a.checked_sub(b).ok_or_else(interval_range)?;
    justify_hours(Interval { months: 0, days: 0, micros })
}

/// `a - b` in years, months and days as one counts them in a calendar.
fn age(a: i64, b: i64) -> Row<Interval> {
    if is_infinite(a) || is_infinite(b) {
        return Err(error("22008", "interval out of range"));
    }
    if a < b {
        return negate(age(b, a)?);
    }
    let ((ya, ma, da), (yb, mb, db)) = (civil_from_days(a.div_euclid(DAY)), civil_from_days(b.div_euclid(DAY)));
    let (mut months, mut days) = ((ya - yb) * 12 + ma - mb, da - db);
    let mut micros = a.rem_euclid(DAY) - b.rem_euclid(DAY);
    if micros < 0 {
        (days, micros) = (days - 1, micros + DAY);
    }
    if days < 0 {
        // The length of the earlier date's month is what was borrowed.
        (months, days) = (months - 1, days + days_in_month(yb, mb));
    }
    Ok(Interval { months: months as i32, days: days as i32, micros })
}

/// How `extract` writes numbers: whole units without, seconds with six digits.
fn integer(value: i64) -> Numeric {
    Numeric::from_i64(value)
}

fn scaled(value: i128, scale: u8) -> Row<Numeric> {
    num(Numeric::new(value, scale))
}

fn unsupported_unit(unit: &str, type_name: &str) -> EvalError {
    error("0A000", format!("unit \"{unit}\" not supported for type {type_name}"))
}

fn unknown_unit(unit: &str, type_name: &str) -> EvalError {
    error("22023", format!("unit \"{unit}\" not recognized for type {type_name}"))
}

/// The unit that a word means, under its first name.
fn unit_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "microsecond" | "microseconds" | "us" | "usec" | "usecs" | "usecond" | "useconds" => "microseconds",
        "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" | "msecond" | "mseconds" => "milliseconds",
        "second" | "seconds" | "s" | "sec" | "secs" => "second",
        "minute" | "minutes" | "m" | "min" | "mins" => "minute",
        "hour" | "hours" | "h" | "hr" | "hrs" => "hour",
        "day" | "days" | "d" => "day",
        "week" | "weeks" | "w" => "week",
        "month" | "months" | "mon" | "mons" => "month",
        "quarter" | "qtr" => "quarter",
        "year" | "years" | "y" | "yr" | "yrs" => "year",
        "decade" | "decades" | "dec" | "decs" => "decade",
        "century" | "centuries" | "c" | "cent" => "century",
        "millennium" | "millennia" | "mil" | "mils" => "millennium",
        "dow" => "dow",
        "isodow" => "isodow",
        "doy" => "doy",
        "isoyear" => "isoyear",
        "julian" | "jd" => "julian",
        "epoch" => "epoch",
        "timezone" => "timezone",
        "timezone_h" | "timezone_hour" => "timezone_hour",
        "timezone_m" | "timezone_minute" => "timezone_minute",
        _ => return None,
    })
}

/// The fields of a day.
fn day_field(unit: &str, days: i64) -> Option<i64> {
    let (year, month, day) = civil_from_days(days);
    // There is no year 0: BC years count down from -1.
    let shown = if year > 0 { year } else { year - 1 };
    Some(match unit {
        "day" => day,
        "month" => month,
        "quarter" => (month - 1) / 3 + 1,
        "year" => shown,
        "decade" => year.div_euclid(10),
        "century" if year > 0 => (year + 99) / 100,
        "century" => -((99 - (year - 1)) / 100),
        "millennium" if year > 0 => (year + 999) / 1000,
        "millennium" => -((999 - (year - 1)) / 1000),
        "week" => iso_week(days).1,
        "isoyear" => {
            let year = iso_week(days).0;
            if year > 0 { year } else { year - 1 }
        }
        "dow" => day_of_week(days),
        "isodow" => (day_of_week(days) + 6) % 7 + 1,
        "doy" => days - days_from_civil(year, 1, 1) + 1,
        _ => return None,
    })
}

/// The fields of a time of day.
fn time_field(unit: &str, micros: i64) -> Row<Option<Numeric>> {
    let seconds = micros % MINUTE;
    Ok(Some(match unit {
        "microseconds" => integer(seconds),
        "milliseconds" => scaled(seconds as i128, 3)?,
        "second" => scaled(seconds as i128, 6)?,
        "minute" => integer(micros / MINUTE % 60),
        "hour" => integer(micros / HOUR),
        _ => return Ok(None),
    }))
}

/// Julian day, with its fraction if there is time.
fn julian(local: i64, with_time: bool) -> Row<Numeric> {
    let days = local.div_euclid(DAY) + 2_440_588;
    if !with_time {
        return Ok(integer(days));
    }
    let fraction = num(integer(local.rem_euclid(DAY)).div(&integer(DAY)))?;
    num(integer(days).add(&fraction))
}

/// A field of an infinite date: NULL if it goes round and round, infinity if it grows.
fn infinite_field(unit: &str, positive: bool) -> Option<Numeric> {
    let grows = matches!(unit, "year" | "decade" | "century" | "millennium" | "julian" | "isoyear" | "epoch");
    grows.then_some(if positive { Numeric::INFINITY } else { Numeric::NEGATIVE_INFINITY })
}

fn extract_timestamp(word: &str, local: i64, zone: Option<(i64, i64)>) -> Row<Option<Numeric>> {
    let type_name = if zone.is_some() { "timestamp with time zone" } else { "timestamp without time zone" };
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, type_name))?;
    if unit.starts_with("timezone") && zone.is_none() {
        return Err(unsupported_unit(&word, type_name));
    }
    if is_infinite(local) {
        return Ok(infinite_field(unit, local > 0));
    }
    if let Some(days) = day_field(unit, local.div_euclid(DAY)) {
        return Ok(Some(integer(days)));
    }
    if let Some(time) = time_field(unit, local.rem_euclid(DAY))? {
        return Ok(Some(time));
    }
    let (utc, offset) = zone.unwrap_or((local, 0));
    Ok(Some(match unit {
        "julian" => julian(local, true)?,
        "epoch" => scaled(utc as i128, 6)?,
        "timezone" => integer(offset),
        "timezone_hour" => integer(offset / 3600),
        _ => integer(offset / 60 % 60),
    }))
}

fn extract_date(word: &str, days: i32) -> Row<Option<Numeric>> {
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, "date"))?;
    let field = day_field(unit, days as i64);
    if field.is_none() && !matches!(unit, "julian" | "epoch") {
        return Err(unsupported_unit(&word, "date"));
    }
    if days == i32::MAX || days == i32::MIN {
        return Ok(infinite_field(unit, days > 0));
    }
    Ok(Some(match (field, unit) {
        (Some(value), _) => integer(value),
        (None, "julian") => integer(days as i64 + 2_440_588),
        (None, _) => integer(days as i64 * 86_400),
    }))
}

fn extract_time(word: &str, micros: i64) -> Row<Numeric> {
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, "time without time zone"))?;
    match (time_field(unit, micros)?, unit) {
        (Some(value), _) => Ok(value),
        (None, "epoch") => scaled(micros as i128, 6),
        _ => Err(unsupported_unit(&word, "time without time zone")),
    }
}

fn extract_interval(word: &str, span: Interval) -> Row<Numeric> {
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, "interval"))?;
    if unit == "hour" {
        return Ok(integer(span.micros / HOUR));
    }
    if let Some(time) = time_field(unit, span.micros)? {
        return Ok(time);
    }
    let months = span.months as i64;
    Ok(match unit {
        "day" => integer(span.days as i64),
        "month" => integer(months % 12),
        "quarter" => integer(months % 12 / 3 + 1),
        "year" => integer(months / 12),
        "decade" => integer(months / 120),
        "century" => integer(months / 1200),
        "millennium" => integer(months / 12_000),
        // Years of 365.25 days, months of 30.
        "epoch" => {
            let days = (months / 12) as i128 * 1461 * 6 + ((months % 12) as i128 * 30 + span.days as i128) * 24;
            scaled(days * HOUR as i128 + span.micros as i128, 6)?
        }
        _ => return Err(unsupported_unit(&word, "interval")),
    })
}

/// The start of the unit that a wall clock time lies in.
fn truncate(word: &str, local: i64, type_name: &str) -> Row<i64> {
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, type_name))?;
    let floor = |size: i64| local.div_euclid(size) * size;
    let days = local.div_euclid(DAY);
    let (year, month, _) = civil_from_days(days);
    let start = |year: i64, month: i64| days_from_civil(year, month, 1).checked_mul(DAY).ok_or_else(timestamp_range);
    // Centuries begin with the year 1.
    let century =
        |size: i64| if year > 0 { (year - 1).div_euclid(size) * size + 1 } else { -((-year) / size * size + size - 1) };
    if is_infinite(local) && !matches!(unit, "dow" | "isodow" | "doy" | "isoyear" | "julian" | "epoch") {
        return Ok(local);
    }
    Ok(match unit {
        "microseconds" => local,
        "milliseconds" => floor(1000),
        "second" => floor(SECOND),
        "minute" => floor(MINUTE),
        "hour" => floor(HOUR),
        "day" => floor(DAY),
        "week" => (days - (day_of_week(days) + 6) % 7) * DAY,
        "month" => start(year, month)?,
        "quarter" => start(year, (month - 1) / 3 * 3 + 1)?,
        "year" => start(year, 1)?,
        "decade" => start(year.div_euclid(10) * 10, 1)?,
        "century" => start(century(100), 1)?,
        "millennium" => start(century(1000), 1)?,
        _ => return Err(unsupported_unit(&word, type_name)),
    })
}

fn truncate_interval(word: &str, span: Interval) -> Row<Interval> {
    let word = word.to_lowercase();
    let unit = unit_of(&word).ok_or_else(|| unknown_unit(&word, "interval"))?;
    let Interval { months, days, micros } = span;
    let of_months = |size: i32| Interval { months: months / size * size, days: 0, micros: 0 };
    let of_time = |size: i64| Interval { months, days, micros: micros / size * size };
    Ok(match unit {
        "microseconds" => span,
        "milliseconds" => of_time(1000),
        "second" => of_time(SECOND),
        "minute" => of_time(MINUTE),
        "hour" => of_time(HOUR),
        "day" => Interval { months, days, micros: 0 },
        "month" => of_months(1),
        "quarter" => of_months(3),
        "year" => of_months(12),
        "decade" => of_months(120),
        "century" => of_months(1200),
        "millennium" => of_months(12_000),
        "week" => {
            return Err(error("0A000", "unit \"week\" not supported for type interval"));
        }
        _ => return Err(unsupported_unit(&word, "interval")),
    })
}

fn bin(stride: Interval, source: i64, origin: i64) -> Row<i64> {
    if is_infinite(source) {
        return Ok(source);
    }
    if is_infinite(origin) {
        return Err(error("22008", "origin out of range"));
    }
    if stride.months != 0 {
        return Err(error("0A000", "timestamps cannot be binned into intervals containing months or years"));
    }
    let size = stride.days as i128 * DAY as i128 + stride.micros as i128;
    if size <= 0 {
        return Err(error("22008", "stride must be greater than zero"));
    }
    let result = (source as i128 - origin as i128).div_euclid(size) * size + origin as i128;
    i64::try_from(result).map_err(|_| timestamp_range())
}

fn make_date(year: i32, month: i32, day: i32) -> Row<i32> {
    let shown = || error("22008", format!("date field value out of range: {year}-{month:02}-{day:02}"));
    let y = if year < 0 { year as i64 + 1 } else { year as i64 };
    if year == 0 || !(1..=12).contains(&month) || day < 1 || day as i64 > days_in_month(y, month as i64) {
        return Err(shown());
    }
    i32::try_from(days_from_civil(y, month as i64, day as i64)).map_err(|_| shown())
}

fn make_time(hour: i32, minute: i32, seconds: f64) -> Row<i64> {
    let shown = || error("22008", format!("time field value out of range: {hour}:{minute:02}:{seconds:02}"));
    let micros = (seconds * 1e6).round_ties_even();
    if seconds.is_nan() || hour < 0 || !(0..60).contains(&minute) || !(0.0..=60e6).contains(&micros) {
        return Err(shown());
    }
    let time = hour as i64 * HOUR + minute as i64 * MINUTE + micros as i64;
    if time > DAY { Err(shown()) } else { Ok(time) }
}

fn make_timestamp(year: i32, month: i32, day: i32, hour: i32, minute: i32, seconds: f64) -> Row<i64> {
    let days = make_date(year, month, day)?;
    (days as i64)
        .checked_mul(DAY)
        .and_then(|d| d.checked_add(make_time(hour, minute, seconds).ok()?))
        .ok_or_else(|| make_time(hour, minute, seconds).err().unwrap_or_else(timestamp_range))
}

fn make_interval(parts: [i32; 6], seconds: f64) -> Row<Interval> {
    let [years, months, weeks, days, hours, minutes] = parts;
    let narrow = |value: i64| i32::try_from(value).map_err(|_| interval_range());
    let micros = (seconds * 1e6).round_ties_even();
    if !(-9.2e18..9.2e18).contains(&micros) {
        return Err(interval_range());
    }
    let time = hours as i64 * HOUR + minutes as i64 * MINUTE;
    Ok(Interval {
        months: narrow(years as i64 * 12 + months as i64)?,
        days: narrow(weeks as i64 * 7 + days as i64)?,
        micros: time.checked_add(micros as i64).ok_or_else(interval_range)?,
    })
}

fn to_timestamp(seconds: f64) -> Row<i64> {
    if seconds.is_nan() {
        return Err(error("22008", "timestamp cannot be NaN"));
    }
    if seconds.is_infinite() {
        return Ok(if seconds > 0.0 { i64::MAX } else { i64::MIN });
    }
    let micros = (seconds * 1e6).round_ties_even();
    if !(-2.1e17..9.2e18).contains(&micros) {
        return Err(error("22008", format!("timestamp out of range: \"{seconds}\"")));
    }
    Ok(micros as i64)
}

fn zone_of_interval(span: Interval) -> Row<Zone> {
    if span.months != 0 || span.days != 0 {
        let mut text = String::new();
        write_interval(span, &mut text);
        return Err(error("22023", format!("interval time zone \"{text}\" must not include months or days")));
    }
    Ok(Zone::Fixed((span.micros / SECOND) as i32))
}

fn date_plus(days: i32, n: i64) -> Row<i32> {
    if days == i32::MAX || days == i32::MIN {
        return Ok(days);
    }
    i32::try_from(days as i64 + n).ok().filter(|d| *d != i32::MAX && *d != i32::MIN).ok_or_else(date_range)
}

fn date_minus(a: i32, b: i32) -> Row<i32> {
    if [a, b].iter().any(|d| *d == i32::MAX || *d == i32::MIN) {
        return Err(error("22008", "cannot subtract infinite dates"));
    }
    a.checked_sub(b).ok_or_else(integer_range)
}

fn wrap(time: i64) -> i64 {
    time.rem_euclid(DAY)
}

/// `(s1, e1) OVERLAPS (s2, e2)` of wall clock times.
fn overlaps(mut s1: i64, mut e1: i64, mut s2: i64, mut e2: i64) -> bool {
    if e1 < s1 {
        (s1, e1) = (e1, s1);
    }
    if e2 < s2 {
        (s2, e2) = (e2, s2);
    }
    match s1.cmp(&s2) {
        std::cmp::Ordering::Greater => s1 < e2,
        std::cmp::Ordering::Less => s2 < e1,
        std::cmp::Ordering::Equal => true,
    }
}

fn double(value: Row<Numeric>) -> Row<f64> {
    value.map(|n| n.to_f64())
}

fn maybe_double(value: Row<Option<Numeric>>) -> Row<Option<f64>> {
    value.map(|n| n.map(|n| n.to_f64()))
}

pub fn zone(name: &str) -> Row<Zone> {
    // A session's zone is parsed once per thread and name.
    thread_local! {
        static LAST: std::cell::RefCell<Option<(String, Zone)>> = const { std::cell::RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((known, zone)) if known == name => Ok(*zone),
        _ => {
            let zone = Zone::parse(name)?;
            *last = Some((name.to_string(), zone));
            Ok(zone)
        }
    })
}

fn extract_zoned(word: &str, utc: i64, name: &str) -> Row<Option<Numeric>> {
    let zone = zone(name)?;
    extract_timestamp(word, zone.to_local(utc), Some((utc, if is_infinite(utc) { 0 } else { zone.offset_at(utc) })))
}

fn truncate_zoned(word: &str, utc: i64, name: &str) -> Row<i64> {
    let zone = zone(name)?;
    let start = truncate(word, zone.to_local(utc), "timestamp with time zone")?;
    let small =
        matches!(unit_of(&word.to_lowercase()), Some("microseconds" | "milliseconds" | "second" | "minute" | "hour"));
    if small && !is_infinite(utc) {
        // Within an hour the offset stays, even if the clock is put back in it.
        return Ok(start - zone.offset_at(utc) * SECOND);
    }
    Ok(zone.to_utc(start))
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "+" date_pli (Date, Int4) -> Date = |a, n| date_plus(a, n as i64);
        "+" integer_pl_date (Int4, Date) -> Date = |n, a| date_plus(a, n as i64);
        "-" date_mii (Date, Int4) -> Date = |a, n| date_plus(a, -(n as i64));
        "-" date_mi (Date, Date) -> Int4 = date_minus;
        "+" date_pl_interval (Date, Span) -> Timestamp = |a, s| add(date_to_timestamp(a)?, s);
        "+" interval_pl_date (Span, Date) -> Timestamp = |s, a| add(date_to_timestamp(a)?, s);
        "-" date_mi_interval (Date, Span) -> Timestamp = |a, s| add(date_to_timestamp(a)?, negate(s)?);
        "+" datetime_pl (Date, Time) -> Timestamp = |a, t| add(date_to_timestamp(a)?, Interval { months: 0, days: 0, micros: t });
        "+" timedate_pl (Time, Date) -> Timestamp = |t, a| add(date_to_timestamp(a)?, Interval { months: 0, days: 0, micros: t });
        "+" time_pl_interval (Time, Span) -> Time = |t, s| Ok(wrap(t.wrapping_add(s.micros % DAY)));
        "+" interval_pl_time (Span, Time) -> Time = |s, t| Ok(wrap(t.wrapping_add(s.micros % DAY)));
        "-" time_mi_interval (Time, Span) -> Time = |t, s| Ok(wrap(t.wrapping_sub(s.micros % DAY)));
        "-" time_mi_time (Time, Time) -> Span = |a, b| Ok(Interval { months: 0, days: 0, micros: a - b });
        "+" timestamp_pl_interval (Timestamp, Span) -> Timestamp = add;
        "+" interval_pl_timestamp (Span, Timestamp) -> Timestamp = |s, a| add(a, s);
        "-" timestamp_mi_interval (Timestamp, Span) -> Timestamp = |a, s| add(a, negate(s)?);
        "-" timestamp_mi (Timestamp, Timestamp) -> Span = difference;
        "-" timestamptz_mi (TimestampTz, TimestampTz) -> Span = difference;
        "+" interval_pl (Span, Span) -> Span = add_spans;
        "-" interval_mi (Span, Span) -> Span = |a, b| add_spans(a, negate(b)?);
        "-" interval_um (Span) -> Span = negate;
        "*" interval_mul (Span, Float8) -> Span = |s, f| scale(s, |field| field * f);
        "*" mul_d_interval (Float8, Span) -> Span = |f, s| scale(s, |field| field * f);
        "/" interval_div (Span, Float8) -> Span = |s, f| if f == 0.0 { Err(zero()) } else { scale(s, |field| field / f) };
        "justify_hours" interval_justify_hours (Span) -> Span = justify_hours;
        "justify_days" interval_justify_days (Span) -> Span = justify_days;
        "justify_interval" interval_justify_interval (Span) -> Span = justify_interval;
        "age" timestamp_age (Timestamp, Timestamp) -> Span = age;
        "isfinite" date_finite (Date) -> Bool = |a| Ok(a != i32::MAX && a != i32::MIN);
        "isfinite" timestamp_finite (Timestamp) -> Bool = |a| Ok(!is_infinite(a));
        "isfinite" timestamptz_finite (TimestampTz) -> Bool = |a| Ok(!is_infinite(a));
        "isfinite" interval_finite (Span) -> Bool = |_| Ok(true);
        "extract" extract_date (Text, Date) -> Maybe<Num> = extract_date;
        "extract" extract_time (Text, Time) -> Num = extract_time;
        "extract" extract_timestamp (Text, Timestamp) -> Maybe<Num> = |u, a| extract_timestamp(u, a, None);
        "extract" extract_interval (Text, Span) -> Num = extract_interval;
        "date_part" date_part_date (Text, Date) -> Maybe<Float8> = |u, a| maybe_double(extract_timestamp(u, date_to_timestamp(a)?, None));
        "date_part" date_part_time (Text, Time) -> Float8 = |u, a| double(extract_time(u, a));
        "date_part" date_part_timestamp (Text, Timestamp) -> Maybe<Float8> = |u, a| maybe_double(extract_timestamp(u, a, None));
        "date_part" date_part_interval (Text, Span) -> Float8 = |u, a| double(extract_interval(u, a));
        "date_trunc" timestamp_trunc (Text, Timestamp) -> Timestamp = |u, a| truncate(u, a, "timestamp without time zone");
        "date_trunc" timestamptz_trunc_zone (Text, TimestampTz, Text) -> TimestampTz = truncate_zoned;
        "date_trunc" interval_trunc (Text, Span) -> Span = truncate_interval;
        "date_bin" timestamp_bin (Span, Timestamp, Timestamp) -> Timestamp = bin;
        "date_bin" timestamptz_bin (Span, TimestampTz, TimestampTz) -> TimestampTz = bin;
        "make_date" make_date (Int4, Int4, Int4) -> Date = make_date;
        "make_time" make_time (Int4, Int4, Float8) -> Time = make_time;
        "make_timestamp" make_timestamp (Int4, Int4, Int4, Int4, Int4, Float8) -> Timestamp = make_timestamp;
        "make_timestamptz" make_timestamptz_at (Int4, Int4, Int4, Int4, Int4, Float8, Text) -> TimestampTz = |y, mo, d, h, mi, s, z| {
            Ok(zone(z)?.to_utc(make_timestamp(y, mo, d, h, mi, s)?))
        };
        "make_interval" make_interval0 () -> Span = || Ok(Interval::default());
        "make_interval" make_interval1 (Int4) -> Span = |y| make_interval([y, 0, 0, 0, 0, 0], 0.0);
        "make_interval" make_interval2 (Int4, Int4) -> Span = |y, m| make_interval([y, m, 0, 0, 0, 0], 0.0);
        "make_interval" make_interval3 (Int4, Int4, Int4) -> Span = |y, m, w| make_interval([y, m, w, 0, 0, 0], 0.0);
        "make_interval" make_interval4 (Int4, Int4, Int4, Int4) -> Span = |y, m, w, d| make_interval([y, m, w, d, 0, 0], 0.0);
        "make_interval" make_interval5 (Int4, Int4, Int4, Int4, Int4) -> Span = |y, m, w, d, h| make_interval([y, m, w, d, h, 0], 0.0);
        "make_interval" make_interval6 (Int4, Int4, Int4, Int4, Int4, Int4) -> Span = |y, m, w, d, h, mi| make_interval([y, m, w, d, h, mi], 0.0);
        "make_interval" make_interval (Int4, Int4, Int4, Int4, Int4, Int4, Float8) -> Span = |y, m, w, d, h, mi, s| {
            make_interval([y, m, w, d, h, mi], s)
        };
        "to_timestamp" float8_timestamptz (Float8) -> TimestampTz = to_timestamp;
        "timezone" timestamp_zone (Text, Timestamp) -> TimestampTz = |z, a| Ok(zone(z)?.to_utc(a));
        "timezone" timestamptz_zone (Text, TimestampTz) -> Timestamp = |z, a| Ok(zone(z)?.to_local(a));
        "timezone" timestamp_izone (Span, Timestamp) -> TimestampTz = |z, a| Ok(zone_of_interval(z)?.to_utc(a));
        "timezone" timestamptz_izone (Span, TimestampTz) -> Timestamp = |z, a| Ok(zone_of_interval(z)?.to_local(a));
        "overlaps" overlaps_timestamp (Timestamp, Timestamp, Timestamp, Timestamp) -> Bool = |a, b, c, d| Ok(overlaps(a, b, c, d));
        "overlaps" overlaps_timestamptz (TimestampTz, TimestampTz, TimestampTz, TimestampTz) -> Bool = |a, b, c, d| Ok(overlaps(a, b, c, d));
        "overlaps" overlaps_time (Time, Time, Time, Time) -> Bool = |a, b, c, d| Ok(overlaps(a, b, c, d));
        "date" date_of_timestamp (Timestamp) -> Date = |a| Ok(timestamp_to_date(a));
    };
    list.extend(functions! {
        "+" timestamptz_pl_interval (TimestampTz, Span, Text) -> TimestampTz = |a, s, z| add_zoned(a, s, &zone(z)?);
        "+" interval_pl_timestamptz (Span, TimestampTz, Text) -> TimestampTz = |s, a, z| add_zoned(a, s, &zone(z)?);
        "-" timestamptz_mi_interval (TimestampTz, Span, Text) -> TimestampTz = |a, s, z| add_zoned(a, negate(s)?, &zone(z)?);
        "age" timestamptz_age (TimestampTz, TimestampTz, Text) -> Span = |a, b, z| {
            let zone = zone(z)?;
            age(zone.to_local(a), zone.to_local(b))
        };
        "extract" extract_timestamptz (Text, TimestampTz, Text) -> Maybe<Num> = extract_zoned;
        "date_part" date_part_timestamptz (Text, TimestampTz, Text) -> Maybe<Float8> = |u, a, z| maybe_double(extract_zoned(u, a, z));
        "date_trunc" timestamptz_trunc (Text, TimestampTz, Text) -> TimestampTz = truncate_zoned;
        "make_timestamptz" make_timestamptz (Int4, Int4, Int4, Int4, Int4, Float8, Text) -> TimestampTz = |y, mo, d, h, mi, s, z| {
            Ok(zone(z)?.to_utc(make_timestamp(y, mo, d, h, mi, s)?))
        };
        "date" date_of_timestamptz (TimestampTz, Text) -> Date = |a, z| Ok(timestamp_to_date(zone(z)?.to_local(a)));
    }.into_iter().map(Definition::zoned));
    list
}
