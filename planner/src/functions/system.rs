//! What clients ask a server about itself. What needs the catalog is data in `pg_catalog`; here is the rest.

use std::sync::Arc;

use arrow::array::StringViewBuilder;
use datafusion::logical_expr::Volatility;
use storage::SqlType;

use super::rows::*;
use super::{Definition, Param, functions, generic};
use crate::types::{self, error};

/// What `version()` says. Drivers read the number behind the name.
pub fn version() -> String {
    format!("PostgreSQL 15.0 (Headwater {})", env!("CARGO_PKG_VERSION"))
}

fn encoding_number(name: &str) -> i32 {
    match name.to_ascii_uppercase().as_str() {
        "UTF8" | "UTF-8" | "UNICODE" => 6,
        "SQL_ASCII" => 0,
        _ => -1,
    }
}

fn role(oid: i64) -> String {
    match oid {
        10 => "root".to_string(),
        // Who owns the database owns the schema public.
        6171 => "pg_database_owner".to_string(),
        _ => format!("unknown (OID={oid})"),
    }
}

fn encoding(number: i32) -> &'static str {
    match number {
        0 => "SQL_ASCII",
        6 => "UTF8",
        _ => "",
    }
}

/// `format_type(oid, typmod)`, whose arguments may be NULL.
fn format_type(_: &[SqlType]) -> Run {
    Arc::new(|args: &Args| {
        use arrow::array::AsArray;
        use arrow::datatypes::{Int32Type, Int64Type};
        let mut out = StringViewBuilder::with_capacity(args.rows);
        for row in 0..args.rows {
            if args.is_null(0, row) {
                out.append_null();
                continue;
            }
            let oid = args.arrays[0].as_primitive::<Int64Type>().value(args.at(0, row));
            let typmod = if args.is_null(1, row) {
                None
            } else {
                Some(args.arrays[1].as_primitive::<Int32Type>().value(args.at(1, row)))
            };
            let name = match (u32::try_from(oid).ok().and_then(types::from_oid), typmod) {
                _ if oid == 0 => "-".to_string(),
                _ if oid == 114 => "json".to_string(),
                // Without a modifier known, char(n) is still called character.
                (Some(SqlType::Char), None) => "character".to_string(),
                (Some(ty), typmod) => types::format(&ty, typmod.unwrap_or(-1)),
                (None, _) => "???".to_string(),
            };
            out.append_value(name);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// The same answer for any arguments of these types, NULL arguments included.
fn constant(name: &'static str, symbol: &'static str, args: &[SqlType], returns: SqlType, run: Run) -> Definition {
    let params = args.iter().cloned().map(Param::Type).collect();
    Definition { strict: false, volatility: Volatility::Stable, ..super::fixed(name, symbol, vec![], returns, run) }
        .with_params(params)
}

impl Definition {
    fn with_params(mut self, params: Vec<Param>) -> Definition {
        self.params = params;
        self
    }
}

fn null<R: Output>() -> Run {
    Arc::new(|args: &Args| {
        let mut out = R::builder(args.rows);
        (0..args.rows).for_each(|_| R::push_null(&mut out));
        Ok(R::finish(out))
    })
}

fn always<R: Output>(value: impl Fn() -> R::Value + Send + Sync + 'static) -> Run {
    Arc::new(move |args: &Args| {
        let mut out = R::builder(args.rows);
        for _ in 0..args.rows {
            R::push(&mut out, value()).map_err(external)?;
        }
        Ok(R::finish(out))
    })
}

fn refused(message: &'static str) -> Run {
    Arc::new(move |_: &Args| Err(external(error("0A000", message))))
}

/// What is shown of the function of an oid; NULL if there is none.
fn of_function(shown: fn(&Definition) -> String) -> Run {
    use arrow::array::{ArrayRef, AsArray, StringViewArray};
    Arc::new(move |args: &Args| {
        let oids = args.arrays[0].as_primitive::<arrow::datatypes::Int64Type>();
        let of = |row| {
            let oid = (!args.is_null(0, row)).then(|| oids.value(args.at(0, row)))?;
            super::signature::by_oid(oid).map(shown)
        };
        Ok(Arc::new((0..args.rows).map(of).collect::<StringViewArray>()) as ArrayRef)
    })
}

/// `pg_typeof`
fn pg_typeof(types: &[SqlType]) -> Run {
    let oid = types::oid(&types[0]) as i64;
    always::<RegType>(move || oid)
}

#[rustfmt::skip]
fn values() -> Vec<Definition> {
    let mut list: Vec<Definition> = functions! {
        "version" pgsql_version () -> Text = || Ok(version());
        "pg_encoding_to_char" PG_encoding_to_char (Int4) -> Name = |n| Ok(encoding(n).to_string());
        "pg_char_to_encoding" PG_char_to_encoding (Name) -> Int4 = |name| Ok(encoding_number(name));
        "getdatabaseencoding" getdatabaseencoding () -> Name = || Ok(encoding(6).to_string());
        "pg_get_userbyid" pg_get_userbyid (Oid) -> Name = |oid| Ok(role(oid));
        "pg_get_expr" pg_get_expr (Text, Oid) -> Text = |text, _| Ok(text.to_string());
        "pg_get_expr" pg_get_expr_ext (Text, Oid, Bool) -> Text = |text, _, _| Ok(text.to_string());
        "to_regtype" to_regtype (Text) -> Maybe<RegType> = |name| {
            let known = types::parse(name).ok().map(|(ty, _)| types::oid(&ty));
            Ok(known.filter(|oid| *oid != 0).map(i64::from))
        };
        "hashtext" hashtext (Text) -> Int4 = |_| Err(error("0A000", "hashtext is not supported"));
    }.into_iter().map(Definition::stable).collect();
    list.extend(functions! {
        "gen_random_uuid" gen_random_uuid () -> Uuid = || Ok(*uuid::Uuid::new_v4().as_bytes());
    }.into_iter().map(Definition::volatile));
    list
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    use SqlType::{BigInt, Boolean, Int, Name, Oid, RegClass, RegType, SmallInt, Text};
    let mut list = values();
    list.extend(
        [
            ("pg_get_function_result", Definition::result as fn(&Definition) -> String),
            ("pg_get_function_arguments", Definition::arguments),
            ("pg_get_function_identity_arguments", Definition::arguments),
        ]
        .map(|(name, shown)| super::fixed(name, name, vec![Oid], Text, of_function(shown)).stable()),
    );
    let typeof_ = generic("pg_typeof", "pg_typeof", vec![Param::Any], Param::Type(RegType), pg_typeof);
    list.push(typeof_.stable());
    // Its argument, said to be nullable; never folded.
    let nullable = generic("headwater_nullable", "nullable", vec![Param::AnyElement], Param::AnyElement, |_| {
        Arc::new(|args: &Args| Ok(args.arrays[0].clone()))
    });
    list.push(nullable.stable());
    list.push(generic("format_type", "format_type", vec![Param::Type(Oid), Param::Type(Int)], Param::Type(Text), format_type).stable());
    for (name, symbol) in [
        ("pg_table_is_visible", "pg_table_is_visible"),
        ("pg_type_is_visible", "pg_type_is_visible"),
        ("pg_function_is_visible", "pg_function_is_visible"),
        ("pg_operator_is_visible", "pg_operator_is_visible"),
        ("pg_opclass_is_visible", "pg_opclass_is_visible"),
        ("pg_collation_is_visible", "pg_collation_is_visible"),
        ("pg_conversion_is_visible", "pg_conversion_is_visible"),
        ("pg_ts_config_is_visible", "pg_ts_config_is_visible"),
        ("pg_ts_dict_is_visible", "pg_ts_dict_is_visible"),
        ("pg_statistics_obj_is_visible", "pg_statistics_obj_is_visible"),
    ] {
        list.push(constant(name, symbol, &[Oid], Boolean, always::<Bool>(|| true)));
    }
    for (name, symbol, args) in [
        ("has_table_privilege", "has_table_privilege", vec![Oid, Text]),
        ("has_table_privilege", "has_table_privilege_name", vec![Text, Text]),
        ("has_table_privilege", "has_table_privilege_user", vec![Name, Oid, Text]),
        ("has_table_privilege", "has_table_privilege_user_name", vec![Name, Text, Text]),
        ("has_column_privilege", "has_column_privilege", vec![Oid, Text, Text]),
        ("has_column_privilege", "has_column_privilege_number", vec![Oid, SmallInt, Text]),
        ("has_any_column_privilege", "has_any_column_privilege", vec![Oid, Text]),
        ("has_schema_privilege", "has_schema_privilege", vec![Oid, Text]),
        ("has_schema_privilege", "has_schema_privilege_name", vec![Text, Text]),
        ("has_schema_privilege", "has_schema_privilege_user", vec![Name, Text, Text]),
        ("has_schema_privilege", "has_schema_privilege_user_oid", vec![Name, Oid, Text]),
        ("has_database_privilege", "has_database_privilege", vec![Oid, Text]),
        ("has_database_privilege", "has_database_privilege_name", vec![Text, Text]),
        ("has_function_privilege", "has_function_privilege", vec![Oid, Text]),
        ("has_type_privilege", "has_type_privilege", vec![Oid, Text]),
        ("has_sequence_privilege", "has_sequence_privilege", vec![Oid, Text]),
        ("pg_has_role", "pg_has_role", vec![Oid, Text]),
        ("pg_has_role", "pg_has_role_name", vec![Name, Text]),
        ("pg_has_role", "pg_has_role_user", vec![Name, Oid, Text]),
    ] {
        list.push(constant(name, symbol, &args, Boolean, always::<Bool>(|| true)));
    }
    for (name, symbol, args) in [
        ("obj_description", "obj_description", vec![Oid, Name]),
        ("obj_description", "obj_description_any", vec![Oid]),
        ("shobj_description", "shobj_description", vec![Oid, Name]),
        ("col_description", "col_description", vec![Oid, Int]),
        ("pg_get_indexdef", "pg_get_indexdef", vec![Oid]),
        ("pg_get_indexdef", "pg_get_indexdef_ext", vec![Oid, Int, Boolean]),
        ("pg_get_constraintdef", "pg_get_constraintdef", vec![Oid]),
        ("pg_get_constraintdef", "pg_get_constraintdef_ext", vec![Oid, Boolean]),
        ("pg_get_viewdef", "pg_get_viewdef", vec![Oid]),
        ("pg_get_viewdef", "pg_get_viewdef_ext", vec![Oid, Boolean]),
        ("pg_get_ruledef", "pg_get_ruledef", vec![Oid]),
        ("pg_get_ruledef", "pg_get_ruledef_ext", vec![Oid, Boolean]),
        ("pg_get_triggerdef", "pg_get_triggerdef", vec![Oid]),
        ("pg_get_triggerdef", "pg_get_triggerdef_ext", vec![Oid, Boolean]),
        ("pg_get_functiondef", "pg_get_functiondef", vec![Oid]),
        ("pg_get_function_sqlbody", "pg_get_function_sqlbody", vec![Oid]),
        ("pg_get_partkeydef", "pg_get_partkeydef", vec![Oid]),
        ("pg_get_partition_constraintdef", "pg_get_partition_constraintdef", vec![Oid]),
        ("pg_get_statisticsobjdef_columns", "pg_get_statisticsobjdef_columns", vec![Oid]),
        ("pg_get_serial_sequence", "pg_get_serial_sequence", vec![Text, Text]),
        ("pg_tablespace_location", "pg_tablespace_location", vec![Oid]),
    ] {
        list.push(constant(name, symbol, &args, SqlType::Text, null::<super::rows::Text>()));
    }
    list.extend([
        constant("pg_relation_is_publishable", "pg_relation_is_publishable", &[RegClass], Boolean, always::<Bool>(|| false)),
        constant("pg_is_in_recovery", "pg_is_in_recovery", &[], Boolean, always::<Bool>(|| false)),
        constant("pg_is_other_temp_schema", "pg_is_other_temp_schema", &[Oid], Boolean, always::<Bool>(|| false)),
        constant("pg_my_temp_schema", "pg_my_temp_schema", &[], SqlType::Oid, always::<super::rows::Oid>(|| 0)),
        constant("pg_relation_is_updatable", "pg_relation_is_updatable", &[RegClass, Boolean], Int, always::<Int4>(|| 0)),
        // The store keeps everything together and does not tell one relation's bytes: nothing is said of them.
        constant("pg_table_size", "pg_table_size", &[RegClass], BigInt, null::<Int8>()),
        constant("pg_indexes_size", "pg_indexes_size", &[RegClass], BigInt, null::<Int8>()),
        constant("pg_relation_size", "pg_relation_size", &[RegClass], BigInt, null::<Int8>()),
        constant("pg_total_relation_size", "pg_total_relation_size", &[RegClass], BigInt, null::<Int8>()),
        constant("pg_database_size", "pg_database_size", &[Oid], BigInt, null::<Int8>()),
        constant("pg_database_size", "pg_database_size_name", &[Name], BigInt, null::<Int8>()),
        constant("pg_tablespace_size", "pg_tablespace_size", &[Oid], BigInt, null::<Int8>()),
        constant("pg_advisory_unlock_all", "pg_advisory_unlock_all", &[], Boolean, always::<Bool>(|| true)),
        constant("txid_current", "txid_current", &[], BigInt, refused("transaction ids are not supported")),
        constant("pg_current_xact_id", "pg_current_xact_id", &[], BigInt, refused("transaction ids are not supported")),
    ]);
    list
}
