#!/usr/bin/env python3
"""Malformed, oversized and never-ending requests, over HTTP and over the socket API, byte by byte: each gets its
error or its end in bounded time and memory, and the cluster serves on all the while."""
import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from cluster import Cluster, in_thread, rss_kib, run
from wire import HELLO, dial, field, fields, generate, message, read_message

PROMPT = "She opened the letter and"
HTTP_IDLE_S, HELLO_S, MESSAGE_S = 10, 10, 60  # SL_HTTP_IDLE_S, SL_CLIENT_HELLO_S, SL_CLIENT_MESSAGE_S
SLACK_S = 6
GROWTH_KIB = 64 << 10


def until_end(s, seconds):
    """All the other side sends until it closes; fails when it does not close in time."""
    s.settimeout(seconds)
    data = b""
    try:
        while True:
            piece = s.recv(65536)
            if not piece:
                return data
            data += piece
    except ConnectionResetError:
        return data
    except TimeoutError:
        raise AssertionError(f"still open after {seconds} s; it said {data[:200]!r}") from None


# ---- HTTP

def http(c, data, seconds=5):
    """What comes back for raw bytes on a connection of their own."""
    with socket.create_connection((c.host, c.port)) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(data)
        return until_end(s, seconds)


def post(body, head=b""):
    return (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n" + head +
            b"Content-Length: %d\r\n\r\n" % len(body) + body)


def http_malformed(c):
    bad = [b"", b"{", b"[]", b"null", b"{\"prompt\": 5}", b"\xff\xfe\x00", b"{\"prompt\": \"\\ud800\", \"max_tokens\": 4}",
           b"[" * 100000, b"{\"prompt\": \"x\", \"max_tokens\": -1}", b"{\"prompt\": \"x\", \"max_tokens\": 1e300}",
           b"{\"prompt\": \"x\", \"temperature\": \"hot\"}", b"{\"prompt\": [999999999]}", b"{\"prompt\": [[1],[[2]]]}",
           b"{\"prompt\": \"x\", \"n\": 1000000}", b"{\"prompt\": \"x\", \"stop\": [" + b"\"a\"," * 1000 + b"\"a\"]}",
           json.dumps({"prompt": "word " * 5000, "max_tokens": 4}).encode()]
    for body in bad:
        answer = http(c, post(body), 20)
        status = answer.split(b" ")[1] if answer.startswith(b"HTTP/1.1 ") else b""
        assert status == b"400", (body[:80], answer[:300])
        error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
        assert error["message"] and error["type"] == "invalid_request_error", (body[:80], error)
    for raw in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 5000, b"POST / HTTP/9.9\r\n\r\n", b"\r\n" * 2000):
        http(c, raw, HTTP_IDLE_S + SLACK_S)


def http_oversized(c):
    assert http(c, post(b"x", b"Content-Length: 99999999999\r\n")[:-1], 20).split(b" ")[1] in (b"400", b"413")
    answer = http(c, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967297\r\n\r\n{", 20)
    assert answer.split(b" ")[1] == b"413", answer[:300]
    http(c, b"GET /health HTTP/1.1\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n", 20)
    http(c, b"GET /" + b"y" * (1 << 20) + b" HTTP/1.1\r\n\r\n", 20)


def http_never_ending(c):
    """Silence in the middle of the head and of the body."""
    for part in (b"POST /v1/comp", post(b"x" * 100)[:-50]):
        begun = time.monotonic()
        http(c, part, HTTP_IDLE_S + SLACK_S)
        assert time.monotonic() - begun > 1, "it was not given the time to go on"


# ---- the socket API

def answered(c):
    """A well-behaved client beside all this."""
    with dial(c, HELLO + generate(7)) as s:
        kinds, tokens = [], 0
        while not kinds or kinds[-1] not in (5, 6):
            _, number, body = read_message(s)
            kinds.append(number)
            tokens += number == 4 and fields(body).get(1, 0) < 1 << 63  # id -1: text held back to the end
    assert kinds[0] == 2 and tokens == 8 and kinds[-1] == 5, (kinds, tokens)


def socket_garbage(c):
    for first in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", struct.pack("<I", 64 << 20) + b"x" * 100,
                  struct.pack("<I", 5) + b"\xff" * 5, b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), generate(1),
                  message(0, 2, field(1, 99)), HELLO + b"\xff\xff\xff\xff", HELLO + struct.pack("<I", 9) + b"\xff" * 9):
        with dial(c) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(first)
            until_end(s, HELLO_S + SLACK_S)


def socket_silent(c):
    """No Hello; half a Hello; half a message after it."""
    cases = [(b"", HELLO_S), (HELLO[:3], HELLO_S), (HELLO + generate(1)[:20], MESSAGE_S)]
    threads = []
    for first, limit in cases:
        s = dial(c, first)
        threads.append(in_thread(until_end, s, limit + SLACK_S))
    for t in threads:
        t.get(MESSAGE_S + 2 * SLACK_S)


def socket_wrong_requests(c):
    """Errors that concern one request leave the connection and its other requests alone."""
    with dial(c, HELLO) as s:
        assert read_message(s)[1] == 2
        s.sendall(generate(1, b"\xff\xfe") + generate(2, b"word " * 5000) + generate(3) + generate(3))
        ends = {}
        while len(ends) < 3:
            ident, number, _ = read_message(s)
            if number in (5, 6):
                ends.setdefault(ident, []).append(number)
        assert ends[2] == [6], ends
        s.sendall(message(3, 7, b"") + message(99, 7, b"") + generate(4))
        while True:
            ident, number, body = read_message(s)
            if ident == 4 and number in (5, 6):
                assert number == 5, body
                break


def main(sluice):
    with Cluster(sluice) as c:
        c.start()
        want = c.complete(PROMPT, 16)
        answered(c)
        base, over = rss_kib(c.pid), threading.Event()

        def others():
            n = 0
            while not over.is_set():
                assert c.complete(PROMPT, 16, timeout=20) == want, "another client's answer changed"
                n += 1
                over.wait(0.5)
            return n

        beside = in_thread(others)
        parts = [in_thread(part, c) for part in (http_malformed, http_oversized, http_never_ending, socket_garbage,
                                                 socket_silent, socket_wrong_requests)]
        for p in parts:
            p.get(80)
        over.set()
        assert beside.get(20) > 5
        answered(c)
        c.wait_quiet()
        grown = rss_kib(c.pid) - base
        assert grown < GROWTH_KIB, f"the coordinator grew by {grown} KiB"
        assert len(c.processes()) == 4 and c.cluster()["epoch"] == 1
        assert c.stop() == 0, c.text()
        c.no_orphans()


run(main, 110)
