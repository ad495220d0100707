#!/usr/bin/env python3
"""Wrong inputs of `serve` and `run`: one line on stderr that names the place and the remedy, exit status 2 (1 where
it fails while running), soon, without a crash and without a process left over."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import free_port, marked, model_path, run, wait

LIMIT_S = 30
NODE = "  - name: n\n    devices:\n      - {cpu: 0}\n      - {cpu: 0}\n"


class Inputs:
    def __init__(self, sluice, folder):
        self.sluice, self.folder = sluice, folder
        self.model = model_path()
        self.failures = []

    def yaml(self, model=None, keys="", nodes=NODE, top=""):
        path = os.path.join(self.folder, f"{uuid.uuid4().hex[:8]}.yaml")
        with open(path, "w") as f:
            f.write(f"cluster: c\nmodel:\n  path: {model or self.model}\n  context: 256\n  sequences: 2\n{keys}nodes:\n{nodes}{top}")
        return path

    def refused(self, what, words, says, status=2):
        """The command ends with `status` and its last line on stderr matches every pattern of `says`."""
        mark = uuid.uuid4().hex
        env = {**os.environ, "SLUICE_TEST_MARK": mark}
        try:
            p = subprocess.run([self.sluice, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               errors="replace", timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.failures.append(f"{what}: hangs")
            for pid in marked(mark):
                os.kill(pid, 9)
            return
        lines = p.stderr.splitlines()
        own = [x for x in lines if re.match(r"sluice (serve|run): ", x)]
        complaint = None
        if p.returncode != status:
            complaint = f"status {p.returncode}, not {status}"
        elif len(own) != 1 or lines[-1] != own[0]:
            complaint = f"{len(own)} lines of its own"
        elif not all(re.search(s, own[0]) for s in says):
            complaint = f"the line does not say {[s for s in says if not re.search(s, own[0])]}"
        elif "runtime error" in p.stderr or "AddressSanitizer" in p.stderr or "assert" in p.stderr:
            complaint = "it crashed"
        if complaint:
            self.failures.append(f"{what}: {complaint}\n    " + "\n    ".join(lines[-6:]))
        try:
            wait(lambda: not marked(mark), 2, "no process left")
        except AssertionError:
            self.failures.append(f"{what}: left {marked(mark)}")

    def run(self, what, yaml, says, status=2):
        self.refused("run, " + what, ["run", yaml, "-p", "Hi", "-n", "2"], says, status)

    def serve(self, what, yaml, says, status=2, http="127.0.0.1:0", more=()):
        self.refused("serve, " + what, ["serve", yaml, "--http", http, *more], says, status)

    def both(self, what, yaml, says, status=2):
        self.run(what, yaml, says, status)
        self.serve(what, yaml, says, status)


def topology(t):
    t.both("unknown key", t.yaml(top="serv: {http: x}\n"), [r"\.yaml:\d+", "serv", "serve"])
    t.both("unknown key of a device", t.yaml(nodes="  - name: n\n    devices: [{cpu: 0, memry: 1GiB}]\n"),
           [r"\.yaml:\d+", "memry", "memory"])
    t.both("bad unit", t.yaml(nodes="  - name: n\n    devices: [{cpu: 0, memory: 4 bananas}]\n"), [r"\.yaml:\d+", "memory", "GiB"])
    t.both("not YAML", t.yaml(top="  - {[\n"), [r"\.yaml:\d+"])
    t.run("no such file", os.path.join(t.folder, "none.yaml"), ["none.yaml"])
    t.run("a folder", t.folder, [re.escape(t.folder)])
    t.both("overlapping layers", t.yaml(nodes="  - name: n\n    devices:\n      - {cpu: 0, layers: [0, 20]}\n"
                                              "      - {cpu: 0, layers: [15, 29]}\n"), ["layers?|n/1"])
    t.both("layers outside the model", t.yaml(nodes="  - name: n\n    devices:\n      - {cpu: 0, layers: [0, 14]}\n"
                                                    "      - {cpu: 0, layers: [15, 44]}\n"), ["n/1", "30|29|layers"])
    t.both("a gap between layers", t.yaml(nodes="  - name: n\n    devices:\n      - {cpu: 0, layers: [0, 9]}\n"
                                                "      - {cpu: 0, layers: [15, 29]}\n"), ["n/|layer"])
    t.both("no such CPU", t.yaml(nodes="  - name: n\n    devices: [{cpu: 4000}]\n"), ["4000"])
    t.both("nonsense for kv_format", t.yaml(keys="  kv_format: pudding\n"), ["pudding", "f16|bf16|auto"])
    t.both("two nodes of one name", t.yaml(nodes=NODE + NODE), [r"\.yaml:\d+", "n"])
    t.both("too little memory", t.yaml(nodes="  - name: n\n    devices: [{cpu: 0, memory: 20MiB}]\n"), ["n/0", "MiB", "give|lower|fewer|raise"])
    t.run("unreachable ssh host", t.yaml(nodes=f"  - name: far\n    host: 127.0.0.1\n    launch: ssh\n    ssh_port: {free_port()}\n"
                                               "    devices: [{cpu: 0}]\n"), ["far/0", "refused|ssh"], 1)
    t.run("no such program", t.yaml(nodes="  - name: n\n    launch: local\n    program: /nonexistent/sluice\n"
                                          "    devices: [{cpu: 0}]\n"), ["n/0", "/nonexistent/sluice"], 2)


def ports(t):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        used = "127.0.0.1:%d" % s.getsockname()[1]
        t.serve("HTTP port in use", t.yaml(), [re.escape(used), "--http"], http=used)
        t.serve("socket port in use", t.yaml(), [re.escape(used), "--socket"], more=["--socket", used])
        t.serve("control port in use", t.yaml(top=f'control: "{used}"\n'), [re.escape(used), "control"])
    t.serve("no address", t.yaml(), ["--http|HOST:PORT"], http="nonsense")
    t.serve("not our address", t.yaml(), ["192.0.2.1", "use an address"], http="192.0.2.1:8080")
    plain = os.path.join(t.folder, "plain")
    open(plain, "w").close()
    t.serve("socket path is a file", t.yaml(), ["plain", "--socket|path"], more=["--socket", plain])
    t.serve("no such key file", t.yaml(), ["no-keys"], more=["--api-keys", os.path.join(t.folder, "no-keys")])


def models(t):
    t.both("model file missing", t.yaml(model="/nonexistent/model.gguf"), ["/nonexistent/model.gguf"])
    t.both("no model file", t.yaml(model="/dev/null"), ["/dev/null"])
    t.both("a model that is none", t.yaml(model=t.yaml()), [r"\.yaml"])
    cut = os.path.join(t.folder, "cut.gguf")
    with open(t.model, "rb") as f, open(cut, "wb") as g:
        g.write(f.read(30 << 20))
    t.both("truncated model", t.yaml(model=cut), ["cut.gguf", "truncated|bytes|download|beyond|end"])


def damaged(t):
    """Copies of a tiny model with flipped bytes in header, metadata and tensor table: an error, or it runs; no crash, no hang."""
    folder = os.path.join(os.environ.get("SLUICE_SHARED", ""), "data/models/gguf")
    tiny = os.path.join(folder, "llama-Q8_0.gguf")
    if not os.path.exists(tiny):
        print("no tiny model: damaged files not tried")
        return
    with open(tiny, "rb") as f:
        good = f.read()
    for n in (0, 3, 4, 20, 24, 100, 1000, len(good) // 2, len(good) - 1):
        path = os.path.join(t.folder, f"cut{n}.gguf")
        with open(path, "wb") as f:
            f.write(good[:n])
        t.run(f"first {n} bytes", t.yaml(model=path), [f"cut{n}.gguf"])
    for magic in (b"GGML", b"\0\0\0\0"):
        path = os.path.join(t.folder, "magic.gguf")
        with open(path, "wb") as f:
            f.write(magic + good[4:])
        t.run("wrong magic", t.yaml(model=path), ["magic.gguf", "GGUF"])
    end = good.rindex(b".weight") + 64  # somewhere behind the last entry of the tensor table
    path = os.path.join(t.folder, "flipped.gguf")
    step = max(1, end // 60)
    for i, at in enumerate(list(range(4, 32, 3)) + list(range(32, end, step))):
        bad = bytearray(good)
        bad[at] ^= (0xff, 0x80, 0x01)[i % 3]
        with open(path, "wb") as f:
            f.write(bad)
        mark = uuid.uuid4().hex
        try:
            p = subprocess.run([t.sluice, "run", "-m", path, "--tokens", "1,2,3", "-n", "2", "-c", "64"], stdin=subprocess.DEVNULL,
                               env={**os.environ, "SLUICE_TEST_MARK": mark}, capture_output=True, text=True, errors="replace",
                               timeout=LIMIT_S)
            lines = [x for x in p.stderr.splitlines() if x.startswith("sluice run: ")]
            if p.returncode not in (0, 1, 2) or (p.returncode and len(lines) != 1):
                t.failures.append(f"byte {at} flipped: status {p.returncode}, {p.stderr[-400:]}")
        except subprocess.TimeoutExpired:
            t.failures.append(f"byte {at} flipped: hangs")


def main(sluice):
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    try:
        t = Inputs(sluice, folder)
        for part in (topology, ports, models, damaged):
            part(t)
        assert not t.failures, f"{len(t.failures)} wrong:\n" + "\n".join(t.failures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


run(main, 280)
