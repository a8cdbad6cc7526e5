//! `pg_type` and what belongs to types: collations, languages, functions.

use storage::SqlType;

use crate::error::Result;
use crate::pg_catalog::names::{ROLE_OID, schema_oid};
use crate::pg_catalog::relation::{Context, Rows, SystemRelation, system};
use crate::row;

/// The collation of text.
const DEFAULT_COLLATION: u32 = 100;

/// The collation of a type, 0 for none.
pub fn collation(ty: &SqlType) -> u32 {
    match ty {
        SqlType::Text | SqlType::Varchar | SqlType::Char | SqlType::Unknown => DEFAULT_COLLATION,
        SqlType::Name => 950,
        SqlType::Array(item) => collation(item),
        _ => 0,
    }
}

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    system(
        "pg_type",
        1247,
        "oid:oid typname:name typnamespace:oid typowner:oid typlen:int2 typbyval:bool typtype:char \
                  typcategory:char typispreferred:bool typisdefined:bool typdelim:char typrelid:oid typsubscript:oid \
                  typelem:oid typarray:oid typinput:oid typoutput:oid typreceive:oid typsend:oid typmodin:oid \
                  typmodout:oid typanalyze:oid typalign:char typstorage:char typnotnull:bool typbasetype:oid \
                  typtypmod:int4 typndims:int4 typcollation:oid typdefaultbin:text typdefault:text typacl:text[]",
        pg_type,
    ),
    system(
        "pg_collation",
        3456,
        "oid:oid collname:name collnamespace:oid collowner:oid collprovider:char collisdeterministic:bool \
                  collencoding:int4 collcollate:text collctype:text colliculocale:text collversion:text",
        |_, rows| {
            for (oid, name, locale) in
                [(DEFAULT_COLLATION, "default", None), (950, "C", Some("C")), (951, "POSIX", Some("POSIX"))]
            {
                rows.push(row![oid, name, schema_oid("pg_catalog"), ROLE_OID, "c", true, -1, locale, locale]);
            }
            Ok(())
        },
    ),
    system(
        "pg_language",
        2612,
        "oid:oid lanname:name lanowner:oid lanispl:bool lanpltrusted:bool lanplcallfoid:oid laninline:oid \
                  lanvalidator:oid lanacl:text[]",
        |_, rows| {
            rows.push(row![12, "internal", ROLE_OID, false, false, 0, 0, 0]);
            rows.push(row![14, "sql", ROLE_OID, false, true, 0, 0, 0]);
            Ok(())
        },
    ),
    system(
        "pg_proc",
        1255,
        "oid:oid proname:name pronamespace:oid proowner:oid prolang:oid procost:float4 prorows:float4 \
                  provariadic:oid prosupport:oid prokind:char prosecdef:bool proleakproof:bool proisstrict:bool \
                  proretset:bool provolatile:char proparallel:char pronargs:int2 pronargdefaults:int2 prorettype:oid \
                  proargtypes:oidvector proallargtypes:oid[] proargmodes:text[] proargnames:text[] prosrc:text probin:text \
                  prosqlbody:text proconfig:text[] proacl:text[]",
        pg_proc,
    ),
];

fn pg_proc(_: &Context<'_>, rows: &mut Rows) -> Result<()> {
    const INTERNAL: u32 = 12;
    for (oid, function) in planner::functions::signature::named() {
        let types: Vec<i64> = function.params.iter().map(|p| i64::from(p.oid())).collect();
        let variadic = function.params.last().filter(|_| function.variadic).map_or(0, |p| p.oid());
        rows.push(row![
            oid,
            function.name,
            schema_oid("pg_catalog"),
            ROLE_OID,
            INTERNAL,
            1.0,
            0.0,
            variadic,
            0,
            "f",
            false,
            false,
            function.strict,
            false,
            planner::functions::signature::volatility(function).to_string(),
            "s",
            types.len(),
            0,
            function.returns.oid(),
            types,
            None::<i64>,
            None::<i64>,
            None::<i64>,
            function.symbol
        ]);
    }
    Ok(())
}

fn pg_type(_: &Context<'_>, rows: &mut Rows) -> Result<()> {
    let namespace = schema_oid("pg_catalog");
    let mut add = |ty: &SqlType, category: &str, element: u32, array: u32| {
        let oid = planner::types::oid(ty);
        let size = i64::from(planner::types::len(ty));
        let name = planner::types::typname(ty);
        let kind = if *ty == SqlType::Unknown { "p" } else { "b" };
        let preferred = element == 0 && planner::types::is_preferred(ty);
        // Clients look for array_recv and the like by name; the numbers only have to be the same for all of a kind.
        let function = if element != 0 { 750 } else { oid };
        let none = None::<&str>;
        rows.push(row![
            oid,
            name,
            namespace,
            ROLE_OID,
            size,
            (1..=8).contains(&size),
            kind,
            category,
            preferred,
            true,
            ",",
            0,
            0,
            element,
            array,
            function,
            function,
            function,
            function,
            0,
            0,
            0,
            "i",
            planner::types::storage(ty).to_string(),
            false,
            0,
            -1,
            0,
            collation(ty),
            none,
            none,
            none
        ]);
    };
    for ty in &planner::types::ALL {
        let array = SqlType::Array(Box::new(ty.clone()));
        let array_oid = planner::types::array_oid(ty);
        add(ty, &planner::types::category(ty).to_string(), 0, array_oid);
        if array_oid != 0 {
            add(&array, "A", planner::types::oid(ty), 0);
        }
    }
    Ok(())
}
