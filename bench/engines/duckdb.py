"""DuckDB: the whole answer once, over the same files. It is what the other engines' answers are held against."""

import os
import resource
import time

from . import peak_memory_bytes

# What Postgres has and DuckDB names differently, as far as the queries need it.
MACROS = """
CREATE MACRO to_char(t, f) AS CASE f WHEN 'YYYY-MM-DD' THEN strftime(t, '%Y-%m-%d') WHEN 'HH24:MI' THEN strftime(t, '%H:%M')
    ELSE error('to_char: ' || f) END;
CREATE MACRO date_bin(stride, t, origin) AS time_bucket(CAST(stride AS INTERVAL), t, CAST(origin AS TIMESTAMP));
CREATE MACRO regexp_match(s, p) AS CASE WHEN regexp_matches(s, p) THEN [regexp_extract(s, p, 1), regexp_extract(s, p, 2)] END;
"""


def connect(lane, options):
    import duckdb

    connection = duckdb.connect(config={"threads": options.workers, "memory_limit": "10GB",
                                        "temp_directory": f"{options.scratch}/duckdb"})
    connection.execute(MACROS)
    for table, columns in lane.tables.items():
        typed = ", ".join(f"'{name}': '{kind}'" for name, kind in columns)
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_json('{lane.folder}/{table}/*.jsonl', "
                           f"format = 'newline_delimited', columns = {{{typed}}})")
    connection.execute("CREATE TABLE side_input AS SELECT n AS key, 'value ' || n AS value FROM range(10000) AS s(n)")
    return connection


def run(query, lane, options):
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    connection = connect(lane, options)
    connection.execute(f"CREATE TABLE answer AS {options.batch_text(query)}")
    after = resource.getrusage(resource.RUSAGE_SELF)

    def rows():
        connection.execute("SELECT * FROM answer")
        while batch := connection.fetchmany(10_000):
            yield from batch

    return {"wall_s": time.perf_counter() - started, "events_per_s": None, "state_bytes": None, "rows": rows,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "peak_memory_bytes": peak_memory_bytes(os.getpid())}
