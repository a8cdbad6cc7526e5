"""The engines that `bench/compare.py` runs Nexmark on, behind one interface.

An engine is a module with `run(query, lane, options)`, which gives a dict with `wall_s`, `cpu_s`, `peak_memory_bytes`, `state_bytes` and `rows`
(a function that gives the final answer's rows, or None where the engine throws its output away). A lane is one of `compare.Lane`.
"""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """CPU time of a process, all its threads, in seconds."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory_bytes(pid):
    """The largest resident size that a process had so far."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def folder_bytes(path):
    """What the files under a folder take."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                pass
    return total


def wait_until(done, seconds, what):
    """Asks each 50 ms until `done()` gives something, which is the result."""
    patience = time.perf_counter() + seconds
    while True:
        result = done()
        if result:
            return result
        if time.perf_counter() > patience:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Progress:
    """How many of the input's events were read when: the rate over the middle 80 % of them."""

    def __init__(self, events):
        self.events, self.samples = events, []

    def note(self, events):
        self.samples.append((time.perf_counter(), events))

    def events_per_s(self):
        """None where there were too few samples between 10 % and 90 %."""
        middle = [(at, n) for at, n in self.samples if 0.1 * self.events <= n <= 0.9 * self.events]
        if len(middle) < 5 or middle[-1][1] - middle[0][1] < 0.5 * self.events:
            return None
        return (middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0])
