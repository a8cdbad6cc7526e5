#!/usr/bin/env python3
"""Measures the server and writes bench/results/<date>.md: run.py [name,name,...]. See README.md."""

import datetime
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import psycopg

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/headwater/target"))
BINARY = os.environ.get("HEADWATER_BIN", f"{TARGET}/release/headwater")
WORKERS = "2"
# Where servers and topics put their data: a real disk, not /tmp if that is in memory.
SCRATCH = os.environ.get("HEADWATER_BENCH_DIR", os.path.expanduser("~/.cache/headwater/bench"))
# Multiplies sizes: 0.1 for a try.
SCALE = float(os.environ.get("HEADWATER_BENCH_SCALE", "1"))

BID = "auction bigint, bidder bigint, price bigint, channel varchar, url varchar, date_time timestamp, extra varchar"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A server on an empty directory."""

    def __init__(self, **environment):
        os.makedirs(SCRATCH, exist_ok=True)
        self.directory = tempfile.mkdtemp(dir=SCRATCH)
        self.port = free_port()
        self.command = [BINARY, "serve", "--data-dir", f"{self.directory}/data", "--listen", f"127.0.0.1:{self.port}",
                        "--http-listen", f"127.0.0.1:{free_port()}", "--workers", WORKERS]
        self.environment = {**os.environ, **environment}
        self.start()

    def start(self):
        started = time.perf_counter()
        log = open(f"{self.directory}/log", "a")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(open(f"{self.directory}/log").read())
            try:
                with self.connect() as connection:
                    connection.execute("SELECT 1")
                break
            except psycopg.OperationalError:
                time.sleep(0.002)
        self.start_seconds = time.perf_counter() - started

    def connect(self):
        return psycopg.connect(host="127.0.0.1", port=self.port, user="root", dbname="dev", autocommit=True)

    def memory_bytes(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def service(name, argument, **environment):
    """Runs a script of services/ and gives the last line that it printed."""
    with tempfile.TemporaryFile("w+") as output:
        subprocess.run([f"{ROOT}/bench/services/{name}.sh", argument], check=True, stdin=subprocess.DEVNULL, stdout=output,
                       env={**os.environ, **environment})
        output.seek(0)
        return output.read().strip().splitlines()[-1:][0] if argument == "start" else ""


def latency(address, user, database, what, n):
    program = f"{TARGET}/release/examples/latency"
    if not os.path.exists(program):
        subprocess.run(["cargo", "build", "--release", "--workspace", "--example", "latency"], check=True, cwd=ROOT)
    return subprocess.run([program, address, user, database, what, str(n)], check=True, capture_output=True, text=True).stdout


def percentiles(seconds):
    seconds = sorted(seconds)
    at = lambda part: seconds[int((len(seconds) - 1) * part)] * 1000
    return f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, max {at(1):.2f} ms ({len(seconds)} times)"


def bids(n, seed=7):
    """JSON bids of about 300 bytes."""
    r = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for i in range(n):
        auction = 1000 + (i // 15 // 100 * 100 if r.random() < 0.5 else max(0, i // 15 - r.randrange(100)))
        price = int(10 ** (r.random() * 6) * 100)
        channel = r.choice(["Google", "Facebook", "Baidu", "Apple"]) if r.random() < 0.5 else f"channel-{r.randrange(10000)}"
        record = {"auction": auction, "bidder": 1000 + r.randrange(5000), "price": price, "channel": channel,
                  "url": f"https://www.nexmark.com/{''.join(r.choices(letters, k=5))}/{''.join(r.choices(letters, k=5))}/item.htm?query=1&channel_id={r.randrange(1 << 30)}",
                  "date_time": f"2024-05-06 {i // 3600000 % 24:02}:{i // 60000 % 60:02}:{i // 1000 % 60:02}.{i % 1000:03}",
                  "extra": "x" * 60}
        yield json.dumps(record, separators=(",", ":"))


def bench_binary():
    return f"{os.path.getsize(BINARY) / 1e6:.1f} MB (target < 120 MB)"


def bench_startup():
    times = []
    for _ in range(11):
        with Server() as server:
            times.append(server.start_seconds)
    return f"median {statistics.median(times) * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms of 11 (target < 200 ms)"


def bench_idle():
    with Server() as server:
        time.sleep(2)
        empty = server.memory_bytes()
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (a int, b int)")
            for at in range(100):
                connection.execute(f"CREATE MATERIALIZED VIEW v{at} AS SELECT a % {at + 2} AS g, count(*) AS n, sum(b) AS s FROM t GROUP BY 1")
            connection.execute("INSERT INTO t SELECT x, x FROM generate_series(1, 1000) AS s(x)")
            time.sleep(5)
            seconds, before = 30, server.cpu_seconds()
            time.sleep(seconds)
            share = (server.cpu_seconds() - before) / seconds
            return (f"{share * 100:.2f} % of a core with 100 views (target < 1 %); memory {server.memory_bytes() / 1e6:.0f} MB with 100 views, "
                    f"{empty / 1e6:.0f} MB empty (target < 150 MB)")


def bench_insert():
    with Server() as server:
        said = latency(f"127.0.0.1:{server.port}", "root", "dev", "insert", int(5000 * SCALE))
    return said.strip().replace("\n", "; ") + " (target p50 < 5 ms, p99 < 20 ms)"


def bench_lookup():
    n = int(100_000 * SCALE)
    with Server() as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (k bigint PRIMARY KEY, v bigint)")
            connection.execute("CREATE MATERIALIZED VIEW bench_lookup AS SELECT k, sum(v) AS v FROM t GROUP BY k")
            for at in range(0, n, 10_000):
                connection.execute(f"INSERT INTO t SELECT x, x * 7 FROM generate_series({at}, {min(n, at + 10_000) - 1}) AS s(x)")
            connection.execute("FLUSH")
        ours = latency(f"127.0.0.1:{server.port}", "root", "dev", "lookup", 20_000)
    address = service("postgres", "start", HEADWATER_POSTGRES_DURABLE="1", HEADWATER_POSTGRES_PORT="25433")
    port = address.split(":")[1]
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_lookup")
        connection.execute("CREATE TABLE bench_lookup (k bigint PRIMARY KEY, v numeric)")
        connection.execute(f"INSERT INTO bench_lookup SELECT x, x * 7 FROM generate_series(0, {n - 1}) AS s(x)")
        connection.execute("VACUUM ANALYZE bench_lookup")
    theirs = latency(address, "postgres", "postgres", "lookup", 20_000)
    service("postgres", "stop", HEADWATER_POSTGRES_DURABLE="1", HEADWATER_POSTGRES_PORT="25433")
    return f"{ours.strip()}; PostgreSQL: {theirs.strip()} (target: within 1.5 times of PostgreSQL)"


def kafka():
    try:
        import confluent_kafka
    except ImportError:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "confluent-kafka==2.16.1"],
                       check=True, timeout=300)
        import confluent_kafka
    address = service("kafka", "start")
    return confluent_kafka, address


def new_topic(confluent_kafka, address, partitions):
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"bench-{random.randrange(1 << 60):x}"
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        future.result()
    return name


def bench_kafka_latency():
    confluent_kafka, address = kafka()
    topic = new_topic(confluent_kafka, address, 2)
    n, rate = int(20_000 * SCALE), 1000
    with Server() as server, server.connect() as connection:
        connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'kafka', topic = '{topic}', "
                           f"properties.bootstrap.server = '{address}', scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON")
        connection.execute("CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, max(price) AS top FROM bid")
        appended, visible = [], []

        def produce():
            producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 0})
            started = time.perf_counter()
            for at, record in enumerate(bids(n)):
                time.sleep(max(0, started + at / rate - time.perf_counter()))
                appended.append(time.perf_counter())
                producer.produce(topic, record)
                producer.poll(0)
            producer.flush()

        thread = threading.Thread(target=produce)
        thread.start()
        with connection.cursor() as cursor:
            while len(visible) < n:
                cursor.execute("SELECT n FROM seen", prepare=True)
                (seen,) = cursor.fetchone()
                now = time.perf_counter()
                visible += [now - moment for moment in appended[len(visible):seen]]
                time.sleep(0.0005)
        thread.join()
    # The first second warms up.
    return percentiles(visible[rate:]) + f" at {rate} records/s (target p50 < 10 ms, p99 < 30 ms)"


def bench_kafka():
    confluent_kafka, address = kafka()
    topic = new_topic(confluent_kafka, address, 2)
    n = int(2_000_000 * SCALE)
    size = 0
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 20, "batch.size": 1 << 17,
                                         "queue.buffering.max.messages": 1_000_000})
    matching = 0
    for at, record in enumerate(bids(n)):
        size += len(record)
        matching += json.loads(record)["price"] > 10_000
        while True:
            try:
                producer.produce(topic, record, partition=at % 2)
                break
            except BufferError:
                producer.poll(0.1)
        if at % 1000 == 0:
            producer.poll(0)
    producer.flush()
    results = []
    for _ in range(3):
        with Server() as server, server.connect() as connection:
            connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'kafka', topic = '{topic}', "
                               f"properties.bootstrap.server = '{address}', scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON")
            started = time.perf_counter()
            connection.execute("CREATE MATERIALIZED VIEW large AS SELECT auction, bidder, price, date_time FROM bid WHERE price > 10000")
            while True:
                (seen,) = connection.execute("SELECT count(*) FROM large").fetchone()
                if seen == matching:
                    break
                assert seen < matching, (seen, matching)
                time.sleep(0.02)
            results.append(n / (time.perf_counter() - started))
    service("kafka", "stop")
    return f"{sorted(results)[1]:,.0f} events/s, median of {[f'{r:,.0f}' for r in results]}; {n:,} records of {size // n} bytes (target > 300,000/s)"


def bench_file():
    n = int(3_000_000 * SCALE)
    os.makedirs(SCRATCH, exist_ok=True)
    path = f"{SCRATCH}/bids.jsonl"
    with open(path, "w") as file:
        for record in bids(n):
            file.write(record + "\n")
    results = []
    for _ in range(3):
        with Server() as server, server.connect() as connection:
            connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'file', path = '{path}') FORMAT PLAIN ENCODE JSON")
            results.append(n / timed_count(connection, n))
    os.remove(path)
    return f"{sorted(results)[1]:,.0f} events/s, median of {[f'{r:,.0f}' for r in results]}; {n:,} lines (target > 600,000/s)"


def timed_count(connection, n):
    started = time.perf_counter()
    connection.execute("CREATE MATERIALIZED VIEW per_auction AS SELECT auction, count(*) AS n FROM bid GROUP BY auction")
    while True:
        (seen,) = connection.execute("SELECT sum(n) FROM per_auction").fetchone()
        if seen == n:
            return time.perf_counter() - started
        assert seen is None or seen < n, (seen, n)
        time.sleep(0.02)


def bench_nexmark():
    events = int(20_000_000 * SCALE)
    n = events // 50 * 46
    results = []
    for _ in range(3):
        with Server() as server, server.connect() as connection:
            connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'nexmark', nexmark.table.type = 'Bid', "
                               f"nexmark.event.num = '{events}', nexmark.events.per.second = '0', nexmark.split.num = '{WORKERS}')")
            results.append(n / timed_count(connection, n))
    return f"{sorted(results)[1]:,.0f} bids/s, median of {[f'{r:,.0f}' for r in results]}; {n:,} bids (target > 2,000,000/s)"


BENCHES = {name.removeprefix("bench_"): function for name, function in list(globals().items()) if name.startswith("bench_")}


def main():
    asked = sys.argv[1].split(",") if len(sys.argv) > 1 else list(BENCHES)
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    path = f"{ROOT}/bench/results/{datetime.date.today()}.md"
    fresh = not os.path.exists(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a") as results:
        if fresh:
            results.write(f"# {datetime.date.today()}\n\n{os.cpu_count()} cores, {model}; release build, {WORKERS} workers, durable defaults.\n")
        results.write(f"\nCommit `{commit}`, `make bench{' Q=' + sys.argv[1] if len(sys.argv) > 1 else ''}`, load {os.getloadavg()[0]:.1f}:\n\n| | |\n|---|---|\n")
        for name in asked:
            print(f"{name}: ", end="", flush=True)
            try:
                said = BENCHES[name]()
            except Exception as error:
                said = f"failed: {error!r}"
            print(said, flush=True)
            results.write(f"| `{name}` | {said} |\n")
            results.flush()
    print(f"written to {path}")


if __name__ == "__main__":
    main()
