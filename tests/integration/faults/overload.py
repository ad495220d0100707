#!/usr/bin/env python3
"""200 concurrent requests against 8 sequences and a queue of 64: exactly the 72 that find room are answered,
and rightly; the 128 others get 429 with Retry-After at once; /metrics and /cluster count the same."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, run, wait

SEQUENCES, QUEUE, ALL = 8, 64, 200
PROMPTS = ["The first snow of the year", "My brother's old bicycle", "A recipe for bread needs", "On the way to the market"]
LONG, SHORT = 400, 16


def ask(c, i):
    """The first eight are long, so that nothing ends while the others come."""
    try:
        return c.complete(PROMPTS[0], LONG) if i < SEQUENCES else c.complete(PROMPTS[i % 4], SHORT)
    except Failed as e:
        assert e.status == 429 and e.error["code"] == "queue_full" and e.headers.get("Retry-After"), e
        return None


def main(sluice):
    with Cluster(sluice, sequences=SEQUENCES, args=["--queue", str(QUEUE)]) as c:
        c.start()
        want = c.complete(PROMPTS[0], LONG)
        short = [c.complete(p, SHORT) for p in PROMPTS]
        answers = [in_thread(ask, c, i) for i in range(SEQUENCES)]
        wait(lambda: c.requests()["running"] == SEQUENCES, 10, "eight requests run")
        answers += [in_thread(ask, c, i) for i in range(SEQUENCES, ALL)]
        wait(lambda: c.requests()["refused"] == ALL - SEQUENCES - QUEUE, 20, "128 are refused")
        assert c.requests()["waiting"] == QUEUE and c.requests()["running"] == SEQUENCES
        got = [a.get(120) for a in answers]
        assert got.count(None) == ALL - SEQUENCES - QUEUE
        for i, text in enumerate(got):
            assert text is None or text == (want if i < SEQUENCES else short[i % 4]), (i, text)
        c.wait_quiet()
        r, m = c.requests(), c.metrics()
        assert r["finished"] == SEQUENCES + QUEUE + 5 and r["failed"] == 0, r
        assert m["sluice:request_refused_total"] == r["refused"] == 128, m
        assert m['sluice:request_success_total{finished_reason="length"}'] == r["finished"]
        assert m["sluice:generation_tokens_total"] == r["generated_tokens"] == (SEQUENCES + 1) * LONG + (QUEUE + 4) * SHORT
        assert m["sluice:num_requests_running"] == m["sluice:num_requests_waiting"] == 0
        assert c.stop() == 0
        c.no_orphans()


run(main, 170)
