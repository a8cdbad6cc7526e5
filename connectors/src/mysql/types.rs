//! Which column of a MySQL table holds which type, and how a value is written there.

use arrow::array::AsArray as _;
use mysql::Value;
use storage::{Batch, SqlType};
use streaming::expr::Functions;
use streaming::sink::SinkSpec;

use crate::encoding::Encoder;

/// Characters that a text of a key may have: an index takes 3072 bytes.
const KEY_TEXT_CHARS: usize = 255;
/// Characters of a `VARCHAR`, at most: a row takes 65535 bytes.
const VARCHAR_CHARS_MAX: i32 = 4000;

/// The type of a column that is made for the sink's column `c`. Texts compare by their bytes, as ours do, which
/// `collation` says.
pub(super) fn column_type(spec: &SinkSpec, c: usize, collation: &str) -> String {
    let column = &spec.columns[c];
    let is_key = spec.key.contains(&c);
    let text = |ty: String| format!("{ty} CHARACTER SET utf8mb4 COLLATE {collation}");
    // As Postgres' type modifiers say it: four more than the length.
    let length = Some(column.typmod - 4).filter(|_| column.typmod > 4);
    match &column.ty {
        SqlType::Boolean => "BOOLEAN".into(),
        SqlType::SmallInt => "SMALLINT".into(),
        SqlType::Int => "INT".into(),
        SqlType::BigInt | SqlType::Oid => "BIGINT".into(),
        SqlType::Real => "FLOAT".into(),
        SqlType::Double => "DOUBLE".into(),
        SqlType::Numeric => match storage::numeric::typmod_parts(column.typmod) {
            Some((precision, scale)) if (0..=30).contains(&scale) && scale <= precision && precision <= 65 => {
                format!("DECIMAL({precision},{scale})")
            }
            _ => "DECIMAL(65,30)".into(),
        },
        SqlType::Varchar if length.is_some_and(|n| n <= VARCHAR_CHARS_MAX) => {
            text(format!("VARCHAR({})", length.unwrap_or_default()))
        }
        SqlType::Char if length.is_some_and(|n| n <= 255) => text(format!("CHAR({})", length.unwrap_or_default())),
        SqlType::Bytea if is_key => format!("VARBINARY({KEY_TEXT_CHARS})"),
        SqlType::Bytea => "LONGBLOB".into(),
        SqlType::Date => "DATE".into(),
        SqlType::Time => "TIME(6)".into(),
        SqlType::Timestamp | SqlType::TimestampTz => "DATETIME(6)".into(),
        SqlType::Uuid => "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin".into(),
        SqlType::Jsonb | SqlType::Array(_) if !is_key => "JSON".into(),
        _ if is_key => text(format!("VARCHAR({KEY_TEXT_CHARS})")),
        _ => text("LONGTEXT".into()),
    }
}

/// A value's text as MySQL reads it: bytes as hexadecimal digits, arrays as JSON, times with a zone in UTC.
pub(super) fn text(
    functions: &dyn Functions,
    encoder: &Encoder,
    spec: &SinkSpec,
    batch: &Batch,
    row: usize,
    c: usize,
) -> String {
    let values = batch.column(c);
    let ty = &spec.columns[c].ty;
    let mut text = String::new();
    match ty {
        SqlType::Boolean => text.push(if values.as_boolean().value(row) { '1' } else { '0' }),
        SqlType::Bytea => {
            for byte in values.as_binary_view().value(row) {
                text.push_str(&format!("{byte:02x}"));
            }
        }
        SqlType::Array(_) => encoder.value(values.as_ref(), row, ty, &mut text),
        _ => {
            functions.write_text(values.as_ref(), row, ty, &mut text);
            if *ty == SqlType::TimestampTz
                && let Some(plain) = text.strip_suffix("+00")
            {
                text = plain.to_owned();
            }
        }
    }
    text
}

/// What stands for a value in a statement that inserts it.
pub(super) fn placeholder(ty: &SqlType) -> &'static str {
    if *ty == SqlType::Bytea { "UNHEX(?)" } else { "?" }
}

/// What stands for a value of a key that is looked for: what compares as the column does.
pub(super) fn key_placeholder(ty: &SqlType) -> &'static str {
    match ty {
        SqlType::Numeric => "CAST(? AS DECIMAL(65,30))",
        other => placeholder(other),
    }
}

/// A value as it travels. A number that travelled as a text would be compared as a double.
pub(super) fn value(ty: &SqlType, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::NULL };
    let number = match ty {
        SqlType::Boolean | SqlType::SmallInt | SqlType::Int | SqlType::BigInt | SqlType::Oid => {
            text.parse().ok().map(Value::Int)
        }
        SqlType::Real => text.parse().ok().filter(|x: &f32| x.is_finite()).map(Value::Float),
        SqlType::Double => text.parse().ok().filter(|x: &f64| x.is_finite()).map(Value::Double),
        _ => None,
    };
    number.unwrap_or_else(|| Value::Bytes(text.as_bytes().to_vec()))
}
