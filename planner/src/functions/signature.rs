//! Signatures as `pg_proc` and `\df` show them.

use datafusion::logical_expr::Volatility;
use storage::SqlType;

use super::{Definition, Param, all};
use crate::types;

/// The first oid of a function; they are numbered in the order of the tables.
const FIRST_OID: u32 = 1_000_000;

/// The functions that SQL can call by a name, operators left out, each with its oid.
pub fn named() -> impl Iterator<Item = (u32, &'static Definition)> {
    let is_named = |d: &Definition| d.name.starts_with(|c: char| c.is_ascii_lowercase());
    all().iter().enumerate().filter(move |(_, d)| is_named(d)).map(|(i, d)| (FIRST_OID + i as u32, d))
}

/// The function of an oid.
pub fn by_oid(oid: i64) -> Option<&'static Definition> {
    let at = oid.checked_sub(i64::from(FIRST_OID))?;
    all().get(usize::try_from(at).ok()?)
}

/// `pg_proc.provolatile`
pub fn volatility(function: &Definition) -> char {
    match function.volatility {
        Volatility::Immutable => 'i',
        Volatility::Stable => 's',
        Volatility::Volatile => 'v',
    }
}

impl Param {
    /// As Postgres writes it.
    pub fn shown(&self) -> String {
        match self {
            Param::Type(ty) => types::name(ty),
            Param::AnyElement => "anyelement".into(),
            Param::AnyNonArray => "anynonarray".into(),
            Param::AnyArray => "anyarray".into(),
            Param::Any => "\"any\"".into(),
        }
    }

    /// The oid of its type.
    pub fn oid(&self) -> u32 {
        match self {
            Param::Type(ty) => types::oid(ty),
            Param::AnyElement => 2283,
            Param::AnyNonArray => 2776,
            Param::AnyArray => 2277,
            Param::Any => 2276,
        }
    }
}

impl Definition {
    /// The parameters as `\df` shows them: `integer, VARIADIC text[]`.
    pub fn arguments(&self) -> String {
        let shown = |(i, param): (usize, &Param)| {
            let last = i + 1 == self.params.len();
            match param {
                Param::Type(ty) if last && self.variadic => {
                    format!("VARIADIC {}", types::name(&SqlType::Array(Box::new(ty.clone()))))
                }
                _ if last && self.variadic => format!("VARIADIC {}", param.shown()),
                _ => param.shown(),
            }
        };
        self.params.iter().enumerate().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// The result as `\df` shows it.
    pub fn result(&self) -> String {
        self.returns.shown()
    }
}
