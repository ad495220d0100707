#!/usr/bin/env python3
"""A stage that something else started hangs (SIGSTOP): the coordinator cannot kill it, drops it, and serves on with
the one that joins in its place; going on later (SIGCONT) the old one ends with one clear line and does no harm."""
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import DEAD_S, Cluster, Failed, free_port, in_thread, run, wait

KEY = "external-join-key"
PROMPT = "Once upon a time there was a"
NODES = """\
  - name: own
    devices: [{cpu: 0, layers: [0, 14]}]
  - name: ext
    host: 127.0.0.1
    launch: external
    devices: [{cpu: 1, layers: [15, 29]}]
"""


def join(c, port):
    return subprocess.Popen([c.sluice, "stage", "--join", f"127.0.0.1:{port}", "--device", "ext/0", "--cpus", "1"],
                            env={**c.env, "SLUICE_JOIN_KEY": KEY}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def main(sluice):
    port = free_port()
    with Cluster(sluice, nodes=NODES, top=f'control: "127.0.0.1:{port}"\njoin_key: {KEY}\n') as c:
        c.spawn()
        old = join(c, port)
        wait(lambda: c.said("ready in", c.out), 60, "ready")
        want = c.complete(PROMPT, 24)
        second = join(c, port)  # a mistake: there is one already
        _, err = second.communicate(timeout=10)
        assert second.returncode == 2 and "joined already" in err.splitlines()[-1], (second.returncode, err)
        assert c.complete(PROMPT, 24) == want

        stream = c.stream(PROMPT, 900)
        stream.next()
        stopped = time.monotonic()
        old.send_signal(signal.SIGSTOP)
        try:
            stream.rest()
            raise AssertionError("a stream through a stopped stage ended well")
        except Failed as e:
            assert e.is_retriable() and "silent for" in e.error["message"], e
            assert time.monotonic() - stopped < DEAD_S + 1
        waiting = in_thread(c.complete, PROMPT, 24)
        new = join(c, port)
        assert waiting.get(30) == want

        stream = c.stream(PROMPT, 200)
        stream.next()
        old.send_signal(signal.SIGCONT)
        _, err = old.communicate(timeout=10)
        assert old.returncode == 1 and err.splitlines()[-1].startswith("sluice stage: "), (old.returncode, err)
        assert stream.rest().startswith(want[:40]) and stream.done
        v = c.cluster()
        assert v["epoch"] == 2 and v["stages"][1]["pid"] == new.pid, v
        c.wait_quiet()
        assert c.stop() == 0, c.text()
        assert new.wait(5) == 0, "a stage that is told to leave ends well"
        c.no_orphans()


run(main, 80)
