//! The text of a statement: parsed, and bound where it reads or writes.

use planner::catalog::{Catalog, Object, ObjectKind};
use planner::{Settings, Statement};
use storage::{Column, RelationId};

const WORDS: [&str; 60] = [
    " SELECT ",
    " FROM ",
    " WHERE ",
    " GROUP BY ",
    " ORDER BY ",
    " HAVING ",
    " UNION ALL ",
    " EXCEPT ",
    " JOIN t ON true ",
    " LEFT JOIN LATERAL ",
    " WITH RECURSIVE ",
    " OVER (",
    " PARTITION BY ",
    " FILTER (WHERE ",
    " CASE WHEN ",
    " THEN ",
    " END ",
    " CAST(",
    " AS ",
    "::int",
    "::text",
    "::numeric(5,2)",
    "::interval",
    "::int[]",
    " IN (",
    " EXISTS (",
    " ANY (",
    " BETWEEN ",
    " AND ",
    " OR ",
    " NOT ",
    " NULL ",
    " IS DISTINCT FROM ",
    " LIKE ",
    " ESCAPE ",
    " COLLATE ",
    " AT TIME ZONE ",
    " DISTINCT ON (",
    " LIMIT ",
    " OFFSET ",
    " VALUES (",
    " ARRAY[",
    " ROW(",
    "(",
    ")",
    "[",
    "]",
    "'",
    "\"",
    "$1",
    "$$",
    "--",
    "/*",
    "*/",
    ";",
    "count(*)",
    "sum(",
    "generate_series(1,",
    "now()",
    "E'\\u0000'",
];

fn object(id: u32, name: &str, kind: ObjectKind, columns: &str) -> Object {
    let column = |text: &str| {
        let (name, ty) = text.split_once(' ').expect("a name and a type");
        let (ty, typmod) = planner::types::parse(ty).expect("a type");
        Column { name: name.into(), ty, typmod, not_null: false }
    };
    let columns = columns.split(", ").map(column).collect();
    Object { id: RelationId(id), schema: "public".into(), name: name.into(), kind, columns, ..Object::default() }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let t = object(1, "t", ObjectKind::Table, "a int, b text, c numeric, d timestamptz, e int[], f varchar(5)");
    catalog.insert(Object { primary_key: vec![0], ..t });
    catalog.insert(object(2, "u", ObjectKind::Table, "a bigint, x double precision, j jsonb, i interval, y bytea"));
    let v = object(5, "v", ObjectKind::View, "a int, n bigint");
    let sql = "CREATE VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a".into();
    catalog.insert(Object { sql, depends_on: vec![RelationId(1)], ..v });
    catalog
}

#[test]
fn sql() {
    planner::stack::keep_room();
    let (catalog, settings) = (catalog(), Settings::default());
    let check = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let Ok(parsed) = planner::parse(&text) else { return };
        for parsed in parsed {
            let mut params = Vec::new();
            // What is wrong with it is an answer.
            match &parsed.statement {
                Statement::Query(query) => {
                    let _ = planner::bind_query(&catalog, &settings, query, &mut params);
                    let _ = planner::bind_view(&catalog, &settings, query);
                }
                Statement::Insert(insert) => drop(planner::bind_insert(&catalog, &settings, insert, &mut params)),
                Statement::Update(update) => drop(planner::bind_update(&catalog, &settings, update, &mut params)),
                Statement::Delete(delete) => drop(planner::bind_delete(&catalog, &settings, delete, &mut params)),
                _ => {}
            }
        }
    };
    // As large a stack as sessions have.
    let run = || crate::drive("sql", 400, &WORDS, check);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(planner::stack::THREAD_BYTES).spawn_scoped(scope, run);
        let ended = thread.expect("a thread").join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
