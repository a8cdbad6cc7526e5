#!/usr/bin/env python3
"""Runs Nexmark on several engines over the same bytes, in turns, and prints what each event cost. See README.md.

    compare.py --queries q4,q5 --lane file --engines headwater,flink --events 4000000 --out file.json
"""

import argparse
import datetime
import decimal
import functools
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import run as server_bench

ROOT = server_bench.ROOT
NEXMARK = f"{ROOT}/bench/nexmark"
HOME = f"{server_bench.HOME}/bench"

# The hash over the first 200,000 wide lines, and over all of them: the same on every machine.
HASHES = {200_000: "3861cca68fe5c8500b0cbf7adaef2f80c26dbabbb4ca827422705a82f22f8807",
          10_000_000: "a0207ac5cdd386988906880a8fb5c5476a5efa8e35a8043f14ea5ff8ec2e4833"}

TABLES = {
    "person": "id bigint, name varchar, email_address varchar, credit_card varchar, city varchar, state varchar, date_time timestamp, extra varchar",
    "auction": "id bigint, item_name varchar, description varchar, initial_bid bigint, reserve bigint, date_time timestamp, expires timestamp, "
               "seller bigint, category bigint, extra varchar",
    "bid": "auction bigint, bidder bigint, price bigint, channel varchar, url varchar, date_time timestamp, extra varchar",
}
TABLES = {table: [tuple(column.split()) for column in columns.split(", ")] for table, columns in TABLES.items()}

QUERIES = sorted((name.removesuffix(".sql") for name in os.listdir(NEXMARK) if name.startswith("q")), key=lambda name: int(name[1:]))
# What Flink cannot run: its OVER takes no input with retractions.
NOT_ON_FLINK = {"q6"}


def engines():
    """The engines by name. DuckDB is installed where it is missing: it checks the others' answers."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        print("installing duckdb ... ", end="", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "duckdb==2.0.0"], check=True, timeout=300)
    from engines import duckdb, flink, headwater

    return {"headwater": headwater.run, "flink": flink.run, "flink-heap": functools.partial(flink.run, backend="flink-heap"), "duckdb": duckdb.run}


class Lane:
    """Where the events come from: one folder or one broker, three tables."""

    def __init__(self, name, folder, events, tables, broker=None):
        self.name, self.folder, self.events, self.broker = name, folder, events, broker
        self.tables = {table: TABLES[table] for table in tables}

    def topic(self, table):
        return f"nexmark-{self.events}-{table}"


class Options(argparse.Namespace):
    """The command line, and the texts of the queries."""

    scale, rounds, workers = 1.0, 3, server_bench.WORKERS

    @staticmethod
    def first_of(query, *folders):
        for folder in folders:
            path = f"{NEXMARK}/{folder}{query}.sql"
            if os.path.exists(path):
                with open(path) as file:
                    return file.read()
        raise FileNotFoundError(query)

    def text(self, query):
        return self.first_of(query, "")

    def batch_text(self, query):
        return self.first_of(query, "batch/", "")

    def flink_text(self, query):
        return self.first_of(query, "flink/", "")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", default=",".join(QUERIES), help="default: all")
    parser.add_argument("--lane", default="file", choices=["file", "kafka"], help="default: %(default)s")
    parser.add_argument("--engines", default="headwater,flink,duckdb", help="of headwater, flink, flink-heap, duckdb; default: %(default)s")
    parser.add_argument("--events", type=int, default=4_000_000, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured, in turns; default: %(default)s")
    parser.add_argument("--output", default="view", choices=["view", "blackhole"],
                        help="what Headwater makes of a query: a view that is kept and checked, or a sink as Flink's; default: %(default)s")
    parser.add_argument("--patience", type=float, default=1800, help="seconds until a run is given up; default: %(default)s")
    parser.add_argument("--binary", default=f"{server_bench.TARGET}/release/headwater", help="default: %(default)s")
    parser.add_argument("--scratch", default=f"{HOME}/scratch", help="where engines keep their data; a real disk; default: %(default)s")
    parser.add_argument("--out", help="a JSON file; default: bench/results/<date>-nexmark.json, with a page beside it")
    options = parser.parse_args(namespace=Options())
    options.queries = options.queries.split(",")
    options.engines = options.engines.split(",")
    for query in options.queries:
        if query not in QUERIES:
            parser.error(f"{query!r} is not one of {', '.join(QUERIES)}")
    for engine in options.engines:
        if engine not in engines():
            parser.error(f"{engine!r} is not one of {', '.join(engines())}")
    if options.events % 50 or options.events <= 0:
        parser.error("events come in groups of 50")
    return options


def data(events):
    """The folder with the events; makes them if they are not there."""
    folder = f"{HOME}/data/{events}"
    if not os.path.exists(f"{folder}/made"):
        print(f"making {events:,} events ... ", end="", flush=True)
        target = f"{HOME}/target"
        subprocess.run(["cargo", "build", "--release", "-q", "--manifest-path", f"{ROOT}/bench/data/Cargo.toml"], check=True,
                       env={**os.environ, "CARGO_TARGET_DIR": target})
        shutil.rmtree(folder, ignore_errors=True)
        told = subprocess.run([f"{target}/release/nexmark-data", str(events), folder], check=True, capture_output=True, text=True).stdout
        told = dict(line.split() for line in told.splitlines())
        for known, name in [(200_000, "first_200000"), (events, "all")]:
            if name in told and told[name] != HASHES.get(known, told[name]):
                raise RuntimeError(f"these are other events than they should be: {name} {told[name]}")
        with open(f"{folder}/made", "w") as file:
            json.dump(told, file)
        print("done")
    return folder


def fill_topics(lane):
    """The files' lines as records, file n in partition n, unless they are there."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": lane.broker})
    there = admin.list_topics(timeout=30).topics
    for table in lane.tables:
        if lane.topic(table) in there:
            continue
        for future in admin.create_topics([NewTopic(lane.topic(table), 2, 1)]).values():
            future.result(30)
        producer = Producer({"bootstrap.servers": lane.broker, "linger.ms": 20, "batch.size": 1 << 17, "queue.buffering.max.messages": 1_000_000})
        for partition in range(2):
            with open(f"{lane.folder}/{table}/{partition}.jsonl", "rb") as lines:
                for at, line in enumerate(lines):
                    while True:
                        try:
                            producer.produce(lane.topic(table), line.rstrip(b"\n"), partition=partition)
                            break
                        except BufferError:
                            producer.poll(0.1)
                    if at % 1000 == 0:
                        producer.poll(0)
        if producer.flush(300) > 0:
            raise RuntimeError("the broker does not take the records")


def cell(value):
    """A value as text that is the same for every engine: inexact numbers to nine digits."""
    match value:
        case None:
            return "\\N"
        case float() | decimal.Decimal():
            return str(int(value)) if value == value // 1 else f"{float(value):.9g}"
        case datetime.datetime():
            return value.isoformat(" ", "microseconds")
        case _:
            return str(value)


def answer_hash(rows):
    """Number and hash of a multiset of rows, whatever their order."""
    n = total = 0
    for row in rows:
        digest = hashlib.blake2b("\t".join(map(cell, row)).encode(), digest_size=8).digest()
        n, total = n + 1, (total + int.from_bytes(digest, "little")) % (1 << 64)
    return n, f"{total:016x}"


class Answers:
    """The reference answers, from DuckDB, kept beside the data."""

    def __init__(self, lane, options):
        self.lane, self.options, self.path = lane, options, f"{lane.folder}/answers.json"
        self.known = {}
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.known = json.load(file)

    def of(self, query):
        text = self.options.batch_text(query)
        key = f"{query} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if key not in self.known:
            self.known[key] = answer_hash(engines()["duckdb"](query, self.lane, self.options)["rows"]())
            with open(self.path, "w") as file:
                json.dump(self.known, file, indent=1)
        return tuple(self.known[key])


def measure(engine, query, lane, options, answers):
    """One run: a record of the JSON file."""
    done = engines()[engine](query, lane, options)
    try:
        answer = "unchecked"
        if done["rows"]:
            answer = "equal" if answer_hash(done["rows"]()) == answers.of(query) else "different"
    finally:
        done.get("stop", lambda: None)()
    millions = lane.events / 1e6
    record = {"query": query, "lane": lane.name, "engine": engine, "events": lane.events, "wall_s": round(done["wall_s"], 3),
              "cpu_s": round(done["cpu_s"], 2), "events_per_s": round(done["events_per_s"] or lane.events / done["wall_s"]),
              "cpu_s_per_million": round(done["cpu_s"] / millions, 3), "peak_memory_bytes": done["peak_memory_bytes"],
              "state_bytes": done["state_bytes"], "answer": answer}
    if answer == "different":
        record["events_per_s"] = None
    return record


def median(records, key):
    values = [record[key] for record in records if record[key] is not None]
    return statistics.median(values) if values else None


def table(records):
    """Lines: per query and engine the medians, with a bar of CPU-seconds per million events."""
    lines = ["| query | engine | CPU-s per million events | min-max | events/s | peak memory | state | answer | |", "|---|---|---|---|---|---|---|---|---|"]
    keys = list(dict.fromkeys((record["query"], record["engine"]) for record in records))
    groups = {key: [record for record in records if (record["query"], record["engine"]) == key] for key in keys}
    for query in dict.fromkeys(query for query, _ in keys):
        top = max(median(group, "cpu_s_per_million") for (of, _), group in groups.items() if of == query)
        for (of, engine), group in groups.items():
            if of != query:
                continue
            cpu = median(group, "cpu_s_per_million")
            costs = sorted(record["cpu_s_per_million"] for record in group)
            rate, state = median(group, "events_per_s"), median(group, "state_bytes")
            lines.append(f"| {query} | {engine} | {cpu:.2f} | {costs[0]:.2f}-{costs[-1]:.2f} | {'' if rate is None else f'{rate:,.0f}'} | "
                         f"{median(group, 'peak_memory_bytes') / 1e6:,.0f} MB | {'' if state is None else f'{state / 1e6:,.0f} MB'} | "
                         f"{'/'.join(dict.fromkeys(record['answer'] for record in group))} | {'█' * max(1, round(30 * cpu / top))} |")
    return lines


def ratios(records):
    """Per engine: the geometric mean over the queries of its CPU over Headwater's, and of its wall time."""
    lines = []
    for engine in dict.fromkeys(record["engine"] for record in records):
        if engine in ("headwater", "duckdb"):
            continue
        for key, unit in [("cpu_s", "CPU"), ("wall_s", "wall time")]:
            found = {}
            for query in dict.fromkeys(record["query"] for record in records):
                of = lambda name: median([r for r in records if r["query"] == query and r["engine"] == name and r["answer"] != "different"], key)
                if of(engine) and of("headwater"):
                    found[query] = of(engine) / of("headwater")
            if found:
                lines.append(f"{engine}'s {unit} over Headwater's: geometric mean {statistics.geometric_mean(found.values()):.1f}, least "
                             f"{min(found.values()):.1f} ({min(found, key=found.get)}), most {max(found.values()):.1f} ({max(found, key=found.get)})")
    return lines


def write(records, options, started):
    path = options.out or f"{ROOT}/bench/results/{started.date().isoformat()}-nexmark.json"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as file:
        json.dump(records, file, indent=1)
        file.write("\n")
    on = server_bench.machine()
    with open(f"{path.removesuffix('.json')}.md", "w") as page:
        page.write(f"# {started.date().isoformat()}: Nexmark, lane {options.lane}, {options.events:,} events\n\n"
                   f"`{server_bench.tilde(' '.join(['bench/compare.py', *sys.argv[1:]]))}` at {started.strftime('%H:%M')}, commit `{server_bench.commit()}`, "
                   f"Headwater's output: {options.output}; {on['cores']} cores of {on['processor']}, {on['memory_gb']} GB, Linux {on['kernel']}, "
                   f"load before {options.load:.1f}. Medians of {options.runs} runs in turns.\n\n")
        page.write("\n".join([*table(records), "", *ratios(records)]) + "\n")
    return path


def main():
    options = arguments()
    started = datetime.datetime.now(datetime.timezone.utc)
    options.load = os.getloadavg()[0]
    lane = Lane(options.lane, data(options.events), options.events, TABLES)
    if options.lane == "kafka":
        _, lane.broker = server_bench.kafka()
        fill_topics(lane)
    answers, records, failed = Answers(lane, options), [], False
    for query in options.queries:
        # `auction` is a column too: a table stands behind FROM or JOIN, there perhaps in a window, or has another name.
        tables = [name for name in TABLES if re.search(rf"\b(FROM|JOIN)\s+(\w+\()?{name}\b|\b{name} AS \w\b", options.text(query))]
        own = Lane(lane.name, lane.folder, lane.events, tables, lane.broker)
        for turn in range(options.runs):
            for engine in options.engines:
                if engine.startswith("flink") and query in NOT_ON_FLINK:
                    continue
                print(f"{query} {engine} {turn + 1}/{options.runs}: ", end="", flush=True)
                try:
                    record = measure(engine, query, own, options, Answers(own, options) if own.folder != answers.lane.folder else answers)
                    records.append(record)
                    print(f"{record['wall_s']:.2f} s, {record['cpu_s_per_million']:.2f} CPU-s per million events, {record['answer']}")
                    failed |= record["answer"] == "different"
                except Exception as error:
                    failed = True
                    print(f"failed: {error}", flush=True)
                write(records, options, started)
    if options.lane == "kafka":
        server_bench.service("kafka", "stop")
    print("\n".join([*table(records), "", *ratios(records)]))
    print(f"written to {write(records, options, started)} and .md")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
