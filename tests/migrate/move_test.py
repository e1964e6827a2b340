#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A running guest goes from one process to another, and says on: `guestram migrate` from outside.

Usage: move_test.py PROGRAM unix|broken|precopy|postcopy

unix, broken: two processes on this host. precopy, postcopy: in two network namespaces, joined by a
veth pair whose rate tc limits; a relay at its far end holds every byte back for some milliseconds in
both directions, since kernels without netem have no delay to offer.

The namespaces have no names: they belong to this process and a child, and go with them, also when
they are killed. Exit code 77, and a line that names what is missing, where they cannot be had.
"""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

RATE = 240          # Mbit/s of the link
DELAY = 0.004       # seconds, each way
HERE, THERE = "10.77.31.1", "10.77.31.2"
PORT, RELAY_PORT = 7001, 7002
INSIDE = "GUESTRAM_MOVE_TEST_INSIDE"


def skip(what):
    print(f"skipped: {what}")
    sys.exit(77)


def expect(holds, what, *outputs):
    if holds:
        return
    print(f"not so: {what}")
    for output in outputs:
        print("---\n" + output)
    sys.exit(1)


def call(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


# ------------------------------------------------------------------------------------ namespaces

def enter_namespace():
    """This program again, in a network namespace of its own."""
    for more in ([], ["--user", "--map-root-user"]):
        try:
            why = call("unshare", *more, "--net", "true")
        except FileNotFoundError:
            skip("there is no unshare (util-linux)")
        if why is None:
            os.environ[INSIDE] = "1"
            os.execvp("unshare", ["unshare", *more, "--net", sys.executable, *sys.argv])
    skip(f"a network namespace cannot be made: {why}")


class Far:
    """The other namespace: a child that only sleeps, so that it has a number to be entered by."""

    def __init__(self):
        self.child = subprocess.Popen(["unshare", "--net", "--kill-child", "sleep", "100"])
        own = os.readlink("/proc/self/ns/net")
        for _ in range(200):
            if os.readlink(f"/proc/{self.child.pid}/ns/net") != own:
                break
            time.sleep(0.02)
        self.enter = ["nsenter", "-t", str(self.child.pid), "-n"]
        for command in (
                ["ip", "link", "add", "mva", "type", "veth", "peer", "name", "mvb", "netns",
                 str(self.child.pid)],
                ["ip", "addr", "add", f"{HERE}/24", "dev", "mva"], ["ip", "link", "set", "mva", "up"],
                [*self.enter, "ip", "addr", "add", f"{THERE}/24", "dev", "mvb"],
                [*self.enter, "ip", "link", "set", "mvb", "up"],
                [*self.enter, "ip", "link", "set", "lo", "up"],
                ["tc", "qdisc", "add", "dev", "mva", "root", "tbf", "rate", f"{RATE}mbit",
                 "burst", "128k", "latency", "30ms"]):
            try:
                why = call(*command)
            except FileNotFoundError:
                why = f"no {command[0]} (iproute2)"
            if why is not None:
                self.end()
                skip(f"{' '.join(command)}: {why}")

    def end(self):
        self.child.kill()
        self.child.wait()


# ----------------------------------------------------------------------------------------- relay

def hold_back(source, sink):
    """Each byte goes on DELAY after it came. What is held is bounded, so that the rate stays."""
    held = queue.Queue(64)

    def read():
        data = b"more"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            held.put((time.monotonic() + DELAY, data))

    threading.Thread(target=read, daemon=True).start()
    while True:
        due, data = held.get()
        time.sleep(max(0, due - time.monotonic()))
        try:
            sink.sendall(data)
            if not data:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if not data:
            return


def reach(address):
    """The receiver may listen a little later."""
    for _ in range(200):
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("relay: the receiver does not listen")


def relay():
    listener = socket.create_server((THERE, RELAY_PORT))
    while True:
        near, _ = listener.accept()
        far = reach(("127.0.0.1", PORT))
        for pair in ((near, far), (far, near)):
            for end in pair:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=hold_back, args=pair, daemon=True).start()


# ------------------------------------------------------------------------------------------ move

def begin(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child):
    try:
        out, error = child.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        child.kill()
        out, error = child.communicate()
        expect(False, "it ends in time", out, error)
    return out, error


def lines_of(output):
    return [int(number) for number in re.findall(r"^guest: line (\d+),", output, re.M)]


def move(receiver, sender):
    """Both ran; the guest said every line once, and its memory is right."""
    there, here = begin(receiver), begin(sender)
    sent, sender_error = finish(here)
    received, receiver_error = finish(there)
    outputs = (sent, sender_error, received, receiver_error)
    expect(here.returncode == 0 and there.returncode == 0, "it moves", *outputs)
    before, after = lines_of(sent), lines_of(received)
    expect(len(before) >= 5 and len(after) >= 5, "the guest speaks on both sides", *outputs)
    expect(before + after == list(range(1, len(before) + len(after) + 1)),
           "its lines are numbered without gap or repeat", *outputs)
    expect(re.search(r"^memory: \d+ pages, 0 wrong, sum [0-9a-f]{16}$", received, re.M),
           "its memory is right", *outputs)
    expect(not re.search(r"[1-9]\d* pages wrong", sent + received), "no page was wrong", *outputs)
    how = re.search(r"^sent: (\w+), (\d+) rounds, .* (\d+) on the wire, (\d+) requests, "
                    r"stopped for ([0-9.]+) ms, (\d+) ms in all$", sent, re.M)
    expect(how, "the sender says how it went", *outputs)
    print(f"{len(before)} lines here, {len(after)} there\n{how[0]}")
    return how[1], int(how[2]), int(how[3]), int(how[4]), int(how[6]), outputs


def command(program, verb, address, *options):
    return [program, "migrate", verb, *options, address]


def test_unix(program, folder):
    where = f"unix:{folder}/socket"
    how, rounds, _, _, _, outputs = move(
        command(program, "receive", where, "--channels", "2"),
        command(program, "send", where, "--channels", "2", "--zstd", "1"))
    expect(how == "precopy" and rounds >= 2, "it takes some rounds", *outputs)


def test_broken(program, folder):
    """The receiver is killed: the guest stays, and that is said."""
    where = f"unix:{folder}/socket"
    there = begin(command(program, "receive", where))
    here = begin(command(program, "send", where, "--rate", "4"))
    time.sleep(2)
    there.kill()
    there.communicate()
    out, error = finish(here)
    expect(here.returncode == 1 and "the guest is here, and runs on" in error,
           "the sender keeps the guest", out, error)
    expect(len(lines_of(out)) >= 5, "which spoke", out, error)


def test_link(program, postcopy):
    far = Far()
    relayed = None
    try:
        relayed = subprocess.Popen([*far.enter, sys.executable, __file__, program, "relay"])
        options = ["--channels", "2", "--writes", "64" if postcopy else "8"]
        more = ["--postcopy", "--rounds", "2", "--downtime", "10"] if postcopy else ["--seconds", "2", "--downtime", "40"]
        how, rounds, wire, requests, ms, outputs = move(
            [*far.enter, *command(program, "receive", f"tcp:127.0.0.1:{PORT}", *options)],
            command(program, "send", f"tcp:{THERE}:{RELAY_PORT}", *options, *more))
        limit = RATE * 1e6 / 8 * ms / 1e3
        expect(wire <= 1.2 * limit + 2 * 131072, f"{wire} bytes in {ms} ms keep to the link's rate",
               *outputs)
        expect(rounds >= 2, "it takes some rounds", *outputs)
        expect(how == ("postcopy" if postcopy else "precopy"), "in the way that was asked for",
               *outputs)
        expect(not postcopy or requests > 0, "the guest waits for pages", *outputs)
    finally:
        if relayed:
            relayed.kill()
            relayed.wait()
        far.end()


def main():
    program, which = sys.argv[1:]
    signal.alarm(100)
    if which == "relay":
        relay()
    elif which in ("unix", "broken"):
        with tempfile.TemporaryDirectory() as folder:
            {"unix": test_unix, "broken": test_broken}[which](program, folder)
    else:
        if INSIDE not in os.environ:
            enter_namespace()
        test_link(program, which == "postcopy")


main()
