#!/usr/bin/env python3
"""A stage killed before it has joined and while it loads; the coordinator killed: all stages go with it."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, in_thread, is_alive, run, wait

PROMPT = "A good friend of mine always said that"


def children(c):
    """Stage pids by device, before /cluster knows them."""
    return {line.split("--device ")[1].split()[0]: pid for pid, line in c.processes().items() if "--device " in line}


def killed_early(sluice, device, when):
    """The stage dies once: right after its start, or when it has begun to load."""
    with Cluster(sluice) as c:
        c.spawn()
        pid = wait(lambda: children(c).get(device), 10, "the stage process is there")
        if when == "loading":
            wait(lambda: c.said(f"[{device}]") and c.said("loading layers"), 10, "stages load")
        os.kill(pid, signal.SIGKILL)
        wait(lambda: c.said("ready in", c.out), 30, "ready in spite of it")
        v = c.cluster()
        assert sum(s["restarts"] for s in v["stages"]) == 1, (when, v["stages"])
        c.complete(PROMPT, 8)
        assert len(c.processes()) == 4, c.processes()
        assert c.stop() == 0, c.text()
        c.no_orphans()


def reloading(c, want):
    """The one that replaces a dead stage dies too, in the middle of its load; a request waits all the time."""
    restarts = c.cluster()["stages"][1]["restarts"]
    os.kill(c.stages()[1], signal.SIGKILL)
    wait(lambda: not c.cluster()["serving"], 2, "the death is noticed")
    answer = in_thread(c.complete, PROMPT, 24)
    second = wait(lambda: children(c).get("n/1"), 10, "the stage is started again")
    os.kill(second, signal.SIGKILL)
    assert answer.get(30) == want
    assert c.cluster()["stages"][1]["restarts"] == restarts + 2
    assert c.process.poll() is None


def coordinator_dies(c):
    stages = c.stages()
    stream = c.stream(PROMPT, 800)
    stream.next()
    os.kill(c.pid, signal.SIGKILL)
    until = time.monotonic() + 2
    wait(lambda: not any(map(is_alive, stages)), 2, "all stages gone after the coordinator")
    c.no_orphans(max(0.1, until - time.monotonic()))
    assert c.ended(5) == -signal.SIGKILL


def main(sluice):
    for device, when in (("n/0", "starting"), ("n/2", "starting"), ("n/1", "loading")):
        killed_early(sluice, device, when)
    with Cluster(sluice) as c:
        c.start()
        want = c.complete(PROMPT, 24)
        reloading(c, want)
        coordinator_dies(c)


run(main, 100)
