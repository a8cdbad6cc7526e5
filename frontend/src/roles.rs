//! The roles: who may log in, and with which password.
//!
//! A role is kept as JSON under `catalog/role/<name>`, without its password: only with what checks it. `root` is always
//! there. What a role may do
//! once it is in is not restricted: there are no privileges.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use storage::Store;
use streaming::engine::CatalogChanges;

use crate::error::{Error, Result};

const PREFIX: &str = "catalog/role/";
/// The role that is always there.
pub const ROOT: &str = "root";
/// Its oid, as in Postgres.
pub const ROOT_OID: u32 = 10;

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether it may log in.
    pub can_login: bool,
    /// As it was said; everybody may do everything.
    pub is_super: bool,
    /// See `is_super`.
    pub creates_databases: bool,
    /// See `is_super`.
    pub creates_roles: bool,
    /// What checks its password.
    pub password: Option<String>,
    /// When the password ends: microseconds since 1970.
    pub valid_until: Option<i64>,
}

impl Role {
    /// A role of that name.
    pub fn new(oid: u32, name: &str) -> Role {
        Role {
            oid,
            name: name.to_owned(),
            can_login: true,
            is_super: false,
            creates_databases: false,
            creates_roles: false,
            password: None,
            valid_until: None,
        }
    }

    fn root() -> Role {
        Role { is_super: true, creates_databases: true, creates_roles: true, ..Role::new(ROOT_OID, ROOT) }
    }

    /// The change that keeps it.
    pub fn keep(&self) -> Result<CatalogChanges> {
        let json = serde_json::to_vec(self).map_err(|e| Error::new("XX000", e.to_string()))?;
        Ok(vec![(key(&self.name), Some(json))])
    }

    /// What checks the password that it has now, if it has one.
    pub fn verifier(&self, now: i64) -> Option<&str> {
        self.password.as_deref().filter(|_| self.valid_until.is_none_or(|end| now < end))
    }
}

/// The change that forgets a role.
pub fn forget(name: &str) -> CatalogChanges {
    vec![(key(name), None)]
}

fn key(name: &str) -> Vec<u8> {
    format!("{PREFIX}{name}").into_bytes()
}

/// All roles.
pub struct Roles {
    by_name: RwLock<BTreeMap<String, Role>>,
}

impl Roles {
    /// The roles that the store keeps.
    pub fn load(store: &Store) -> anyhow::Result<Roles> {
        let mut by_name = BTreeMap::from([(ROOT.to_owned(), Role::root())]);
        for (key, value) in store.meta_scan(PREFIX.as_bytes())? {
            let entry = String::from_utf8_lossy(&key).into_owned();
            let role: Role = serde_json::from_slice(&value)
                .map_err(|error| anyhow::anyhow!("the catalog's entry {entry} is corrupt: {error}"))?;
            by_name.insert(role.name.clone(), role);
        }
        Ok(Roles { by_name: RwLock::new(by_name) })
    }

    /// A role.
    pub fn get(&self, name: &str) -> Option<Role> {
        self.by_name.read().get(name).cloned()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Role> {
        self.by_name.read().values().cloned().collect()
    }

    /// Whether anybody can log in with a password.
    pub fn has_passwords(&self) -> bool {
        self.by_name.read().values().any(|role| role.can_login && role.password.is_some())
    }

    /// A role is there, or is another one now.
    pub fn put(&self, role: Role) {
        self.by_name.write().insert(role.name.clone(), role);
    }

    /// A role is gone.
    pub fn remove(&self, name: &str) {
        self.by_name.write().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_ends_when_it_is_said_to() {
        let role = Role { password: Some("x".into()), valid_until: Some(100), ..Role::new(1, "u") };
        assert_eq!(role.verifier(99), Some("x"));
        assert_eq!(role.verifier(100), None);
    }
}
