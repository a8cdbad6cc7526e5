//! Who may log in, as `pg_roles`, `pg_authid`, `pg_user` and `pg_shadow` show it.

use crate::pg_catalog::names::OWNER_OID;
use crate::pg_catalog::relation::{Context, SystemRelation, Value, system};
use crate::roles::Role;
use crate::row;

/// What hides a password.
const HIDDEN: &str = "********";

/// All roles, and the one that owns the schema public.
fn roles(context: &Context<'_>) -> Vec<Role> {
    let owner = Role { can_login: false, ..Role::new(OWNER_OID, "pg_database_owner") };
    context.shared.roles.all().into_iter().chain([owner]).collect()
}

fn users(context: &Context<'_>) -> Vec<Role> {
    context.shared.roles.all().into_iter().filter(|role| role.can_login).collect()
}

fn until(role: &Role) -> Value {
    role.valid_until.map_or(Value::Null, Value::Int)
}

/// The relations.
pub const RELATIONS: &[SystemRelation] = &[
    system(
        "pg_roles",
        12_100,
        "rolname:name rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool \
                  rolreplication:bool rolconnlimit:int4 rolpassword:text rolvaliduntil:timestamptz rolbypassrls:bool \
                  rolconfig:text[] oid:oid",
        |context, rows| {
            for r in roles(context) {
                let (ends, sup, none) = (until(&r), r.is_super, None::<&str>);
                let (roles, databases, login) = (r.creates_roles, r.creates_databases, r.can_login);
                rows.push(row![&r.name, sup, true, roles, databases, login, sup, -1, HIDDEN, ends, sup, none, r.oid]);
            }
            Ok(())
        },
    ),
    system(
        "pg_authid",
        1260,
        "oid:oid rolname:name rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool \
                  rolcanlogin:bool rolreplication:bool rolbypassrls:bool rolconnlimit:int4 rolpassword:text \
                  rolvaliduntil:timestamptz",
        |context, rows| {
            for r in roles(context) {
                let (ends, sup, password) = (until(&r), r.is_super, r.password.clone());
                let (roles, databases, login) = (r.creates_roles, r.creates_databases, r.can_login);
                rows.push(row![r.oid, &r.name, sup, true, roles, databases, login, sup, sup, -1, password, ends]);
            }
            Ok(())
        },
    ),
    system(
        "pg_user",
        12_101,
        "usename:name usesysid:oid usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd:text \
                  valuntil:timestamptz useconfig:text[]",
        |context, rows| {
            for r in users(context) {
                let (ends, sup) = (until(&r), r.is_super);
                rows.push(row![&r.name, r.oid, r.creates_databases, sup, sup, sup, HIDDEN, ends]);
            }
            Ok(())
        },
    ),
];
