//! Rows as lines of CSV, as COPY writes them: NULL is nothing, an empty string is two quotes.

use arrow::array::Array as _;
use storage::{Batch, Column};
use streaming::expr::Functions;

/// The names of the columns.
pub fn header(columns: &[Column], out: &mut String) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        field(&column.name, out);
    }
    out.push('\n');
}

/// A row.
pub fn row(batch: &Batch, row: usize, columns: &[Column], functions: &dyn Functions, out: &mut String) {
    let mut text = String::new();
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let values = batch.column(i);
        if values.is_valid(row) {
            text.clear();
            functions.write_text(values.as_ref(), row, &column.ty, &mut text);
            field(&text, out);
        }
    }
    out.push('\n');
}

fn field(text: &str, out: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        return out.push_str(text);
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Plain, batch, spec};

    #[test]
    fn quotes_what_needs_it() {
        let columns = spec("file", streaming::sink::SinkType::AppendOnly, &[]).columns;
        let mut out = String::new();
        header(&columns, &mut out);
        let rows = batch(&[(1, "a,\"b\"", 1), (2, "", 1), (3, "plain", 1)]);
        (0..3).for_each(|i| row(&rows, i, &columns, &Plain, &mut out));
        assert_eq!(out, "id,name\n1,\"a,\"\"b\"\"\"\n2,\"\"\n3,plain\n");
    }
}
