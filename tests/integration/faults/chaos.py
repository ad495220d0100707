#!/usr/bin/env python3
"""Stages are killed again and again, at moments that a seed chooses: while others decode, join, load or are wired.
The coordinator lives through all of it, every request ends well or with a retriable error, never twice or not at
all, and afterwards everything is as before. SLUICE_TEST_SEED repeats a run."""
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, in_thread, keep_asking, run, wait

KILLS_EACH = 4  # below SL_RESTARTS_MAX
PROMPT = "Every morning the baker of our street"
TOKENS = 40


def main(sluice):
    seed = int(os.environ.get("SLUICE_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    with Cluster(sluice, sequences=4) as c:
        c.start()
        want = c.complete(PROMPT, TOKENS)
        over, counts = threading.Event(), {"done": 0, "failed": 0}
        clients = [in_thread(keep_asking, c, PROMPT, TOKENS, want, over, counts) for _ in range(6)]
        victims = [f"n/{i}" for i in range(3)] * KILLS_EACH
        chance.shuffle(victims)
        killed = set()
        for v in victims:
            pid = wait(lambda: next((p for p, line in c.processes().items() if f"--device {v} " in line and p not in killed), None), 20, f"{v} is there")
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            time.sleep(chance.choice([0, 0.05, 0.2, 0.3, 0.4, 0.6, 1.5]))
            assert c.process.poll() is None, c.text()
        c.wait_serving(30)
        before = counts["done"]
        wait(lambda: counts["done"] >= before + 12, 30, "the clients are served again")
        over.set()
        for t in clients:
            t.get(60)
        print(counts)
        c.wait_quiet()
        v = c.cluster()
        assert sum(s["restarts"] for s in v["stages"]) >= len(victims), v["stages"]
        assert v["requests"]["finished"] == counts["done"] + 1 and v["requests"]["failed"] == counts["failed"], (v, counts)
        assert len(c.processes()) == 4, c.processes()
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 140)
