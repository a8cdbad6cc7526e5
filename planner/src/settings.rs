//! What a session's statements depend on besides the catalog.

use std::collections::BTreeMap;

/// What a session's statements depend on besides the catalog.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The session's time zone, as `SET TIME ZONE` has it.
    pub timezone: String,
    /// The schemas where names are looked up, `pg_catalog` first if it is not listed.
    pub search_path: Vec<String>,
    /// The transaction's time: microseconds since 1970-01-01 UTC.
    pub now: i64,
    /// What PROCTIME() is in a write.
    pub processing_time: i64,
    /// Who asks.
    pub user: String,
    /// The database.
    pub database: String,
    /// The other settings, lower case names, for `current_setting()`.
    pub values: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timezone: "UTC".into(),
            search_path: vec!["public".into()],
            now: 0,
            processing_time: 0,
            user: "root".into(),
            database: "dev".into(),
            values: BTreeMap::new(),
        }
    }
}
