//! What exists, as the binder sees it: plain data, cheap to clone, found by name and by id.
//!
//! The frontend owns the current catalog and what is durable of it; a statement is bound against one version. System
//! relations are objects too ([`ObjectKind::System`]); the frontend registers them with the columns that it fills.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storage::{Column, RelationId};
use streaming::engine::{JobSpec, Keeping};
use streaming::lookup::LookupSpec;
use streaming::watermark::Watermarks;

use crate::error::{Error, Result};
use crate::settings::Settings;
pub use crate::statement::ObjectKind;
use crate::statement::ObjectName;

/// The first id of an object that a user creates, as in Postgres: the id is the `pg_class` oid.
pub const FIRST_USER_ID: u32 = 16384;

/// What the name of a relation's error table ends with.
pub const ERRORS_SUFFIX: &str = "$errors";

/// What the name of a relation's late rows ends with.
pub const LATE_SUFFIX: &str = "$late";

/// A relation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Identifies it for ever.
    pub id: RelationId,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Its columns; the last [`hidden`](Object::hidden) are not shown.
    pub columns: Vec<Column>,
    /// The number of trailing hidden columns.
    pub hidden: usize,
    /// Positions of the primary key's columns; empty for none.
    pub primary_key: Vec<usize>,
    /// The default of each column as an expression's text; may be shorter than the columns.
    pub defaults: Vec<Option<String>>,
    /// Columns that get their default only, with each row that is inserted: those of processing time.
    #[serde(default)]
    pub generated: Vec<usize>,
    /// Its definition: the whole `CREATE` statement.
    pub sql: String,
    /// What it reads.
    pub depends_on: Vec<RelationId>,
    /// What maintains it.
    pub job: Option<JobSpec>,
    /// Jobs that its own needs besides: a sink into a table keeps its progress in one.
    #[serde(default)]
    pub helpers: Vec<JobSpec>,
    /// The relation that `<name>$errors` reads.
    pub errors: Option<RelationId>,
    /// Whether rows are never retracted.
    pub append_only: bool,
    /// Per column whether it has a watermark, and of what kind: values are unknown here.
    #[serde(default)]
    pub watermarks: Watermarks,
    /// The columns that rows are kept and found by.
    pub stream_key: Vec<usize>,
    /// Whether the stream key identifies a row; otherwise equal rows are counted.
    #[serde(default = "yes")]
    pub unique: bool,
    /// For an index: the indexed relation's column that each of its columns holds.
    #[serde(default)]
    pub source_columns: Vec<usize>,
    /// `COMMENT ON`
    #[serde(default)]
    pub comment: Option<String>,
    /// For a source whose rows are outside, and are only looked up.
    #[serde(default)]
    pub lookup: Option<LookupSpec>,
}

fn yes() -> bool {
    true
}

impl Default for Object {
    fn default() -> Object {
        Object {
            id: RelationId(0),
            schema: "public".into(),
            name: String::new(),
            kind: ObjectKind::Table,
            columns: vec![],
            hidden: 0,
            primary_key: vec![],
            defaults: vec![],
            generated: vec![],
            sql: String::new(),
            depends_on: vec![],
            job: None,
            helpers: vec![],
            errors: None,
            append_only: false,
            watermarks: vec![],
            stream_key: vec![],
            unique: true,
            source_columns: vec![],
            comment: None,
            lookup: None,
        }
    }
}

impl Object {
    /// The columns that `*` stands for.
    pub fn visible(&self) -> &[Column] {
        &self.columns[..self.columns.len() - self.hidden]
    }

    /// The position of a visible column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.visible().iter().position(|c| c.name == name)
    }
}

/// The oid of the index behind a table's key is the table's and this.
pub const KEY_INDEX_OFFSET: u32 = 0x4000_0000;

impl Object {
    /// The constraint of a table's primary key: its oid and `PRIMARY KEY (a, b)`.
    pub fn key_definition(&self) -> Option<(u32, String)> {
        if self.kind != ObjectKind::Table || self.primary_key.is_empty() {
            return None;
        }
        let names: Vec<String> = self.primary_key.iter().map(|&i| quote_ident(&self.columns[i].name)).collect();
        Some((self.id.0 + KEY_INDEX_OFFSET, format!("PRIMARY KEY ({})", names.join(", "))))
    }

    /// The columns of an index as they were written: positions in the indexed relation, whether descending, whether
    /// NULLs come first.
    pub fn indexed_columns(&self) -> Vec<(usize, bool, bool)> {
        let parsed = crate::parser::parse(&self.sql).ok().and_then(|mut parsed| parsed.pop());
        let Some(crate::Statement::CreateIndex(create)) = parsed.map(|p| p.statement) else { return vec![] };
        let of = |(at, c): (usize, &crate::statement::IndexColumn)| {
            Some((*self.source_columns.get(at)?, c.descending, c.nulls_first))
        };
        create.columns.iter().enumerate().filter_map(of).collect()
    }
}

/// A name in double quotes if it needs them.
pub fn quote_ident(name: &str) -> String {
    let plain = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// One version of what exists.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    by_id: BTreeMap<RelationId, Arc<Object>>,
    by_name: BTreeMap<(String, String), RelationId>,
    /// The `$errors` and `$late` relations, by their ids.
    aside: BTreeMap<RelationId, Arc<Object>>,
}

impl Catalog {
    /// Adds an object, or replaces the one with its id.
    pub fn insert(&mut self, object: Object) {
        self.remove(object.id);
        self.by_name.insert((object.schema.clone(), object.name.clone()), object.id);
        if let Some(id) = object.errors {
            let keeping = object.job.as_ref().map_or_else(Keeping::of_old, |job| job.keeping);
            let errors = Object {
                id,
                schema: object.schema.clone(),
                name: format!("{}{ERRORS_SUFFIX}", object.name),
                kind: ObjectKind::System,
                columns: keeping.columns(),
                stream_key: vec![streaming::row_errors::ERROR_ID],
                depends_on: vec![object.id],
                ..Object::default()
            };
            self.by_name.insert((errors.schema.clone(), errors.name.clone()), id);
            self.aside.insert(id, Arc::new(errors));
        }
        if let Some((job, event)) = object.job.as_ref().and_then(|job| Some((job, job.event_time()?))) {
            let late = Object {
                id: event.late,
                schema: object.schema.clone(),
                name: format!("{}{LATE_SUFFIX}", object.name),
                kind: ObjectKind::System,
                columns: streaming::event_time::late_columns(&job.columns, event),
                hidden: event.late_hidden(),
                stream_key: vec![streaming::event_time::late_columns(&job.columns, event).len() - 1],
                depends_on: vec![object.id],
                // Old ones go, if it is known which are.
                append_only: event.late_at().is_none(),
                ..Object::default()
            };
            self.by_name.insert((late.schema.clone(), late.name.clone()), late.id);
            self.aside.insert(late.id, Arc::new(late));
        }
        self.by_id.insert(object.id, Arc::new(object));
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: RelationId) -> Option<Arc<Object>> {
        let object = self.by_id.remove(&id)?;
        let mut forget = |o: &Object| {
            let name = (o.schema.clone(), o.name.clone());
            if self.by_name.get(&name) == Some(&o.id) {
                self.by_name.remove(&name);
            }
        };
        forget(&object);
        let late = object.job.as_ref().and_then(JobSpec::late);
        for id in object.errors.into_iter().chain(late) {
            if let Some(aside) = self.aside.remove(&id) {
                forget(&aside);
            }
        }
        Some(object)
    }

    /// All objects, by id; the `$errors` and `$late` relations are not among them.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_id.values()
    }

    /// No relation only grows: for who lets rows of it go.
    pub fn without_append_only(&mut self) {
        for object in self.by_id.values_mut().chain(self.aside.values_mut()) {
            let is_changing = |object: &Object| !object.append_only && object.watermarks.iter().all(Option::is_none);
            if !is_changing(object) {
                let object = Arc::make_mut(object);
                object.append_only = false;
                object.watermarks.iter_mut().flatten().for_each(|mark| mark.retracts = true);
            }
        }
    }

    /// The object with an id.
    pub fn by_id(&self, id: RelationId) -> Option<&Arc<Object>> {
        self.by_id.get(&id).or_else(|| self.aside.get(&id))
    }

    /// The object with exactly this name.
    pub fn get(&self, schema: &str, name: &str) -> Option<&Arc<Object>> {
        let id = self.by_name.get(&(schema.to_string(), name.to_string()))?;
        self.by_id(*id)
    }

    /// The object that a session means by a name: in its schema, or the first found along `pg_catalog` and the search
    /// path.
    pub fn find(&self, name: &ObjectName, settings: &Settings) -> Option<&Arc<Object>> {
        if let Some(schema) = name.schema() {
            return self.get(schema, name.last());
        }
        let path = settings.search_path.iter().map(String::as_str);
        let listed = settings.search_path.iter().any(|s| s == "pg_catalog");
        let first = (!listed).then_some("pg_catalog");
        first.into_iter().chain(path).find_map(|schema| self.get(schema, name.last()))
    }

    /// [`find`](Catalog::find), or the error that it does not exist.
    pub fn expect(&self, name: &ObjectName, settings: &Settings) -> Result<&Arc<Object>> {
        self.find(name, settings).ok_or_else(|| {
            let error = Error::new("42P01", format!("relation \"{name}\" does not exist"));
            match name.position {
                Some(position) => error.at(position),
                None => error,
            }
        })
    }

    /// The index that `object` is, or the one behind its key: its oid and the names of its columns, quoted if needed.
    pub fn index_columns(&self, object: &Object) -> Option<(u32, Vec<String>)> {
        let (oid, on, columns): (u32, &Object, Vec<usize>) = match object.kind {
            ObjectKind::Index => {
                let on = self.by_id(*object.depends_on.first()?)?;
                (object.id.0, on, object.indexed_columns().into_iter().map(|(at, ..)| at).collect())
            }
            _ => (object.key_definition()?.0, object, object.primary_key.clone()),
        };
        Some((oid, columns.into_iter().map(|at| quote_ident(&on.columns[at].name)).collect()))
    }

    /// The index that `object` is, or the one behind its key: its oid and its definition as Postgres writes it back.
    pub fn index_definition(&self, object: &Object) -> Option<(u32, String)> {
        if object.kind == ObjectKind::Index {
            let on = self.by_id(*object.depends_on.first()?)?;
            let column = |(at, descending, nulls_first): (usize, bool, bool)| {
                let order = match (descending, nulls_first) {
                    (false, false) => "",
                    (false, true) => " NULLS FIRST",
                    (true, true) => " DESC",
                    (true, false) => " DESC NULLS LAST",
                };
                format!("{}{order}", quote_ident(&on.columns[at].name))
            };
            let columns: Vec<String> = object.indexed_columns().into_iter().map(column).collect();
            return Some((object.id.0, definition("INDEX", &object.name, on, &columns.join(", "))));
        }
        let (oid, key) = object.key_definition()?;
        let columns = key.strip_prefix("PRIMARY KEY (")?.strip_suffix(')')?.to_string();
        Some((oid, definition("UNIQUE INDEX", &format!("{}_pkey", object.name), object, &columns)))
    }

    /// What reads `id` directly.
    pub fn dependents(&self, id: RelationId) -> Vec<Arc<Object>> {
        self.objects().filter(|o| o.depends_on.contains(&id)).cloned().collect()
    }
}

/// The query of a view's definition, as `pg_get_viewdef` gives it.
pub fn query_text(sql: &str) -> String {
    use crate::statement::{CreateSink, SinkFrom, Statement};
    let query = crate::parser::parse(sql).ok().and_then(|mut parsed| match parsed.pop()?.statement {
        Statement::CreateView(v) => Some(v.query),
        Statement::CreateMaterializedView(v) => Some(v.query),
        Statement::CreateSink(CreateSink { from: SinkFrom::Query(q), .. }) => Some(q),
        Statement::Query(q) => Some(q),
        _ => None,
    });
    query.map_or_else(|| sql.to_string(), |q| format!(" {};", q.ast))
}

fn definition(what: &str, name: &str, on: &Object, columns: &str) -> String {
    format!(
        "CREATE {what} {} ON {}.{} USING btree ({columns})",
        quote_ident(name),
        quote_ident(&on.schema),
        quote_ident(&on.name)
    )
}
