#!/usr/bin/env python3
"""SIGSTOP: a stage that hangs is noticed within SL_CTL_DEAD_MS + 1 s, replaced, and serves again; a
coordinator that was stopped for longer than that does not take its stages for dead when it goes on."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import DEAD_S, Cluster, Failed, in_thread, is_alive, run, wait

PROMPT = "Once upon a time there was a"


def stage_hangs(c, victim, want):
    before = c.cluster()
    streams = [c.stream(PROMPT, 800) for _ in range(3)]
    for s in streams:
        s.next()
    old = before["stages"][victim]["pid"]
    stopped = time.monotonic()
    os.kill(old, signal.SIGSTOP)
    for s in streams:
        try:
            s.rest()
            raise AssertionError("a stream through a stopped stage ended well")
        except Failed as e:
            took = time.monotonic() - stopped
            assert e.is_retriable() and "silent for" in e.error["message"], e
            assert took < DEAD_S + 1, f"noticed after {took:.2f} s"
    assert c.complete(PROMPT, 24) == want
    try:
        os.kill(old, signal.SIGCONT)
    except ProcessLookupError:
        pass
    wait(lambda: not is_alive(old), 2, "the replaced process is gone")
    assert c.complete(PROMPT, 24) == want
    after = c.cluster()
    assert after["epoch"] == before["epoch"] + 1, after
    c.wait_quiet()


def coordinator_hangs(c, want):
    before = c.cluster()
    answer = in_thread(c.complete, PROMPT, 200)
    wait(lambda: c.requests()["running"] == 1, 5, "a request runs")
    os.kill(c.pid, signal.SIGSTOP)
    time.sleep(DEAD_S + 1.5)
    os.kill(c.pid, signal.SIGCONT)
    assert answer.get(30).startswith(want)
    after = c.cluster()
    assert after["epoch"] == before["epoch"], "the stages were taken for dead"


def main(sluice):
    with Cluster(sluice) as c:
        c.start()
        want = c.complete(PROMPT, 24)
        for victim in (0, 2):
            stage_hangs(c, victim, want)
        coordinator_hangs(c, want)
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 100)
