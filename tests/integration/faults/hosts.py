#!/usr/bin/env python3
"""Two hosts: network namespaces joined by a veth that tc tbf limits. The coordinator and the first stage live in
one, two stages that joined by themselves in the other: the right answer over ucx-tcp, the link's bytes and time in
/cluster; a wrong join key is refused; a cut cable is noticed in SL_CTL_DEAD_MS + 2 s, and when it is whole again
and the stages are started again the cluster serves on. Skipped where namespaces are not permitted."""
import ctypes
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import DEAD_S, Cluster, Failed, in_thread, model_path, run, skip, wait

HERE, THERE, KEY = "10.77.0.1", "10.77.0.2", "two-hosts-join-key"
RATE_MBIT = 200
PROMPT = "The road from the village to the town"
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
MOUNTS = ["mount --make-rprivate /", "mount -t sysfs sysfs /sys"]  # /sys shows the devices of the namespace it was mounted in
NODES = f"""\
  - name: alpha
    host: {HERE}
    launch: local
    devices: [{{cpu: 0, layers: [0, 9]}}]
  - name: beta
    host: {THERE}
    launch: external
    devices: [{{cpu: 1, layers: [10, 19]}}, {{cpu: 0, layers: [20, 29]}}]
"""


class Hosts:
    """This process, and all it starts, in a network namespace of its own; `other` holds a second one. Both are gone
    with their processes."""

    def __enter__(self):
        for tool in ("ip", "tc", "nsenter", "unshare"):
            if not shutil.which(tool):
                skip(f"no {tool}")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
            skip(f"network namespaces are not permitted: {os.strerror(ctypes.get_errno())}")
        self.other = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", " && ".join(MOUNTS) + " && exec sleep 600"], stdin=subprocess.DEVNULL)
        mine = os.readlink("/proc/self/ns/net")
        wait(lambda: os.readlink(f"/proc/{self.other.pid}/ns/net") != mine and "sleep" in open(f"/proc/{self.other.pid}/comm").read(),
             5, "the second namespace")
        try:
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.other.kill()
        self.other.wait()

    def there(self, *words):
        return ["nsenter", "-t", str(self.other.pid), "-n", "-m", *words]

    def set_up(self):
        pid = str(self.other.pid)
        for words in (*(m.split() for m in MOUNTS), ["ip", "link", "add", "sl-a", "type", "veth", "peer", "name", "sl-b"],
                      ["ip", "link", "set", "sl-b", "netns", pid],
                      ["ip", "addr", "add", f"{HERE}/24", "dev", "sl-a"], ["ip", "link", "set", "lo", "up"],
                      ["ip", "link", "set", "sl-a", "up"], self.there("ip", "addr", "add", f"{THERE}/24", "dev", "sl-b"),
                      self.there("ip", "link", "set", "lo", "up"), self.there("ip", "link", "set", "sl-b", "up"),
                      ["tc", "qdisc", "add", "dev", "sl-a", *self.limit()],
                      self.there("tc", "qdisc", "add", "dev", "sl-b", *self.limit())):
            p = subprocess.run(words, capture_output=True, text=True)
            if p.returncode:
                self.__exit__()
                skip(f"{' '.join(words)}: {p.stderr.strip()}")

    @staticmethod
    def limit():
        return ["root", "tbf", "rate", f"{RATE_MBIT}mbit", "burst", "64kb", "latency", "50ms"]

    @staticmethod
    def cable(state):
        subprocess.run(["ip", "link", "set", "sl-a", state], check=True)


class Stages:
    """The two stages of the other host, as a person there would start them."""

    def __init__(self, hosts, cluster, port):
        self.hosts, self.cluster, self.port = hosts, cluster, port
        self.processes = []

    def join(self, device, cpu, key=KEY):
        env = {**self.cluster.env, "SLUICE_JOIN_KEY": key, "SLUICE_NET_DEVICE": "sl-b"}
        p = subprocess.Popen(self.hosts.there(self.cluster.sluice, "stage", "--join", f"{HERE}:{self.port}", "--device", device,
                                              "--cpus", str(cpu)), env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             text=True)
        self.processes.append(p)
        return p

    def start(self):
        self.processes = []
        self.join("beta/0", 1)
        self.join("beta/1", 0)

    def ended(self, seconds):
        """[(exit status, stderr)]"""
        until = time.monotonic() + seconds
        v = []
        for p in self.processes:
            try:
                _, err = p.communicate(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"a stage of the other host has not ended after {seconds} s") from None
            v.append((p.returncode, err))
        return v


def check_links(c):
    stages = c.cluster()["stages"]
    kinds = [s["link_out"]["transport"] for s in stages]
    assert kinds[0] == "ucx-tcp" and kinds[1] in ("ucx-shm", "ucx-tcp") and kinds[2] == "ucx-tcp", kinds
    for s in stages:
        link = s["link_out"]
        assert link["bytes"] > 0 and link["frames"] > 0 and link["busy_ms"] > 0, s
    first = stages[0]["link_out"]
    return first["bytes"], first["busy_ms"]


def wrong_key(stages):
    p = stages.join("beta/0", 1, "another-join-key")
    _, err = p.communicate(timeout=10)
    last = err.splitlines()[-1]
    assert p.returncode in (1, 2) and "wrong join key" in last and "join_key" in last, (p.returncode, err)
    stages.processes.remove(p)


def cut(hosts, c, stages, want):
    streams = [c.stream(PROMPT, 900) for _ in range(2)]
    for s in streams:
        s.next()
    begun = time.monotonic()
    hosts.cable("down")
    for s in streams:
        try:
            s.rest()
            raise AssertionError("a stream over a cut cable ended well")
        except Failed as e:
            took = time.monotonic() - begun
            assert e.is_retriable(), e
            assert took < DEAD_S + 2, f"noticed after {took:.1f} s"
    waiting = in_thread(c.complete, PROMPT, 24)
    wait(lambda: c.requests()["waiting"] == 1, 5, "the next request waits")
    assert c.request("GET", "/health")[0] == 503
    hosts.cable("up")
    for status, err in stages.ended(20):
        assert status == 1 and err.splitlines()[-1].startswith("sluice stage: "), (status, err)
    stages.start()
    assert waiting.get(30) == want
    assert c.complete(PROMPT, 24) == want
    assert c.process.poll() is None and c.cluster()["epoch"] >= 2
    c.wait_quiet()
    check_links(c)


def main(sluice):
    model_path()
    with Hosts() as hosts:
        with Cluster(sluice) as alone:
            want = alone.start().complete(PROMPT, 24)
        port = 17070
        with Cluster(sluice, nodes=NODES, env={"SLUICE_NET_DEVICE": "sl-a"},
                     top=f'control: "{HERE}:{port}"\njoin_key: {KEY}\n') as c:
            stages = Stages(hosts, c, port)
            c.spawn()
            wrong_key(stages)
            stages.start()
            wait(lambda: c.said("ready in", c.out), 20, "ready")
            assert c.complete(PROMPT, 24) == want
            c.complete("All work and no play makes Jack a dull boy. " * 60, 8)
            n_bytes, ms = wait(lambda: check_links(c), 5, "the links' counts")
            print(f"alpha to beta: {n_bytes} bytes in {ms:.1f} ms of link time at {RATE_MBIT} Mbit/s")
            wrong_key(stages)
            assert c.complete(PROMPT, 24) == want
            cut(hosts, c, stages, want)
            assert c.stop() == 0, c.text()
            for status, err in stages.ended(5):
                assert status == 0, (status, err)
            c.no_orphans()


run(main, 150)
