#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
guestram mount as its users meet it: files, clones, errors, and how it ends.

Usage: mount_test.py PROGRAM [TEST]

Each test is a function and prints a line. Exit status 77: there is no /dev/fuse or no fusermount3.
"""
import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.realpath(sys.argv[1])
MIB = 1 << 20
SIZE = 24 * MIB


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def refused(error, call, *arguments):
    try:
        call(*arguments)
    except OSError as why:
        expect(why.errno == error, f"{call.__name__}: {errno.errorcode[error]}, not {why}")
        return
    raise AssertionError(f"{call.__name__}: {errno.errorcode[error]} was expected")


def content():
    """Every third MiB is random, the rest is zero, and not there."""
    return b"".join(os.urandom(MIB) if n % 3 == 0 else bytes(MIB) for n in range(SIZE // MIB))


def make_image(path, data):
    with open(path, "wb") as image:
        image.truncate(len(data))
        for at in range(0, len(data), MIB):
            if any(data[at:at + MIB]):
                image.seek(at)
                image.write(data[at:at + MIB])


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)


def is_mounted(where):
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1] == where for line in mounts)


class Mount:
    """A mount of a snapshot with one block, "ram", that ends with the `with`."""

    def __init__(self, folder, *options, stored=None, data=None):
        self.folder = folder
        self.data = data or content()
        self.where = os.path.join(folder, "mount")
        os.makedirs(self.where, exist_ok=True)
        self.image = os.path.join(folder, "ram.raw")
        if stored is None:
            make_image(self.image, self.data)
            stored = os.path.join(folder, "ram.snapshot")
            saved = run("snapshot", "save", "--block", f"ram={self.image}", stored)
            expect(saved.returncode == 0, f"snapshot save: {saved.stderr}")
        self.stored = stored
        self.log = os.path.join(folder, "mount.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([PROGRAM, "mount", *options, stored, self.where],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=log, text=True)
        line = self.process.stdout.readline()
        if "is mounted at" not in line:
            self.process.wait(10)
            raise AssertionError(f"it is mounted: {line!r} {self.said()}")

    def said(self):
        with open(self.log, encoding="utf-8") as log:
            return log.read()

    def path(self, *names):
        return os.path.join(self.where, *names)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        self.process.stdout.close()
        if is_mounted(self.where):
            subprocess.run(["fusermount3", "-u", "-z", self.where], check=False)
            expect(kind, "it was still mounted after its end")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_usage(folder):
    """What is wrong is told, and nothing is mounted."""
    image = os.path.join(folder, "image")
    make_image(image, content())
    open(os.path.join(folder, "empty"), "wb").close()
    for arguments, code, message in (
            ([], 2, "SNAPSHOT and DIR are needed"), ([image], 2, "DIR is needed"),
            ([image, folder, "more"], 2, "unexpected: more"),
            (["--overlay", folder, image, folder], 2, "without --clones nobody writes"),
            (["--clones", "-1", image, folder], 2, "--clones: not a whole number"),
            (["--image", "--parent", image, image, folder], 2, "one of them"),
            ([image, folder], 1, "image"), (["--image", f"{folder}/empty", folder], 1, "it is empty"),
            (["--image", image, f"{folder}/none"], 1, "none"), (["--image", image, image], 1, "Not a"),
            (["--clones", "1", "--overlay", f"{folder}/none", "--image", image, folder], 1, "No such")):
        done = run("mount", *arguments)
        expect(done.returncode == code and message in done.stderr and not done.stdout,
               f"{arguments}: {code} and {message!r}: {done.returncode} {done.stderr}")
        expect(not is_mounted(folder), f"{arguments}: nothing is mounted")


def test_files(folder):
    """The files of a mount, read in any way; what is in one cannot be changed."""
    with Mount(folder) as mount:
        ram = mount.path("ram")
        expect(os.listdir(mount.where) == ["ram"], f"one file: {os.listdir(mount.where)}")
        about = os.stat(ram)
        expect((about.st_size, stat.filemode(about.st_mode)) == (SIZE, "-rw-------"), f"{about}")
        expect(read(ram) == mount.data, "its bytes")
        fd = os.open(ram, os.O_RDONLY)
        for at, length in ((0, 1), (4095, 2), (MIB - 1, 3 * MIB), (SIZE - 5, 100), (SIZE, 1),
                           (SIZE + 12345, 10), ((1 << 62), 10)):
            expect(os.pread(fd, length, at) == mount.data[at:at + length], f"{length} bytes at {at}")
        with mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            expect(mapped[:] == mount.data, "its bytes, mapped")
        holes = []
        at = 0
        while at < SIZE:
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            try:
                at = os.lseek(fd, hole, os.SEEK_DATA)
            except OSError as why:
                expect(why.errno == errno.ENXIO, f"no data after the last: {why}")
                at = SIZE
            holes.append((hole // MIB, at // MIB))
        expect(holes == [(n + 1, n + 3) for n in range(0, SIZE // MIB, 3)], f"its holes: {holes}")
        refused(errno.ENXIO, os.lseek, fd, SIZE, os.SEEK_DATA)
        os.close(fd)
        # as QEMU opens it; another's mapping is never written to
        fd = os.open(ram, os.O_RDWR)
        refused(errno.ENODEV, mmap.mmap, fd, SIZE, mmap.MAP_SHARED)
        refused(errno.EROFS, os.pwrite, fd, b"x", 0)
        refused(errno.EROFS, os.posix_fallocate, fd, 0, 4096)
        for at, length in ((5, 10), (MIB - 3, 5000), (SIZE - 5, 100), (1 << 62, 10)):
            expect(os.pread(fd, length, at) == mount.data[at:at + length], f"uncached: {at}")
        with mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE) as mapped:
            mapped[0:4] = b"mine"
            expect(mapped[4:] == mount.data[4:], "a private mapping")
        refused(errno.EPERM, os.ftruncate, fd, 4096)
        os.close(fd)
        refused(errno.EPERM, os.chmod, ram, 0o777)
        for call, arguments in ((os.unlink, (ram,)), (os.mkdir, (mount.path("new"),)),
                                (os.mknod, (mount.path("new"),)),
                                (os.rename, (ram, mount.path("other")))):
            refused(errno.EROFS, call, *arguments)
        refused(errno.ENOENT, os.stat, mount.path("none"))
        expect(read(ram) == mount.data, "its bytes, still")
        expect(not mount.said(), f"nothing to complain about: {mount.said()}")


def test_clones(folder):
    """Each clone has its own writes, through mappings and calls, and nobody else has them."""
    with Mount(folder, "--clones", "3") as mount:
        first, second = mount.path("clone-1", "ram"), mount.path("clone-2", "ram")
        model = bytearray(mount.data)
        fd = os.open(first, os.O_RDWR)
        with mmap.mmap(fd, SIZE, mmap.MAP_SHARED) as mapped:
            for at in range(0, SIZE, 77777):
                mapped[at:at + 5] = model[at:at + 5] = b"clone"
            os.fsync(fd)
            # other descriptors see it, and so does who reads it past the page cache
            expect(read(first) == model, "its own writes")
            for at in range(100, SIZE, 777777):
                os.pwrite(fd, b"called", at)
                model[at:at + 6] = b"called"
                expect(mapped[at:at + 6] == b"called", "a mapping sees a call's write")
        refused(errno.EFBIG, os.pwrite, fd, b"x", SIZE)
        refused(errno.EPERM, os.ftruncate, fd, SIZE * 2)
        os.ftruncate(fd, SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        for at, length in ((0, 8192), (MIB + 100, 3 * MIB), (SIZE - 4096, 4096)):
            done = libc.fallocate(fd, 3, ctypes.c_long(at), ctypes.c_long(length))
            expect(not done, f"a hole at {at}: {os.strerror(ctypes.get_errno())}")
            model[at:at + length] = bytes(length)
        expect(read(first) == model, "holes are zero")
        os.close(fd)
        subprocess.run(["sh", "-c", "echo 1 >/proc/sys/vm/drop_caches"], check=False,
                       stderr=subprocess.DEVNULL)
        expect(read(first) == model, "read again from where it was kept")
        for path in (second, mount.path("clone-3", "ram"), mount.path("ram")):
            expect(read(path) == mount.data, f"{path} is as it was")
        expect(os.stat(first).st_blocks > os.stat(second).st_blocks, "what it takes is told")
        refused(errno.ENOENT, os.stat, mount.path("clone-4"))
    with Mount(folder, "--clones", "1", "--overlay", folder) as mount:
        names = sorted(os.listdir(folder))
        with open(mount.path("clone-1", "ram"), "r+b") as file:
            file.write(b"kept in a file")
        expect(read(mount.path("clone-1", "ram"))[:14] == b"kept in a file", "an overlay in a file")
        expect(sorted(os.listdir(folder)) == names, "which has no name")


def test_holes_of_a_dirty_mapping(folder):
    """What a guest has written and the kernel has not written back is saved: it is no hole."""
    with Mount(folder, "--clones", "1") as mount:
        path = mount.path("clone-1", "ram")
        model = bytearray(mount.data)
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, SIZE, mmap.MAP_SHARED) as mapped:
            for at in range(MIB, SIZE, 3 * MIB):
                mapped[at:at + 5] = model[at:at + 5] = b"dirty"
            child = os.path.join(folder, "child")
            saved = run("snapshot", "save", "--block", f"ram={path}", "--parent", mount.stored, child)
            expect(saved.returncode == 0, f"saved: {saved.stderr}")
            expect(os.lseek(fd, MIB, os.SEEK_DATA) == MIB, "no hole is told before it is synced")
            os.fsync(fd)
            expect(os.lseek(fd, MIB + 4096, os.SEEK_DATA) == 3 * MIB, "and those that are, after it")
            for at in range(2 * MIB, SIZE, 3 * MIB):
                mapped[at:at + 4] = b"more"
        os.close(fd)
    copied = os.path.join(folder, "copy")
    os.mkdir(copied)
    loaded = run("snapshot", "load", child, copied)
    expect(loaded.returncode == 0, f"loaded: {loaded.stderr}")
    expect(read(os.path.join(copied, os.listdir(copied)[0])) == model, "all of it is in the child")
    # a mount finds the parent beside its child
    with Mount(folder, stored=child, data=bytes(model)) as mount:
        expect(read(mount.path("ram")) == mount.data, "a child, mounted")


def test_ends(folder):
    """By signals, by an unmount, in use or not: nothing is left, and the exit code is 0."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Mount(folder) as mount:
            expect(mount.end(number) == 0 and not is_mounted(mount.where), f"signal {number}")
    with Mount(folder) as mount:
        subprocess.run(["fusermount3", "-u", mount.where], check=True)
        expect(mount.process.wait(20) == 0, f"unmounted: {mount.said()}")
    with Mount(folder, "--clones", "1") as mount:
        fd = os.open(mount.path("clone-1", "ram"), os.O_RDWR)
        mapped = mmap.mmap(fd, SIZE, mmap.MAP_SHARED)
        mapped[0:4] = b"used"
        busy = subprocess.run(["fusermount3", "-u", mount.where], capture_output=True, check=False)
        expect(busy.returncode, "what is in use is not taken away")
        begin = time.monotonic()
        expect(mount.end() == 0 and not is_mounted(mount.where), "a signal while it is in use")
        expect(time.monotonic() - begin < 5, "at once")
        refused(errno.ENOTCONN, os.pread, fd, 10, 2 * MIB)
        mapped.close()
        os.close(fd)
    done = run("mount", "--background", mount.stored, mount.where)
    try:
        expect(done.returncode == 0 and "by process" in done.stdout, f"in the background: {done}")
        expect(read(mount.path("ram")) == mount.data, "it is there when the call returns")
        refused_there = run("mount", "--background", "--image", "/dev/null", mount.where)
        expect(refused_there.returncode == 1, "a failure in the background is one")
    finally:
        subprocess.run(["fusermount3", "-u", mount.where], check=True)


def test_failing_source(folder):
    """An image that loses its end: EIO and a line, never other bytes, and what is whole goes on."""
    image = os.path.join(folder, "ram.raw")
    data = os.urandom(SIZE)
    make_image(image, data)
    with Mount(folder, "--image", "--clones", "1", stored=image, data=data) as mount:
        os.truncate(image, SIZE // 2)
        for names in (("ram",), ("clone-1", "ram")):
            fd = os.open(mount.path(*names), os.O_RDONLY)
            expect(os.pread(fd, MIB, 0) == data[:MIB], "what is still there")
            for at in range(SIZE // 2 + MIB, SIZE, MIB):
                refused(errno.EIO, os.pread, fd, 4096, at)
            os.close(fd)
        lines = mount.said().splitlines()
        expect(lines and lines[0].startswith("guestram: mount: read of ram at 0x"), f"it says: {lines}")
        expect(len(lines) < 5, "but not without end")
    # a damaged snapshot
    with Mount(folder) as mount:
        pass
    with open(mount.stored, "r+b") as snapshot:
        whole = snapshot.read()
        at = whole.index(mount.data[6 * MIB:6 * MIB + 4096])
        snapshot.seek(at)
        snapshot.write(bytes([whole[at] ^ 1]))
    with Mount(folder, stored=mount.stored, data=mount.data) as again:
        fd = os.open(again.path("ram"), os.O_RDONLY)
        refused(errno.EIO, os.pread, fd, 4096, 6 * MIB)
        expect(os.pread(fd, MIB, 0) == again.data[:MIB], "what is whole")
        os.close(fd)


def test_full_overlay(folder):
    """No room for a clone's pages: what is lost is an error, not what was there before."""
    small = os.path.join(folder, "small")
    os.mkdir(small)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small],
                                      capture_output=True, check=False).returncode:
        return "skip: a small tmpfs needs root"
    try:
        with Mount(folder, "--clones", "1", "--overlay", small) as mount:
            fd = os.open(mount.path("clone-1", "ram"), os.O_RDWR)
            with mmap.mmap(fd, SIZE, mmap.MAP_SHARED) as mapped:
                for at in range(0, 8 * MIB, 4096):
                    mapped[at:at + 4] = b"full"
                refused(errno.ENOSPC, os.fsync, fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            kept = lost = 0
            for at in range(0, 8 * MIB, 4096):
                try:
                    expect(os.pread(fd, 4, at) == b"full", "an older page")
                    kept += 1
                except OSError as why:
                    expect(why.errno == errno.EIO, f"EIO: {why}")
                    lost += 1
            os.close(fd)
            expect(kept > 0 and lost > 0, f"some were kept ({kept}), some lost ({lost})")
            expect("write of ram" in mount.said(), mount.said())
    finally:
        subprocess.run(["umount", small], check=True)
    return None


def test_crowd(folder):
    """Many readers and writers at once, with less cache than they want."""
    with Mount(folder, "--clones", "4", "--cache", "0", "--threads", "8") as mount:
        script = """
import os, random, sys
data = open(sys.argv[1], "rb").read()
fd = os.open(sys.argv[2], os.O_RDWR)
random.seed(int(sys.argv[3]))
mine = bytearray(data)
for _ in range(400):
    at = random.randrange(len(data) - 70000)
    if random.random() < 0.3:
        word = os.urandom(random.randrange(1, 20000))
        os.pwrite(fd, word, at)
        mine[at:at + len(word)] = word
    else:
        length = random.randrange(70000)
        assert os.pread(fd, length, at) == mine[at:at + length], (at, length)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, len(data), 0) == mine
"""
        crowd = [subprocess.Popen([sys.executable, "-c", script, mount.image,
                                   mount.path(f"clone-{n}", "ram"), str(n)]) for n in range(1, 5)]
        expect([one.wait(60) for one in crowd] == [0] * 4, "each reads what it wrote")


def main():
    missing = [] if shutil.which("fusermount3") else ["fusermount3"]
    missing += [] if os.access("/dev/fuse", os.R_OK | os.W_OK) else ["/dev/fuse"]
    if missing:
        print(f"skip: not there: {', '.join(missing)}")
        return 77
    names = sys.argv[2:] or [name[5:] for name in globals() if name.startswith("test_")]
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="guestram-mount-") as folder:
            try:
                skipped = globals()[f"test_{name}"](os.path.realpath(folder))
                print(f"ok {name}" + (f" # {skipped}" if skipped else ""), flush=True)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"not ok {name}: {type(error).__name__} {error}", flush=True)
                with contextlib.suppress(OSError):
                    subprocess.run(["fusermount3", "-u", "-z", f"{folder}/mount"], check=False,
                                   stderr=subprocess.DEVNULL)
    return 1 if failed else 0


sys.exit(main())
