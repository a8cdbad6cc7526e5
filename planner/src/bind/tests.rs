//! Queries to plans; errors with their codes, texts and places.

use storage::Column;

use super::*;
use crate::catalog::ObjectKind;
use crate::statement::Statement;

fn column_of(name: &str, ty: &str) -> Column {
    let (ty, typmod) = crate::types::parse(ty).unwrap();
    Column { name: name.into(), ty, typmod, not_null: false }
}

fn object(id: u32, name: &str, kind: ObjectKind, columns: &str) -> Object {
    let columns = columns.split(", ").map(|c| c.split_once(' ').unwrap()).map(|(n, t)| column_of(n, t)).collect();
    Object { id: RelationId(id), name: name.into(), kind, columns, ..Object::default() }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let t = object(1, "t", ObjectKind::Table, "a int, b text, c numeric, d timestamptz, e int[], f varchar(5)");
    let defaults = vec![None, Some("'x' || 1".into()), Some("1.50".into())];
    catalog.insert(Object { primary_key: vec![0], defaults, ..t });
    let u = object(2, "u", ObjectKind::Table, "a bigint, x double precision, j jsonb, _row_id bigint");
    catalog.insert(Object { hidden: 1, ..u });
    let bid = object(3, "bid", ObjectKind::Source, "auction bigint, price bigint, ts timestamp, _row_id bigint");
    catalog.insert(Object { hidden: 1, append_only: true, errors: Some(RelationId(4)), ..bid });
    let v = object(5, "v", ObjectKind::View, "a int, n bigint");
    let sql = "CREATE VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a".into();
    catalog.insert(Object { sql, depends_on: vec![RelationId(1)], ..v });
    catalog
}

fn try_bind(sql: &str) -> Result<Bound> {
    let Statement::Query(query) = crate::parser::parse(sql)?.remove(0).statement else { panic!("a query: {sql}") };
    bind_query(&catalog(), &Settings::default(), &query, &mut vec![])
}

#[track_caller]
fn bind(sql: &str) -> Bound {
    match try_bind(sql) {
        Ok(bound) => bound,
        Err(e) => panic!("{sql}: {e} ({}) at {:?} {:?}", e.sqlstate, e.position, e.hint),
    }
}

#[track_caller]
fn fails(sql: &str, sqlstate: &str, position: usize, message: &str) {
    let e = try_bind(sql).expect_err(sql);
    assert_eq!((e.sqlstate, e.position.unwrap_or(0), e.message.as_str()), (sqlstate, position, message), "{sql}");
}

/// Names and types of the columns.
#[track_caller]
fn columns(sql: &str) -> String {
    let bound = bind(sql);
    let shown = bound.columns.iter().map(|c| format!("{} {}", c.name, crate::types::format(&c.ty, c.typmod)));
    shown.collect::<Vec<_>>().join(", ")
}

#[test]
fn binds_what_people_write() {
    for sql in [
        "SELECT 1",
        "SELECT * FROM t",
        "SELECT t.*, u.x FROM t, u WHERE t.a = u.a",
        "SELECT a, count(*) AS n FROM t GROUP BY a HAVING count(*) > 1 ORDER BY n DESC, 1 LIMIT 3 OFFSET 1",
        "SELECT b, sum(c), avg(a), min(d), max(f) FROM t GROUP BY b",
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT c + 1, count(*) FROM t GROUP BY c + 1",
        "SELECT a + 1 AS x FROM t GROUP BY x",
        "SELECT a, b FROM t GROUP BY a",
        "SELECT DISTINCT c, b FROM t ORDER BY c",
        "SELECT DISTINCT ON (b) b, a FROM t ORDER BY b, a DESC",
        "SELECT count(DISTINCT c), sum(a) FILTER (WHERE b LIKE 'x%'), string_agg(b, ',' ORDER BY a) FROM t",
        "SELECT * FROM t JOIN u USING (a)",
        "SELECT a FROM t FULL JOIN u USING (a)",
        "SELECT * FROM t NATURAL LEFT JOIN u",
        "SELECT * FROM t LEFT JOIN u ON t.a = u.a AND u.x > 1 RIGHT JOIN t AS w ON w.a = t.a",
        "SELECT * FROM t CROSS JOIN u",
        "SELECT * FROM v WHERE n > 1",
        "SELECT * FROM (SELECT a AS q FROM t) AS s(z) WHERE z = 1",
        "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) AS s(x, y)",
        "VALUES (1, 2.5), (3, 4)",
        "WITH w AS (SELECT a FROM t) SELECT * FROM w JOIN w AS w2 ON w.a = w2.a",
        "SELECT a FROM t UNION ALL SELECT a FROM u UNION ALL SELECT 1",
        "SELECT c FROM t UNION SELECT 1 ORDER BY c",
        "SELECT a FROM t INTERSECT SELECT a FROM u",
        "SELECT a FROM t EXCEPT SELECT 1",
        "SELECT * FROM t WHERE a IN (SELECT a FROM u)",
        "SELECT * FROM t WHERE a NOT IN (1, 2, 3)",
        "SELECT * FROM t WHERE c IN (1, 2.5)",
        "SELECT * FROM t WHERE EXISTS (SELECT FROM u WHERE u.a = t.a)",
        "SELECT * FROM t WHERE a = (SELECT max(a) FROM u WHERE u.a = t.a)",
        "SELECT (SELECT count(*) FROM u WHERE u.a = t.a) FROM t",
        "SELECT * FROM t WHERE a > ALL (SELECT a FROM u)",
        "SELECT * FROM t WHERE a = ANY (e) AND a = ANY (ARRAY[1, 2]) AND b = ANY ('{x,y}')",
        "SELECT * FROM t WHERE (a, b) = (1, 'x') AND (a, b) < (2, 'y') AND (a, b) IN ((1, 'x'))",
        "SELECT CASE WHEN a > 1 THEN 'x' ELSE b END, CASE a WHEN 1 THEN 2 END, COALESCE(b, 'y'), NULLIF(a, 1),
                GREATEST(a, 1, 2.5), LEAST(d, '2020-01-01') FROM t",
        "SELECT a::text || 'x', CAST('1' AS int), DATE '2020-01-01' + 1, INTERVAL '1' DAY, INTERVAL '1 day 2 hours',
                d AT TIME ZONE 'UTC', EXTRACT(year FROM d), SUBSTRING(b FROM 2 FOR 1), POSITION('a' IN b),
                TRIM(LEADING 'x' FROM b), OVERLAY(b PLACING 'x' FROM 1) FROM t",
        "SELECT e[1], e[1:2], ARRAY[a, 1], ARRAY[]::int[], ARRAY['a', 'b']::text[], '{1,2}'::int[] FROM t",
        "SELECT b IS NULL, a IS NOT NULL, (a > 1) IS TRUE, a IS DISTINCT FROM 1, a BETWEEN 1 AND 2 FROM t",
        "SELECT now(), current_date, current_timestamp(3), localtime, current_user, current_database(), current_schema",
        "SELECT $1::int, $2 || 'x', a FROM t WHERE a = $3 LIMIT $4",
        "SELECT row_number() OVER (PARTITION BY b ORDER BY c DESC), rank() OVER w FROM t WINDOW w AS (ORDER BY a)",
        "SELECT b, count(*), rank() OVER (ORDER BY count(*) DESC) FROM t GROUP BY b",
        "SELECT sum(a) OVER (PARTITION BY b) FROM t",
        "SELECT * FROM generate_series(1, 10) AS g(x), unnest(ARRAY[x, 2]) AS y",
        "SELECT generate_series FROM generate_series(1, 10, 2)",
        "SELECT 'u'::regclass, 1::regtype, 'int'::regtype::text, '1'::oid",
        "SELECT j -> 'a' ->> 'b', j['a'] FROM u",
        "SELECT x FROM u ORDER BY x + 1 DESC NULLS LAST FETCH FIRST 2 ROWS ONLY",
        "SELECT b COLLATE \"C\" FROM t WHERE b OPERATOR(pg_catalog.~) '^(x)$' COLLATE pg_catalog.default",
        "SELECT pg_catalog.upper(b) FROM public.t WHERE public.t.a = 1",
        "SELECT -1, -2147483648, 9223372036854775807, -9223372036854775808, 1e3, 0.5, 1_000",
        "SELECT a, b FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.a = t.a AND u.x > t.c)",
        "SELECT * FROM bid$errors",
        "TABLE t",
        "SELECT count(*) FROM t WHERE false HAVING true",
        "SELECT ARRAY(SELECT a FROM t)",
        "SELECT sum(c) + 1 AS s FROM t ORDER BY s",
        "SELECT upper(b) FROM t GROUP BY upper(b) ORDER BY upper(b)",
        "SELECT a FROM t ORDER BY b, c",
        "SELECT * FROM t a JOIN t b ON a.a = b.a JOIN LATERAL (SELECT x FROM u WHERE u.a = a.a) s ON true",
    ] {
        bind(sql);
    }
}

#[test]
fn binds_views() {
    for sql in [
        "SELECT window_start, count(*) FROM TUMBLE(bid, ts, INTERVAL '10' SECOND) GROUP BY window_start",
        "SELECT t.window_end, t.price FROM TUMBLE(TABLE bid, ts, INTERVAL '1 minute', INTERVAL '5 seconds') AS t",
        "SELECT * FROM bid",
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS r FROM bid) s
         WHERE r <= 3",
    ] {
        let Statement::Query(query) = crate::parser::parse(sql).unwrap().remove(0).statement else { panic!() };
        if let Err(e) = bind_view(&catalog(), &Settings::default(), &query) {
            panic!("{sql}: {e} ({}) at {:?}", e.sqlstate, e.position);
        }
    }
}

#[test]
fn names_and_types_columns_as_postgres_does() {
    assert_eq!(
        columns("SELECT 1, 'x', NULL, true, 1.5, 3000000000"),
        "?column? integer, ?column? text, ?column? text, ?column? boolean, ?column? numeric, ?column? bigint"
    );
    assert_eq!(
        columns("SELECT count(*), a::text, 1::int4, '1'::varchar(3), upper(b) FROM t GROUP BY a, b"),
        "count bigint, a text, int4 integer, varchar character varying(3), upper text"
    );
    assert_eq!(
        columns("SELECT CASE WHEN true THEN a END, COALESCE(a, 1), ARRAY[1], (SELECT a FROM u LIMIT 1) FROM t"),
        "case integer, coalesce integer, array integer[], a bigint"
    );
    assert_eq!(
        columns("SELECT sum(a), avg(a), sum(c), min(f) FROM t"),
        "sum bigint, avg numeric, sum numeric, min text"
    );
    assert_eq!(
        columns("SELECT a + 1, c * 2, d - d, x / 2 FROM t, u AS q(aa, x)"),
        "?column? integer, ?column? numeric, ?column? interval, ?column? double precision"
    );
    assert_eq!(columns("SELECT * FROM u"), "a bigint, x double precision, j jsonb");
    assert_eq!(columns("SELECT f, c FROM t UNION ALL SELECT 'x', 1"), "f character varying, c numeric");
    assert_eq!(columns("SELECT * FROM t JOIN u USING (a)").split(',').next(), Some("a bigint"));
}

#[test]
fn says_what_is_wrong_and_where() {
    fails("SELECT * FROM nope", "42P01", 15, "relation \"nope\" does not exist");
    fails("SELECT nope FROM t", "42703", 8, "column \"nope\" does not exist");
    fails("SELECT t.nope FROM t", "42703", 8, "column t.nope does not exist");
    fails("SELECT z.a FROM t", "42P01", 8, "missing FROM-clause entry for table \"z\"");
    fails("SELECT a FROM t, u", "42702", 8, "column reference \"a\" is ambiguous");
    fails("SELECT a, b FROM t, v", "42702", 8, "column reference \"a\" is ambiguous");
    fails(
        "SELECT b FROM t GROUP BY c",
        "42803",
        8,
        "column \"t.b\" must appear in the GROUP BY clause or be used in an aggregate function",
    );
    fails("SELECT a FROM t WHERE sum(a) > 1", "42803", 23, "aggregate functions are not allowed in WHERE");
    fails("SELECT sum(sum(a)) FROM t", "42803", 12, "aggregate function calls cannot be nested");
    fails("SELECT 1 + true", "42883", 10, "operator does not exist: integer + boolean");
    fails("SELECT a = b FROM t", "42883", 10, "operator does not exist: integer = text");
    fails("SELECT foo(1)", "42883", 8, "function foo(integer) does not exist");
    fails("SELECT 'x'::int", "22P02", 8, "invalid input syntax for type integer: \"x\"");
    fails("SELECT 1 WHERE 1", "42804", 16, "argument of WHERE must be type boolean, not type integer");
    fails("SELECT a FROM t ORDER BY 2", "42P10", 26, "ORDER BY position 2 is not in select list");
    fails("SELECT 1 UNION SELECT 1, 2", "42601", 23, "each UNION query must have the same number of columns");
    fails("SELECT 1 UNION SELECT true", "42804", 23, "UNION types integer and boolean cannot be matched");
    fails(
        "SELECT CASE WHEN true THEN 1 ELSE 'a'::text END",
        "42804",
        28,
        "CASE types text and integer cannot be matched",
    );
    fails("SELECT (SELECT 1, 2)", "42601", 8, "subquery must return only one column");
    fails(
        "SELECT DISTINCT a FROM t ORDER BY b",
        "42P10",
        35,
        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
    );
    fails("SELECT * FROM t, t", "42712", 0, "table name \"t\" specified more than once");
    fails("SELECT 1 LIMIT -1", "2201W", 0, "LIMIT must not be negative");
    fails("SELECT * FROM (SELECT 1)", "42601", 15, "subquery in FROM must have an alias");
    fails("SELECT * FROM bid", "0A000", 15, "source \"bid\" keeps no rows to read");
    let e = try_bind("SELECT aa FROM t WHERE bb = 1").unwrap_err();
    assert_eq!(e.hint.as_deref(), Some("Perhaps you meant to reference the column \"t.a\"."));
}

#[test]
fn learns_types_of_parameters() {
    let bound = bind("SELECT $1::int, $2 || 'x', $5 FROM t WHERE a = $3 LIMIT $4");
    use SqlType::*;
    assert_eq!(bound.params, [Int, Text, Int, BigInt, Text]);
}

#[test]
fn binds_changes_of_tables() {
    let statement = |sql: &str| crate::parser::parse(sql).unwrap().remove(0).statement;
    let (catalog, settings) = (catalog(), Settings::default());
    for sql in [
        "INSERT INTO t VALUES (1, DEFAULT, '2.5'), (2, 'y', 3)",
        "INSERT INTO t (b, a) VALUES ('x', $1) RETURNING a, b, c + 1 AS d",
        "INSERT INTO t (a, f) SELECT a, 'x' FROM u RETURNING *",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO u SELECT 1",
        "INSERT INTO t (a, d) VALUES (1, now()), (2, '2020-01-01')",
    ] {
        let Statement::Insert(insert) = statement(sql) else { panic!() };
        let bound = bind_insert(&catalog, &settings, &insert, &mut vec![]).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(bound.source.columns.len(), bound.table.visible().len());
        assert_eq!(bound.source.plan.schema().fields().len(), bound.source.columns.len());
    }
    for sql in [
        "UPDATE t SET b = 'x', c = c + 1 WHERE a = $1 RETURNING *",
        "UPDATE u AS w SET (a, x) = (1, DEFAULT) WHERE w.a > 2",
    ] {
        let Statement::Update(update) = statement(sql) else { panic!() };
        let bound = bind_update(&catalog, &settings, &update, &mut vec![]).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(bound.source.columns.len(), 2 * bound.table.columns.len());
    }
    let Statement::Delete(delete) = statement("DELETE FROM u WHERE a IN (SELECT a FROM t) RETURNING a") else {
        panic!()
    };
    let bound = bind_delete(&catalog, &settings, &delete, &mut vec![]).unwrap();
    assert_eq!(bound.source.columns.len(), 4);
    assert_eq!(bound.returning.unwrap().relations, [RETURNING]);
}
