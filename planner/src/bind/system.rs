//! Functions whose value the session or the catalog knows when a statement is bound, and the names behind oids.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, lit};
use storage::SqlType;

use super::literal::{literal, no_now, text};
use super::lookup::{name_of, oid_of};
use super::{Binder, SetConfig, SettingValue, Typed, at};
use crate::catalog::ObjectKind;
use crate::error::{Error, Result};
use crate::types::{self, CastContext};

/// The function that arrays are read by, in `pg_type.typinput`.
const ARRAY_IN: i64 = 750;

impl Binder<'_> {
    /// The time in a view: that of the epoch. Temporal filters know what it is; a rule refuses it anywhere else.
    fn time_of_epoch(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Typed> {
        let ty = match name {
            "now" | "transaction_timestamp" | "statement_timestamp" | "current_timestamp" => SqlType::TimestampTz,
            "localtimestamp" => SqlType::Timestamp,
            "current_date" => SqlType::Date,
            _ => return Err(at(no_now(name), place)),
        };
        if !args.is_empty() {
            let error = Error::unsupported(format!("{name} with a precision is not supported in a materialized view"));
            return Err(at(error, place).with_hint("Use now()."));
        }
        let now = Typed::new(crate::functions::epoch_time::epoch_time(), SqlType::TimestampTz).at(place);
        let expr = self.coerce(now, &ty, -1, CastContext::Explicit)?;
        Ok(Typed::new(expr, ty).at(place))
    }

    /// A function that is a constant of the session; `None` if it is none of those.
    pub(super) fn constant(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Option<Typed>> {
        let micros = if name == "proctime" { self.settings.processing_time } else { self.settings.now };
        let timestamptz = ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
        let fixed = |value: ScalarValue, ty: SqlType| Ok(Some(Typed::new(literal(value), ty).at(place)));
        let named = |value: &str| Ok(Some(Typed::new(text(value), SqlType::Name).at(place)));
        let needs_now = matches!(
            name,
            "now"
                | "current_timestamp"
                | "transaction_timestamp"
                | "statement_timestamp"
                | "clock_timestamp"
                | "proctime"
                | "current_date"
                | "current_time"
                | "localtime"
                | "localtimestamp"
        );
        if needs_now && self.view {
            return self.time_of_epoch(name, args, place).map(Some);
        }
        match name {
            "now" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp" | "proctime"
                if args.is_empty() =>
            {
                fixed(timestamptz, SqlType::TimestampTz)
            }
            "current_timestamp" | "localtimestamp" | "current_time" | "localtime" | "current_date" => {
                let now = Typed::new(literal(timestamptz), SqlType::TimestampTz).at(place);
                let typmod = match args {
                    [] => -1,
                    [Typed { expr: Expr::Literal(ScalarValue::Int32(Some(n)), _), .. }] => *n,
                    _ => return Err(at(Error::new("42601", format!("{name} takes a precision")), place)),
                };
                let ty = match name {
                    "current_timestamp" => SqlType::TimestampTz,
                    "localtimestamp" => SqlType::Timestamp,
                    "current_date" => SqlType::Date,
                    "current_time" => {
                        return Err(at(Error::unsupported("time with time zone is not supported"), place)
                            .with_hint("Use localtime."));
                    }
                    _ => SqlType::Time,
                };
                let expr = self.coerce(now, &ty, typmod, CastContext::Explicit)?;
                // Seen as a constant by everything that asks for one.
                let value = crate::expr::evaluate(&expr)?;
                fixed(value, ty)
            }
            "age" if args.len() == 1 => {
                if self.view {
                    return Err(at(no_now("age() with one argument"), place));
                }
                let today = self.constant("current_date", &[], place)?.expect("it is one of the above");
                let ty = if args[0].ty == SqlType::TimestampTz { SqlType::TimestampTz } else { SqlType::Timestamp };
                let midnight = self.coerce(today, &ty, -1, CastContext::Explicit)?;
                let args = vec![Typed::new(midnight, ty), args[0].clone()];
                self.function("age", args, place).map(Some)
            }
            "current_user" | "session_user" | "user" | "current_role" | "getpgusername" => named(&self.settings.user),
            "current_database" | "current_catalog" => named(&self.settings.database),
            "current_schema" => {
                let schema = self.settings.search_path.iter().find(|s| *s != "pg_catalog").cloned();
                fixed(ScalarValue::Utf8View(schema), SqlType::Name)
            }
            "current_schemas" => {
                let mut schemas = self.settings.search_path.clone();
                if matches!(args, [Typed { expr: Expr::Literal(ScalarValue::Boolean(Some(true)), _), .. }])
                    && !schemas.iter().any(|s| s == "pg_catalog")
                {
                    schemas.insert(0, "pg_catalog".into());
                }
                let values: Vec<ScalarValue> = schemas.into_iter().map(|s| ScalarValue::Utf8View(Some(s))).collect();
                let list = ScalarValue::new_list(&values, &SqlType::Name.arrow(), true);
                fixed(ScalarValue::List(list), SqlType::Array(Box::new(SqlType::Name)))
            }
            "current_setting" => {
                let Some(Typed { expr: Expr::Literal(ScalarValue::Utf8View(Some(name)), _), .. }) = args.first() else {
                    let Some(name) = args.first() else { return Ok(None) };
                    let name = self.implicit(name.clone(), &SqlType::Text)?;
                    let settings = self.settings.values.iter();
                    let known = settings.map(|(known, value)| (name.clone().eq(text(known)), text(value))).collect();
                    let value = case(known, literal(ScalarValue::Utf8View(None)));
                    return Ok(Some(Typed::new(value, SqlType::Text).at(place)));
                };
                let name = name.to_lowercase();
                let value = match name.as_str() {
                    "timezone" => Some(self.settings.timezone.clone()),
                    _ => self.settings.values.get(&name).cloned(),
                };
                if value.is_none() && args.len() < 2 {
                    let message = format!("unrecognized configuration parameter \"{name}\"");
                    return Err(at(Error::new("42704", message), place));
                }
                fixed(ScalarValue::Utf8View(value), SqlType::Text)
            }
            "pg_backend_pid" => {
                let pid = self.settings.values.get("backend_pid").and_then(|p| p.parse().ok());
                fixed(ScalarValue::Int32(Some(pid.unwrap_or(0))), SqlType::Int)
            }
            "inet_server_addr" | "inet_client_addr" => fixed(ScalarValue::Utf8View(None), SqlType::Text),
            "pg_postmaster_start_time" | "pg_conf_load_time" => fixed(timestamptz, SqlType::TimestampTz),
            "to_regclass" => match args {
                [Typed { expr: Expr::Literal(ScalarValue::Utf8View(Some(name)), _), .. }] => {
                    let id = self.class_named(name).ok();
                    fixed(ScalarValue::Int64(id), SqlType::RegClass)
                }
                _ => Ok(None),
            },
            "pg_table_is_visible" if args.len() == 1 => {
                let path = &self.settings.search_path;
                let is_hidden = |schema: &str| schema != "pg_catalog" && !path.iter().any(|s| s == schema);
                let hidden: Vec<Expr> =
                    (self.catalog.objects()).filter(|o| is_hidden(&o.schema)).map(|o| lit(i64::from(o.id.0))).collect();
                let ty = if args[0].ty == SqlType::Unknown { SqlType::RegClass } else { SqlType::Oid };
                let oid = self.implicit(args[0].clone(), &ty)?;
                Ok(Some(Typed::new(oid.in_list(hidden, true), SqlType::Boolean).at(place)))
            }
            "pg_get_viewdef" | "pg_get_indexdef" | "pg_get_constraintdef" => {
                let objects = self.catalog.objects();
                let definitions: Vec<(u32, String)> = match name {
                    "pg_get_viewdef" => objects
                        .filter(|o| matches!(o.kind, ObjectKind::View | ObjectKind::MaterializedView))
                        .map(|o| (o.id.0, crate::catalog::query_text(&o.sql)))
                        .collect(),
                    "pg_get_indexdef" => objects.filter_map(|o| self.catalog.index_definition(o)).collect(),
                    _ => objects.filter_map(|o| o.key_definition()).collect(),
                };
                let Some(oid) = args.first() else { return Ok(None) };
                if let ("pg_get_indexdef", [_, number, _]) = (name, args) {
                    return self.index_column(oid.clone(), number.clone(), definitions, place).map(Some);
                }
                let ty = if oid.ty == SqlType::Unknown { SqlType::RegClass } else { SqlType::Oid };
                let oid = self.implicit(oid.clone(), &ty)?;
                let found = self.choose(oid, definitions, literal(ScalarValue::Utf8View(None)));
                Ok(Some(Typed::new(found, SqlType::Text).at(place)))
            }
            "obj_description" | "col_description" => {
                let comments: Vec<(u32, String)> =
                    self.catalog.objects().filter_map(|o| Some((o.id.0, o.comment.clone()?))).collect();
                if name == "col_description" || comments.is_empty() {
                    return Ok(None);
                }
                let oid = self.implicit(args[0].clone(), &SqlType::Oid)?;
                let found = self.choose(oid, comments, literal(ScalarValue::Utf8View(None)));
                Ok(Some(Typed::new(found, SqlType::Text).at(place)))
            }
            "set_config" if args.len() == 3 => self.set_config(args, place).map(Some),
            _ => Ok(None),
        }
    }

    /// `set_config(name, value, is_local)`: whoever runs the query sets it, once.
    fn set_config(&mut self, args: &[Typed], place: Option<usize>) -> Result<Typed> {
        let unsupported = |what: &str| {
            at(Error::unsupported(format!("set_config() takes {what}")), place).with_hint("Use SET for anything else.")
        };
        if self.view {
            return Err(unsupported("no part in a view"));
        }
        let Expr::Literal(ScalarValue::Utf8View(Some(name)), _) = &args[0].expr else {
            return Err(unsupported("a constant name"));
        };
        let Expr::Literal(ScalarValue::Boolean(Some(local)), _) = self.implicit(args[2].clone(), &SqlType::Boolean)?
        else {
            return Err(unsupported("a constant third argument"));
        };
        let shown = self.implicit(args[1].clone(), &SqlType::Text)?;
        let value = match &shown {
            Expr::Literal(ScalarValue::Utf8View(value), _) => SettingValue::Constant(value.clone()),
            Expr::Placeholder(parameter) => match crate::batch::row_expr::param_index(&parameter.id) {
                Some(i) => SettingValue::Parameter(i),
                None => return Err(unsupported("a parameter with a number")),
            },
            _ => return Err(unsupported("a constant or a parameter as its value")),
        };
        self.settings_set.push(SetConfig { name: name.clone(), value, local });
        Ok(Typed::new(shown, SqlType::Text).at(place))
    }

    /// `pg_get_indexdef(oid, number, pretty)`: a column of an index, the whole definition for number 0.
    fn index_column(
        &mut self,
        oid: Typed,
        number: Typed,
        definitions: Vec<(u32, String)>,
        place: Option<usize>,
    ) -> Result<Typed> {
        let oid = self.implicit(oid, &SqlType::Oid)?;
        let number = self.implicit(number, &SqlType::Int)?;
        let null = || literal(ScalarValue::Utf8View(None));
        let mut found = vec![(number.clone().eq(lit(0_i32)), self.choose(oid.clone(), definitions, null()))];
        for (index, columns) in self.catalog.objects().filter_map(|o| self.catalog.index_columns(o)) {
            for (n, column) in (1_i32..).zip(columns) {
                let is_it = oid.clone().eq(lit(i64::from(index))).and(number.clone().eq(lit(n)));
                found.push((is_it, text(column)));
            }
        }
        Ok(Typed::new(case(found, null()), SqlType::Text).at(place))
    }

    /// The oid of a function by its name. Of the functions that types are read by only the arrays' has a name.
    pub(super) fn function_oid(&self, name: &str) -> Result<i64> {
        if let Ok(oid) = name.parse::<u32>() {
            return Ok(i64::from(oid));
        }
        match name.strip_prefix("pg_catalog.").unwrap_or(name) {
            "array_in" => Ok(ARRAY_IN),
            "-" => Ok(0),
            _ => Err(Error::new("42883", format!("function \"{name}\" does not exist"))),
        }
    }

    /// The name behind an oid.
    fn choose(&self, oid: Expr, values: Vec<(u32, String)>, otherwise: Expr) -> Expr {
        if !self.view {
            return name_of(oid, values, otherwise);
        }
        let values = values.into_iter().map(|(id, value)| (oid.clone().eq(lit(i64::from(id))), text(value)));
        case(values.collect(), otherwise)
    }

    /// A text that names a relation or a type, as its oid.
    pub(super) fn text_to_object(&mut self, typed: Typed, to: &SqlType) -> Result<Expr> {
        let place = typed.position;
        if let Expr::Literal(ScalarValue::Utf8View(Some(name)), _) = &typed.expr {
            let value = self.read_constant(&name.clone(), to, -1).map_err(|e| at(e, place))?;
            return Ok(literal(value));
        }
        if typed.is_null() {
            return Ok(literal(types::text::null(to)));
        }
        if *to == SqlType::RegType {
            return Err(at(Error::unsupported("a cast of a column to regtype is not supported"), place));
        }
        let name = Typed { ty: SqlType::Text, ..typed }.expr;
        let mut oids = vec![];
        for object in self.catalog.objects() {
            oids.push((format!("{}.{}", object.schema, object.name), object.id.0));
            if object.schema == "pg_catalog" || self.settings.search_path.contains(&object.schema) {
                oids.push((object.name.clone(), object.id.0));
            }
        }
        if !self.view {
            return Ok(oid_of(name, oids));
        }
        let oids = oids.into_iter().map(|(known, oid)| (name.clone().eq(text(known)), lit(i64::from(oid))));
        Ok(case(oids.collect(), literal(ScalarValue::Int64(None))))
    }

    /// The name of the relation or the type with an oid.
    pub(super) fn object_to_text(&mut self, typed: Typed, to: &SqlType) -> Result<Expr> {
        let names: Vec<(u32, String)> = match typed.ty {
            SqlType::RegType => types::ALL
                .iter()
                .flat_map(|ty| {
                    let array = SqlType::Array(Box::new(ty.clone()));
                    [(types::oid(ty), types::format(ty, -1)), (types::array_oid(ty), types::format(&array, -1))]
                })
                .filter(|(oid, _)| *oid != 0)
                .collect(),
            _ => (self.catalog.objects())
                .map(|o| {
                    let visible = o.schema == "pg_catalog" || self.settings.search_path.contains(&o.schema);
                    let name = crate::catalog::quote_ident(&o.name);
                    (o.id.0, if visible { name } else { format!("{}.{name}", crate::catalog::quote_ident(&o.schema)) })
                })
                .collect(),
        };
        let from = Typed { ty: SqlType::Oid, ..typed };
        let oid = from.expr.clone();
        let otherwise = self.coerce(from, &SqlType::Text, -1, CastContext::Explicit)?;
        let name = self.choose(oid, names, otherwise);
        self.coerce(Typed::new(name, SqlType::Text), to, -1, CastContext::Explicit)
    }
}

/// `CASE WHEN .. THEN .. ELSE .. END`
fn case(values: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    if values.is_empty() {
        return otherwise;
    }
    let when = values.into_iter().map(|(is_it, value)| (Box::new(is_it), Box::new(value))).collect();
    Expr::Case(Case { expr: None, when_then_expr: when, else_expr: Some(Box::new(otherwise)) })
}
