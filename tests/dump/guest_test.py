#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The memory of a real Linux guest, dumped from the process that serves its disk.

Usage: guest_test.py PROGRAM [--keep CORE]

Boots the demo's guest, whose memory QEMU shares with `guestram serve blk`, stops its processors, and
dumps the space "gpa" of that process. The core must have, byte for byte, what QEMU saves of its
guest-physical memory, and the kernel's banner where QEMU finds it. Exit status 77: QEMU or what the
demo needs is not installed.
"""
import asyncio
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
DEMO = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "demo")
sys.path.insert(0, DEMO)

from guest import Guest  # noqa: E402
from process import Backend, Failure, until  # noqa: E402

PROGRAM = os.path.realpath(sys.argv[1])
BANNER = re.compile(rb"Linux version 6[ -~]{40,}")
# Between these the chipset shows ROM and devices, of which the disk's process knows nothing.
LEGACY = range(0xa0000, 0x100000)


def expect(condition, what):
    if not condition:
        raise Failure(what)


def loads(core):
    """(guest-physical address, offset in the file, bytes) of each PT_LOAD."""
    core.seek(0)
    header = core.read(64)
    expect(header[:4] == b"\x7fELF", "it is an ELF file")
    offset, = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for i in range(count):
        core.seek(offset + i * size)
        kind, _, at, _, paddr, length, _, _ = struct.unpack("<IIQQQQQQ", core.read(size))
        if kind == 1:
            yield paddr, at, length


async def compare(guest, core, folder):
    """Each segment with what QEMU saves of it; how many bytes were compared."""
    saved, total = os.path.join(folder, "saved"), 0
    for paddr, at, length in list(loads(core)):
        await guest.qmp.run("pmemsave", val=paddr, size=length, filename=saved)
        core.seek(at)
        with open(saved, "rb") as other:
            for page in range(paddr, paddr + length, 4096):
                ours, theirs = core.read(4096), other.read(4096)
                if page in LEGACY:
                    continue
                expect(ours == theirs, f"the page at {page:#x} is as QEMU has it")
                total += 4096
        os.unlink(saved)
    return total


def find_banner(core):
    """Where the kernel's banner is, by guest-physical address, and its line."""
    for paddr, at, length in list(loads(core)):
        core.seek(at)
        before, where = b"", paddr
        while where < paddr + length:
            block = core.read(min(1 << 20, paddr + length - where))
            found = BANNER.search(before + block)
            if found:
                return where - len(before) + found.start(), found[0].decode()
            before, where = block[-512:], where + len(block)
    raise Failure("the kernel's banner is in the core")


async def check(folder, keep):
    kernel = subprocess.run([f"{DEMO}/prepare", "--quiet"], check=True, text=True,
                            stdout=subprocess.PIPE).stdout.strip()
    image = os.path.join(folder, "disk.img")
    with open(image, "wb") as disk:
        disk.truncate(64 << 20)
    backend = await Backend.start(PROGRAM, image, folder)
    guest = None
    try:
        guest = await Guest.start(kernel, backend.socket, folder)
        await guest.hear("ready", 60)
        await until("the guest's disk works", 20, lambda: guest.figures.get("ok", 0) > 0,
                    guest.process, backend.process)
        # while it runs: told, and no failure
        status = os.path.join(folder, "status.sock")
        running = subprocess.run([PROGRAM, "dump", "--out", os.path.join(folder, "running"), status,
                                  "gpa"], capture_output=True, text=True, timeout=60, check=False)
        expect(running.returncode == 0, f"dump of a running guest: {running.stderr}")
        await guest.qmp.run("stop")
        path = keep or os.path.join(folder, "core")
        said = subprocess.run([PROGRAM, "dump", "--out", path, status, "gpa"], capture_output=True,
                              text=True, timeout=60, check=False)
        expect(said.returncode == 0 and not said.stderr, f"dump: {said.stderr}")
        print(said.stdout.strip())
        with open(path, "rb") as core:
            total = await compare(guest, core, folder)
            expect(total > 200 << 20, f"all of its memory: {total} bytes")
            address, banner = find_banner(core)
        answer = await guest.qmp.run("human-monitor-command",
                                     **{"command-line": f"xp /16c {address:#x}"})
        letters = "".join(answer.replace("'", "").split(":", 1)[1].split())
        expect(letters.startswith("Linuxversion6."), f"QEMU has it at {address:#x}, too: {answer}")
        print(f"{total >> 20} MiB are as QEMU has them; at {address:#x}: {banner}")
    finally:
        if guest:
            await guest.kill()
        await backend.process.stop(2)


def main():
    missing = [tool for tool in ("qemu-system-x86_64", "busybox", "cpio", "setpriv")
               if not shutil.which(tool)]
    if missing:
        print(f"skip: not installed: {', '.join(missing)}")
        return 77
    keep = sys.argv[3] if sys.argv[2:3] == ["--keep"] else None
    with tempfile.TemporaryDirectory(prefix="guestram-dump-") as folder:
        try:
            asyncio.run(check(folder, keep))
        except Failure as error:
            print(f"guest: failed: {error}")
            return 1
    print("guest: passed")
    return 0


sys.exit(main())
