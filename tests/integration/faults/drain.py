#!/usr/bin/env python3
"""SIGTERM drains: what runs or waits ends normally, new requests get 503, the exit status is 0 and the stage
table is printed; a second SIGTERM stops at once and tells the clients."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, run, wait

PROMPT = "In the garden behind the old house there"


def refused(c):
    try:
        c.complete(PROMPT, 8)
        raise AssertionError("a request was taken while the server drains")
    except Failed as e:
        assert e.status == 503 and e.is_retriable() and "Retry-After" in e.headers, e


def drains(sluice):
    with Cluster(sluice, sequences=2) as c:
        c.start()
        want = c.complete(PROMPT, 300)
        streams = [c.stream(PROMPT, 300) for _ in range(2)]
        for s in streams:
            s.next()
        whole = [in_thread(c.complete, PROMPT, 300), in_thread(c.complete, PROMPT, 300)]
        wait(lambda: c.requests()["waiting"] == 2, 5, "two requests run and two wait")
        c.process.send_signal(signal.SIGTERM)
        wait(lambda: c.said("draining"), 2, "the signal is noticed")
        refused(c)
        assert c.request("GET", "/health")[0] == 503
        for s in streams:
            assert s.rest() == want and s.done and s.finish == "length"
        for w in whole:
            assert w.get(30) == want
        assert c.ended(10) == 0, c.text()
        table = [line for line in c.err if line.split()[:2] == ["stage", "device"]]
        assert len(table) == 1 and all(any(f"n/{i}" in line and "ucx" in line for line in c.err) for i in range(3)), c.text()
        c.no_orphans()


def at_once(sluice):
    with Cluster(sluice) as c:
        c.start()
        stream = c.stream(PROMPT, 900)
        stream.next()
        whole = in_thread(c.complete, PROMPT, 900)
        wait(lambda: c.requests()["running"] == 2, 5, "two requests run")
        c.process.send_signal(signal.SIGTERM)
        wait(lambda: c.said("draining"), 2, "the signal is noticed")
        second = time.monotonic()
        c.process.send_signal(signal.SIGTERM)
        for ask in (stream.rest, lambda: whole.get(5)):
            try:
                ask()
                raise AssertionError("a request ended well although the server stopped at once")
            except Failed as e:
                assert e.is_retriable() and "shutting down" in e.error["message"], e
        assert c.ended(5) == 0, c.text()
        assert time.monotonic() - second < 3
        c.no_orphans()


def while_loading(sluice):
    with Cluster(sluice) as c:
        c.spawn()
        wait(lambda: len(c.processes()) == 4, 10, "the stages are started")
        c.process.send_signal(signal.SIGTERM)
        assert c.ended(5) == 0, c.text()
        c.no_orphans()


def main(sluice):
    drains(sluice)
    at_once(sluice)
    while_loading(sluice)


run(main, 100)
