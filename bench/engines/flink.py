"""Flink SQL from packages, no distribution: a JobManager and a TaskManager of its own for each run, with two slots.

Exactly-once, incremental checkpoints each second to the local disk, mini-batch and the other settings of the Nexmark project, output
into `blackhole`. `flink` keeps its state in RocksDB, `flink-heap` on the Java heap. Object reuse is on.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import run as server_bench

from . import cpu_seconds, folder_bytes, peak_memory_bytes, wait_until

VERSION = "2.3.0"
CONNECTOR = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
MAVEN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
HOME = f"{server_bench.HOME}/bench/flink/flink-{VERSION}"
CLASSES = f"{HOME}/classes"

OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in (
    "java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time", "java.util",
    "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks")]
OPENS += ["--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED", "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED"]
OPENS += [f"--add-exports=jdk.compiler/com.sun.tools.javac.{package}=ALL-UNNAMED" for package in ("api", "file", "parser", "tree", "util")]

BACKENDS = {
    "flink": {"state.backend.type": "rocksdb"},
    "flink-heap": {"state.backend.type": "hashmap", "taskmanager.memory.managed.fraction": "0.02"},
}

TYPES = {"bigint": "BIGINT", "varchar": "STRING", "timestamp": "TIMESTAMP(3)"}

LOG4J = """rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c %m%n
"""


def install():
    """Fetches Flink from the package registries, once."""
    if os.path.exists(f"{HOME}/installed"):
        return
    print(f"fetching Flink {VERSION} ... ", end="", flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    os.makedirs(os.path.dirname(HOME), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(HOME)) as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder,
                        f"apache-flink-libraries=={VERSION}"], check=True, timeout=900)
        (archive,) = glob.glob(f"{folder}/*.tar.gz")
        subprocess.run(["tar", "xzf", archive, "-C", folder], check=True)
        shutil.move(f"{folder}/apache_flink_libraries-{VERSION}/deps", HOME)
    subprocess.run(["mvn", "-q", "-B", MAVEN, f"-Dartifact={CONNECTOR}", f"-DoutputDirectory={HOME}/lib"], check=True, timeout=500)
    open(f"{HOME}/installed", "w").close()


def compile_client():
    """Compiles `Submit.java` where it is newer than its class."""
    source = f"{os.path.dirname(__file__)}/Submit.java"
    compiled = f"{CLASSES}/Submit.class"
    if not os.path.exists(compiled) or os.path.getmtime(compiled) < os.path.getmtime(source):
        os.makedirs(CLASSES, exist_ok=True)
        subprocess.run(["javac", "-cp", f"{HOME}/lib/*", "-d", CLASSES, source], check=True)


class Cluster:
    """One JobManager and one TaskManager in a folder of their own."""

    def __init__(self, backend, options):
        os.makedirs(options.scratch, exist_ok=True)
        self.folder = tempfile.mkdtemp(dir=options.scratch)
        self.port = server_bench.free_port()
        self.processes = []
        config = {"jobmanager.rpc.address": "127.0.0.1", "jobmanager.rpc.port": server_bench.free_port(), "jobmanager.bind-host": "127.0.0.1",
                  "taskmanager.bind-host": "127.0.0.1", "taskmanager.host": "127.0.0.1", "rest.address": "127.0.0.1",
                  "rest.bind-address": "127.0.0.1", "rest.port": self.port, "jobmanager.memory.process.size": "1600m",
                  "taskmanager.memory.process.size": "6g", "taskmanager.numberOfTaskSlots": options.workers, "parallelism.default": options.workers,
                  "execution.checkpointing.dir": f"file://{self.folder}/checkpoints", "execution.checkpointing.incremental": "true",
                  "execution.checkpointing.checkpoints-after-tasks-finish": "false", "io.tmp.dirs": f"{self.folder}/tmp",
                  "blob.storage.directory": f"{self.folder}/blob", "restart-strategy.type": "none", **BACKENDS[backend]}
        for folder in ["checkpoints", "tmp", "blob", "conf"]:
            os.makedirs(f"{self.folder}/{folder}")
        with open(f"{self.folder}/conf/config.yaml", "w") as file:
            file.writelines(f"{key}: {value}\n" for key, value in config.items())
        with open(f"{self.folder}/log4j2.properties", "w") as file:
            file.write(LOG4J)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def java(self, *arguments, flags=()):
        with open(f"{self.folder}/log", "a") as log:
            process = subprocess.Popen(["java", *OPENS, *flags, f"-Dlog4j.configurationFile=file:{self.folder}/log4j2.properties",
                                        "-cp", f"{HOME}/lib/*", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)

    def start(self):
        conf = ["--configDir", f"{self.folder}/conf"]
        self.java("org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", *conf, flags=["-Xmx1g"])
        lines = subprocess.run(["java", "-cp", f"{HOME}/bin/bash-java-utils.jar:{HOME}/lib/*", "org.apache.flink.runtime.util.bash.BashJavaUtils",
                                "GET_TM_RESOURCE_PARAMS", *conf], check=True, capture_output=True, text=True).stdout.splitlines()
        told = [line.split("BASH_JAVA_UTILS_EXEC_RESULT:", 1)[1] for line in lines if line.startswith("BASH_JAVA_UTILS_EXEC_RESULT:")]
        flags, dynamic = (line.split() for line in told)
        self.java("org.apache.flink.runtime.taskexecutor.TaskManagerRunner", *conf, *dynamic, flags=flags)

        def is_up():
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"Flink ended: {self.log()}")
            try:
                return self.get("/overview")["slots-available"] > 0
            except OSError:
                return False

        wait_until(is_up, 120, "Flink does not come up")

    def log(self):
        with open(f"{self.folder}/log") as log:
            return log.read()[-3000:]

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def cpu_seconds(self):
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def peak_memory_bytes(self):
        return sum(peak_memory_bytes(process.pid) for process in self.processes)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def script(query, lane, options):
    """The statements of one run."""
    statements = []
    for table, columns in lane.tables.items():
        typed = ", ".join(f"{name} {TYPES[kind]}" for name, kind in columns)
        if lane.name == "file":
            where = f"'connector' = 'filesystem', 'path' = 'file://{lane.folder}/{table}'"
        else:
            where = (f"'connector' = 'kafka', 'topic' = '{lane.topic(table)}', 'properties.bootstrap.servers' = '{lane.broker}', "
                     "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'")
        statements.append(f"CREATE TABLE {table} ({typed}, proctime AS PROCTIME(), WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND) "
                          f"WITH ({where}, 'format' = 'json', 'json.timestamp-format.standard' = 'SQL')")
    text = options.flink_text(query)
    if "side_input" in text:
        side = f"{options.scratch}/side_input.csv"
        with open(side, "w") as file:
            file.writelines(f"{n},value {n}\n" for n in range(10_000))
        statements.append(f"CREATE TABLE side_input (key BIGINT, `value` STRING) WITH ('connector' = 'filesystem', 'path' = 'file://{side}', "
                          "'format' = 'csv')")
    statements.append(f"CREATE VIEW answer AS {text}")
    statements.append("CREATE TABLE nowhere WITH ('connector' = 'blackhole') AS SELECT * FROM answer")
    return "".join(f"{statement}\n;\n" for statement in statements)


def run(query, lane, options, backend="flink"):
    install()
    compile_client()
    cluster = Cluster(backend, options)
    try:
        path = f"{cluster.folder}/job.sql"
        with open(path, "w") as file:
            file.write(script(query, lane, options))
        submitted = f"{cluster.folder}/submitted"
        with open(submitted, "w") as output:
            client = subprocess.Popen(["java", *OPENS, f"-Dlog4j.configurationFile=file:{cluster.folder}/log4j2.properties", "-cp",
                                       f"{CLASSES}:{HOME}/lib/*", "Submit", str(cluster.port), "true", path],
                                      stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        def job():
            with open(submitted) as file:
                told = file.read()
            if found := re.search(r"^job (\w+)", told, re.M):
                return found[1]
            if client.poll() is not None:
                raise RuntimeError(f"Flink refuses {query}: {told[-3000:]}")
            return None

        try:
            id = wait_until(job, 300, "the job is not submitted")
            # From here on: planning is over.
            cpu = cluster.cpu_seconds()
            state = 0

            def is_over():
                nonlocal state
                told = cluster.get(f"/jobs/{id}")
                if told["state"] in ("FAILED", "CANCELED"):
                    raise RuntimeError(f"Flink failed {query}: {cluster.get(f'/jobs/{id}/exceptions')['root-exception'][:2000]}")
                newest = cluster.get(f"/jobs/{id}/checkpoints")["latest"]["completed"]
                state = newest["state_size"] if newest else state
                return told if told["state"] == "FINISHED" else None

            over = wait_until(is_over, options.patience, "Flink does not finish")
            used = cluster.cpu_seconds() - cpu
            times = over["timestamps"]
            return {"wall_s": (times["FINISHED"] - times["RUNNING"]) / 1000, "cpu_s": used, "peak_memory_bytes": cluster.peak_memory_bytes(),
                    "state_bytes": max(state, folder_bytes(f"{cluster.folder}/checkpoints")), "events_per_s": None, "rows": None}
        finally:
            client.kill()
            client.wait()
    finally:
        cluster.stop()
