"""A real cluster for tests: `sluice serve` with its stage processes on this machine, and a client.

    with Cluster(sluice, devices=["cpu: 0", "cpu: 1"]) as c:
        c.complete("Hello", 8)

Every process a Cluster starts carries a mark of its own in its environment, so the ones that are left
over are found whatever became of their parents, and none outlives the test: leaving the `with` kills
them all. Nothing waits without a limit: each wait names what it waits for and fails after its time;
run() ends the whole script after `seconds`.
"""
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEAD_S = 3.0  # SL_CTL_DEAD_MS: silence after which a stage is taken for dead
THREE = ["cpu: 0", "cpu: 1", "cpu: 0"]


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def model_path():
    """The small model, or the test is skipped."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.environ.get("SLUICE_MODEL_SMOLLM2") or os.path.join(cache, "sluice", MODEL_FILE)
    if not os.path.exists(path):
        skip(f"no model at {path}; deploy/quickstart gets it, SLUICE_MODEL_SMOLLM2 names another")
    return os.path.abspath(path)


def free_port(host="127.0.0.1"):
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def wait(condition, seconds, what):
    """What condition() returns once it is true; fails after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        v = condition()
        if v:
            return v
        if time.monotonic() >= until:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.02)


def in_thread(fn, *args, **kw):
    """Runs fn beside; .get(seconds) gives its value or raises what it raised."""

    class Later(threading.Thread):
        value = error = None

        def run(self):
            try:
                self.value = fn(*args, **kw)
            except BaseException as e:  # handed to get()
                self.error = e

        def get(self, seconds):
            self.join(seconds)
            if self.is_alive():
                raise AssertionError(f"{fn.__name__} is not over after {seconds} s")
            if self.error:
                raise self.error
            return self.value

    t = Later(daemon=True)
    t.start()
    return t


def marked(mark):
    """{pid: command line} of living processes whose environment holds the mark."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/environ", "rb") as f:
                if f"SLUICE_TEST_MARK={mark}".encode() not in f.read().split(b"\0"):
                    continue
            with open(f"/proc/{pid}/stat") as f:
                if f.read().rpartition(")")[2].split()[0] in "ZX":
                    continue
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                found[int(pid)] = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


class Failed(Exception):
    """A request that did not end well: HTTP status (200 when the stream had begun) and error object."""

    def __init__(self, status, error, headers=None):
        super().__init__(f"{status}: {error}")
        self.status, self.error, self.headers = status, error, headers or {}

    def is_retriable(self):
        return (self.status in (200, 503) and isinstance(self.error, dict) and
                self.error.get("code") == "retry" and bool(self.error.get("message")))


def keep_asking(c, prompt, tokens, want, over, counts):
    """A client that asks the same again and again until `over`: each answer is the right one, or the request is to be sent again."""
    while not over.is_set():
        try:
            assert c.complete(prompt, tokens, timeout=60) == want, "an answer changed"
            counts["done"] += 1
        except Failed as e:
            assert e.is_retriable(), e
            counts["failed"] += 1


class Stream:
    """A streamed completion: texts are collected as they come, each with its time."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.texts, self.finish, self.done = [], None, False

    def next(self):
        """The next piece of text; None at the end. Raises Failed for an error object."""
        while True:
            line = self.response.readline()
            if not line:
                if not self.done:
                    raise AssertionError("the stream ended without [DONE] or an error object")
                return None
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                self.done = True
                continue
            o = json.loads(data)
            if "error" in o:
                raise Failed(200, o["error"])
            choice = o["choices"][0] if o["choices"] else {}
            self.finish = choice.get("finish_reason") or self.finish
            if choice.get("text"):
                self.texts.append(choice["text"])
                return choice["text"]

    def rest(self):
        while self.next() is not None:
            pass
        return "".join(self.texts)

    def close(self):
        """Gone without a word, as a client that was killed."""
        with contextlib.suppress(OSError):
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.response.close()
        self.connection.close()


class Cluster:
    def __init__(self, sluice, devices=THREE, nodes=None, model=None, args=(), env=None, prefix=(), host="127.0.0.1",
                 top="", log_level="info", **keys):
        """devices: one flow-mapping body per stage; nodes: YAML text instead; keys: of `model:` (context, sequences ...);
        top: further YAML; prefix: words before the command (ip netns exec ...)."""
        self.sluice, self.host, self.prefix = sluice, host, list(prefix)
        self.mark = uuid.uuid4().hex
        self.env = {**os.environ, "SLUICE_TEST_MARK": self.mark, **(env or {})}
        self.dir = tempfile.TemporaryDirectory(prefix="sluice-test-")
        self.port = free_port() if not prefix else 18080
        self.socket = os.path.join(self.dir.name, "api.sock")
        keys = {"context": 1024, "sequences": 8, **keys}
        stages = os.environ.get("SLUICE_TEST_STAGES")  # another program for them: sanitizers make kernels too slow for tests
        program = f"    launch: local\n    program: {stages}\n" if stages else ""
        nodes = nodes or f"  - name: n\n{program}    devices:\n" + "".join(f"      - {{{d}}}\n" for d in devices)
        self.yaml = os.path.join(self.dir.name, "cluster.yaml")
        with open(self.yaml, "w") as f:
            f.write(f"cluster: test\nmodel:\n  path: {model or model_path()}\n" +
                    "".join(f"  {k}: {v}\n" for k, v in keys.items()) + f"nodes:\n{nodes}{top}\n")
        self.args = [sluice, "serve", self.yaml, "--http", f"{host}:{self.port}", "--socket", self.socket,
                     "--log-level", log_level, *args]
        self.process = None
        self.out, self.err = [], []  # lines with their times
        self.readers = []

    # ---- life

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill()
        if kind and kind is not SystemExit:
            sys.stderr.write("---- what serve said last:\n" + self.text()[-4000:] + "----\n")
        self.dir.cleanup()

    def spawn(self):
        """Starts without waiting for `ready`."""
        self.process = subprocess.Popen(self.prefix + self.args, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            t = threading.Thread(target=lambda s=stream, v=lines: v.extend(iter_lines(s, v)), daemon=True)
            t.start()
            self.readers.append(t)
        return self

    def start(self, seconds=60):
        self.spawn()
        wait(lambda: self.said("ready in", self.out) or self.process.poll() is not None, seconds, "ready")
        if self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}: {self.text()}")
        return self

    @property
    def pid(self):
        return self.process.pid

    def said(self, what, lines=None):
        return any(what in line for line in list(self.err if lines is None else lines))

    def text(self):
        return "".join(self.out) + "".join(self.err)

    def ended(self, seconds):
        """Waits for the end of serve: its exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"serve has not ended after {seconds} s") from None
        for t in self.readers:
            t.join(5)
        return status

    def stop(self, seconds=20):
        self.process.send_signal(signal.SIGTERM)
        return self.ended(seconds)

    def processes(self):
        """{pid: command line} of all that this cluster started and that lives."""
        return marked(self.mark)

    def no_orphans(self, seconds=2):
        wait(lambda: not self.processes(), seconds, f"every process gone: {self.processes()}")

    def kill(self):
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.process:
            self.process.wait(10)
            for t in self.readers:
                t.join(5)

    # ---- asking

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, timeout=60):
        """(status, headers, body text)"""
        c = self.connect(timeout)
        try:
            c.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            r = c.getresponse()
            return r.status, dict(r.getheaders()), r.read().decode()
        finally:
            c.close()

    @staticmethod
    def ask(prompt, n, **more):
        return {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more}

    def complete(self, prompt, n, timeout=120, **more):
        """The answer's text, or Failed."""
        status, headers, text = self.request("POST", "/v1/completions", self.ask(prompt, n, **more), timeout)
        o = json.loads(text)
        if status != 200:
            raise Failed(status, o.get("error"), headers)
        return o["choices"][0]["text"]

    def stream(self, prompt, n, timeout=120, **more):
        c = self.connect(timeout)
        c.request("POST", "/v1/completions", json.dumps(self.ask(prompt, n, stream=True, **more)),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        if r.status != 200:
            raise Failed(r.status, json.loads(r.read()).get("error"), dict(r.getheaders()))
        return Stream(c, r)

    def cluster(self):
        status, _, text = self.request("GET", "/cluster", timeout=10)
        assert status == 200, (status, text)
        return json.loads(text)

    def requests(self):
        return self.cluster()["requests"]

    def metrics(self):
        """{name{labels without model_name}: value}"""
        _, _, text = self.request("GET", "/metrics", timeout=10)
        v = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                v[re.sub(r'\{?model_name="[^"]*",?(.*)\}$', lambda m: "{" + m[1] + "}" if m[1] else "", name)] = float(value)
        return v

    def stages(self):
        """Pids of the stage processes in pipeline order."""
        return [s["pid"] for s in self.cluster()["stages"]]

    def is_serving(self):
        try:
            return self.cluster()["serving"]
        except OSError:
            return False

    def wait_serving(self, seconds, epoch=None):
        def right():
            c = self.cluster()
            return c["serving"] and (epoch is None or c["epoch"] >= epoch)
        wait(right, seconds, "the cluster serves" + (f" epoch {epoch}" if epoch else ""))

    def is_quiet(self):
        """No request is left and every KV block is free."""
        c = self.cluster()
        r, kv = c["requests"], c["kv"]
        return r["running"] == r["waiting"] == 0 and kv["blocks_free"] == kv["blocks"] > 0

    def wait_quiet(self, seconds=5):
        wait(self.is_quiet, seconds, "no request and no KV block in use")


def iter_lines(stream, into):
    for line in stream:
        into.append(line)
    return []


def run(main, seconds):
    """The end of every script: main(sluice), within `seconds`; tells where it hung."""
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} SLUICE")

    def on_alarm(*_):
        raise AssertionError(f"the test is not over after {seconds} s")

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_alarm)
    signal.alarm(seconds)
    try:
        main(os.path.abspath(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # threads that still wait for an answer must not hold the end up
    print("ok")
