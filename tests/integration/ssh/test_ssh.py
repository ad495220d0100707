#!/usr/bin/env python3
"""Stages launched through ssh: a real sshd of our own on a loopback port, with its own keys.

    test_ssh.py SLUICE

The answer of a cluster whose stages come through ssh must be that of `run -m smollm2`; a wrong port, a
wrong program and a wrong model path there must each end in one clear line, soon. Skipped (77) without
sshd, ssh or the model.
"""
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SLUICE = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else ""
PROMPT = ["-p", "The capital of France is", "-n", "24", "--temp", "0"]
RUN_S = 120  # no command may take longer
FAIL_S = 60  # nor an error

NEAR, FAR = f"near-{os.getpid()}", f"far-{os.getpid()}"  # so that we know our processes

CLUSTER = """\
cluster: through-ssh
model: {{path: smollm2, context: 512, sequences: 2}}
nodes:
  - name: {near}
    devices: [{{cpu: 0}}]
  - name: {far}
    launch: ssh
    ssh: "{user}@127.0.0.1"
    ssh_port: {port}
    ssh_options: -F /dev/null -i {dir}/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
    program: "{program}"
{model}    devices: [{{cpu: 0}}, {{cpu: 0}}]
"""


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Sshd:
    """sshd in the foreground, as the user that runs the test, for that user's key alone."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.made = None
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{key}"], check=True)
        shutil.copy(f"{folder}/user_key.pub", f"{folder}/authorized_keys")
        with open(f"{folder}/sshd_config", "w") as f:
            f.write(f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
                    f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\n"
                    "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
                    "PermitRootLogin yes\nMaxStartups 20\n")
        if os.geteuid() == 0 and not os.path.isdir("/run/sshd"):  # its separation folder, when root
            os.mkdir("/run/sshd", 0o755)
            self.made = "/run/sshd"
        self.log = open(f"{folder}/sshd.log", "w")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", f"{folder}/sshd_config"], stderr=self.log,
                                        stdin=subprocess.DEVNULL)

    def wait(self):
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.05)
        return False

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
        if self.made:
            shutil.rmtree(self.made, ignore_errors=True)


SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def run(*args, timeout=RUN_S):
    p = subprocess.Popen([SLUICE, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    try:
        out, err = p.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGKILL)
        out, err = p.communicate()
        raise AssertionError(f"{args}: still running after {timeout} s\n{err}")
    return p.returncode, out, err


def stage_processes():
    """The command lines of our stages that run: lists of words."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0] == SLUICE and any(w.startswith((NEAR, FAR)) for w in words):
            found.append(words)
    return found


class ThroughSsh(unittest.TestCase):
    def cluster(self, **change):
        values = {"user": pwd.getpwuid(os.geteuid()).pw_name, "port": sshd.port, "dir": sshd.folder,
                  "program": SLUICE, "model": "", "near": NEAR, "far": FAR}
        values.update(change)
        path = os.path.join(sshd.folder, self.id().rsplit(".", 1)[1] + ".yaml")
        with open(path, "w") as f:
            f.write(CLUSTER.format(**values))
        return path

    def sshd_accepted(self):
        with open(f"{sshd.folder}/sshd.log") as f:
            return f.read().count("Accepted publickey")

    def assert_fails_with(self, path, *words):
        begin = time.monotonic()
        status, out, err = run("run", path, *PROMPT)
        self.assertIn(status, (1, 2), err)
        self.assertEqual(out, "")
        last = err.strip().splitlines()[-1]
        for word in words:
            self.assertIn(word, last, err)
        self.assertLess(time.monotonic() - begin, FAIL_S)

    def test_answer_equals_the_single_process(self):
        status, want, err = run("run", "-m", "smollm2", *PROMPT)
        self.assertEqual(status, 0, err)
        self.assertGreater(len(want.split()), 5)
        before = self.sshd_accepted()
        status, out, err = run("run", self.cluster(), *PROMPT, "--json")
        self.assertEqual(status, 0, err)
        answer = json.loads(out)
        self.assertEqual(answer["text"].strip(), want.strip())
        self.assertEqual(len(answer["stages"]), 3)
        self.assertEqual(self.sshd_accepted() - before, 2)  # one login a stage

    def test_stages_leave_with_the_coordinator(self):
        port = free_port()
        p = subprocess.Popen([SLUICE, "serve", self.cluster(), "--http", f"127.0.0.1:{port}"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = "x"
            while line and not line.startswith("ready"):
                line = p.stdout.readline()
            self.assertTrue(line, "serve ended before it was ready")
            joined = stage_processes()
            self.assertEqual(len(joined), 3)
            key = [x for w in joined for x in w if "key" in x and x != "--key-stdin"]
            self.assertEqual(key, [])  # the join key is on no command line
        finally:
            p.kill()
            p.communicate()
        until = time.monotonic() + 20
        while stage_processes() and time.monotonic() < until:
            time.sleep(0.1)
        self.assertEqual(stage_processes(), [])

    def test_wrong_port(self):
        self.assert_fails_with(self.cluster(port=free_port()), FAR + "/", "refused")

    def test_wrong_program(self):
        self.assert_fails_with(self.cluster(program="/nonexistent/sluice"), FAR + "/", "/nonexistent/sluice")

    def test_wrong_model_there(self):
        self.assert_fails_with(self.cluster(model="    model: /nonexistent/m.gguf\n"), "/nonexistent/m.gguf")

    def test_unwelcome_key(self):
        keys = f"{sshd.folder}/authorized_keys"
        os.rename(keys, keys + ".away")
        try:
            self.assert_fails_with(self.cluster(), FAR + "/", "ermission denied")
        finally:
            os.rename(keys + ".away", keys)


if not os.path.exists(SLUICE):
    sys.exit("usage: test_ssh.py SLUICE")
if not SSHD or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
    skip("no sshd, ssh or ssh-keygen here")
if subprocess.run([SLUICE, "inspect", "smollm2"], capture_output=True).returncode != 0:
    skip("the model smollm2 is absent; deploy/quickstart downloads it")
folder = tempfile.mkdtemp(prefix="sluice-ssh-")
sshd = None
try:
    sshd = Sshd(folder)
    if not sshd.wait():
        with open(f"{folder}/sshd.log") as f:
            sys.exit("sshd did not start: " + f.read())
    program = unittest.main(exit=False, verbosity=2)
    sys.exit(not program.result.wasSuccessful())
finally:
    if sshd:
        sshd.stop()
    shutil.rmtree(folder, ignore_errors=True)
