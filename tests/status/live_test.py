#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`guestram map`, `top` and `dump` as people use them on a running program.

Usage: live_test.py PROGRAM HOLDER TEST

HOLDER is holder.c. Each test is a function; meson names them one by one. Exit status 77: what a test
needs is not installed, and it says what.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

PROGRAM, HOLDER = sys.argv[1:3]
MIB, GIB = 1 << 20, 1 << 30


def run(*arguments, timeout=60, **more):
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, timeout=timeout,
                          stdout=more.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                          text=True, errors="replace", check=False, **more)


def expect(condition, what, result=None):
    if not condition:
        if result is not None:
            what += f"\nexit code {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
        raise AssertionError(what)


def need(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        print(f"skip: not installed: {', '.join(missing)}")
        sys.exit(77)


class Holder:
    def __init__(self, folder):
        self.socket = os.path.join(folder, "vm")
        self.process = subprocess.Popen([HOLDER, self.socket], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE)
        expect(self.process.stdout.readline() == "ready\n", "the holder is ready")

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        expect(self.process.stdout.readline() == f"{word} 0\n", f"the holder obeys {word}")


@contextlib.contextmanager
def holder():
    with tempfile.TemporaryDirectory(prefix="guestram-live-") as folder:
        held = Holder(folder)
        held.folder = folder
        try:
            yield held
        finally:
            held.process.stdin.close()
            held.process.wait(10)
            held.process.stdout.close()


def document(held):
    result = run("map", "--json", held.socket)
    expect(result.returncode == 0 and not result.stderr, "map --json", result)
    return json.loads(result.stdout)


def test_map():
    """Tables: ranges, holes with their sizes, letters for blocks, pins, pending."""
    with holder() as held:
        held.tell("pin")
        held.tell("pending")
        result = run("map", held.socket)
        expect(result.returncode == 0 and not result.stderr, "map", result)
        for line in (rf"process {held.process.pid}, holder, library \S+: 1 RAM$",
                     r"RAM 1: 2 blocks, 68 MiB used of 132 MiB; generation \d+; 2 pins; "
                     r"1 block \(2 MiB\) pending reclaim$",
                     r"space guest: 4 ranges, generation \d+$",
                     r" +0x0 +0x9ffff +640 KiB  rw +A  low +0x0$",
                     r" +0xa0000 +0xfffff +384 KiB  - +hole$",
                     r" +0x100000 +0x3fffff +3 MiB  rw +A  low +0x100000$",
                     r" +0x100000000 +0x107ffffff +128 MiB  rw +B  high +0x0  64 MiB used$",
                     r" +0xffffffffffff0000 +0xffffffffffffffff +64 KiB  r +A  low +0x0$",
                     r'space device "<&>" \?\[31m: 1 range',
                     r" +A  low +anon +4 MiB +4 MiB +4 KiB +4 KiB +0x0 +3 +1",
                     r" +B  high +memfd .* shared,delete_unmap +/memfd:high \(deleted\), inode \d+",
                     r" +gone +2 MiB +1 +\d+\.\d s  for its last pin$"):
            expect(re.search(line, result.stdout, re.MULTILINE), f"a line {line}", result)
        expect("\033" not in result.stdout, "no colours in a pipe", result)
        expect(len({line.index("rw") for line in result.stdout.splitlines()
                    if re.match(r" +0x\S+ +0x\S+ +.* rw ", line)}) == 1, "aligned", result)


def test_map_json():
    """The document as it came: keys, types, a program's own member."""
    with holder() as held:
        held.tell("pin")
        seen = document(held)
        expect(set(seen) == {"guestram", "library", "pid", "program", "rams", "members"}, str(seen))
        expect(seen["guestram"] == 1 and seen["pid"] == held.process.pid, str(seen))
        expect(seen["members"] == {"holder": {"answer": 42}}, str(seen["members"]))
        ram, = seen["rams"]
        expect([space["name"] for space in ram["spaces"]] == ["guest", 'device "<&>" \x1b[31m'],
               str(ram["spaces"]))
        block = ram["blocks"][0]
        inode = os.stat(f"/proc/{held.process.pid}/fd/{ram['blocks'][1]['file']['fd']}").st_ino
        expect(ram["blocks"][1]["file"]["inode"] == inode, str(ram["blocks"][1]))
        for entry in ram["spaces"][0]["ranges"][:2]:
            expect(int(entry["host"], 16) == int(block["host"], 16) + entry["offset"], str(entry))


def test_map_svg():
    """A picture that is well-formed, and there whole or not at all."""
    with holder() as held:
        held.tell("pin")
        held.tell("pending")
        picture = os.path.join(held.folder, "map.svg")
        with open(picture, "w", encoding="ascii") as old:
            old.write("old")
        result = run("map", "--svg", picture, held.socket)
        expect(result.returncode == 0 and not result.stdout + result.stderr, "map --svg", result)
        tree = xml.etree.ElementTree.parse(picture).getroot()
        name = "{http://www.w3.org/2000/svg}"
        words = [" ".join(text.itertext()) for text in tree.iter(name + "text")]
        boxes = [box for box in tree.iter(name + "rect") if box.get("rx")]
        expect(len(boxes) == 5, f"five ranges: {len(boxes)}")
        colours = [box.get("fill") for box in boxes]
        expect(len(set(colours)) == 2, f"a colour a block: {colours}")
        expect(len(list(tree.iter(name + "circle"))) == 3, "pins are marked at low's three pieces")
        for word in ("0xffffffffffffffff", "384 KiB hole", "16.0 EiB hole", "pending reclaim: gone",
                     'device "<&>" ?[31m, generation'):
            expect(any(word in text for text in words), f"{word} in {words}")
        expect(sorted(os.listdir(held.folder)) == ["map.svg", "vm"], "nothing else is left")
        result = run("map", "--svg", "/nonexistent/x.svg", held.socket)
        expect(result.returncode == 1 and "/nonexistent/x.svg: No such file" in result.stderr,
               "a folder that there is not", result)
        result = run("map", "--svg", "/dev/full", held.socket)
        expect(result.returncode == 1 and "No space left" in result.stderr, "a full disk", result)
        expect(not os.path.isfile("/dev/full"), "a device is not replaced")
        result = run("map", "--svg", "-", held.socket)
        expect(result.stdout.startswith("<svg"), "standard output", result)


def test_top():
    """Rates between two looks, without a terminal."""
    with holder() as held:
        for interval in ("0.1", "0.3"):
            result = run("top", "--count", "3", "--interval", interval, held.socket)
            expect(result.returncode == 0 and not result.stderr, "top", result)
            expect(result.stdout.count(f"process {held.process.pid}, holder") == 3, "3 looks", result)
            expect("\033" not in result.stdout, "no screen to clear", result)
        rows = [line.split() for line in result.stdout.splitlines() if re.match(r"  1 ", line)]
        expect([row[6] for row in rows] == ["-", "0", "0"], f"changes per second: {rows}")
        watcher = subprocess.Popen([PROGRAM, "top", "--count", "2", "--interval", "1", held.socket],
                                   stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        held.tell("change")
        rows = [line.split() for line in watcher.communicate(timeout=20)[0].splitlines()
                if re.match(r"  1 ", line)]
        expect(0.5 < float(rows[1][6]) < 1.5, f"one change in a second: {rows}")
        held.process.kill()
        held.process.wait()
        result = run("top", "--count", "1", held.socket)
        expect(result.returncode == 1 and "nobody listens on this socket any more" in result.stderr,
               "a program that is gone", result)


def test_pid_file():
    """NAME.pid stands for the socket NAME or NAME.status, if it is of that process."""
    with holder() as held:
        def write(name, text):
            with open(os.path.join(held.folder, name), "w", encoding="ascii") as file:
                file.write(text)
            return os.path.join(held.folder, name)
        good = write("vm.pid", f"{held.process.pid}\n")
        expect(run("map", good).returncode == 0, "map vm.pid", run("map", good))
        os.symlink(held.socket, os.path.join(held.folder, "other.status"))
        expect(run("map", write("other.pid", str(held.process.pid))).returncode == 0, "other.status")
        for name, text, why in (("vm.pid", "1\n", r"names process 1, but \S+vm is of process"),
                                ("vm.pid", "x\n", "neither a socket nor a file with a process"),
                                ("vm.pid", "", "neither a socket nor a file with a process"),
                                ("vm.pid", "-5", "neither a socket nor a file with a process"),
                                ("vm.pid", "99999999999999999999", "neither a socket nor a file"),
                                ("vm.txt", "1", r"the name of a PID-file ends in \.pid"),
                                ("none.pid", "1", r"there is no socket \S+none nor \S+none\.status")):
            result = run("map", write(name, text))
            expect(result.returncode == 1 and re.search(why, result.stderr), f"{text!r}: {why}",
                   result)


class Fake:
    """A socket that answers as it is told."""

    def __init__(self, answer):
        self.folder = tempfile.mkdtemp(prefix="guestram-live-")
        self.path = os.path.join(self.folder, "fake")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self.answer(client)

    def close(self):
        # it leaves accept() first: another socket may get the descriptor's number
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        shutil.rmtree(self.folder)


def endless(client):
    while True:
        client.sendall(b"[" * 65536)


def test_hostile():
    """Whatever a socket says, the answer is one line and exit code 1."""
    with holder() as held:
        good = json.dumps(document(held))
    cases = [
        (lambda c: None, "hung up without a word"),
        (lambda c: c.sendall(b"\0" * 1000), "no JSON at line 1"),
        (lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "no JSON at line 1"),
        (lambda c: c.sendall(b"{}"), "it is no document of guestram"),
        (lambda c: c.sendall(good[:-5].encode()), "no JSON at line"),
        (lambda c: c.sendall(good.replace('"guestram": 1', '"guestram": 2').encode()),
         "its document is of version 2; this program knows version 1"),
        (lambda c: c.sendall(good.replace('"0x100000"', '"0x1"').encode()), "lengths that cannot be"),
        (lambda c: c.sendall(b"[" * 1000000), "no JSON"),
        (endless, "it answers with more than 256 MiB"),
    ]
    for answer, why in cases:
        fake = Fake(answer)
        try:
            for verb in (["map"], ["map", "--json"], ["top", "--count", "1"],
                         ["dump", "--out", os.path.join(fake.folder, "core")]):
                if answer is endless and verb != ["map"]:
                    continue
                result = run(*verb, fake.path, timeout=100)
                expect(result.returncode == 1 and not result.stdout, f"{verb}: exit code 1", result)
                expect(re.fullmatch(r"guestram: .*\n", result.stderr) and why in result.stderr,
                       f"{verb}: {why}", result)
                expect(os.listdir(fake.folder) == ["fake"], f"{verb}: no file")
        finally:
            fake.close()


def test_errors():
    """No socket, a dead one, no right, no answer, other files; used wrongly."""
    with tempfile.TemporaryDirectory(prefix="guestram-live-") as folder:
        path = os.path.join(folder, "s")
        result = run("map", path)
        expect(result.returncode == 1 and f"{path}: No such file" in result.stderr, "none", result)
        result = run("map", folder)
        expect(result.returncode == 1 and "neither a socket nor" in result.stderr, "folder", result)
        silent = socket.socket(socket.AF_UNIX)
        silent.bind(path)
        result = run("map", path)
        expect("nobody listens on this socket any more" in result.stderr, "a dead one", result)
        silent.listen(1)
        start = time.monotonic()
        result = run("map", path)
        expect(result.returncode == 1 and "no answer within 10 s" in result.stderr and
               9 < time.monotonic() - start < 20, "a silent one", result)
        silent.close()
        os.unlink(path)
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(path)
        result = run("map", path)
        expect(result.returncode == 1 and "a socket of another kind" in result.stderr, "", result)
        datagrams.close()
    for words, why in ((["map"], "which process"), (["map", "a", "b"], "one process at a time"),
                       (["map", "--json", "--svg", "x", "y"], "one of them"),
                       (["top"], "which process"), (["top", "--interval", "0", "x"], "0.1 to 3600"),
                       (["top", "--count", "0", "x"], "--count"), (["dump"], "which process"),
                       (["dump", "a", "b", "c"], "unexpected: c"),
                       (["dump", "--machine", "65536", "x"], "--machine")):
        result = run(*words)
        expect(result.returncode == 2 and (why in result.stderr or "not between" in result.stderr),
               f"{words}: {why}", result)


def dump(held, *more):
    core = os.path.join(held.folder, "core")
    result = run("dump", "--out", core, held.socket, *more)
    expect(result.returncode == 0, "dump", result)
    expect(sorted(os.listdir(held.folder)) == ["core", "vm"], "nothing else is left", result)
    return core, result


def test_dump():
    """Of a live process: sparse, mode 0600, in place of an old file, by the name of the space."""
    with holder() as held:
        before = document(held)
        core, result = dump(held, "guest")
        expect(re.fullmatch(r"space guest of holder \(\d+\), generation \d+: 4 ranges, "
                            r"\S+ MiB, of which 12 KiB are not zero\n", result.stdout) and
               not result.stderr, "what it says", result)
        stat = os.stat(core)
        expect(stat.st_mode & 0o777 == 0o600, f"mode {stat.st_mode:o}")
        expect(stat.st_size > 67 * MIB and stat.st_blocks < 200, f"{stat}")
        after = document(held)
        expect([b["resident"] for b in before["rams"][0]["blocks"]] ==
               [b["resident"] for b in after["rams"][0]["blocks"]], "no page more than before")
        result = run("dump", "--out", core, held.socket)
        expect(result.returncode == 1 and "which address space?; there are: guest device" in
               result.stderr, "which space?", result)
        result = run("dump", "--out", core, held.socket, "fly")
        expect(result.returncode == 1 and "no such address space; there are: guest" in result.stderr,
               "no such space", result)
        expect(os.stat(core).st_ino == stat.st_ino, "the old file stays after a failure")
        piped = subprocess.run([PROGRAM, "dump", held.socket, "guest"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
        with open(core, "rb") as file:
            expect(piped.stdout == file.read(), "a pipe gets the same bytes")
        expect(b"4 ranges" in piped.stderr, "and a person the figures")
        with open("/dev/full", "w", encoding="ascii") as full:
            result = run("dump", held.socket, "guest", stdout=full)
        expect(result.returncode == 1 and "No space left" in result.stderr, "a full disk", result)


def test_dump_changes():
    """A map that changes meanwhile is told; a signal leaves no half file."""
    with holder() as held:
        reader, writer = os.pipe()
        process = subprocess.Popen([PROGRAM, "dump", held.socket, "guest"], stdout=writer,
                                   stderr=subprocess.PIPE, text=True)
        os.close(writer)
        os.read(reader, 4096)       # it has begun, and waits for us
        held.tell("change")
        while os.read(reader, 1 << 20):
            pass
        text = process.communicate(timeout=20)[1]
        expect(process.returncode == 0 and
               re.search(r"the address space changed meanwhile \(generation \d+ to \d+\)", text), text)
        os.close(reader)

        reader, writer = os.pipe()
        process = subprocess.Popen([PROGRAM, "dump", held.socket, "guest"], stdout=writer,
                                   stderr=subprocess.PIPE, text=True)
        os.close(writer)
        os.read(reader, 4096)
        os.close(reader)            # who reads has left
        text = process.communicate(timeout=20)[1]
        expect(process.returncode == 1 and "Broken pipe" in text, text)

        held.process.send_signal(signal.SIGSTOP)
        process = subprocess.Popen([PROGRAM, "dump", "--out", os.path.join(held.folder, "c"),
                                    held.socket, "guest"], stderr=subprocess.PIPE, text=True)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        held.process.send_signal(signal.SIGCONT)
        expect(process.returncode != 0 and os.listdir(held.folder) == ["vm"], "no half file")


def test_readelf():
    need("readelf")
    with holder() as held:
        core, _ = dump(held, "guest")
        shown = subprocess.run(["readelf", "-lWn", core], capture_output=True, text=True, check=True)
        expect(not shown.stderr, shown.stderr)
        loads = re.findall(r"^  LOAD +\S+ (0x\S+) (0x\S+) (0x\S+) (0x\S+) RWE", shown.stdout, re.M)
        expect([tuple(int(number, 16) for number in load) for load in loads] ==
               [(0, 0, 640 << 10, 640 << 10), (MIB, MIB, 3 * MIB, 3 * MIB),
                (4 * GIB, 4 * GIB, 64 * MIB, 64 * MIB),
                ((1 << 64) - 65536, (1 << 64) - 65536, 65536, 65536)], shown.stdout)
        expect(re.search(r"GUESTRAM ", shown.stdout), shown.stdout)
        core, _ = dump(held, "--no-vaddr", "--machine", "183", "guest")
        shown = subprocess.run(["readelf", "-hlW", core], capture_output=True, text=True, check=True)
        expect("AArch64" in shown.stdout and
               re.search(r"LOAD +\S+ 0x0+ 0x0+100000000 ", shown.stdout), shown.stdout)


def test_gdb():
    """gdb reads back what the holder stored, by guest-physical address."""
    need("gdb")
    with holder() as held:
        core, _ = dump(held, "guest")
        shown = subprocess.run(
            ["gdb", "-nx", "-batch", "-ex", f"core-file {core}", "-ex", "x/s 0x2000",
             "-ex", "x/s 0x100003000", "-ex", "x/2dg 0x200000"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
        for line in ('0x2000:\t"a private page"', '0x100003000:\t"a shared page"', "0x200000:\t0\t0"):
            expect(line in shown.stdout, f"{line} in {shown.stdout}{shown.stderr}")


def main():
    try:
        globals()["test_" + sys.argv[3]]()
    except AssertionError as error:
        print(error)
        print(f"{sys.argv[3]}: failed")
        return 1
    print(f"{sys.argv[3]}: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
