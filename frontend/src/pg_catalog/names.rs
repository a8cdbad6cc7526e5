//! The names and oids of what there is one of: the database, the roles, the schemas.

/// The database's oid.
pub const DATABASE_OID: u32 = 5;
/// The database's name.
pub const DATABASE: &str = "dev";
/// The role that everything belongs to: its oid and its name.
pub use crate::roles::{ROOT as ROLE, ROOT_OID as ROLE_OID};

/// Schemas and their oids.
pub const SCHEMAS: &[(&str, u32)] =
    &[("pg_catalog", 11), ("public", 2200), ("information_schema", 13_000), ("headwater_catalog", 13_001)];

/// The role that owns the schema public.
pub const OWNER_OID: u32 = 6171;

/// The oid of a schema.
pub fn schema_oid(name: &str) -> u32 {
    SCHEMAS.iter().find(|s| s.0 == name).map_or(2200, |s| s.1)
}
