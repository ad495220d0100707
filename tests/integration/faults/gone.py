#!/usr/bin/env python3
"""Clients that leave or stop reading: a disconnect cancels the request at once; a long stream that nobody reads
is closed and cancelled with the coordinator's memory bounded, while others are served; 300 idle connections
are in nobody's way."""
import contextlib
import json
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
import wire
from cluster import Cluster, rss_kib, run, wait

PROMPT = "The old man looked at the sea and"
STALL_S = 30  # SL_HTTP_STALL_S, SL_CLIENT_STALL_S: a reader that takes nothing for so long is dropped
GROWTH_KIB = 24 << 10
IDLE = 300


def disconnect(c, whole):
    """Cancelled within a step: no longer running, and no token more, neither streaming nor waiting for it whole."""
    before = c.requests()
    if whole:
        connection = c.connect()
        connection.request("POST", "/v1/completions", json.dumps(c.ask(PROMPT, 900)))
        wait(lambda: c.requests()["generated_tokens"] > before["generated_tokens"], 10, "it generates")
        connection.sock.close()
    else:
        stream = c.stream(PROMPT, 900)
        for _ in range(5):
            stream.next()
        stream.close()
    wait(lambda: c.requests()["running"] == 0, 1, "the request whose client has gone is cancelled")
    after = c.requests()
    assert after["cancelled"] == before["cancelled"] + 1 and after["finished"] == before["finished"], after
    assert after["generated_tokens"] - before["generated_tokens"] < 700, after
    time.sleep(0.3)
    assert c.requests()["generated_tokens"] == after["generated_tokens"], "tokens for nobody"
    c.wait_quiet()


def waiting_ones_go_too(c):
    """A disconnect in the queue frees its place."""
    running = [c.stream(PROMPT, 900) for _ in range(6)]
    queued = c.connect()
    queued.request("POST", "/v1/completions", json.dumps(c.ask(PROMPT, 8)))
    wait(lambda: c.requests()["waiting"] == 1, 5, "one waits")
    queued.sock.close()
    wait(lambda: c.requests()["waiting"] == 0, 1, "it is out of the queue")
    for s in running:
        s.close()
    c.wait_quiet()


def deaf_reader(c):
    """logprobs make each token large, so that the socket's buffers fill soon; its receive buffer is small."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((c.host, c.port))
    body = json.dumps(c.ask(PROMPT, 3900, stream=True, logprobs=20)).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
              % len(body) + body)
    return s


def deaf_socket(c):
    """The same over the socket API."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(c.socket)
    s.sendall(wire.HELLO + wire.generate(1, PROMPT.encode(), 3900, logprobs=20))
    return s


def stops_reading(c):
    c.complete(PROMPT, 8)
    before, base = c.requests(), rss_kib(c.pid)
    deaf = [deaf_reader(c), deaf_reader(c), deaf_socket(c), deaf_socket(c)]
    wait(lambda: c.requests()["running"] == 4, 5, "they run")
    peak = [0]

    def ended():
        peak[0] = max(peak[0], rss_kib(c.pid))
        return c.requests()["running"] == 0

    want = c.complete(PROMPT, 16, timeout=30)
    until = time.monotonic() + STALL_S + 60
    served = 0
    while not ended():
        assert time.monotonic() < until, f"those who do not read are still served: {c.requests()}"
        assert c.complete(PROMPT, 16, timeout=30) == want, "another client's answer changed"
        served += 1
        time.sleep(0.5)
    after = c.requests()
    print(f"not read: closed after {time.monotonic() - until + STALL_S + 60:.0f} s, {served} others served, memory "
          f"+{peak[0] - base} KiB, cancelled {after['cancelled'] - before['cancelled']}, "
          f"{after['generated_tokens'] - before['generated_tokens']} tokens")
    assert peak[0] - base < GROWTH_KIB, f"the coordinator grew by {peak[0] - base} KiB"
    for s in deaf:  # what was sent is there, then the end: no hang, no [DONE]
        s.settimeout(10)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                data = (data + piece)[-4096:]
        assert b"[DONE]" not in data
        s.close()
    c.wait_quiet()


def idle_connections(c):
    want = c.complete(PROMPT, 16)
    idle = []
    for i in range(IDLE):
        s = socket.socket()
        s.connect((c.host, c.port))
        if i % 2:
            s.sendall(b"GET /health HTTP/1.1\r\nHo")  # half a request
        idle.append(s)
    assert c.complete(PROMPT, 16) == want
    assert c.cluster()["serving"]
    for s in idle:
        s.close()
    assert c.complete(PROMPT, 16) == want


def main(sluice):
    with Cluster(sluice, context=4096, sequences=6) as c:
        c.start()
        disconnect(c, whole=False)
        disconnect(c, whole=True)
        waiting_ones_go_too(c)
        idle_connections(c)
        stops_reading(c)
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 170)
