#!/usr/bin/env python3
"""Measures the server, and writes bench/results/<date>.md and .json. See README.md.

    run.py                     everything
    run.py startup insert      some of it (commas do as well)
    run.py --binary PATH --scale 0.01 --results /tmp/try     a try, with another binary and few rows
"""

import argparse
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

HOME = os.path.expanduser("~/.cache/headwater")
VENV = f"{HOME}/venv/bin/python3"

try:
    import psycopg
except ImportError:
    # `.ci/setup test` made a Python that has it.
    if os.path.exists(VENV) and os.path.realpath(sys.prefix) != os.path.realpath(f"{HOME}/venv"):
        os.execv(VENV, [VENV, *sys.argv])
    sys.exit(f"psycopg is missing: run `.ci/setup test` first, which makes {HOME}/venv")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", f"{HOME}/target")
WORKERS = 2

BID = "auction bigint, bidder bigint, price bigint, channel varchar, url varchar, date_time timestamp, extra varchar"

# Brokers and databases of our own, beside those that tests may be using.
SERVICES = {"kafka": {"HEADWATER_KAFKA_PORT": "19292"},
            "postgres": {"HEADWATER_POSTGRES_PORT": "25433", "HEADWATER_POSTGRES_DURABLE": "1"}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="what to measure: " + ", ".join(BENCHES))
    parser.add_argument("--binary", default=f"{TARGET}/release/headwater", help="the server (default: %(default)s)")
    parser.add_argument("--client", help="the example `latency` (default: in examples/ beside the binary)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies sizes and durations; 0.01 for a try")
    parser.add_argument("--rounds", type=int, default=3, help="how often a throughput is measured (default: %(default)s)")
    parser.add_argument("--scratch", default=f"{HOME}/bench", help="where servers keep their data; a real disk (default: %(default)s)")
    parser.add_argument("--results", default=f"{ROOT}/bench/results", help="where the figures go (default: %(default)s)")
    parsed = parser.parse_args()
    parsed.names = [name for names in parsed.names for name in names.split(",") if name] or list(BENCHES)
    for name in parsed.names:
        if name not in BENCHES:
            parser.error(f"{name!r} is not one of {', '.join(BENCHES)}")
    parsed.client = parsed.client or f"{os.path.dirname(parsed.binary)}/examples/latency"
    for program in [parsed.binary, parsed.client]:
        if not os.access(program, os.X_OK):
            parser.error(f"{program} is not there: `make bench` builds it")
    return parsed


class Figure:
    """What was measured: samples, and the target that one of their statistics is held against."""

    def __init__(self, what, unit, samples, **targets):
        """`targets`: a statistic (min, median, p99, max) and `("<", limit)` or `(">", limit)`."""
        samples = sorted(samples)
        self.what, self.unit, self.n = what, unit, len(samples)
        self.min, self.median, self.max = samples[0], statistics.median(samples), samples[-1]
        self.p99 = samples[int((len(samples) - 1) * 0.99)] if len(samples) >= 100 else None
        self.targets = [{"statistic": statistic, "relation": relation, "limit": limit,
                         "reached": getattr(self, statistic) < limit if relation == "<" else getattr(self, statistic) > limit}
                        for statistic, (relation, limit) in targets.items()]

    def record(self):
        return {"what": self.what, "unit": self.unit, "n": self.n, "min": self.min, "median": self.median, "p99": self.p99,
                "max": self.max, "targets": self.targets}

    def cells(self):
        show = lambda value: "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        targets = ", ".join(f"{t['statistic']} {t['relation']} {t['limit']:,}" for t in self.targets)
        reached = "" if not self.targets else "yes" if all(t["reached"] for t in self.targets) else "**no**"
        return [self.what, self.unit, str(self.n), *map(show, [self.min, self.median, self.p99, self.max]), targets, reached]


HEAD = ["name", "what", "unit", "n", "min", "median", "p99", "max", "target", "reached"]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A server on an empty directory."""

    def __init__(self):
        os.makedirs(OPTIONS.scratch, exist_ok=True)
        self.directory = tempfile.mkdtemp(dir=OPTIONS.scratch)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.command = [OPTIONS.binary, "serve", "--data-dir", f"{self.directory}/data", "--listen", self.address,
                        "--http-listen", "none", "--workers", str(WORKERS)]
        started = time.perf_counter()
        with open(f"{self.directory}/log", "a") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait_for_answer(started)
        except BaseException:
            self.__exit__()
            raise

    def wait_for_answer(self, started):
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log()}")
            try:
                with self.connect() as connection:
                    connection.execute("SELECT 1")
                    self.start_seconds = time.perf_counter() - started
                return
            except psycopg.OperationalError:
                if time.perf_counter() - started > 60:
                    raise RuntimeError(f"the server does not answer: {self.log()}") from None
                time.sleep(0.002)

    def log(self):
        with open(f"{self.directory}/log") as log:
            return log.read()[-2000:]

    def connect(self):
        return psycopg.connect(host="127.0.0.1", port=self.port, user="root", dbname="dev", autocommit=True, connect_timeout=10)

    def memory_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


STARTED = set()


def service(name, argument):
    """Runs a script of services/ and gives the last line that it printed."""
    # A file and no pipe: what a script leaves running would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        subprocess.run([f"{ROOT}/bench/services/{name}.sh", argument], check=True, stdin=subprocess.DEVNULL, stdout=output,
                       env={**os.environ, **SERVICES[name]})
        output.seek(0)
        lines = output.read().strip().splitlines()
    (STARTED.add if argument == "start" else STARTED.discard)(name)
    return lines[-1] if lines else ""


def latencies(address, user, database, what, n):
    """Runs the client `latency`: a list of milliseconds per thing that it timed."""
    done = subprocess.run([OPTIONS.client, address, user, database, what, str(n)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the client `latency {what}` failed")
    return {record["what"]: record["ms"] for record in map(json.loads, done.stdout.splitlines())}


def scaled(n):
    return max(1, int(n * OPTIONS.scale))


def bids(n, seed=7):
    """Bids of about 300 bytes of JSON, with their prices."""
    r = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(r.choices(letters, k=5)) for _ in range(1000)]
    for i in range(n):
        auction = 1000 + (i // 15 // 100 * 100 if r.random() < 0.5 else max(0, i // 15 - r.randrange(100)))
        price = int(10 ** (r.random() * 6) * 100)
        channel = r.choice(["Google", "Facebook", "Baidu", "Apple"]) if r.random() < 0.5 else f"channel-{r.randrange(10000)}"
        url = f"https://www.nexmark.com/{r.choice(words)}/{r.choice(words)}/item.htm?query=1&channel_id={r.randrange(1 << 30)}"
        moment = f"2024-05-06 {i // 3600000 % 24:02}:{i // 60000 % 60:02}:{i // 1000 % 60:02}.{i % 1000:03}"
        yield price, (f'{{"auction":{auction},"bidder":{1000 + r.randrange(5000)},"price":{price},"channel":"{channel}","url":"{url}",'
                      f'"date_time":"{moment}","extra":"{"x" * 100}"}}')


def bench_binary():
    """Size of the stripped binary."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["strip", "-o", f"{directory}/headwater", OPTIONS.binary], check=True)
        size = os.path.getsize(f"{directory}/headwater")
    return [Figure("size, stripped", "MB", [size / 1e6], max=("<", 120))]


def bench_startup():
    """`headwater serve` on an empty directory until a client has its first answer."""
    times = []
    for _ in range(11):
        with Server() as server:
            times.append(server.start_seconds * 1000)
    return [Figure("start to first answer", "ms", times, max=("<", 200))]


def bench_idle():
    """CPU and memory of a server that has nothing to do."""
    views, samples, seconds = 100, 6, max(1, 5 * OPTIONS.scale)
    with Server() as server:
        time.sleep(2)
        empty = server.memory_bytes() / 1e6
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (a int, b int)")
            for at in range(views):
                connection.execute(f"CREATE MATERIALIZED VIEW v{at} AS SELECT a % {at + 2} AS g, count(*) AS n, sum(b) AS s FROM t GROUP BY 1")
            connection.execute("INSERT INTO t SELECT x, x FROM generate_series(1, 1000) AS s(x)")
            (seen,) = connection.execute(f"SELECT sum(n) FROM v{views - 1}").fetchone()
            assert seen == 1000, seen
            # Until the last change is in a checkpoint.
            time.sleep(5)
            shares = []
            for _ in range(samples):
                before, started = server.cpu_seconds(), time.perf_counter()
                time.sleep(seconds)
                shares.append((server.cpu_seconds() - before) / (time.perf_counter() - started) * 100)
            full = server.memory_bytes() / 1e6
    return [Figure(f"CPU with {views} views", "% of a core", shares, median=("<", 1)),
            Figure("memory, empty", "MB", [empty], max=("<", 150)),
            Figure(f"memory with {views} views", "MB", [full], max=("<", 150))]


def bench_insert():
    """`INSERT` acknowledged (synced), and seen by the next `SELECT`: one client, prepared."""
    with Server() as server:
        times = latencies(server.address, "root", "dev", "insert", scaled(5000))
    return [Figure(what, "ms", ms, median=("<", 5), p99=("<", 20)) if len(ms) >= 100 else Figure(what, "ms", ms, median=("<", 5))
            for what, ms in times.items()]


def bench_lookup():
    """Point lookup by key, prepared, one connection; in turns with PostgreSQL."""
    n, lookups = scaled(100_000), scaled(20_000)
    address = service("postgres", "start")
    with psycopg.connect(host="127.0.0.1", port=address.split(":")[1], user="postgres", autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_lookup")
        connection.execute("CREATE TABLE bench_lookup (k bigint PRIMARY KEY, v numeric)")
        connection.execute(f"INSERT INTO bench_lookup SELECT x, x * 7 FROM generate_series(0, {n - 1}) AS s(x)")
        connection.execute("VACUUM ANALYZE bench_lookup")
    ours, theirs, ratios = [], [], []
    with Server() as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (k bigint PRIMARY KEY, v bigint)")
            connection.execute("CREATE MATERIALIZED VIEW bench_lookup AS SELECT k, sum(v) AS v FROM t GROUP BY k")
            for at in range(0, n, 10_000):
                connection.execute(f"INSERT INTO t SELECT x, x * 7 FROM generate_series({at}, {min(n, at + 10_000) - 1}) AS s(x)")
            connection.execute("FLUSH")
        for _ in range(OPTIONS.rounds):
            (headwater,) = latencies(server.address, "root", "dev", "lookup", lookups).values()
            (postgres,) = latencies(address, "postgres", "postgres", "lookup", lookups).values()
            ours += headwater
            theirs += postgres
            ratios.append(statistics.median(headwater) / statistics.median(postgres))
    service("postgres", "stop")
    return [Figure("point lookup", "ms", ours), Figure("the same in PostgreSQL", "ms", theirs),
            Figure("ratio of the medians", "", ratios, median=("<", 1.5))]


def kafka():
    try:
        import confluent_kafka
    except ImportError:
        print("installing confluent-kafka ... ", end="", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "confluent-kafka==2.16.1"],
                       check=True, timeout=300)
        import confluent_kafka
    return confluent_kafka, service("kafka", "start")


def new_topic(address, partitions):
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"bench-{random.randrange(1 << 60):x}"
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        future.result(30)
    return name


def create_kafka_source(connection, address, topic):
    connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'kafka', topic = '{topic}', "
                       f"properties.bootstrap.server = '{address}', scan.startup.mode = 'earliest') FORMAT PLAIN ENCODE JSON")


def bench_kafka_latency():
    """Append of a record at 1,000 records/s until a `SELECT` sees it."""
    confluent_kafka, address = kafka()
    topic = new_topic(address, 2)
    rate = 1000
    # A broker that was just started is slow for its first seconds: they are not counted.
    warm, n = scaled(8 * rate), scaled(20 * rate)
    with Server() as server, server.connect() as connection:
        create_kafka_source(connection, address, topic)
        connection.execute("CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, max(price) AS top FROM bid")
        appended, visible, failures = [], [], []

        def produce():
            try:
                producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 0})
                started = time.perf_counter()
                for at, (_, record) in enumerate(bids(warm + n)):
                    time.sleep(max(0, started + at / rate - time.perf_counter()))
                    appended.append(time.perf_counter())
                    producer.produce(topic, record)
                    producer.poll(0)
                if producer.flush(60) > 0:
                    raise RuntimeError("the broker does not take the records")
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=produce)
        thread.start()
        patience = time.perf_counter() + 60 + 4 * (warm + n) / rate
        with connection.cursor() as cursor:
            while len(visible) < warm + n:
                cursor.execute("SELECT n FROM seen", prepare=True)
                (seen,) = cursor.fetchone()
                now = time.perf_counter()
                visible += [(now - moment) * 1000 for moment in appended[len(visible):seen]]
                if failures or now > patience:
                    raise RuntimeError(f"{len(visible)} of {warm + n} records were seen; {failures}")
                time.sleep(0.0005)
        thread.join()
    service("kafka", "stop")
    visible = visible[warm:]
    targets = {"median": ("<", 10), "p99": ("<", 30)} if n >= 100 else {"median": ("<", 10)}
    return [Figure(f"append to visible, {rate:,} records/s", "ms", visible, **targets)]


def wait_until(connection, query, expected):
    patience = time.perf_counter() + 600
    while True:
        (seen,) = connection.execute(query).fetchone()
        if seen == expected:
            return
        if (seen or 0) > expected or time.perf_counter() > patience:
            raise RuntimeError(f"{query} gives {seen}, not {expected}")
        time.sleep(0.05)


def bench_kafka():
    """300-byte JSON bids from a broker on the same machine, filtered and projected into a view."""
    confluent_kafka, address = kafka()
    topic = new_topic(address, 2)
    n, size, matching = scaled(2_000_000), 0, 0
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 20, "batch.size": 1 << 17,
                                         "queue.buffering.max.messages": 1_000_000})
    for at, (price, record) in enumerate(bids(n)):
        size += len(record)
        matching += price > 10_000
        while True:
            try:
                producer.produce(topic, record, partition=at % 2)
                break
            except BufferError:
                producer.poll(0.1)
        if at % 1000 == 0:
            producer.poll(0)
    if producer.flush(300) > 0:
        raise RuntimeError("the broker does not take the records")
    rates = []
    for _ in range(OPTIONS.rounds):
        with Server() as server, server.connect() as connection:
            create_kafka_source(connection, address, topic)
            started = time.perf_counter()
            connection.execute("CREATE MATERIALIZED VIEW large AS SELECT auction, bidder, price, date_time FROM bid WHERE price > 10000")
            wait_until(connection, "SELECT count(*) FROM large", matching)
            rates.append(n / (time.perf_counter() - started))
    service("kafka", "stop")
    return [Figure(f"{n:,} records of {size // n} bytes", "events/s", rates, median=(">", 300_000))]


def count_per_auction(connection, n):
    """Seconds until a view has counted `n` bids."""
    started = time.perf_counter()
    connection.execute("CREATE MATERIALIZED VIEW per_auction AS SELECT auction, count(*) AS n FROM bid GROUP BY auction")
    wait_until(connection, "SELECT sum(n) FROM per_auction", n)
    return time.perf_counter() - started


def bench_file():
    """JSON lines from a file into a count per auction."""
    n, size = scaled(3_000_000), 0
    os.makedirs(OPTIONS.scratch, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=OPTIONS.scratch, suffix=".jsonl") as file:
        for _, record in bids(n):
            size += file.write(record + "\n")
        file.flush()
        rates = []
        for _ in range(OPTIONS.rounds):
            with Server() as server, server.connect() as connection:
                connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'file', path = '{file.name}') FORMAT PLAIN ENCODE JSON")
                rates.append(n / count_per_auction(connection, n))
    return [Figure(f"{n:,} lines of {size // n} bytes", "events/s", rates, median=(">", 600_000))]


def bench_nexmark():
    """Generated bids (no decoding) into a count per auction."""
    # Of 50 events, 46 are bids.
    events = scaled(20_000_000) // 50 * 50
    n = events // 50 * 46
    rates = []
    for _ in range(OPTIONS.rounds):
        with Server() as server, server.connect() as connection:
            connection.execute(f"CREATE SOURCE bid ({BID}) WITH (connector = 'nexmark', nexmark.table.type = 'Bid', "
                               f"nexmark.event.num = '{events}', nexmark.events.per.second = '0', nexmark.split.num = '{WORKERS}')")
            rates.append(n / count_per_auction(connection, n))
    return [Figure(f"{n:,} bids", "bids/s", rates, median=(">", 2_000_000))]


BENCHES = {name.removeprefix("bench_"): function for name, function in list(globals().items()) if name.startswith("bench_")}


def tilde(text):
    return text.replace(os.path.expanduser("~") + "/", "~/")


def machine():
    def first(path, prefix, default):
        try:
            with open(path) as lines:
                return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(prefix))
        except (OSError, StopIteration):
            return default

    return {"cores": os.cpu_count(), "processor": first("/proc/cpuinfo", "model name", platform.machine()),
            "memory_gb": round(int(first("/proc/meminfo", "MemTotal", "0 kB").split()[0]) / 1e6), "kernel": platform.release()}


def commit():
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("-changed" if git("status", "--porcelain", "--", ".", ":!bench/results") else "")


def write(run):
    """Adds the run to the day's JSON and draws the day's page anew from it."""
    path = f"{OPTIONS.results}/{run['date']}"
    os.makedirs(OPTIONS.results, exist_ok=True)
    runs = []
    if os.path.exists(f"{path}.json"):
        with open(f"{path}.json") as file:
            runs = [earlier for earlier in json.load(file) if earlier["started"] != run["started"]]
    runs.append(run)
    with open(f"{path}.json", "w") as file:
        json.dump(runs, file, indent=1)
        file.write("\n")
    with open(f"{path}.md", "w") as page:
        page.write(f"# {run['date']}\n")
        for each in runs:
            on = each["machine"]
            page.write(f"\n## {each['started'][11:16]}: `{each['command']}`\n\n"
                       f"Commit `{each['commit']}`, `{each['binary']}`, {WORKERS} workers, durable defaults; {on['cores']} cores of {on['processor']}, "
                       f"{on['memory_gb']} GB, Linux {on['kernel']}.")
            page.write(f" Sizes times {each['scale']:g}: a try, no measurement.\n\n" if each["scale"] != 1 else "\n\n")
            page.write(f"| {' | '.join(HEAD)} | load before |\n|{'---|' * (len(HEAD) + 1)}\n")
            for measurement in each["measurements"]:
                load = f"{measurement['load_before']:.1f}"
                for cells in measurement["cells"]:
                    page.write(f"| {' | '.join([measurement['name'], *cells])} | {load} |\n")
                if measurement["error"]:
                    error = measurement["error"].replace("\n", " ").replace("|", "/")
                    page.write(f"| {measurement['name']} | failed: {error} |{' |' * (len(HEAD) - 2)} {load} |\n")
    return f"{path}.md"


def main():
    now = datetime.datetime.now(datetime.timezone.utc)
    run = {"date": now.date().isoformat(), "started": now.isoformat(timespec="seconds"), "command": tilde(" ".join(["bench/run.py", *sys.argv[1:]])),
           "commit": commit(), "binary": tilde(os.path.abspath(OPTIONS.binary)), "scale": OPTIONS.scale,
           "machine": machine(), "measurements": []}
    failed = False
    for name in OPTIONS.names:
        measurement = {"name": name, "load_before": os.getloadavg()[0], "figures": [], "cells": [], "error": None}
        print(f"{name}: ", end="", flush=True)
        started = time.perf_counter()
        try:
            figures = BENCHES[name]()
            measurement["figures"] = [figure.record() for figure in figures]
            measurement["cells"] = [figure.cells() for figure in figures]
            print(f"{time.perf_counter() - started:.0f} s")
            for cells in measurement["cells"]:
                print("    " + ", ".join(f"{head} {cell}" for head, cell in zip(HEAD[1:], cells) if cell))
        except Exception as error:
            failed = True
            measurement["error"] = repr(error)
            print(f"failed: {error!r}", flush=True)
        finally:
            for left in list(STARTED):
                service(left, "stop")
        run["measurements"].append(measurement)
        path = write(run)
    print(f"written to {path} and .json")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    OPTIONS = arguments()
    main()
