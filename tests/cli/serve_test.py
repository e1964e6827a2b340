#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`guestram serve blk` as its users ask for it: in its own words and in qemu-storage-daemon's.

Usage: serve_test.py PROGRAM TEST

Each test is a function; meson names them one by one. Disks are read and written by a front-end of
a few lines: one split ring of eight descriptors, one request at a time.
"""
import array
import contextlib
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
SECTOR = 512
MIB = 1 << 20
READ, WRITE, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
F_RO, F_FLUSH, F_DISCARD, F_ZEROES = 1 << 5, 1 << 9, 1 << 13, 1 << 14
F_PROTOCOL, F_VERSION_1 = 1 << 30, 1 << 32
QUEUE_SIZE = 8
DESC, AVAIL, USED, HEADER, STATUS, DATA = 0, 0x1000, 0x2000, 0x3000, 0x3100, 0x10000
UADDR = 0x7F0000000000


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


class Disk:
    """A connection to a served disk, its ring started."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.features = self.ask(1)
        self.send(2, struct.pack("<Q", self.features & (0xFFFFFF | F_PROTOCOL | F_VERSION_1)))
        self.send(16, struct.pack("<Q", self.ask(15) & (1 << 9 | 1 << 0)))  # CONFIG, MQ
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, MIB)
        self.memory = mmap.mmap(self.memory_fd, MIB)
        self.send(5, struct.pack("<IIQQQQ", 1, 0, 0, MIB, UADDR, 0), [self.memory_fd])
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        self.send(8, struct.pack("<II", 0, QUEUE_SIZE))
        self.send(10, struct.pack("<II", 0, 0))
        self.send(9, struct.pack("<IIQQQQ", 0, 0, UADDR + DESC, UADDR + USED, UADDR + AVAIL, 0))
        self.send(12, struct.pack("<Q", 0), [self.kick])
        self.send(13, struct.pack("<Q", 0), [self.call])
        self.send(18, struct.pack("<II", 0, 1))
        self.done = 0

    def close(self):
        self.socket.close()
        self.memory.close()
        for fd in (self.memory_fd, self.kick, self.call):
            os.close(fd)

    def send(self, message, payload=b"", fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("<III", message, 1, len(payload)) + payload], rights)

    def receive(self, message):
        head = self.socket.recv(12, socket.MSG_WAITALL)
        expect(len(head) == 12, "an answer")
        request, _, size = struct.unpack("<III", head)
        expect(request == message, f"an answer to {message}, not {request}")
        return self.socket.recv(size, socket.MSG_WAITALL)

    def ask(self, message):
        self.send(message)
        return struct.unpack("<Q", self.receive(message))[0]

    def config(self):
        """Capacity in sectors, block size, queues."""
        size = 60
        self.send(24, struct.pack("<III", 0, size, 0) + bytes(size))
        config = self.receive(24)[12:]
        expect(len(config) == size, "a configuration")
        return (struct.unpack_from("<Q", config)[0], struct.unpack_from("<I", config, 20)[0],
                struct.unpack_from("<H", config, 34)[0])

    def request(self, kind, sector=0, out=b"", length=0, at=DATA):
        """Status and data of one request, whose data lie at @at of the guest's memory."""
        self.memory[HEADER:HEADER + 16] = struct.pack("<IIQ", kind, 0, sector)
        self.memory[STATUS] = 0xEE
        pieces = [(HEADER, 16, 0)]
        if out:
            self.memory[at:at + len(out)] = out
            pieces.append((at, len(out), 0))
        if length:
            self.memory[at:at + length] = b"\xaa" * length
            pieces.append((at, length, 2))
        pieces.append((STATUS, 1, 2))
        for i, (address, size, flags) in enumerate(pieces):
            more = i + 1 < len(pieces)
            struct.pack_into("<QIHH", self.memory, DESC + 16 * i, address, size,
                             flags | int(more), i + 1)
        struct.pack_into("<H", self.memory, AVAIL + 4 + 2 * (self.done % QUEUE_SIZE), 0)
        self.done += 1
        struct.pack_into("<H", self.memory, AVAIL + 2, self.done)
        os.eventfd_write(self.kick, 1)
        while struct.unpack_from("<H", self.memory, USED + 2)[0] != self.done & 0xFFFF:
            ready = select.select([self.call], [], [], 100)[0]
            expect(ready, "the disk answers")
            os.eventfd_read(self.call)
        return self.memory[STATUS], self.memory[at:at + length]


@contextlib.contextmanager
def served(*options):
    """A disk of these options, in which @SOCKET, @FILE … are paths in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="guestram-serve-") as folder:
        image = os.path.join(folder, "FILE")
        with open(image, "wb") as file:
            file.truncate(MIB)
        words = [option.replace("@", folder + "/") for option in options]
        with subprocess.Popen([PROGRAM, "serve", "blk", *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            line = child.stdout.readline()
            disk = None
            try:
                expect(line.startswith("guestram: serving "), f"it serves: {line!r}")
                disk = Disk(os.path.join(folder, "SOCKET"))
                yield disk, image
            finally:
                if disk:
                    disk.close()
                child.send_signal(signal.SIGTERM)
                errors = child.communicate(timeout=20)[1]
            expect(child.returncode == 0, f"exit code 0, got {child.returncode}: {errors}")


FILE = "driver=file,node-name=f,filename=@FILE"
EXPORT = "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=@SOCKET"


def words(blockdev=FILE, export=EXPORT):
    return "--blockdev", blockdev, "--export", export


def test_usage():
    """What is wrong, unknown or not done here is said, with exit code 2 and nothing served."""
    own = ["--socket", "s", "--file", "f"]
    null = "driver=null-co,node-name=f"
    cases = [
        ([], "--socket and --file are needed"),
        (["--socket", "s"], "--socket and --file are needed"),
        (own + ["--null", "1024"], "--file and --null: one disk"),
        (["--socket", "s", "--null", "511"], "--null: 511 is not between 512 and"),
        (own + ["--serial", "a" * 21], "--serial: at most 20 bytes: " + "a" * 21),
        (own + ["--block-size", "1536"], "a block of 1536 bytes: not a power of two"),
        (own + ["--block-size", "256"], "--block-size: 256 is not between 512 and"),
        (own + ["--io", "fast"], "--io: neither uring nor plain: fast"),
        (own + ["--threads", "2"], "--threads: 2 for 1 queues"),
        (["--blockdev", FILE], "--blockdev or --object, and no --export"),
        (["--export", EXPORT], "--export: node-name=f: there is no such node"),
        ([*words(), "--export", EXPORT], "--export: one for each program"),
        ([*words(), "--file", "g"], "--file, and --blockdev or --export"),
        ([*words(), "--socket", "g"], "--socket, and --blockdev or --export"),
        ([*words(), "--read-only"], "--read-only, and --blockdev or --export"),
        ([*words(), "--queues", "2"], "--queues, and --blockdev or --export"),
        ([*words(FILE + ",aio=io_uring"), "--io", "plain"], "--io, and aio of node f"),
        (words("node-name=f,filename=x"), "--blockdev: it has no driver"),
        (words("driver=file,filename=x"), "--blockdev: it has no node-name"),
        (words("driver=file,node-name=f"), "--blockdev: it has no filename"),
        (words("driver=raw,node-name=f"), "--blockdev: it has no file"),
        (words("driver=raw,node-name=f,file=g"), "--blockdev: file=g: no node before it"),
        (words("driver=qcow2,node-name=f,file=g"), "--blockdev: driver=qcow2 is not supported"),
        (words('{"driver":"file"}'), "--blockdev: JSON is not read here"),
        (words(null + ",filename=x"), "--blockdev: this driver has no filename"),
        (words(null + ",size=1Q"), "--blockdev: size: not a whole number: 1Q"),
        (words(null + ",size=99999999999G"), "--blockdev: size: 99999999999G is more than"),
        (words(null + ",latency-ns=5"), "--blockdev: latency-ns=5 is not supported"),
        (words(FILE + ",size=5"), "--blockdev: this driver has no size"),
        (words(FILE + ",cache.size=5"), "--blockdev: cache.size is not known here"),
        (words(FILE + ",read-only"), "--blockdev: 'read-only' says nothing"),
        (words(FILE + ",read-only=yes"), "--blockdev: read-only is on or off, not yes"),
        (words(FILE + ",read-only=on,read-only=on"), "--blockdev: read-only is said twice"),
        (words(FILE + ",cache.no-flush=on"), "--blockdev: cache.no-flush=on is not supported"),
        (words(FILE + ",aio=native"), "--blockdev: aio=native is not supported"),
        (words(FILE + ",locking=on"), "--blockdev: locking=on is not supported"),
        (words(FILE + ",discard=some"), "--blockdev: discard is one of ignore|unmap"),
        (words(FILE, EXPORT.replace("vhost-user-blk", "nbd")), "--export: type=nbd is not"),
        (words(FILE, EXPORT.replace("unix", "fd")), "--export: addr.type=fd is not supported"),
        (words(FILE, EXPORT.replace("id=e,", "")), "--export: it has no id"),
        (words(FILE, EXPORT.replace(",addr.path=@SOCKET", "")), "--export: it has no addr.path"),
        (words(FILE, EXPORT + ",writethrough=on"), "--export: writethrough=on is not supported"),
        (words(FILE, EXPORT + ",num-queues=257"), "--export: num-queues: 257 is not between"),
        (words(FILE, EXPORT + ",logical-block-size=768"), "a block of 768 bytes: not a power"),
        (words(FILE, EXPORT + ",logical-block-size=4M"), "--export: logical-block-size: 4M is"),
        (words(FILE, EXPORT + ",iothread=t"), "--export: iothread=t: there is no such object"),
        (words(FILE + ",read-only=on", EXPORT + ",writable=on"),
         "--export: writable=on, but node f is read-only"),
        ([*words(), "--object", "secret,id=s"], "--object: qom-type=secret is not supported"),
    ]
    for options, message in cases:
        result = subprocess.run([PROGRAM, "serve", "blk", *options], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=20, check=False)
        told = f"exit code {result.returncode}, {result.stderr!r}"
        expect(result.returncode == 2, f"{options}: exit code 2: {told}")
        expect(result.stderr.startswith("guestram: serve blk: " + message),
               f"{options}: {message!r}: {told}")
        expect(result.stdout == "", f"{options}: nothing on stdout: {result.stdout!r}")


def test_words():
    """qemu-storage-daemon's words mean what they mean there, its defaults included."""
    with served(*words()) as (disk, image):
        expect(disk.features & F_RO, "writable=off unless asked for")
        expect(disk.config() == (MIB // SECTOR, 512, 1), f"its configuration: {disk.config()}")
        expect(disk.request(READ, length=SECTOR) == (OK, bytes(SECTOR)), "reads")
        expect(disk.request(WRITE, out=b"x" * SECTOR)[0] == IOERR, "refuses writes")
    with served(*words("file,node-name=f,filename=@FILE",
                       EXPORT.replace("type=vhost", "vhost") + ",writable=on,num-queues=4,"
                       "logical-block-size=4k")) as (disk, image):
        expect(not disk.features & F_RO, "writable=on")
        expect(disk.config() == (MIB // SECTOR, 4096, 4), f"its configuration: {disk.config()}")
        expect(disk.request(WRITE, 8, b"y" * 4096)[0] == OK, "writes whole blocks")
        expect(disk.request(WRITE, 1, b"y" * 4096)[0] == IOERR, "none that begins within a block")
        expect(disk.request(WRITE, 0, b"y" * SECTOR)[0] == IOERR, "nor one that ends there")
        with open(image, "rb") as file:
            expect(file.read(8192) == bytes(4096) + b"y" * 4096, "and they are in the file")
    with served("--object", "iothread,id=t,poll-max-ns=0", "--blockdev", FILE, "--blockdev",
                "driver=raw,node-name=r,file=f,read-only=off", "--export",
                EXPORT.replace("=f,", "=r,") + ",writable=on,iothread=t") as (disk, image):
        expect(disk.request(WRITE, 3, b"z" * SECTOR)[0] == OK, "raw over file")
        with open(image, "rb") as file:
            expect(file.read()[3 * SECTOR:4 * SECTOR] == b"z" * SECTOR, "and it is in the file")


def test_comma():
    """A path with commas is written with two for each."""
    with tempfile.TemporaryDirectory(prefix="guestram,serve,") as folder:
        image = os.path.join(folder, "a,b")
        with open(image, "wb") as file:
            file.write(b"c" * SECTOR)
        with served(*words(f"driver=file,node-name=f,filename={image.replace(',', ',,')}")) as (
                disk, _):
            expect(disk.request(READ, length=SECTOR) == (OK, b"c" * SECTOR), "its bytes")


def used(image):
    """Bytes that the file has on disk."""
    return os.stat(image).st_blocks * 512


def test_discard():
    """discard=ignore, the default of --blockdev, keeps what is there; unmap and --file do not."""
    segment = struct.pack("<QII", 0, 256, 0)
    for options, kept in (
            (words(FILE, EXPORT + ",writable=on"), True),
            (words(FILE + ",discard=unmap", EXPORT + ",writable=on"), False),
            (("--socket", "@SOCKET", "--file", "@FILE"), False)):
        with served(*options) as (disk, image):
            for at in range(0, 256, 8):
                expect(disk.request(WRITE, at, b"d" * 4096)[0] == OK, "writes")
            disk.request(FLUSH)
            before = used(image)
            expect(disk.request(DISCARD, out=segment)[0] == OK, "takes a discard")
            expect((used(image) == before) == kept, f"{options}: kept: {kept}")
            data = disk.request(READ, length=4096)[1]
            expect((data == b"d" * 4096) == kept, f"{options}: reads what was kept: {kept}")
            expect(disk.request(ZEROES, out=segment)[0] == OK, "takes zeroes")
            expect(disk.request(READ, 8, length=4096) == (OK, bytes(4096)), "reads zeroes")


def test_null():
    """A null disk takes all and keeps nothing."""
    with served("--socket", "@SOCKET", "--null", str(3 * SECTOR)) as (disk, _):
        expect(disk.config()[0] == 3, "its size")
        expect(disk.request(WRITE, 2, b"n" * SECTOR)[0] == OK, "writes")
        expect(disk.request(READ, 2, length=SECTOR) == (OK, b"\xaa" * SECTOR),
               "a read leaves the guest's memory as it is")
        expect(disk.request(READ, 3, length=SECTOR)[0] == IOERR, "it ends somewhere")
        for kind in (DISCARD, ZEROES):
            expect(disk.request(kind, out=struct.pack("<QII", 0, 2, 0))[0] == OK, "takes nothing")
        expect(disk.request(FLUSH)[0] == OK, "flushes")
        expect(disk.request(GET_ID, length=20) == (OK, b"null".ljust(20, b"\0")), "its name")
    with served(*words("null-co,node-name=f,size=2M,read-zeroes=on")) as (disk, _):
        expect(disk.config()[0] == 4096, "its size")
        expect(disk.request(READ, 9, length=4096) == (OK, bytes(4096)), "zeroes where asked for")


def test_serial():
    """Twenty bytes are told whole; a file's name that is longer is not cut to look like another."""
    twenty = "12345678901234567890"
    for options, told in ((["--serial", twenty], twenty), (["--serial", "a"], "a"), ([], "FILE")):
        with served("--socket", "@SOCKET", "--file", "@FILE", *options) as (disk, _):
            expect(disk.request(GET_ID, length=20) == (OK, told.encode().ljust(20, b"\0")),
                   f"{options}: {told}")
    with tempfile.NamedTemporaryFile(prefix=twenty) as file:
        file.truncate(MIB)
        with served("--socket", "@SOCKET", "--file", file.name) as (disk, _):
            expect(disk.request(GET_ID, length=20) == (OK, bytes(20)), "none")


def test_direct():
    """Past the page cache, from guest memory of any alignment, by io_uring and by plain calls."""
    data = bytes(range(256)) * 32
    for options in (["--direct", "--io", "uring"], ["--direct", "--io", "plain"],
                    list(words(FILE + ",cache.direct=on", EXPORT + ",writable=on"))):
        if "--blockdev" not in options:
            options = ["--socket", "@SOCKET", "--file", "@FILE", *options]
        # a block of 4096 bytes is whole on every disk
        options += ["--block-size", "4096"] if "--file" in options else []
        if "--export" in options:
            options[-1] += ",logical-block-size=4096"
        with served(*options) as (disk, image):
            for at in (DATA, DATA + 512, DATA + 1):
                expect(disk.request(WRITE, 16, data, at=at)[0] == OK, f"{options}: writes")
                expect(disk.request(READ, 16, length=8192, at=at + 3) == (OK, data),
                       f"{options}: reads")
            expect(disk.request(FLUSH)[0] == OK, "flushes")
            with open(image, "rb") as file:
                expect(file.read()[16 * SECTOR:16 * SECTOR + 8192] == data, "it is in the file")


def main():
    globals()["test_" + sys.argv[2]]()


main()
