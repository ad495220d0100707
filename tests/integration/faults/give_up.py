#!/usr/bin/env python3
"""A stage that dies again and again: the cluster is given up with one clear message and status 1, soon, and
the requests that ran or waited are told so."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, Failed, in_thread, run, wait

RESTARTS = 5  # SL_RESTARTS_MAX


def main(sluice):
    with Cluster(sluice) as c:
        c.start()
        answer = None
        for i in range(RESTARTS + 1):
            pid = wait(lambda: next((p for p, line in c.processes().items() if "--device n/1" in line), None), 10,
                       "the stage is there")
            if i == RESTARTS:
                answer = in_thread(c.complete, "It was a dark night and", 800)
                wait(lambda: c.requests()["waiting"] + c.requests()["running"] == 1, 5, "a request is there")
            os.kill(pid, signal.SIGKILL)
            wait(lambda: pid not in c.processes(), 2, "it is dead")
        try:
            answer.get(10)
            raise AssertionError("a request of a given-up cluster was answered")
        except Failed as e:
            assert e.is_retriable(), e
        except OSError as e:  # the front end may be gone before the answer is out
            raise AssertionError(f"its client was not told: {e}") from e
        status = c.ended(10)
        assert status == 1, status
        last = [line for line in c.err if line.startswith("sluice serve:")]
        assert len(last) == 1 and "n/1 died 6 times" in last[0] and "start the cluster again" in last[0], c.text()
        c.no_orphans()


run(main, 60)
