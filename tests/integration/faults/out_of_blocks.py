#!/usr/bin/env python3
"""16 long requests against a cache that holds three of them: none fails, some are preempted and computed again,
and every text is the one the request gets alone."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, in_thread, run

COUNT, TOKENS, CONTEXT = 16, 160, 256
PROMPTS = [f"Chapter {i % 4}. It was the {w} day of" for i, w in
           enumerate(["first", "second", "third", "fourth"] * 4)]
BLOCKS = 18
MEMORY_MIB = 64  # too little
BLOCK_BYTES = 14 * 32 * 2 * 3 * 64 * 2  # of 14 layers: 32 tokens, K and V of 3 heads of 64 numbers of 2 bytes


def cluster(sluice, memory):
    """The first stage has few blocks, and so all have."""
    return Cluster(sluice, devices=[f"cpu: 0, memory: {memory}, layers: [0, 14]", "cpu: 1, layers: [15, 29]"],
                   context=CONTEXT, sequences=COUNT)


def memory_for_blocks(sluice):
    """What the stage must be given so that BLOCKS fit: the refusal of too little says how much one sequence needs."""
    with cluster(sluice, f"{MEMORY_MIB}MiB") as c:
        c.spawn()
        assert c.ended(30) == 2, c.text()
        short = re.search(r"is ([0-9.]+) MiB short.* one sequence of 256 tokens", c.text())
        assert short, c.text()
    return int((MEMORY_MIB + float(short[1])) * (1 << 20)) + (BLOCKS - CONTEXT // 32) * BLOCK_BYTES


def main(sluice):
    with cluster(sluice, memory_for_blocks(sluice)) as c:
        c.start()
        kv = c.cluster()["kv"]
        room = kv["blocks"] * kv["block_tokens"] / (TOKENS + 8)
        assert 1 < room < COUNT / 3, f"the cache holds {room:.1f} requests"
        want = [c.complete(p, TOKENS) for p in PROMPTS[:4]]
        assert c.requests()["preemptions"] == 0
        answers = [in_thread(c.complete, p, TOKENS) for p in PROMPTS]
        got = [a.get(150) for a in answers]
        for i in range(COUNT):
            assert got[i] == want[i % 4], (i, got[i], want[i % 4])
        r = c.requests()
        assert r["preemptions"] > 0 and r["failed"] == 0 and r["finished"] == COUNT + 4, r
        assert c.metrics()["sluice:num_preemptions_total"] == r["preemptions"]
        c.wait_quiet()
        assert c.stop() == 0
        c.no_orphans()


run(main, 170)
