//! `CREATE | ALTER | DROP USER | ROLE`

use super::Reader;
use crate::error::{Error, Result};
use crate::statement::{AlterRole, CreateRole, DropRole, RoleChange, RoleOptions, Statement};

impl Reader<'_> {
    /// Whether `USER` or `ROLE` is next, and then takes it: whether the role may log in unless it is said otherwise.
    pub(super) fn eat_role(&mut self) -> Option<bool> {
        if self.at(&["user", "mapping"]) {
            return None;
        }
        if self.eat(&["user"]) { Some(true) } else { self.eat(&["role"]).then_some(false) }
    }

    pub(super) fn create_role(&mut self, can_login: bool) -> Result<Statement> {
        let name = self.ident()?;
        let options = self.role_options(RoleOptions { can_login: Some(can_login), ..Default::default() })?;
        Ok(Statement::CreateRole(CreateRole { name, options }))
    }

    pub(super) fn alter_role(&mut self) -> Result<Statement> {
        let current = ["current_user", "current_role", "session_user"].iter().any(|word| self.eat(&[word]));
        let name = if current { None } else { Some(self.ident()?) };
        let change = if self.eat(&["rename", "to"]) {
            RoleChange::Rename(self.ident()?)
        } else if self.at(&["set"]) || self.at(&["reset"]) || self.at(&["in"]) {
            return self.unsupported("this form of ALTER ROLE");
        } else {
            RoleChange::Options(self.role_options(RoleOptions::default())?)
        };
        Ok(Statement::AlterRole(AlterRole { name, change }))
    }

    pub(super) fn drop_role(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let names = self.comma_separated(Self::ident)?;
        Ok(Statement::DropRole(DropRole { names, if_exists }))
    }

    /// `[WITH] [LOGIN | NOLOGIN | SUPERUSER | ... | PASSWORD 'x' | VALID UNTIL 't']...` over what holds without them.
    fn role_options(&mut self, mut options: RoleOptions) -> Result<RoleOptions> {
        let _ = self.eat(&["with"]);
        while !self.at_end() {
            let place = self.position();
            let word = self.label()?;
            let (flag, on) = match word.strip_prefix("no") {
                Some(flag) => (flag, false),
                None => (word.as_str(), true),
            };
            match flag {
                "login" => options.can_login = Some(on),
                "superuser" => options.is_super = Some(on),
                "createdb" => options.creates_databases = Some(on),
                "createrole" | "createuser" => options.creates_roles = Some(on),
                "inherit" if on => (),
                "replication" | "bypassrls" if !on => (),
                "encrypted" if on => {
                    self.expect(&["password"])?;
                    options.password = Some(Some(self.string()?));
                }
                "password" if on => {
                    options.password = Some(if self.eat(&["null"]) { None } else { Some(self.string()?) });
                }
                "valid" if on => {
                    self.expect(&["until"])?;
                    options.valid_until = Some(self.string()?);
                }
                "inherit" | "replication" | "bypassrls" | "connection" | "in" | "role" | "admin" | "user" | "sysid"
                | "oauth" => {
                    let message = format!("{} of a role is not supported", word.to_uppercase());
                    return Err(Error::unsupported(message).at(place));
                }
                _ => {
                    let message = format!("unrecognized role option \"{word}\"");
                    return Err(Error::new("42601", message).at(place));
                }
            }
        }
        Ok(options)
    }
}
