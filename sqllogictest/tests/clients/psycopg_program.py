"""psycopg 3 against the server on port ARGV[1]: DDL, DML, parameters, all types in text and binary, errors, cancel."""

import datetime as dt
import decimal
import sys
import threading
import time
import uuid

import psycopg
from psycopg.types.json import Jsonb

D = decimal.Decimal
url = f"host=127.0.0.1 port={sys.argv[1]} user=root dbname=dev"

VALUES = [
    ("boolean", True),
    ("boolean", None),
    ("smallint", -32768),
    ("int", 2147483647),
    ("bigint", -9223372036854775808),
    ("double precision", 0.1),
    ("double precision", float("inf")),
    ("real", 1.5),
    ("numeric", D("12345678901234567890123456789.123456789")),
    ("numeric", D("-0.001")),
    ("numeric", D("1.10")),
    ("numeric", D("0")),
    ("numeric", D("1000000")),
    ("numeric(10,2)", D("12.35")),
    ("text", "it's \"grüße\" \\ \n 日本語"),
    ("text", ""),
    ("varchar(5)", "abc"),
    ("bytea", b"\x00\xff\\'"),
    ("bytea", b""),
    ("date", dt.date(2024, 2, 29)),
    ("date", dt.date(1, 1, 1)),
    ("time", dt.time(12, 34, 56, 789)),
    ("timestamp", dt.datetime(2024, 2, 29, 12, 34, 56, 789)),
    ("timestamp", dt.datetime(1900, 1, 1)),
    ("timestamptz", dt.datetime(2024, 2, 29, 12, 34, 56, tzinfo=dt.timezone.utc)),
    ("interval", dt.timedelta(days=3, hours=4, microseconds=5)),
    ("interval", dt.timedelta(days=-1)),
    ("jsonb", {"a": [1, 2.5, None, True, "x"], "b": {}}),
    ("uuid", uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("int[]", [1, None, 3]),
    ("bigint[]", []),
    ("text[]", ["a", "b c", "", None, 'q"x', "NULL"]),
    ("numeric[]", [D("1.5"), D("2")]),
    ("boolean[]", [True, False]),
    ("double precision[]", [1.5, None]),
    ("timestamp[]", [dt.datetime(2024, 1, 1, 2, 3, 4)]),
]

with psycopg.connect(url, autocommit=True) as connection:
    assert connection.info.server_version >= 130000, connection.info.server_version
    assert connection.info.parameter_status("client_encoding") == "UTF8"
    assert connection.info.parameter_status("TimeZone")

    # DDL and DML.
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text, amount numeric(10,2), at timestamptz DEFAULT now())")
        cursor.execute("INSERT INTO t (id, name, amount) VALUES (%s, %s, %s)", (1, "one", D("1.50")))
        assert cursor.rowcount == 1 and cursor.statusmessage == "INSERT 0 1", cursor.statusmessage
        cursor.executemany("INSERT INTO t (id, name, amount) VALUES (%s, %s, %s)", [(n, f"n{n}", n) for n in range(2, 102)])
        cursor.execute("SELECT count(*), sum(amount) FROM t")
        assert cursor.fetchone() == (101, D("5151.50")), "the rows of executemany"
        cursor.execute("UPDATE t SET name = %s WHERE id > %s RETURNING id", ("x", 99))
        assert sorted(cursor.fetchall()) == [(100,), (101,)]
        cursor.execute("DELETE FROM t WHERE id = ANY (%s)", ([1, 2, 3],))
        assert cursor.rowcount == 3
        cursor.execute("CREATE MATERIALIZED VIEW m AS SELECT name, count(*) AS n FROM t GROUP BY name")
        cursor.execute("SELECT n FROM m WHERE name = %s", ("x",))
        assert cursor.fetchone() == (2,)
        cursor.execute("SELECT id, name FROM t WHERE id = %s", (50,))
        assert [column.name for column in cursor.description] == ["id", "name"]
        assert [column.type_code for column in cursor.description] == [23, 25]

    # All types there and back: literal in text, parameter and result in text and in binary.
    for name, value in VALUES:
        for binary in (False, True):
            parameter = Jsonb(value) if name == "jsonb" else value
            placeholder = "%b" if binary else "%t"
            with connection.cursor(binary=binary) as cursor:
                cursor.execute(f"SELECT {placeholder}::{name}", (parameter,))
                (came,) = cursor.fetchone()
                assert came == value and type(came) is type(value), (name, binary, value, came)
                if isinstance(value, D):
                    assert str(came) == str(value), (name, value, came)
    with connection.cursor(binary=True) as cursor:
        columns = ", ".join(f"c{at} {name}" for at, (name, _) in enumerate(VALUES))
        cursor.execute(f"CREATE TABLE all_types ({columns})")
        marks = ", ".join(["%s"] * len(VALUES))
        row = [Jsonb(value) if name == "jsonb" else value for name, value in VALUES]
        cursor.execute(f"INSERT INTO all_types VALUES ({marks})", row)
        cursor.execute("CREATE MATERIALIZED VIEW all_types_view AS SELECT * FROM all_types")
        cursor.execute("FLUSH")
        for binary in (False, True):
            reader = connection.cursor(binary=binary)
            came = reader.execute("SELECT * FROM all_types_view").fetchone()
            for (name, value), other in zip(VALUES, came):
                assert other == value, (name, binary, value, other)

    # NaN is not equal to itself.
    for name in ("double precision", "numeric"):
        for binary in (False, True):
            (nan,) = connection.cursor(binary=binary).execute(f"SELECT 'NaN'::{name}").fetchone()
            assert nan != nan or nan.is_nan()

    # Prepared on the server, many times.
    with connection.cursor() as cursor:
        for n in range(20):
            cursor.execute("SELECT %s::int + 1", (n,), prepare=True)
            assert cursor.fetchone() == (n + 1,)

    # A cursor on the client's side over many rows, and a pipeline of statements.
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(50)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(50))

    # Errors are the classes that programs catch.
    for sql, error in [
        ("SELECT 1/0", psycopg.errors.DivisionByZero),
        ("SELECT nope", psycopg.errors.UndefinedColumn),
        ("SELECT * FROM nope", psycopg.errors.UndefinedTable),
        ("SELEC", psycopg.errors.SyntaxError),
        ("INSERT INTO t (id) VALUES (50)", psycopg.errors.UniqueViolation),
        ("INSERT INTO t (name) VALUES ('x')", psycopg.errors.NotNullViolation),
        ("CREATE TABLE t (a int)", psycopg.errors.DuplicateTable),
        ("SELECT 'x'::int", psycopg.errors.InvalidTextRepresentation),
        ("SELECT 2147483647 + 1", psycopg.errors.NumericValueOutOfRange),
    ]:
        try:
            connection.execute(sql)
        except error as caught:
            assert caught.diag.message_primary and caught.diag.sqlstate
        else:
            raise AssertionError(sql)

    # Cancel.
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    started = time.time()
    try:
        connection.execute("SELECT pg_sleep(60)")
    except psycopg.errors.QueryCanceled:
        assert time.time() - started < 10
    else:
        raise AssertionError("pg_sleep should be cancelled")
    assert connection.execute("SELECT 1").fetchone() == (1,)

# Transactions: committed by the end of the block, rolled back by an error.
with psycopg.connect(url) as connection:
    connection.execute("INSERT INTO t (id, name) VALUES (1000, 'committed')")
try:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO t (id, name) VALUES (1001, 'rolled back')")
        raise KeyError
except KeyError:
    pass
with psycopg.connect(url) as connection:
    assert connection.execute("SELECT id FROM t WHERE id >= 1000").fetchall() == [(1000,)]
    with connection.transaction():
        connection.execute("DELETE FROM t WHERE id = 1000")
    assert connection.execute("SELECT count(*) FROM t WHERE id >= 1000").fetchone() == (0,)

# A cursor of the server, which psycopg declares, describes by its portal's name, and fetches piece by piece.
with psycopg.connect(url) as connection:
    for binary in [False, True]:
        with connection.cursor("pieces", binary=binary) as cursor:
            cursor.itersize = 3
            cursor.execute("SELECT g, 'row ' || g FROM generate_series(1, 10) AS s(g) ORDER BY g")
            assert [column.name for column in cursor.description] == ["g", "?column?"]
            assert cursor.fetchmany(2) == [(1, "row 1"), (2, "row 2")]
            assert list(cursor) == [(g, f"row {g}") for g in range(3, 11)]

# Settings at connect, as people's scripts have them.
with psycopg.connect(url, options="-c timezone=Europe/Berlin -c rw_implicit_flush=true", application_name="test") as connection:
    (shown,) = connection.execute("SELECT '2024-07-01 12:00+00'::timestamptz::text").fetchone()
    assert shown == "2024-07-01 14:00:00+02", shown
print("psycopg: all well")
