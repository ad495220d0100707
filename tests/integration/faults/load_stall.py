#!/usr/bin/env python3
"""A stage that lives while its load stands still (a disk or network share that does not answer): it counts as dead
after SLUICE_LOAD_STALL, with a message that says what to look at; one that loads slowly is let be. What joins in its
place serves. The stage is played by this script, which speaks the control protocol (proto/control.proto)."""
import os
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, free_port, run, wait
from wire import field, fields, varint

KEY = "stalled-join-key"
STALL_S = 2
NODES = """\
  - name: ext
    host: 127.0.0.1
    launch: external
    devices: [{cpu: 1}]
"""
HELLO, LOAD, PROGRESS, REPORT, FAIL = 1, 2, 3, 7, 8  # of sluice.ctl.Message
VERSION = 3  # SL_CTL_VERSION


def message(number, body):
    inner = field(number, body)
    return struct.pack("<I", len(inner)) + inner


def hello():
    port = field(1, b"ucx-tcp") + field(2, b"nowhere")
    return message(HELLO, field(1, VERSION) + field(2, b"0") + field(3, KEY.encode()) + field(4, b"ext/0") + field(5, 1) +
                   b"".join(field(n, b"x") for n in (6, 7, 8, 9)) + field(10, 1) + field(11, 4 << 30) +
                   varint(12 << 3 | 1) + struct.pack("<d", 1e10) + field(13, port))


def exactly(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        assert piece, "the coordinator ended the connection"
        data += piece
    return data


def until_load(s):
    while True:
        v = fields(exactly(s, struct.unpack("<I", exactly(s, 4))[0]))
        assert FAIL not in v, v
        if LOAD in v:
            return


def is_over(s):
    """Whether the coordinator has ended the connection."""
    s.setblocking(False)
    try:
        while s.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        s.setblocking(True)


def main(sluice):
    port = free_port()
    top = f'control: "127.0.0.1:{port}"\njoin_key: {KEY}\n'
    with Cluster(sluice, nodes=NODES, top=top, env={"SLUICE_LOAD_STALL": f"{STALL_S}s"}) as c:
        c.spawn()
        wait(lambda: c.said("stages join at", c.err), 20, "the coordinator listens")
        s = socket.create_connection(("127.0.0.1", port), 10)
        s.sendall(hello())
        until_load(s)

        total, done, begun = 100 << 20, 0, time.monotonic()
        while time.monotonic() - begun < 3 * STALL_S:  # slow, with pauses shorter than the limit
            done += 1 << 20
            s.sendall(message(PROGRESS, field(1, done) + field(2, total)) + message(REPORT, field(1, 1)))
            time.sleep(0.2)
            assert not is_over(s), "a stage that loads slowly was given up"
        stands, ended = time.monotonic(), False
        while not ended and time.monotonic() - stands < 10 * STALL_S:
            try:
                s.sendall(message(PROGRESS, field(1, done) + field(2, total)) + message(REPORT, field(1, 1)))
            except ConnectionError:
                pass
            time.sleep(0.2)
            ended = is_over(s)
        assert ended, "a stage whose load stands still was kept"
        assert time.monotonic() - stands > STALL_S - 0.5, "it was given up too soon"
        s.close()
        said = wait(lambda: next((line for line in c.err if "stage ext/0 is down" in line), None), 5, "a word about it")
        assert "nothing more for" in said and "100" in said and ".gguf" in said and "network share" in said, said

        real = subprocess.Popen([c.sluice, "stage", "--join", f"127.0.0.1:{port}", "--device", "ext/0", "--cpus", "1"],
                                env={**c.env, "SLUICE_JOIN_KEY": KEY}, stdin=subprocess.DEVNULL)
        wait(lambda: c.said("ready in", c.out), 60, "ready")
        time.sleep(2 * STALL_S)  # what has loaded is not watched any more
        assert c.complete("Once upon a time", 8) and c.cluster()["stages"][0]["pid"] == real.pid
        assert c.stop() == 0, c.text()
        assert real.wait(5) == 0
        c.no_orphans()

    for wrong in ("soon", "0s"):
        with Cluster(sluice, env={"SLUICE_LOAD_STALL": wrong}) as c:
            c.spawn()
            assert c.ended(20) == 2 and "SLUICE_LOAD_STALL" in c.err[-1] and "300s" in c.err[-1], c.text()
            c.no_orphans()


run(main, 110)
