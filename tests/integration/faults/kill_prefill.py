#!/usr/bin/env python3
"""kill -9 of a stage while a long prompt is computed, while nothing runs, and two stages at once."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, run, wait

PROMPT = "The best thing about the long winter is"
LONG = "All work and no play makes Jack a dull boy. " * 300  # some 3600 tokens


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def in_prefill(c, victim):
    stages = c.stages()
    before = c.requests()["prompt_tokens"]
    answer = in_thread(c.complete, LONG, 8)
    wait(lambda: c.requests()["prompt_tokens"] > before, 10, "the prompt is begun")
    killed = kill(stages[victim])
    try:
        answer.get(10)
        raise AssertionError("a prompt that a dead stage had worked on was answered")
    except Failed as e:
        assert e.status == 503 and e.is_retriable(), e
        assert time.monotonic() - killed < 2, f"the error came after {time.monotonic() - killed:.2f} s"


def idle(c, *victims):
    """Nothing runs: nobody gets an error, the next request waits for the pipeline and is served."""
    failed, stages = c.requests()["failed"], c.stages()
    kill(*(stages[v] for v in victims))
    wait(lambda: not c.cluster()["serving"], 2, "the death is noticed")
    assert c.request("GET", "/health")[0] == 503
    c.wait_serving(20)
    assert c.request("GET", "/health")[0] == 200
    now = c.stages()
    assert [i for i in range(3) if now[i] != stages[i]] == sorted(victims), (stages, now, victims)
    assert c.requests()["failed"] == failed


def main(sluice):
    with Cluster(sluice, context=4096) as c:
        c.start()
        want = c.complete(PROMPT, 24)
        for victim in range(3):
            in_prefill(c, victim)
            assert c.complete(PROMPT, 24) == want
            c.wait_quiet()
        idle(c, 1)
        assert c.complete(PROMPT, 24) == want
        idle(c, 0, 2)
        assert c.complete(PROMPT, 24) == want
        kill(*c.stages())
        wait(lambda: not c.cluster()["serving"], 2, "the deaths are noticed")
        assert c.complete(PROMPT, 24, timeout=30) == want, "asked while every stage is dead"
        assert c.process.poll() is None and len(c.processes()) == 4
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 100)
