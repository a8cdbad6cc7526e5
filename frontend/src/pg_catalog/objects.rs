//! Relations, their columns, keys and indexes, as `pg_class`, `pg_attribute` and the rest know them.

use planner::catalog::{Object, ObjectKind};
use storage::{RelationId, SqlType};

use crate::error::Result;
use crate::pg_catalog::names::{DATABASE, DATABASE_OID, OWNER_OID, ROLE, ROLE_OID, SCHEMAS, schema_oid};
use crate::pg_catalog::relation::{Context, Rows, SystemRelation, system};
use crate::pg_catalog::types::collation;
use crate::row;

/// Oids of Postgres' own catalogs are smaller.
pub const CATALOGS_MAX: u32 = 12_000;

/// The oid of a table's key.
pub fn key_index_oid(table: RelationId) -> u32 {
    table.0 + planner::catalog::KEY_INDEX_OFFSET
}

/// Everything that can stand in FROM, system relations included.
fn objects<'a>(context: &'a Context<'_>) -> impl Iterator<Item = &'a Object> {
    context.catalog.objects().map(AsRef::as_ref).filter(|o: &&Object| o.kind != ObjectKind::Sink)
}

/// `pg_class.relkind`
pub fn relkind(object: &Object) -> &'static str {
    match object.kind {
        ObjectKind::Table => "r",
        // Postgres' own catalogs are tables, and what is computed from them are views. Errors of a relation are kept.
        ObjectKind::System if (CATALOGS_MAX..planner::catalog::FIRST_USER_ID).contains(&object.id.0) => "v",
        ObjectKind::System => "r",
        // What comes from elsewhere.
        ObjectKind::Source => "f",
        ObjectKind::View => "v",
        ObjectKind::MaterializedView => "m",
        ObjectKind::Index => "i",
        // What goes elsewhere; it is listed in headwater_catalog only.
        ObjectKind::Sink => "f",
    }
}

/// The columns that a user sees.
pub fn visible(object: &Object) -> &[storage::Column] {
    &object.columns[..object.columns.len() - object.hidden]
}

/// The name of a table's key constraint and index.
pub fn key_name(object: &Object) -> String {
    format!("{}_pkey", object.name)
}

/// A default as Postgres would write it back: with the type behind a quoted constant.
pub fn shown_default(default: &str, column: &storage::Column) -> String {
    let inner = default.strip_prefix('\'').and_then(|d| d.strip_suffix('\''));
    match inner {
        Some(inner) if !inner.replace("''", "").contains('\'') => {
            format!("{default}::{}", planner::types::format(&column.ty, -1))
        }
        _ => default.to_owned(),
    }
}

fn has_key(object: &Object) -> bool {
    object.kind == ObjectKind::Table && !object.primary_key.is_empty()
}

/// The table that an index is on.
fn table_of(index: &Object) -> Option<RelationId> {
    index.depends_on.first().copied()
}

fn has_index(context: &Context<'_>, object: &Object) -> bool {
    has_key(object) || objects(context).any(|o| o.kind == ObjectKind::Index && table_of(o) == Some(object.id))
}

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    system(
        "pg_class",
        1259,
        "oid:oid relname:name relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid \
                  relfilenode:oid reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 \
                  reltoastrelid:oid relhasindex:bool relisshared:bool relpersistence:char relkind:char relnatts:int2 \
                  relchecks:int2 relhasrules:bool relhastriggers:bool relhassubclass:bool relrowsecurity:bool \
                  relforcerowsecurity:bool relispopulated:bool relreplident:char relispartition:bool relrewrite:oid \
                  relfrozenxid:int8 relminmxid:int8 relacl:text[] reloptions:text[] relpartbound:text",
        pg_class,
    ),
    system(
        "pg_attribute",
        1249,
        "attrelid:oid attname:name atttypid:oid attstattarget:int4 attlen:int2 attnum:int2 attndims:int4 \
                  attcacheoff:int4 atttypmod:int4 attbyval:bool attalign:char attstorage:char attcompression:char \
                  attnotnull:bool atthasdef:bool atthasmissing:bool attidentity:char attgenerated:char \
                  attisdropped:bool attislocal:bool attinhcount:int4 attcollation:oid attacl:text[] \
                  attoptions:text[] attfdwoptions:text[] attmissingval:text",
        pg_attribute,
    ),
    system("pg_namespace", 2615, "oid:oid nspname:name nspowner:oid nspacl:text[]", |_, rows| {
        for (name, oid) in SCHEMAS {
            rows.push(row![*oid, *name, if *name == "public" { OWNER_OID } else { ROLE_OID }]);
        }
        Ok(())
    }),
    system(
        "pg_index",
        2610,
        "indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool \
                  indnullsnotdistinct:bool indisprimary:bool indisexclusion:bool indimmediate:bool \
                  indisclustered:bool indisvalid:bool indcheckxmin:bool indisready:bool indislive:bool \
                  indisreplident:bool indkey:int2vector indcollation:oidvector indclass:oidvector indoption:int2vector indexprs:text \
                  indpred:text",
        pg_index,
    ),
    system(
        "pg_constraint",
        2606,
        "oid:oid conname:name connamespace:oid contype:char condeferrable:bool condeferred:bool \
                  convalidated:bool conrelid:oid contypid:oid conindid:oid conparentid:oid confrelid:oid \
                  confupdtype:char confdeltype:char confmatchtype:char conislocal:bool coninhcount:int4 \
                  connoinherit:bool conkey:int2[] confkey:int2[] conpfeqop:oid[] conppeqop:oid[] conffeqop:oid[] \
                  conexclop:oid[] conbin:text",
        pg_constraint,
    ),
    system("pg_attrdef", 2604, "oid:oid adrelid:oid adnum:int2 adbin:text", |context, rows| {
        for object in objects(context) {
            for (i, default) in object.defaults.iter().enumerate() {
                if let Some(default) = default {
                    rows.push(row![object.id.0, object.id.0, i + 1, shown_default(default, &object.columns[i])]);
                }
            }
        }
        Ok(())
    }),
    system("pg_description", 2609, "objoid:oid classoid:oid objsubid:int4 description:text", |context, rows| {
        for o in objects(context) {
            if let Some(comment) = &o.comment {
                rows.push(row![o.id.0, 1259, 0, comment]);
            }
        }
        Ok(())
    }),
    system("pg_am", 2601, "oid:oid amname:name amhandler:oid amtype:char", |_, rows| {
        rows.push(row![2, "heap", 3, "t"]);
        rows.push(row![403, "btree", 330, "i"]);
        Ok(())
    }),
    system(
        "pg_database",
        1262,
        "oid:oid datname:name datdba:oid encoding:int4 datlocprovider:char datistemplate:bool \
                  datallowconn:bool datconnlimit:int4 datfrozenxid:int8 datminmxid:int8 dattablespace:oid \
                  datcollate:text datctype:text daticulocale:text datcollversion:text datacl:text[]",
        |_, rows| {
            const UTF8: i32 = 6;
            let none = None::<&str>;
            rows.push(row![
                DATABASE_OID,
                DATABASE,
                ROLE_OID,
                UTF8,
                "c",
                false,
                true,
                -1,
                0,
                0,
                1663,
                "C",
                "C.UTF-8",
                none,
                none,
                none
            ]);
            Ok(())
        },
    ),
    system("pg_tablespace", 1213, "oid:oid spcname:name spcowner:oid spcacl:text[] spcoptions:text[]", |_, rows| {
        rows.push(row![1663, "pg_default", ROLE_OID]);
        Ok(())
    }),
    system("pg_group", 12_107, "groname:name grosysid:oid grolist:oid[]", |_, _| Ok(())),
    system(
        "pg_tables",
        12_102,
        "schemaname:name tablename:name tableowner:name tablespace:name hasindexes:bool hasrules:bool \
                  hastriggers:bool rowsecurity:bool",
        |context, rows| {
            for o in objects(context).filter(|o| relkind(o) == "r") {
                let indexed = has_index(context, o);
                rows.push(row![&o.schema, &o.name, ROLE, None::<&str>, indexed, false, false, false]);
            }
            Ok(())
        },
    ),
    system("pg_views", 12_103, "schemaname:name viewname:name viewowner:name definition:text", |context, rows| {
        for o in objects(context).filter(|o| o.kind == ObjectKind::View) {
            rows.push(row![&o.schema, &o.name, ROLE, planner::catalog::query_text(&o.sql)]);
        }
        Ok(())
    }),
    system(
        "pg_matviews",
        12_104,
        "schemaname:name matviewname:name matviewowner:name tablespace:name hasindexes:bool ispopulated:bool \
                  definition:text",
        |context, rows| {
            for o in objects(context).filter(|o| o.kind == ObjectKind::MaterializedView) {
                let indexed = has_index(context, o);
                let definition = planner::catalog::query_text(&o.sql);
                rows.push(row![&o.schema, &o.name, ROLE, None::<&str>, indexed, true, definition]);
            }
            Ok(())
        },
    ),
    system(
        "pg_indexes",
        12_105,
        "schemaname:name tablename:name indexname:name tablespace:name indexdef:text",
        |context, rows| {
            for o in objects(context) {
                let Some((_, definition)) = context.catalog.index_definition(o) else { continue };
                let on = table_of(o).and_then(|id| context.catalog.by_id(id)).filter(|_| o.kind == ObjectKind::Index);
                let (table, name) = match on {
                    Some(table) => (table.as_ref(), o.name.clone()),
                    None => (o, key_name(o)),
                };
                rows.push(row![&table.schema, &table.name, name, None::<&str>, definition]);
            }
            Ok(())
        },
    ),
    system(
        "pg_settings",
        12_106,
        "name:text setting:text unit:text category:text short_desc:text extra_desc:text context:text \
                  vartype:text source:text min_val:text max_val:text enumvals:text[] boot_val:text reset_val:text \
                  sourcefile:text sourceline:int4 pending_restart:bool",
        pg_settings,
    ),
];

fn pg_class(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    const HEAP: u32 = 2;
    const BTREE: u32 = 403;
    let mut add = |oid: u32, name: &str, schema: &str, kind: &str, columns: usize, indexed: bool| {
        let am = match kind {
            "r" | "m" => HEAP,
            "i" => BTREE,
            _ => 0,
        };
        let replica = if kind == "i" { "n" } else { "d" };
        let none = None::<&str>;
        rows.push(row![
            oid,
            name,
            schema_oid(schema),
            0,
            0,
            ROLE_OID,
            am,
            oid,
            0,
            0,
            -1.0,
            0,
            0,
            indexed,
            false,
            "p",
            kind,
            columns,
            0,
            kind == "v",
            false,
            false,
            false,
            false,
            true,
            replica,
            false,
            0,
            0,
            0,
            none,
            none,
            none
        ]);
    };
    for o in objects(context) {
        add(o.id.0, &o.name, &o.schema, relkind(o), shown_columns(o), has_index(context, o));
        if has_key(o) {
            add(key_index_oid(o.id), &key_name(o), &o.schema, "i", o.primary_key.len(), false);
        }
    }
    Ok(())
}

/// An index carries all columns of its relation, but is shown with those that it was made for.
fn shown_columns(object: &Object) -> usize {
    match object.kind {
        ObjectKind::Index => object.indexed_columns().len(),
        _ => visible(object).len(),
    }
}

fn pg_attribute(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    let mut add = |relation: u32, number: usize, column: &storage::Column, not_null: bool, has_default: bool| {
        let ty = &column.ty;
        let none = None::<&str>;
        let dimensions = i32::from(matches!(ty, SqlType::Array(_)));
        let size = planner::types::len(ty);
        rows.push(row![
            relation,
            &column.name,
            planner::types::oid(ty),
            -1,
            i64::from(size),
            number,
            dimensions,
            -1,
            column.typmod,
            size > 0,
            "i",
            planner::types::storage(ty).to_string(),
            "",
            not_null,
            has_default,
            false,
            "",
            "",
            false,
            true,
            0,
            collation(ty),
            none,
            none,
            none,
            none
        ]);
    };
    for o in objects(context) {
        for (i, column) in visible(o).iter().take(shown_columns(o)).enumerate() {
            let not_null = column.not_null || o.primary_key.contains(&i) && o.kind == ObjectKind::Table;
            let has_default = o.defaults.get(i).is_some_and(Option::is_some);
            add(o.id.0, i + 1, column, not_null, has_default);
        }
        if has_key(o) {
            for (n, &i) in o.primary_key.iter().enumerate() {
                add(key_index_oid(o.id), n + 1, &o.columns[i], false, false);
            }
        }
    }
    Ok(())
}

fn pg_index(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    let mut add = |index: u32, table: u32, unique: bool, columns: Vec<i64>| {
        let n = columns.len();
        let zeros = vec![0i64; n];
        let none = None::<&str>;
        rows.push(row![
            index,
            table,
            n,
            n,
            unique,
            false,
            unique,
            false,
            true,
            false,
            true,
            false,
            true,
            true,
            false,
            columns,
            zeros.clone(),
            zeros.clone(),
            zeros,
            none,
            none
        ]);
    };
    for o in objects(context) {
        if has_key(o) {
            add(key_index_oid(o.id), o.id.0, true, o.primary_key.iter().map(|&i| i as i64 + 1).collect());
        } else if o.kind == ObjectKind::Index
            && let Some(table) = table_of(o).and_then(|id| context.catalog.by_id(id))
        {
            let key = o.indexed_columns().into_iter().map(|(at, ..)| at as i64 + 1).collect();
            add(o.id.0, table.id.0, false, key);
        }
    }
    Ok(())
}

fn pg_constraint(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    for o in objects(context).filter(|o| has_key(o)) {
        let index = key_index_oid(o.id);
        let key: Vec<i64> = o.primary_key.iter().map(|&i| i as i64 + 1).collect();
        rows.push(row![
            index,
            key_name(o),
            schema_oid(&o.schema),
            "p",
            false,
            false,
            true,
            o.id.0,
            0,
            index,
            0,
            0,
            " ",
            " ",
            " ",
            true,
            0,
            true,
            key
        ]);
    }
    Ok(())
}

fn pg_settings(context: &Context<'_>, rows: &mut Rows) -> Result<()> {
    use crate::settings::{Kind, SETTINGS};
    for setting in SETTINGS.iter() {
        let kind = match setting.kind {
            Kind::Bool => "bool",
            Kind::Int(..) | Kind::Time(_) => "integer",
            Kind::Float => "real",
            Kind::Word(_) => "enum",
            Kind::Text | Kind::Fixed => "string",
        };
        let (min, max) = match setting.kind {
            Kind::Int(min, max) => (Some(min.to_string()), Some(max.to_string())),
            _ => (None, None),
        };
        let unit = if let Kind::Time(unit) = setting.kind { Some(unit) } else { None };
        let words = match setting.kind {
            Kind::Word(words) => Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()),
            _ => None,
        };
        let may = if matches!(setting.kind, Kind::Fixed) { "internal" } else { "user" };
        let value = context.settings.of(setting);
        let source = if value == setting.default { "default" } else { "session" };
        rows.push(row![
            setting.name,
            value,
            unit,
            "Settings",
            setting.description,
            None::<&str>,
            may,
            kind,
            source,
            min,
            max,
            words,
            setting.default,
            setting.default,
            None::<&str>,
            None::<i64>,
            false
        ]);
    }
    Ok(())
}
