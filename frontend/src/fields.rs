//! The columns of a result, and how their values are written.

use storage::SqlType;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As a person reads it.
    Text,
    /// As the type's send function writes it.
    Binary,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name; names may repeat.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// Its type's modifier, -1 for none.
    pub typmod: i32,
}

impl Field {
    /// A column without a modifier.
    pub fn new(name: impl Into<String>, ty: SqlType) -> Field {
        Field { name: name.into(), ty, typmod: -1 }
    }
}

/// The columns of a bound query.
pub fn of(bound: &planner::Bound) -> Vec<Field> {
    bound.columns.iter().map(|c| Field { name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod }).collect()
}

/// What the text of a value depends on besides the value.
#[derive(Clone, Debug)]
pub struct Style {
    /// Whether intervals are written as ISO 8601 has them.
    pub iso_intervals: bool,
    /// Where timestamptz values are shown.
    pub zone: planner::types::datetime::Zone,
    /// Where the names behind regclass values are.
    pub catalog: std::sync::Arc<planner::catalog::Catalog>,
}

impl Style {
    /// Appends the text of a value that is not NULL.
    pub fn write(&self, array: &dyn arrow::array::Array, row: usize, ty: &SqlType, out: &mut String) {
        if *ty == SqlType::RegClass
            && let Some(ids) = array.as_any().downcast_ref::<arrow::array::Int64Array>()
            && let Ok(id) = u32::try_from(ids.value(row))
            && let Some(object) = self.catalog.by_id(storage::RelationId(id))
        {
            if !matches!(object.schema.as_str(), "public" | "pg_catalog") {
                out.push_str(&crate::catalog::quote_ident(&object.schema));
                out.push('.');
            }
            out.push_str(&crate::catalog::quote_ident(&object.name));
            return;
        }
        if self.iso_intervals
            && *ty == SqlType::Interval
            && let Some(values) = array.as_any().downcast_ref::<arrow::array::IntervalMonthDayNanoArray>()
        {
            return planner::types::datetime::write_iso_interval(values.value(row).into(), out);
        }
        planner::types::text::write_in(array, row, ty, &self.zone, out);
    }
}
