"""Opens a thousand connections to the server on port ARGV[1], asks on each, and is refused politely on one more."""

import resource
import select
import socket
import struct
import sys
import time

PORT = int(sys.argv[1])
N = 1000


def receive(sock, n):
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def message(sock):
    kind = receive(sock, 1)
    (length,) = struct.unpack("!I", receive(sock, 4))
    return kind, receive(sock, length - 4)


def connect():
    sock = socket.create_connection(("127.0.0.1", PORT), timeout=60)
    parameters = b"user\0root\0database\0dev\0\0"
    sock.sendall(struct.pack("!II", 8 + len(parameters), 196608) + parameters)
    while True:
        kind, body = message(sock)
        if kind == b"E":
            raise PermissionError(body)
        if kind == b"Z":
            return sock


def ask(sock, sql):
    text = sql.encode() + b"\0"
    sock.sendall(b"Q" + struct.pack("!I", 4 + len(text)) + text)


def answer(sock):
    rows = []
    while True:
        kind, body = message(sock)
        if kind == b"D":
            rows.append(body)
        if kind == b"E":
            raise RuntimeError(body)
        if kind == b"Z":
            return rows


_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
# The server may keep a place for somebody who connected a moment ago.
time.sleep(0.2)
started = time.time()
connections = [connect() for _ in range(N)]
connected = time.time()
for sock in connections:
    ask(sock, "SELECT 1")
for sock in connections:
    assert len(answer(sock)) == 1
answered = time.time()
print(f"{N} connections in {connected - started:.2f} s, an answer on each in {answered - connected:.2f} s")
try:
    connect()
except PermissionError as error:
    assert b"53300" in error.args[0], error.args[0]
else:
    raise AssertionError("connection 1001 should be refused")
for sock in connections:
    sock.close()
# Places come free again.
for attempt in range(100):
    try:
        sock = connect()
        break
    except PermissionError:
        time.sleep(0.05)
else:
    raise AssertionError("no place came free")
ask(sock, "SELECT 2")
assert len(answer(sock)) == 1
select.select([], [], [], 0)
