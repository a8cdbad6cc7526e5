"""Headwater: a view or a sink without a target over sources that read what is there, durable, a checkpoint each second."""

import time

import run as server_bench

from . import Progress, cpu_seconds, folder_bytes, peak_memory_bytes, wait_until

WITH = {
    "file": "connector = 'file', path = '{folder}/{table}/*.jsonl'",
    "kafka": "connector = 'kafka', topic = '{topic}', properties.bootstrap.server = '{broker}', scan.startup.mode = 'earliest'",
}


def create_source(connection, table, columns, lane):
    options = WITH[lane.name].format(folder=lane.folder, table=table, topic=lane.topic(table), broker=lane.broker)
    columns = ", ".join(f"{name} {kind}" for name, kind in columns)
    connection.execute(f"CREATE SOURCE {table} ({columns}, WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND) "
                       f"WITH ({options}) FORMAT PLAIN ENCODE JSON")


def run(query, lane, options):
    server_bench.OPTIONS = options
    text = options.text(query)
    server = server_bench.Server().__enter__()
    try:
        pid = server.process.pid
        with server.connect() as connection:
            for table, columns in lane.tables.items():
                create_source(connection, table, columns, lane)
            if "side_input" in text:
                connection.execute("CREATE TABLE side_input (key bigint PRIMARY KEY, value varchar)")
                connection.execute("INSERT INTO side_input SELECT n, 'value ' || n FROM generate_series(0, 9999) AS s(n)")
            connection.execute("FLUSH")
            cpu, started = cpu_seconds(pid), time.perf_counter()
            progress = Progress(1.0)
            create = (f"CREATE MATERIALIZED VIEW answer AS {text}" if options.output == "view" else
                      f"CREATE SINK answer AS {text} WITH (connector = 'blackhole')")
            connection.execute(f"SET statement_timeout = '{options.patience:.0f}s'")
            connection.execute(create)
            splits = 2 * len(lane.tables)

            def done():
                n, at, end = connection.execute('SELECT count("end"), sum("offset"), sum("end") FROM headwater_catalog.splits').fetchone()
                progress.note(float(at / end) if end else 0.0)
                return n == splits and at == end

            wait_until(done, options.patience, "the sources are not read to their ends")
            connection.execute("FLUSH")
            wall, used = time.perf_counter() - started, cpu_seconds(pid) - cpu
            state = folder_bytes(f"{server.directory}/data")
    except BaseException:
        server.__exit__()
        raise
    share = progress.events_per_s()

    def rows():
        with server.connect() as connection:
            # Row by row: the answer may be larger than the memory.
            yield from connection.cursor().stream("SELECT * FROM answer")

    return {"wall_s": wall, "cpu_s": used, "peak_memory_bytes": peak_memory_bytes(pid), "state_bytes": state,
            "events_per_s": share and share * lane.events, "rows": rows if options.output == "view" else None, "stop": server.__exit__}
