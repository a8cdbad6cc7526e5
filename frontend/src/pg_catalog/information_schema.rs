//! `information_schema`: what exists, as the SQL standard words it.

use planner::catalog::ObjectKind;
use storage::SqlType;

use crate::error::Result;
use crate::pg_catalog::names::{DATABASE, ROLE, SCHEMAS};
use crate::pg_catalog::objects::{key_name, relkind, shown_default, visible};
use crate::pg_catalog::relation::{Context, Fill, Rows, SystemRelation};
use crate::row;

const fn relation(name: &'static str, oid: u32, columns: &'static str, fill: Fill) -> SystemRelation {
    SystemRelation::new("information_schema", name, oid, columns, fill)
}

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    relation(
        "schemata",
        13_100,
        "catalog_name:name schema_name:name schema_owner:name default_character_set_catalog:name \
         default_character_set_schema:name default_character_set_name:name sql_path:text",
        |_, rows| {
            for (name, _) in SCHEMAS {
                let owner = if *name == "public" { "pg_database_owner" } else { ROLE };
                rows.push(row![DATABASE, *name, owner]);
            }
            Ok(())
        },
    ),
    relation(
        "tables",
        13_101,
        "table_catalog:name table_schema:name table_name:name table_type:text self_referencing_column_name:name \
         reference_generation:text user_defined_type_catalog:name user_defined_type_schema:name \
         user_defined_type_name:name is_insertable_into:text is_typed:text commit_action:text",
        |context, rows| {
            for o in listed(context) {
                let kind = match relkind(o) {
                    "v" => "VIEW",
                    "f" => "FOREIGN",
                    _ => "BASE TABLE",
                };
                let insertable = if o.kind == ObjectKind::Table { "YES" } else { "NO" };
                let none = None::<&str>;
                rows.push(row![
                    DATABASE, &o.schema, &o.name, kind, none, none, none, none, none, insertable, "NO", none
                ]);
            }
            Ok(())
        },
    ),
    relation(
        "columns",
        13_102,
        "table_catalog:name table_schema:name table_name:name column_name:name ordinal_position:int4 \
         column_default:text is_nullable:text data_type:text character_maximum_length:int4 \
         character_octet_length:int4 numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 \
         datetime_precision:int4 interval_type:text interval_precision:int4 character_set_catalog:name \
         character_set_schema:name character_set_name:name collation_catalog:name collation_schema:name \
         collation_name:name domain_catalog:name domain_schema:name domain_name:name udt_catalog:name \
         udt_schema:name udt_name:name scope_catalog:name scope_schema:name scope_name:name \
         maximum_cardinality:int4 dtd_identifier:name is_self_referencing:text is_identity:text \
         identity_generation:text is_generated:text generation_expression:text is_updatable:text",
        columns,
    ),
    relation(
        "views",
        13_103,
        "table_catalog:name table_schema:name table_name:name view_definition:text check_option:text \
         is_updatable:text is_insertable_into:text",
        |context, rows| {
            for o in context.catalog.objects().filter(|o| o.kind == ObjectKind::View) {
                let definition = planner::catalog::query_text(&o.sql);
                rows.push(row![DATABASE, &o.schema, &o.name, definition, "NONE", "NO", "NO"]);
            }
            Ok(())
        },
    ),
    relation(
        "table_constraints",
        13_104,
        "constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name table_schema:name \
         table_name:name constraint_type:text is_deferrable:text initially_deferred:text enforced:text",
        |context, rows| {
            for o in keyed(context) {
                rows.push(row![
                    DATABASE,
                    &o.schema,
                    key_name(o),
                    DATABASE,
                    &o.schema,
                    &o.name,
                    "PRIMARY KEY",
                    "NO",
                    "NO",
                    "YES"
                ]);
            }
            Ok(())
        },
    ),
    relation(
        "key_column_usage",
        13_105,
        "constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name table_schema:name \
         table_name:name column_name:name ordinal_position:int4 position_in_unique_constraint:int4",
        |context, rows| {
            for o in keyed(context) {
                for (n, &i) in o.primary_key.iter().enumerate() {
                    let column = &o.columns[i].name;
                    rows.push(row![DATABASE, &o.schema, key_name(o), DATABASE, &o.schema, &o.name, column, n + 1]);
                }
            }
            Ok(())
        },
    ),
    relation(
        "referential_constraints",
        13_106,
        "constraint_catalog:name constraint_schema:name constraint_name:name unique_constraint_catalog:name \
         unique_constraint_schema:name unique_constraint_name:name match_option:text update_rule:text delete_rule:text",
        |_, _| Ok(()),
    ),
    relation(
        "routines",
        13_107,
        "specific_catalog:name specific_schema:name specific_name:name routine_catalog:name routine_schema:name \
         routine_name:name routine_type:text data_type:text",
        |_, _| Ok(()),
    ),
];

fn keyed<'a>(context: &'a Context<'_>) -> impl Iterator<Item = &'a planner::catalog::Object> {
    let objects = context.catalog.objects().map(AsRef::as_ref);
    objects.filter(|o: &&planner::catalog::Object| o.kind == ObjectKind::Table && !o.primary_key.is_empty())
}

/// The relations that the standard knows of: like Postgres', neither materialized views nor indexes.
fn listed<'a>(context: &'a Context<'_>) -> impl Iterator<Item = &'a planner::catalog::Object> {
    let objects = context.catalog.objects().map(AsRef::as_ref);
    objects.filter(|o: &&planner::catalog::Object| {
        !matches!(o.kind, ObjectKind::MaterializedView | ObjectKind::Index | ObjectKind::Sink)
    })
}

fn columns(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    for o in listed(context) {
        for (i, c) in visible(o).iter().enumerate() {
            let none = None::<&str>;
            let not_null = c.not_null || o.kind == ObjectKind::Table && o.primary_key.contains(&i);
            let data_type = match &c.ty {
                SqlType::Array(_) => "ARRAY".to_owned(),
                ty => planner::types::format(ty, -1),
            };
            let length = match c.ty {
                SqlType::Varchar | SqlType::Char if c.typmod > 4 => Some(c.typmod - 4),
                _ => None,
            };
            let (precision, radix, scale) = match c.ty {
                SqlType::SmallInt => (Some(16), Some(2), Some(0)),
                SqlType::Int => (Some(32), Some(2), Some(0)),
                SqlType::BigInt => (Some(64), Some(2), Some(0)),
                SqlType::Real => (Some(24), Some(2), None),
                SqlType::Double => (Some(53), Some(2), None),
                SqlType::Numeric if c.typmod >= 4 => {
                    (Some((c.typmod - 4) >> 16), Some(10), Some((c.typmod - 4) & 0xffff))
                }
                SqlType::Numeric => (None, Some(10), None),
                _ => (None, None, None),
            };
            let micro = matches!(c.ty, SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Interval);
            let datetime = if c.ty == SqlType::Date { Some(0) } else { micro.then_some(6) };
            let default = o.defaults.get(i).and_then(Option::as_ref).map(|d| shown_default(d, c));
            rows.push(row![
                DATABASE,
                &o.schema,
                &o.name,
                &c.name,
                i + 1,
                default,
                if not_null { "NO" } else { "YES" },
                data_type,
                length,
                length.map(|l| l * 4),
                precision,
                radix,
                scale,
                datetime,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                DATABASE,
                "pg_catalog",
                planner::types::typname(&c.ty),
                none,
                none,
                none,
                none,
                (i + 1).to_string(),
                "NO",
                "NO",
                none,
                "NEVER",
                none,
                if o.kind == ObjectKind::Table { "YES" } else { "NO" }
            ]);
        }
    }
    Ok(())
}
