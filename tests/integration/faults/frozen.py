#!/usr/bin/env python3
"""A stage that lives and never answers: its compute thread is stopped (ptrace), its heartbeat goes on.

The coordinator's watchdog notices after SL_STALL_NS that the oldest micro-batch is overdue, blames the
stage that has it, starts it again and serves on. The old process cannot even be killed to the end while
ptrace holds its thread: the coordinator does not wait for it when it ends. Skipped without ptrace.
Beside it: a stage process that is stopped before it has joined is given up after SL_JOIN_MS and replaced.
"""
import ctypes
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, model_path, run, skip, wait

STALL_S, JOIN_S = 30, 60  # SL_STALL_NS, SL_JOIN_MS
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
PROMPT = "The three most important rivers of Europe are"


def threads_busy(pid):
    """{thread id: CPU ticks so far}"""
    v = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        v[int(tid)] = int(fields[11]) + int(fields[12])
    return v


def freeze(tid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, tid, None, None) != 0:
            skip(f"ptrace is not permitted: {os.strerror(ctypes.get_errno())}")


def compute_threads(pid):
    """All threads but the main one, which is the loop: it beats on."""
    return [t for t in threads_busy(pid) if t != pid]


def never_joins(sluice):
    with Cluster(sluice) as c:
        c.spawn()
        pid = wait(lambda: next((p for p, line in c.processes().items() if "--device n/1" in line), None), 10, "the stage is there")
        os.kill(pid, signal.SIGSTOP)
        if c.said("stage n/1 joined"):  # too late: then it is a stage like any other, and silent
            return
        begun = time.monotonic()
        wait(lambda: c.said("ready in", c.out), JOIN_S + 20, "ready with another process")
        assert time.monotonic() - begun > JOIN_S - 5 and c.said("has not joined"), c.text()
        assert pid not in c.processes() and len(c.processes()) == 4
        assert c.stop() == 0, c.text()
        c.no_orphans()


def probe():
    """Skips here, before anything is started that would be left."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        freeze(child.pid)
    finally:
        child.kill()
        child.wait()


def main(sluice):
    model_path()
    probe()
    beside = in_thread(never_joins, sluice)
    freezes(sluice)
    beside.get(JOIN_S + 30)


def freezes(sluice):
    with Cluster(sluice) as c:
        c.start()
        want = c.complete(PROMPT, 24)
        old = c.stages()
        stream = c.stream(PROMPT, 800)
        stream.next()
        frozen_at = time.monotonic()
        for tid in compute_threads(old[1]):
            freeze(tid)
        waiting = in_thread(c.complete, PROMPT, 24)
        try:
            stream.rest()
            raise AssertionError("a stream through a frozen stage ended well")
        except Failed as e:
            took = time.monotonic() - frozen_at
            assert e.is_retriable() and "has not answered" in e.error["message"], e
            assert STALL_S - 1 < took < STALL_S + 5, f"noticed after {took:.1f} s"
        try:
            assert waiting.get(30) == want
        except Failed as e:  # it ran already: then its client is told to come again
            assert e.is_retriable(), e
        c.wait_serving(20, 2)
        now = c.stages()
        assert now[0] == old[0] and now[1] != old[1] and now[2] == old[2], (old, now)
        assert c.complete(PROMPT, 24) == want
        c.wait_quiet()
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 110)
