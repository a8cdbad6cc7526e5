//! Every statement in one line; errors with their places.

use super::*;

fn ok(sql: &str) -> Statement {
    match parse(sql) {
        Ok(mut parsed) => {
            assert_eq!(parsed.len(), 1, "{sql}");
            parsed.remove(0).statement
        }
        Err(e) => panic!("{sql}: {e} at {:?}", e.position),
    }
}

fn fails(sql: &str, message: &str, position: usize) {
    let error = parse(sql).expect_err(sql);
    assert_eq!((error.message.as_str(), error.position), (message, Some(position)), "{sql}");
}

#[test]
fn reads_every_statement() {
    for sql in [
        "SELECT 1",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1 LIMIT 3 OFFSET 1",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
        "VALUES (1, 'a'), (2, 'b')",
        "TABLE t",
        "SELECT * FROM t WHERE a IS DISTINCT FROM b AND c",
        "SELECT * FROM t WHERE a BETWEEN SYMMETRIC 3 AND 1 AND b NOT BETWEEN 1 AND 2",
        "SELECT -2 ^ 2, a::int::text, x[1], INTERVAL '1 day', DATE '2020-01-01', e'a\\nb', $$x$$, 1e3",
        "SELECT count(*) FILTER (WHERE a > 1), string_agg(DISTINCT b, ',' ORDER BY b) FROM t GROUP BY 1 HAVING true",
        "SELECT * FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND)",
        "SELECT * FROM TUMBLE(TABLE bid, date_time, INTERVAL '10' SECOND) t FETCH FIRST 3 ROWS ONLY",
        "SELECT * FROM a ASOF JOIN b ON a.k = b.k AND a.t >= b.t",
        "SELECT * FROM a ASOF LEFT OUTER JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k ASOF INNER JOIN c ON a.t > c.t",
        "SELECT asof FROM t AS asof",
        "SELECT * FROM a JOIN b FOR SYSTEM_TIME AS OF PROCTIME() AS x ON a.k = x.k",
        "SELECT * FROM t at",
        "SELECT row_number() OVER (PARTITION BY a ORDER BY b DESC NULLS LAST) FROM t",
        "SELECT c.relname OPERATOR(pg_catalog.~) '^(x)$' COLLATE pg_catalog.default FROM pg_catalog.pg_class c",
        "INSERT INTO t VALUES (1, DEFAULT), (2, 3)",
        "INSERT INTO t (a, b) SELECT 1, 2 RETURNING *",
        "INSERT INTO t DEFAULT VALUES RETURNING a",
        "UPDATE t SET a = a + 1, (b, c) = (1, 2) WHERE a = 3 RETURNING a AS x",
        "DELETE FROM t WHERE a = 1 RETURNING *",
        "TRUNCATE TABLE a, b CASCADE",
        "COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';')",
        "COPY (SELECT 1) TO STDOUT CSV HEADER",
        "CREATE TABLE IF NOT EXISTS public.t (a int PRIMARY KEY, b numeric(10,2) NOT NULL DEFAULT 1 + 1, c text[] NULL)",
        "CREATE TABLE t (a int DEFAULT 1 NOT NULL, \"B\" timestamp with time zone, PRIMARY KEY (a, \"B\")) APPEND ONLY",
        "CREATE TABLE t (a int, WATERMARK FOR ts AS ts - INTERVAL '5 seconds', *) WITH (connector = 'kafka', topic = 'x')
            FORMAT PLAIN ENCODE JSON",
        "CREATE TABLE t AS SELECT 1 AS a",
        "CREATE TABLE t (x, y) AS SELECT 1, 2",
        "CREATE SOURCE s (a int, PRIMARY KEY (a)) INCLUDE key AS k INCLUDE timestamp WITH (
            connector = 'kafka', properties.bootstrap.server = 'localhost:9092', scan.startup.mode = 'earliest'
         ) FORMAT PLAIN ENCODE JSON (schema.registry = 'http://x')",
        "CREATE SOURCE IF NOT EXISTS s (*) WITH (connector = 'datagen', rows = 10)",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS v (a, b) WITH (x = 1) AS SELECT 1, 2",
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM t EMIT ON WINDOW CLOSE",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE OR REPLACE VIEW v AS SELECT * FROM t",
        "CREATE INDEX i ON t (a DESC NULLS LAST, b) INCLUDE (c)",
        "CREATE INDEX ON t (a)",
        "CREATE SINK s FROM v WITH (connector = 'kafka', topic = 'x') FORMAT PLAIN ENCODE JSON",
        "CREATE SINK s AS SELECT a FROM t WITH (connector = 'kafka')",
        "CREATE SINK GROUP IF NOT EXISTS g WITH (connector = 'kafka', properties.bootstrap.server = 'x')",
        "DROP SINK GROUP g",
        "SHOW SINK GROUPS",
        "CREATE SINK \"group\" FROM v WITH (connector = 'kafka')",
        "DROP SINK \"group\"",
        "CREATE USER u WITH PASSWORD 'x' CREATEDB NOSUPERUSER VALID UNTIL 'infinity'",
        "CREATE ROLE u",
        "ALTER ROLE CURRENT_USER ENCRYPTED PASSWORD 'x'",
        "ALTER USER u RENAME TO w",
        "DROP USER IF EXISTS u, w",
        "DROP MATERIALIZED VIEW IF EXISTS a, b CASCADE",
        "DROP TABLE t",
        "DROP INDEX i RESTRICT",
        "DROP SINK s",
        "ALTER TABLE t RENAME TO u",
        "ALTER MATERIALIZED VIEW v RENAME TO w",
        "ALTER TABLE t ADD COLUMN x int",
        "COMMENT ON TABLE t IS 'x'",
        "COMMENT ON COLUMN t.a IS NULL",
        "EXPLAIN SELECT 1",
        "EXPLAIN (VERBOSE, COSTS off) CREATE MATERIALIZED VIEW v AS SELECT 1",
        "EXPLAIN ANALYZE (SELECT 1)",
        "SHOW server_version",
        "SHOW TIME ZONE",
        "SHOW TABLES FROM public",
        "SHOW MATERIALIZED VIEWS",
        "SHOW COLUMNS FROM t",
        "SHOW CREATE TABLE t",
        "SHOW JOBS",
        "SHOW ALL",
        "DESCRIBE t",
        "SET SESSION a.b TO 'x'",
        "SET LOCAL search_path = a, 'B', c",
        "SET TIME ZONE 'Europe/Berlin'",
        "SET TIME ZONE -5",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET NAMES 'UTF8'",
        "RESET ALL",
        "DISCARD ALL",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "START TRANSACTION",
        "COMMIT AND CHAIN",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT x",
        "RELEASE x",
        "RELEASE SAVEPOINT x",
        "ROLLBACK TO x",
        "ROLLBACK WORK TO SAVEPOINT x",
        "SUBSCRIBE TO v WITH (SNAPSHOT = false, PROGRESS)",
        "SUBSCRIBE (SELECT 1)",
        "FLUSH",
        "WAIT",
        "BACKUP TO '/backup/today'",
        "CREATE SAVEPOINT POINT IF NOT EXISTS p",
        "DROP SAVEPOINT POINT p",
        "PREPARE p (int, text) AS SELECT $1, $2",
        "EXECUTE p (1, 'x')",
        "EXECUTE p",
        "DEALLOCATE ALL",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "FETCH FORWARD 10 FROM c",
        "FETCH NEXT FROM c",
        "FETCH c",
        "MOVE ALL IN c",
        "CLOSE c",
        "LISTEN x",
        "GRANT SELECT ON t TO u",
    ] {
        ok(sql);
    }
}

#[test]
fn keeps_options_and_names() {
    let Statement::CreateSource(s) = ok("CREATE SOURCE \"S\" (A int) WITH (Connector='kafka', a.\"B\".c = 5, d = true)
        FORMAT Plain ENCODE Json (x.y = 'z')")
    else {
        panic!("a source")
    };
    assert_eq!((s.name.last(), s.columns.columns[0].name.as_str()), ("S", "a"));
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(s.connection.options, [pair("connector", "kafka"), pair("a.B.c", "5"), pair("d", "true")]);
    assert_eq!(s.connection.encode_options, [pair("x.y", "z")]);
    assert_eq!(s.connection.format.as_deref(), Some("plain"));
    let Statement::CreateTable(t) = ok("CREATE TABLE t (a int DEFAULT  1 +  2 NOT NULL)") else { panic!("a table") };
    assert_eq!(t.columns.columns[0].default.as_deref(), Some("1 +  2"));
    assert!(t.columns.columns[0].not_null);
}

#[test]
fn splits_a_text_into_statements() {
    let parsed = parse(" select 'a;b' ;; \n-- c;\nselect é, 2;").unwrap();
    let texts: Vec<_> = parsed.iter().map(|p| (p.text.as_str(), p.offset)).collect();
    assert_eq!(texts, [("select 'a;b'", 1), ("select é, 2", 24)]);
    assert!(parse("").unwrap().is_empty());
    assert!(parse(" ; -- x").unwrap().is_empty());
}

#[test]
fn says_where_the_syntax_is_wrong() {
    fails("selec 1", "syntax error at or near \"selec\"", 1);
    fails("select 1 from", "syntax error at end of input", 14);
    fails("select * from t wher a", "syntax error at or near \"a\"", 22);
    fails("select 1;\nselect 2 +;", "syntax error at end of input", 21);
    fails("create table t (a int,)", "syntax error at or near \")\"", 23);
    fails("create table select (a int)", "syntax error at or near \"select\"", 14);
    fails("drop table", "syntax error at end of input", 11);
    fails("select 'abc", "unterminated quoted string at or near \"'abc\"", 8);
    fails("é foo", "syntax error at or near \"é\"", 1);
}

#[test]
fn refuses_what_is_nested_too_deeply() {
    for sql in [
        format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("select {}1", "-".repeat(10_000).replace('-', "- ")),
        format!("select {}1", "not ".repeat(10_000)),
        format!("select 1{}", " + 1".repeat(100_000)),
        format!("select 1{}", " union select 1".repeat(10_000)),
        format!("select {}", "case when ".repeat(10_000)),
        format!("select {}", "(select ".repeat(10_000)),
        format!("select a{}", "::int".repeat(10_000)),
    ] {
        assert_eq!(parse(&sql).unwrap_err().sqlstate, "54001", "{}", &sql[..40]);
    }
}
