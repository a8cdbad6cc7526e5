#!/usr/bin/env python3
"""Ten good jobs' freshness, alone and beside an eleventh that misbehaves.

    bench/isolation.py [--binary PATH] [--seconds N] [--postgres 127.0.0.1:25432]

Freshness is the time from the first byte of an INSERT to the last of a SELECT that sees it in the view over its table, over ten tables and ten
views in turn. The eleventh job
    fails     fails at each row, and starts again (a division by zero with on_error = 'fail')
    explodes  joins a table that grows with itself, every row with every row
    no source reads a source that never answers (a pipe that nobody writes to)
    no target delivers to a target that never answers (a PostgreSQL behind a connection that stalls)
The target is a 99th percentile within twice that of the ten alone.
"""

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import psycopg

JOBS = 10


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server with ten tables and ten views, on an empty directory."""

    def __init__(self, binary):
        self.dir = tempfile.mkdtemp(prefix="headwater-isolation-")
        self.port = free_port()
        arguments = ["serve", "--data-dir", self.dir + "/data", "--listen", f"127.0.0.1:{self.port}"]
        arguments += ["--http-listen", "none", "--workers", "2", "--log-level", "error", "--job-restarts-max", "1000000"]
        self.process = subprocess.Popen([binary] + arguments, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.connect().close()
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        self.client = self.connect()
        for i in range(JOBS):
            self.client.execute(f"CREATE TABLE t{i} (id int PRIMARY KEY, v int)")
            self.client.execute(f"CREATE MATERIALIZED VIEW v{i} AS SELECT v % 100 AS k, count(*) AS n FROM t{i} GROUP BY 1")

    def connect(self):
        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=root dbname=dev", autocommit=True)

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def freshness(server, seconds):
    """Sorted milliseconds."""
    taken, n, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        n += 1
        i = n % JOBS
        begun = time.monotonic()
        server.client.execute(f"INSERT INTO t{i} VALUES ({n}, {n})")
        seen = server.client.execute(f"SELECT sum(n) FROM v{i}").fetchone()[0]
        taken.append((time.monotonic() - begun) * 1e3)
        assert int(seen) == (n - i) // JOBS + (1 if i else 0), (seen, n, i)
        time.sleep(0.01)
    return sorted(taken)


class Feeder(threading.Thread):
    """Goes on with statements until it is told to stop."""

    def __init__(self, server, statement, pause):
        super().__init__(daemon=True)
        self.client, self.statement, self.pause, self.stopped = server.connect(), statement, pause, False
        self.start()

    def run(self):
        n = 0
        while not self.stopped:
            n += 1
            try:
                self.client.execute(self.statement.format(n=n, n100=n * 100))
            except psycopg.Error as error:
                print(error, file=sys.stderr)
                return
            time.sleep(self.pause)


def fails(server, _):
    server.client.execute("CREATE TABLE bad (id int PRIMARY KEY, a int)")
    server.client.execute("CREATE MATERIALIZED VIEW worse AS SELECT id, 1 / a AS q FROM bad")
    server.client.execute("ALTER MATERIALIZED VIEW worse SET (on_error = 'fail')")
    Feeder(server, "INSERT INTO bad VALUES ({n}, 0)", 0.02)


def explodes(server, _):
    server.client.execute("CREATE TABLE bad (id int)")
    server.client.execute("CREATE MATERIALIZED VIEW worse AS SELECT a.id AS x, b.id AS y FROM bad a, bad b")
    server.client.execute("INSERT INTO bad SELECT n FROM generate_series(1, 500) AS g(n)")
    Feeder(server, "INSERT INTO bad SELECT -{n100} - m FROM generate_series(1, 20) AS g(m)", 0.2)


def no_source(server, _):
    os.mkfifo(server.dir + "/never.json")
    client = server.connect()
    path = server.dir + "/never.json"
    statement = f"CREATE SOURCE bad (a int) WITH (connector = 'file', path = '{path}') FORMAT PLAIN ENCODE JSON"
    threading.Thread(target=lambda: (client.execute(statement), client.execute("CREATE MATERIALIZED VIEW worse AS SELECT count(*) FROM bad")), daemon=True).start()


class Proxy(threading.Thread):
    """A connection that stalls when it is told to: bytes go in, none come out."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.stalls = target, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            upstream = socket.create_connection(self.target)
            for a, b in ((client, upstream), (upstream, client)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    def copy(self, a, b):
        while data := a.recv(65536):
            while self.stalls:
                time.sleep(0.1)
            b.sendall(data)


def no_target(server, postgres):
    host, port = postgres.split(":")
    proxy = Proxy((host, int(port)))
    name = f"isolation_{random.randrange(10**9)}"
    server.client.execute("CREATE TABLE bad (id int PRIMARY KEY, v int)")
    server.client.execute(
        f"CREATE SINK worse FROM bad WITH (connector = 'postgres', host = '127.0.0.1', port = '{proxy.port}', "
        f"database = 'postgres', user = 'postgres', table = '{name}', create_table_if_not_exists = 'true', type = 'upsert', primary_key = 'id')"
    )
    proxy.stalls = True
    Feeder(server, "INSERT INTO bad VALUES ({n}, {n})", 0.02)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=os.environ.get("HEADWATER_BIN", "target/release/headwater"))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--postgres", default="127.0.0.1:25432")
    parser.add_argument("--only")
    said = parser.parse_args()
    worst = 0
    for name, begin in [("fails", fails), ("explodes", explodes), ("no source", no_source), ("no target", no_target)]:
        if said.only and name not in said.only.split(","):
            continue
        server = Server(said.binary)
        try:
            freshness(server, min(2, said.seconds))
            for i in range(JOBS):
                server.client.execute(f"DELETE FROM t{i}")
            alone = freshness(server, said.seconds)
            for i in range(JOBS):
                server.client.execute(f"DELETE FROM t{i}")
            begin(server, said.postgres)
            time.sleep(1)
            beside = freshness(server, said.seconds)
            state = server.client.execute("SELECT state, restarts, error FROM headwater_catalog.jobs WHERE name = 'worse'").fetchone()
        finally:
            server.stop()
        p = lambda taken, q: taken[min(len(taken) - 1, int(len(taken) * q))]
        ratio = p(beside, 0.99) / p(alone, 0.99)
        worst = max(worst, ratio)
        print(
            f"{name:10} alone p50 {p(alone, 0.5):6.1f} p99 {p(alone, 0.99):6.1f} ms ({len(alone)}), "
            f"beside p50 {p(beside, 0.5):6.1f} p99 {p(beside, 0.99):6.1f} ms ({len(beside)}), p99 x{ratio:.2f}; it is {state}",
            flush=True,
        )
    print("target: within 2 times: " + ("reached" if worst <= 2 else "missed"))


main()
