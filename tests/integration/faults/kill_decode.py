#!/usr/bin/env python3
"""kill -9 of the first, the middle and the last stage while eight streams decode, one of them over the socket API.

Every stream ends with a retriable error within 2 s; the requests that waited in the queue are served by
the pipeline that comes back; the coordinator is the same process all the time; the answers afterwards are
those of before; no KV block and no process is left over.
"""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, run, wait
from wire import HELLO, dial, fields, generate, read_message

PROMPTS = [f"Tell me {i} things about the sea and the {w}:" for i, w in
           enumerate(["wind", "moon", "ships", "sand", "fish", "birds", "rain", "salt", "sun", "shore"])]
LONG, SHORT = 700, 16


def read_until_error(stream):
    """(text, Failed, when it came); a stream that ends well is an error here."""
    try:
        stream.rest()
    except Failed as e:
        return "".join(stream.texts), e, time.monotonic()
    raise AssertionError("a stream that a dead stage had worked on ended well")


def read_socket(s):
    """(Error, when it came) of a request over the socket API."""
    while True:
        ident, number, body = read_message(s)
        assert number in (2, 4, 6), f"message {number}: a request that a dead stage had worked on ended well"
        if number == 6:
            assert ident == 1
            return fields(body), time.monotonic()


def one(c, victim, want):
    before = c.cluster()
    streams = [c.stream(p, LONG) for p in PROMPTS[:7]]
    sock = dial(c, HELLO + generate(1, PROMPTS[7].encode(), LONG))
    for s in streams:
        s.next()
    wait(lambda: c.requests()["running"] == 8, 5, "eight requests run")
    waiting = [in_thread(c.complete, p, SHORT) for p in PROMPTS[8:]]
    wait(lambda: c.requests()["waiting"] == 2, 5, "two requests wait")
    ends = [in_thread(read_until_error, s) for s in streams]
    told = in_thread(read_socket, sock)
    killed = time.monotonic()
    os.kill(before["stages"][victim]["pid"], signal.SIGKILL)
    for e in ends:
        _, failed, when = e.get(10)
        assert failed.is_retriable(), failed
        assert "died" in failed.error["message"], failed.error
        assert when - killed < 2, f"the error came after {when - killed:.2f} s"
    error, when = told.get(10)
    assert error[3] == 1 and b"died" in error[2] and when - killed < 2, (error, when - killed)
    sock.close()
    assert [w.get(30) for w in waiting] == want[8:], "the waiting requests' answers changed"
    c.wait_quiet()
    after = c.cluster()
    assert c.process.poll() is None and after["epoch"] == before["epoch"] + 1, after
    for i, (a, b) in enumerate(zip(after["stages"], before["stages"])):
        assert (a["pid"] != b["pid"]) == (i == victim), "only the dead stage is started again"
        assert a["restarts"] == b["restarts"] + (i == victim)
    assert [c.complete(p, SHORT) for p in PROMPTS[:3]] == want[:3], "the answers changed"
    assert len(c.processes()) == 4, c.processes()


def main(sluice):
    with Cluster(sluice) as c:
        c.start()
        want = [c.complete(p, SHORT) for p in PROMPTS]
        for victim in range(3):
            one(c, victim, want)
        assert c.requests()["failed"] == 24
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 170)
