//! The SQL in documentation pages: what `tests/docs.rs` runs.
//!
//! A ```` ```sql ```` block is statements; the ```` ```text ```` block right after it, if there is one, is the result of the last of them as `psql`
//! shows it (`-- eventually` in the SQL: asked again until it is so). `-- error: TEXT` says that the statement below it fails with a message that
//! holds TEXT. ```` ```sql no-run ```` is not run.

/// A block of SQL on a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The line of the page, counted from 1.
    pub line: usize,
    /// The statements.
    pub statements: Vec<Statement>,
    /// The table that is shown below.
    pub result: Option<Vec<String>>,
    /// Whether the last statement is asked again until the result is so.
    pub eventually: bool,
}

/// One statement of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text without the semicolon.
    pub sql: String,
    /// What its error message holds, if it must fail.
    pub error: Option<String>,
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let lines: Vec<&str> = page.lines().collect();
    let mut blocks: Vec<Block> = Vec::new();
    let mut at = 0;
    let mut after_sql = false;
    while at < lines.len() {
        let line = lines[at].trim_end();
        at += 1;
        if !line.starts_with("```") {
            after_sql = after_sql && line.is_empty();
            continue;
        }
        let start = at;
        while at < lines.len() && !lines[at].starts_with("```") {
            at += 1;
        }
        let body = &lines[start..at];
        at += 1;
        match line {
            "```sql" => {
                let eventually = body.iter().any(|line| line.trim() == "-- eventually");
                blocks.push(Block { line: start, statements: statements(&body.join("\n")), result: None, eventually });
                after_sql = true;
            }
            "```text" if after_sql => {
                if let Some(block) = blocks.last_mut() {
                    block.result = Some(body.iter().map(|line| line.trim_end().to_string()).collect());
                }
                after_sql = false;
            }
            _ => after_sql = false,
        }
    }
    blocks
}

/// Cuts a text at the semicolons that are outside of quotes and comments.
pub fn statements(text: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut sql = String::new();
    let mut error = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("--") {
            let length = rest.find('\n').unwrap_or(rest.len());
            if let Some(message) = rest[..length].strip_prefix("-- error: ") {
                error = Some(message.trim().to_string());
            }
            rest = &rest[length..];
            continue;
        } else if c == '\'' || c == '"' {
            rest[1..].find(c).map_or(rest.len(), |end| end + 2)
        } else if let Some(quoted) = rest.strip_prefix("$$") {
            quoted.find("$$").map_or(rest.len(), |end| end + 4)
        } else if c == ';' {
            if !sql.trim().is_empty() {
                found.push(Statement { sql: sql.trim().to_string(), error: error.take() });
            }
            sql.clear();
            rest = &rest[1..];
            continue;
        } else {
            c.len_utf8()
        };
        sql.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    if !sql.trim().is_empty() {
        found.push(Statement { sql: sql.trim().to_string(), error });
    }
    found
}

/// A result as `psql` shows it: names, a rule, rows; numbers stand at the right.
pub fn table(names: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([names[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || "+-.e".contains(c));
    let right: Vec<bool> = (0..names.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row[column].is_empty() || is_number(&row[column])))
        .collect();
    let mut lines = Vec::new();
    let head: Vec<String> = names.iter().zip(&widths).map(|(name, width)| format!(" {name:^width$} ")).collect();
    lines.push(head.join("|").trim_end().to_string());
    lines.push(widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, value)| {
                let width = widths[column];
                if right[column] { format!(" {value:>width$} ") } else { format!(" {value:<width$} ") }
            })
            .collect();
        lines.push(cells.join("|").trim_end().to_string());
    }
    lines.push(if rows.len() == 1 { "(1 row)".to_string() } else { format!("({} rows)", rows.len()) });
    lines
}

/// Whether two tables say the same. On which side a value stands depends on its type, which a text does not tell.
pub fn same(shown: &[String], table: &[String]) -> bool {
    let cells = |lines: &[String]| -> Vec<Vec<String>> {
        let lines = lines.iter().filter(|line| !line.is_empty());
        lines.map(|line| line.split('|').map(|cell| cell.trim().to_string()).collect()).collect()
    };
    cells(shown) == cells(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_blocks_results_and_errors() {
        let page = "# Page\n```sql\nSELECT 1; -- one; not two\n-- error: division\nSELECT 1/0;\n```\n\n```text\n x\n```\n\n```sql no-run\nNO\n```\n";
        let blocks = blocks(page);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].statements.len(), 2);
        assert_eq!(blocks[0].statements[1].error.as_deref(), Some("division"));
        assert_eq!(blocks[0].result, Some(vec![" x".to_string()]));
    }

    #[test]
    fn draws_a_table_like_psql() {
        let table =
            table(&["a".into(), "name".into()], &[vec!["1".into(), "x".into()], vec!["20".into(), "yy".into()]]);
        assert_eq!(table, [" a  | name", "----+------", "  1 | x", " 20 | yy", "(2 rows)"]);
        let lines = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        assert!(same(&lines(" a  | name\n----+------\n 1  |    x\n 20 |   yy\n(2 rows)\n"), &table));
        assert!(!same(&lines(" a  | name\n----+------\n 1  |    x\n 21 |   yy\n(2 rows)\n"), &table));
        assert!(!same(&lines(" a\n---\n 1\n 20\n(2 rows)\n"), &table));
    }
}
