#!/usr/bin/env python3
"""kill -9 of a middle stage under load, ten times, with every link over shared memory.

There a process that dies in the middle of a write leaves the receiver's queue blocked, and nothing says so; the
survivors have to throw it away. So after each death answers come again long before the watchdog for overdue
micro-batches could have helped, they are the right ones, and the survivors keep nothing of the ports they threw away.
"""
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, in_thread, keep_asking, run, wait

KILLS = 10  # of two stages in turn: five each, SL_RESTARTS_MAX within a minute
AGAIN_S = 25  # most of it is the pause before a restart, which doubles; SL_STALL_NS is 30 s
PROMPT = "The harbour lay quiet under a low moon, and the nets hung drying between the masts. " * 6
TOKENS = 8


def shared_segments(pid):
    with open(f"/proc/{pid}/maps") as f:
        return sum("SYSV" in line or "ucx_shm" in line for line in f)


def belongings(pid):
    """What a port takes in its process: descriptors and shared memory."""
    return len(os.listdir(f"/proc/{pid}/fd")), shared_segments(pid)


def few_more(now, before):
    return all(n < b + KILLS for n, b in zip(now, before))  # pools grow; a port has eight segments


def segments_of(pids):
    """System V segments that outlive the processes that made them."""
    with open("/proc/sysvipc/shm") as f:
        names = f.readline().split()
        return [line for line in f if int(line.split()[names.index("cpid")]) in pids]


def main(sluice):
    with Cluster(sluice, devices=["cpu: 0", "cpu: 1"] * 2, env={"SLUICE_TRANSPORTS": "ucx-shm"}) as c:
        c.start()
        want = c.complete(PROMPT, TOKENS)
        before = {pid: belongings(pid) for pid in (c.pid, c.stages()[0], c.stages()[3])}
        assert all(segments for _, segments in before.values()), "the links are not over shared memory"
        over, counts, seen = threading.Event(), {"done": 0, "failed": 0}, set(c.stages()) | {c.pid}
        clients = [in_thread(keep_asking, c, PROMPT, TOKENS, want, over, counts) for _ in range(6)]
        longest = 0
        for kill in range(KILLS):
            wait(lambda: c.requests()["running"] >= 4, 20, "the pipeline is busy")
            epoch = c.cluster()["epoch"]
            os.kill(c.stages()[1 + kill % 2], signal.SIGKILL)
            killed, done = time.monotonic(), counts["done"]
            c.wait_serving(AGAIN_S, epoch + 1)
            wait(lambda: counts["done"] >= done + 3 or any(not t.is_alive() for t in clients), AGAIN_S,
                 f"answers come again after kill {kill + 1}")
            longest = max(longest, time.monotonic() - killed)
            seen |= set(c.stages())
        over.set()
        for t in clients:
            t.get(60)
        print(f"{counts}, answers again after at most {longest:.1f} s")
        v = c.cluster()
        assert v["epoch"] == KILLS + 1 and sum(s["restarts"] for s in v["stages"]) == KILLS, v
        c.wait_quiet()
        wait(lambda: all(few_more(belongings(pid), v) for pid, v in before.items()), 5,
             f"the old ports are gone: {before}, now { {pid: belongings(pid) for pid in before} }")
        assert c.complete(PROMPT, TOKENS) == want
        assert c.stop() == 0, c.text()
        c.no_orphans()
        assert not segments_of(seen), segments_of(seen)


run(main, 200)
