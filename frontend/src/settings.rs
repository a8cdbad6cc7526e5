//! The session's settings: one table with every name that SET, SHOW and `options=-c` know.
//!
//! Most of them change nothing here. They are known because drivers, psql scripts and RisingWave users set them, and
//! a script must not fail at its first line; a setting that does something says so in its description.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::error::{Error, Result};

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// on, off, true, false, yes, no, 1, 0
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A number.
    Float,
    /// A time: a number of the unit `ms` or `s`, or a number with a unit.
    Time(&'static str),
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Cannot be set.
    Fixed,
}

/// A setting that exists.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name as SHOW ALL prints it.
    pub name: &'static str,
    /// What it is when nobody set it.
    pub default: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether the client is told of every change.
    pub reported: bool,
    /// What it does.
    pub description: &'static str,
}

const fn setting(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Setting {
    Setting { name, default, kind, reported: false, description }
}

const fn reported(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Setting {
    Setting { name, default, kind, reported: true, description }
}

/// What the server says its Postgres version is.
pub const SERVER_VERSION: &str = "15.0";

const LEVELS: &[&str] =
    &["debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "info", "notice", "warning", "error", "fatal"];
const ISOLATION: &[&str] = &["serializable", "repeatable read", "read committed", "read uncommitted"];
use Kind::*;

/// The settings that do something, or that tell something.
const WITH_EFFECT: &[Setting] = &[
    // Those that change what the server does.
    reported("application_name", "", Text, "The application that talks, for logs and pg_stat_activity."),
    reported("client_encoding", "UTF8", Text, "The client's character set; only UTF8."),
    reported("DateStyle", "ISO, MDY", Text, "How dates are written and read; only ISO, MDY."),
    reported(
        "IntervalStyle",
        "postgres",
        Word(&["postgres", "postgres_verbose", "sql_standard", "iso_8601"]),
        "How intervals are written; postgres or iso_8601.",
    ),
    reported("TimeZone", "UTC", Text, "The time zone of timestamptz values."),
    setting("statement_timeout", "0", Time("ms"), "Stops a statement that takes longer; 0 never."),
    setting("lock_timeout", "0", Time("ms"), "Stops a statement that waits longer for a table; 0 never."),
    setting("search_path", "\"$user\", public", Text, "The schemas where names without one are looked up."),
    setting("extra_float_digits", "1", Int(-15, 3), "Digits of floating-point numbers; 1 and more are exact."),
    setting("bytea_output", "hex", Word(&["hex", "escape"]), "How bytea is written; only hex."),
    setting("client_min_messages", "notice", Word(LEVELS), "Which notices are sent."),
    setting(
        "enable_join_ordering",
        "on",
        Bool,
        "Views put many joins into an order without cross joins; off keeps the query's.",
    ),
    setting(
        "enable_two_phase_agg",
        "on",
        Bool,
        "Views combine rows on each worker before they group them where they fall into few groups; off: nowhere.",
    ),
    setting("force_two_phase_agg", "off", Bool, "They do wherever the aggregates allow it."),
    setting(
        "enable_split_distinct_agg",
        "on",
        Bool,
        "Views spread the values of DISTINCT aggregates over the workers where rows fall into few groups.",
    ),
    setting("force_split_distinct_agg", "off", Bool, "They do wherever the aggregates allow it."),
    setting("background_ddl", "off", Bool, "CREATE MATERIALIZED VIEW returns before the view has caught up."),
    setting(
        "default_transaction_isolation",
        "repeatable read",
        Word(ISOLATION),
        "A transaction reads at one epoch whatever this says.",
    ),
    setting(
        "transaction_isolation",
        "repeatable read",
        Word(ISOLATION),
        "A transaction reads at one epoch whatever this says.",
    ),
    reported("default_transaction_read_only", "off", Bool, "Whether new transactions refuse to write."),
    setting("transaction_read_only", "off", Bool, "Whether this transaction refuses to write."),
    // What clients ask.
    reported("server_version", SERVER_VERSION, Fixed, "The Postgres version that clients may rely on."),
    setting("server_version_num", "150000", Fixed, "The same as a number."),
    reported("server_encoding", "UTF8", Fixed, "The server's character set."),
    reported("integer_datetimes", "on", Fixed, "Timestamps are integers."),
    reported(
        "standard_conforming_strings",
        "on",
        Bool,
        "Backslashes in '...' are ordinary characters; cannot be turned off.",
    ),
    reported("is_superuser", "on", Fixed, "Everybody is."),
    reported("session_authorization", "root", Text, "The user who logged in."),
    reported("in_hot_standby", "off", Fixed, "Never."),
    setting("max_identifier_length", "63", Fixed, "As in Postgres."),
    setting("max_index_keys", "32", Fixed, "As in Postgres."),
    setting("block_size", "8192", Fixed, "As in Postgres."),
    setting("lc_collate", "C", Fixed, "Text is ordered by its bytes."),
    setting("lc_ctype", "C.UTF-8", Fixed, "Characters are Unicode's."),
    setting("lc_messages", "C", Text, "Messages are English."),
    setting("data_checksums", "on", Fixed, "Files carry checksums."),
    setting("wal_level", "logical", Fixed, "As in Postgres."),
    setting("port", "4566", Fixed, "The port of the server."),
    // Postgres' own that scripts set.
    setting(
        "idle_in_transaction_session_timeout",
        "0",
        Time("ms"),
        "Ends a session that says nothing for so long after BEGIN; 0 never.",
    ),
    setting("idle_session_timeout", "0", Time("ms"), "Ends a session that says nothing for so long; 0 never."),
    setting("synchronous_commit", "on", Text, "Accepted, without effect: an acknowledged write is always synced."),
    // RisingWave's.
    setting("implicit_flush", "off", Bool, "Accepted: a session always reads its own writes."),
    setting("dml_wait_persistence", "on", Bool, "Accepted: an acknowledged write is always durable."),
    setting("streaming_parallelism", "default", Text, "Accepted: a job runs on every worker."),
    setting("streaming_use_shared_source", "on", Bool, "Accepted: views over a source always share its reader."),
    setting("batch_expr_strict_mode", "on", Bool, "Accepted: an error is always an error."),
];

/// Settings that are accepted and change nothing here, with their defaults, by what they take.
const WITHOUT_EFFECT: &[(Kind, &[(&str, &str)])] = &[
    (Float, &[("cursor_tuple_fraction", "0.1"), ("random_page_cost", "4"), ("seq_page_cost", "1")]),
    (
        Text,
        &[
            ("role", "none"),
            ("lc_monetary", "C"),
            ("lc_numeric", "C"),
            ("lc_time", "C"),
            ("backslash_quote", "safe_encoding"),
            ("bytea_input", "hex"),
            ("constraint_exclusion", "partition"),
            ("default_table_access_method", "heap"),
            ("default_tablespace", ""),
            ("default_text_search_config", "pg_catalog.simple"),
            ("effective_cache_size", "4GB"),
            ("force_parallel_mode", "off"),
            ("log_statement", "none"),
            ("maintenance_work_mem", "64MB"),
            ("plan_cache_mode", "auto"),
            ("session_replication_role", "origin"),
            ("temp_buffers", "8MB"),
            ("temp_tablespaces", ""),
            ("timezone_abbreviations", "Default"),
            ("vacuum_cost_delay", "0"),
            ("work_mem", "4MB"),
            ("xmlbinary", "base64"),
            ("xmloption", "content"),
            ("streaming_parallelism_for_table", "default"),
            ("streaming_parallelism_for_source", "default"),
            ("streaming_parallelism_for_materialized_view", "default"),
            ("streaming_parallelism_for_sink", "default"),
            ("streaming_parallelism_for_index", "default"),
            ("streaming_parallelism_for_backfill", "default"),
            ("streaming_over_window_cache_policy", "full"),
            ("streaming_rate_limit", "-1"),
            ("sink_decouple", "default"),
            ("backfill_rate_limit", "-1"),
            ("source_rate_limit", "-1"),
            ("dml_rate_limit", "-1"),
            ("sink_rate_limit", "-1"),
            ("batch_parallelism", "default"),
            ("query_epoch", "0"),
        ],
    ),
    (Word(&["md5", "scram-sha-256"]), &[("password_encryption", "scram-sha-256")]),
    (
        Bool,
        &[
            ("jit", "off"),
            ("array_nulls", "on"),
            ("check_function_bodies", "on"),
            ("default_transaction_deferrable", "off"),
            ("transaction_deferrable", "off"),
            ("enable_bitmapscan", "on"),
            ("enable_hashagg", "on"),
            ("enable_hashjoin", "on"),
            ("enable_indexscan", "on"),
            ("enable_material", "on"),
            ("enable_mergejoin", "on"),
            ("enable_nestloop", "on"),
            ("enable_seqscan", "on"),
            ("enable_sort", "on"),
            ("escape_string_warning", "on"),
            ("event_triggers", "on"),
            ("geqo", "on"),
            ("lo_compat_privileges", "off"),
            ("log_duration", "off"),
            ("quote_all_identifiers", "off"),
            ("row_security", "on"),
            ("synchronize_seqscans", "on"),
            ("transform_null_equals", "off"),
            ("create_compaction_group_for_mv", "off"),
            ("streaming_use_snapshot_backfill", "on"),
            ("streaming_use_arrangement_backfill", "on"),
            ("streaming_enable_delta_join", "off"),
            ("streaming_enable_bushy_join", "on"),
            ("streaming_enable_unaligned_join", "off"),
            ("streaming_separate_consecutive_join", "off"),
            ("streaming_force_filter_inside_join", "off"),
            ("streaming_allow_jsonb_in_stream_key", "on"),
            ("streaming_asof_join_use_cache", "off"),
            ("batch_enable_lookup_join", "on"),
            ("batch_enable_sort_agg", "on"),
            ("batch_enable_distributed_dml", "off"),
            ("enable_share_plan", "on"),
            ("enable_index_selection", "on"),
            ("enable_mv_selection", "off"),
            ("enable_locality_backfill", "off"),
            ("enable_datafusion_engine", "on"),
            ("upsert_dml", "off"),
            ("recover_init_epoch", "off"),
            ("bypass_cluster_limits", "off"),
        ],
    ),
    (Int(1, 10_000), &[("default_statistics_target", "100")]),
    (
        Int(1, i32::MAX as i64),
        &[("from_collapse_limit", "8"), ("join_collapse_limit", "8"), ("batch_hnsw_ef_search", "40")],
    ),
    (
        Int(0, i32::MAX as i64),
        &[
            ("gin_fuzzy_search_limit", "0"),
            ("tcp_keepalives_count", "0"),
            ("tcp_keepalives_idle", "0"),
            ("tcp_keepalives_interval", "0"),
            ("max_split_range_gap", "8"),
        ],
    ),
    (Time("ms"), &[("log_min_duration_statement", "-1")]),
    (Word(LEVELS), &[("log_min_messages", "warning")]),
    (Int(0, 1024), &[("max_parallel_workers_per_gather", "2")]),
    (Word(&["auto", "local", "distributed"]), &[("query_mode", "auto")]),
    (Word(&["default", "all", "checkpoint"]), &[("visibility_mode", "default")]),
    (Int(1, 32_768), &[("streaming_max_parallelism", "256")]),
    (Time("s"), &[("cdc_source_wait_streaming_start_timeout", "60"), ("slow_ddl_notification_secs", "30")]),
];

/// Every setting.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let inert = |kind: Kind| {
        move |&(name, default): &(&'static str, &'static str)| setting(name, default, kind, "Accepted, without effect.")
    };
    let without_effect = WITHOUT_EFFECT.iter().flat_map(|(kind, settings)| settings.iter().map(inert(*kind)));
    WITH_EFFECT.iter().copied().chain(without_effect).collect()
});

/// The setting of a name, in any case; RisingWave's `rw_` names too.
pub fn find(name: &str) -> Result<&'static Setting> {
    let plain = |name: &str| SETTINGS.iter().find(|s| s.name.eq_ignore_ascii_case(name));
    plain(name)
        .or_else(|| name.get(..3).filter(|p| p.eq_ignore_ascii_case("rw_")).and_then(|_| plain(&name[3..])))
        .ok_or_else(|| Error::new("42704", format!("unrecognized configuration parameter \"{name}\"")))
}

/// The values that a session set.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// What RESET goes back to: the connection's own wishes.
    at_connect: BTreeMap<&'static str, String>,
    set: BTreeMap<&'static str, String>,
    /// Names with a dot are the application's own.
    custom: BTreeMap<String, String>,
}

impl Values {
    /// The value of a setting.
    pub fn get(&self, name: &str) -> Result<&str> {
        if name.contains('.') {
            return self
                .custom
                .get(&name.to_lowercase())
                .map(String::as_str)
                .ok_or_else(|| Error::new("42704", format!("unrecognized configuration parameter \"{name}\"")));
        }
        let setting = find(name)?;
        Ok(self.of(setting))
    }

    /// The value of a setting that exists.
    pub fn of(&self, setting: &'static Setting) -> &str {
        (self.set.get(setting.name))
            .or_else(|| self.at_connect.get(setting.name))
            .map_or(setting.default, String::as_str)
    }

    /// All values, by lower-case name.
    pub fn all(&self) -> BTreeMap<String, String> {
        let own = SETTINGS.iter().map(|s| (s.name.to_lowercase(), self.of(s).to_owned()));
        own.chain(self.custom.clone()).collect()
    }

    /// Whether a setting is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_ok_and(|value| value == "on")
    }

    /// A setting of milliseconds.
    pub fn time(&self, name: &str) -> Option<std::time::Duration> {
        let text = self.get(name).ok()?;
        let Kind::Time(unit) = find(name).ok()?.kind else { return None };
        let ms = parse_time(text, unit)?;
        (ms > 0).then(|| std::time::Duration::from_millis(ms as u64))
    }

    /// Sets a setting; the setting if it exists with the value as it is kept.
    pub fn set(&mut self, name: &str, value: &str) -> Result<Option<(&'static Setting, String)>> {
        if name.contains('.') {
            self.custom.insert(name.to_lowercase(), value.to_owned());
            return Ok(None);
        }
        let setting = find(name)?;
        let value = check(setting, value)?;
        self.set.insert(setting.name, value.clone());
        Ok(Some((setting, value)))
    }

    /// Sets a setting to its default.
    pub fn reset(&mut self, name: &str) -> Result<Option<(&'static Setting, String)>> {
        if name.contains('.') {
            self.custom.remove(&name.to_lowercase());
            return Ok(None);
        }
        let setting = find(name)?;
        if matches!(setting.kind, Fixed) {
            return Err(fixed(setting));
        }
        self.set.remove(setting.name);
        Ok(Some((setting, self.of(setting).to_owned())))
    }

    /// Sets every setting to its default.
    pub fn reset_all(&mut self) {
        self.set.clear();
        self.custom.clear();
    }

    /// From here on RESET goes back to what is set now.
    pub fn connected(&mut self) {
        self.at_connect.append(&mut self.set);
    }

    /// Sets what the server itself knows.
    pub fn fix(&mut self, name: &'static str, value: String) {
        self.at_connect.insert(name, value);
    }
}

fn fixed(setting: &Setting) -> Error {
    Error::new("55P02", format!("parameter \"{}\" cannot be changed", setting.name))
}

/// The value as it is kept and shown.
fn check(setting: &Setting, value: &str) -> Result<String> {
    let name = setting.name;
    let invalid = || Error::new("22023", format!("invalid value for parameter \"{name}\": \"{value}\""));
    let kept = match setting.kind {
        Fixed => return Err(fixed(setting)),
        Bool => parse_bool(value)
            .map(|on| if on { "on" } else { "off" }.to_owned())
            .ok_or_else(|| Error::new("22023", format!("parameter \"{name}\" requires a Boolean value")))?,
        Int(min, max) => {
            let number: i64 = value.trim().parse().map_err(|_| invalid())?;
            if !(min..=max).contains(&number) {
                let message = format!("{number} is outside the valid range for parameter \"{name}\" ({min} .. {max})");
                return Err(Error::new("22023", message));
            }
            number.to_string()
        }
        Float => value.trim().parse::<f64>().map_err(|_| invalid())?.to_string(),
        Time(unit) => {
            let ms = parse_time(value, unit).ok_or_else(|| {
                invalid().hint("Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".")
            })?;
            shown_time(ms)
        }
        Word(words) => match words.iter().find(|w| w.eq_ignore_ascii_case(value.trim())) {
            Some(word) => (*word).to_owned(),
            None => return Err(invalid().hint(format!("Available values: {}.", words.join(", ")))),
        },
        Text => value.to_owned(),
    };
    match name {
        "client_encoding" => {
            let plain: String = kept.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            match plain.to_lowercase().as_str() {
                "utf8" | "unicode" | "default" | "" => Ok("UTF8".to_owned()),
                // SQL_ASCII means "do not convert": the bytes are UTF-8 all the same.
                "sqlascii" => Ok("SQL_ASCII".to_owned()),
                _ => Err(invalid()),
            }
        }
        // Values that would change results if they were obeyed.
        "standard_conforming_strings" | "array_nulls" if kept == "off" => Err(unsupported_value(name, &kept)),
        "transform_null_equals" if kept == "on" => Err(unsupported_value(name, &kept)),
        "bytea_output" if kept != "hex" => Err(unsupported_value(name, &kept)),
        "IntervalStyle" if !matches!(kept.as_str(), "postgres" | "iso_8601") => Err(unsupported_value(name, &kept)),
        "TimeZone" => time_zone(&kept).ok_or_else(invalid),
        "DateStyle" => match date_style(&kept) {
            Some(style) if style == "ISO, MDY" => Ok(style),
            Some(_) => Err(unsupported_value(name, &kept)),
            None => Err(invalid()),
        },
        _ => Ok(kept),
    }
}

fn unsupported_value(name: &str, value: &str) -> Error {
    Error::unsupported(format!("the value \"{value}\" of parameter \"{name}\" is not supported"))
}

/// The output's style and the order of day and month in the input.
fn date_style(value: &str) -> Option<String> {
    let (mut style, mut order) = ("ISO", "MDY");
    for word in value.split(',').map(|w| w.trim().to_lowercase()) {
        match word.as_str() {
            "iso" | "default" | "" => (),
            "mdy" | "us" | "noneuro" | "noneuropean" => order = "MDY",
            "dmy" | "euro" | "european" => order = "DMY",
            "ymd" => order = "YMD",
            "german" => style = "German",
            "sql" => style = "SQL",
            "postgres" => style = "Postgres",
            _ => return None,
        }
    }
    Some(format!("{style}, {order}"))
}

/// The zone's own spelling, or a fixed offset.
fn time_zone(value: &str) -> Option<String> {
    let text = value.trim();
    if text.eq_ignore_ascii_case("default") || text.eq_ignore_ascii_case("local") {
        return Some("UTC".into());
    }
    if let Some(zone) = chrono_tz::TZ_VARIANTS.iter().find(|z| z.name().eq_ignore_ascii_case(text)) {
        return Some(zone.name().to_owned());
    }
    // '+02', '-3.5', '05:30': east is positive here, as in SET TIME ZONE.
    let number = text.strip_prefix(['+', '-']).unwrap_or(text);
    let seconds = match number.split_once(':') {
        Some((h, m)) => h.parse::<i32>().ok()? * 3600 + m.parse::<i32>().ok()? * 60,
        None => (number.parse::<f64>().ok()? * 3600.0) as i32,
    };
    if seconds.abs() > 168 * 3600 {
        return None;
    }
    let (sign, shown) = if text.starts_with('-') { ('-', '+') } else { ('+', '-') };
    let (h, m) = (seconds / 3600, seconds / 60 % 60);
    let minutes = if m == 0 { String::new() } else { format!(":{m:02}") };
    // As Postgres shows it: a POSIX zone, whose sign is the other way round.
    Some(format!("<{sign}{h:02}{minutes}>{shown}{h:02}{minutes}"))
}

fn parse_bool(value: &str) -> Option<bool> {
    let value = value.trim().to_lowercase();
    match value.as_str() {
        "" => None,
        "on" | "1" => Some(true),
        "off" | "of" | "0" => Some(false),
        v if "true".starts_with(v) || "yes".starts_with(v) => Some(true),
        v if "false".starts_with(v) || "no".starts_with(v) => Some(false),
        _ => None,
    }
}

/// Milliseconds.
fn parse_time(text: &str, unit: &str) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].trim().parse().ok()?;
    let unit = if split == text.len() { unit } else { text[split..].trim() };
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1e3,
        "min" => 6e4,
        "h" => 3.6e6,
        "d" => 8.64e7,
        _ => return None,
    };
    Some((number * factor).round() as i64)
}

/// Milliseconds in the largest unit that divides them, as SHOW has them.
fn shown_time(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let unit = UNITS.iter().find(|(unit, _)| ms > 0 && ms % unit == 0);
    match unit {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms > 0 => format!("{ms}ms"),
        None => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_values_as_postgres_shows_them() {
        let mut values = Values::default();
        values.set("rw_implicit_flush", "true").unwrap();
        assert_eq!(values.get("RW_IMPLICIT_FLUSH").unwrap(), "on");
        values.set("timezone", "europe/berlin").unwrap();
        assert_eq!(values.get("TimeZone").unwrap(), "Europe/Berlin");
        values.set("statement_timeout", "2s").unwrap();
        assert_eq!(values.time("statement_timeout").unwrap().as_millis(), 2000);
        values.set("app.user", "7").unwrap();
        assert_eq!(values.get("app.user").unwrap(), "7");
        values.set("datestyle", "iso").unwrap();
        assert_eq!(values.get("DateStyle").unwrap(), "ISO, MDY");
        values.set("lock_timeout", "90s").unwrap();
        assert_eq!(values.get("lock_timeout").unwrap(), "90s");
        values.set("lock_timeout", "120000").unwrap();
        assert_eq!(values.get("lock_timeout").unwrap(), "2min");
    }

    #[test]
    fn refuses_what_does_not_exist() {
        let mut values = Values::default();
        let error = values.set("no_such_thing", "1").unwrap_err();
        assert_eq!(error.fields().sqlstate, "42704");
        assert_eq!(error.to_string(), "unrecognized configuration parameter \"no_such_thing\"");
        assert_eq!(values.set("server_version", "9").unwrap_err().fields().sqlstate, "55P02");
        assert_eq!(values.set("jit", "maybe").unwrap_err().fields().sqlstate, "22023");
        // What would change results is not swallowed.
        for (name, value) in [("DateStyle", "German"), ("bytea_output", "escape"), ("IntervalStyle", "sql_standard")] {
            assert_eq!(values.set(name, value).unwrap_err().fields().sqlstate, "0A000", "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = SETTINGS.iter().map(|s| s.name.to_lowercase()).collect();
        names.sort();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
