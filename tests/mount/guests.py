# SPDX-License-Identifier: MIT
"""The demo's Linux under QEMU with a disk of its own, as it is saved and cloned."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time

DEMO = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "demo")
sys.path.insert(0, DEMO)

from guest import Guest  # noqa: E402
from process import Failure, Process, listens, until  # noqa: E402,F401
from qmp import Qmp, QmpError  # noqa: E402,F401

MIB = 256


def expect(condition, what):
    if not condition:
        raise Failure(what)


def command(kernel, folder, name, disk, *more):
    """QEMU as the saved guest and its clones have it; a clone's memory is put in its place."""
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-accel", "tcg", "-smp", "1", "-m", f"{MIB}M", "-machine", "q35,memory-backend=ram",
            "-object", f"memory-backend-memfd,id=ram,size={MIB}M,share=on",
            "-kernel", f"{kernel}/vmlinuz", "-initrd", f"{kernel}/initramfs",
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on",
            "-blockdev", f"driver=file,filename={disk},node-name=file",
            "-blockdev", "driver=qcow2,file=file,node-name=disk",
            "-device", "virtio-blk-pci,drive=disk",
            "-serial", f"file:{folder}/{name}console",
            "-serial", f"unix:{folder}/{name}worker,server=on,wait=off",
            "-qmp", f"unix:{folder}/{name}qmp,server=on,wait=off",
            "-qmp", f"unix:{folder}/{name}save,server=on,wait=off", *more]


async def start(words, folder, name):
    """The guest, and when its line said something first, in seconds from now."""
    began = time.monotonic()
    process = await Process.start(f"QEMU {name}", words, f"{folder}/{name}log")
    try:
        await until(f"{name} listens", 30,
                    lambda: listens(f"{folder}/{name}worker", f"{folder}/{name}qmp"), process)
        reader, writer = await asyncio.open_unix_connection(f"{folder}/{name}worker")
        qmp = await asyncio.wait_for(Qmp.connect(f"{folder}/{name}qmp"), 20)
    except BaseException:
        await process.stop()
        raise
    guest = Guest(process, qmp, reader, writer, f"{folder}/{name}console")
    await until(f"{name} says something", 40, lambda: guest.figures, process)
    return guest, time.monotonic() - began


async def end(guest):
    """It checks all of its disk and powers off, in the time that a crowd needs."""
    await guest.tell("stop", "done", 60)
    status = await guest.process.wait(60)
    expect(not guest.complaints and not guest.figures["bad"] and not guest.figures["errors"] and
           status == 0, f"every block of its disk is right: {guest.figures} {guest.complaints} "
           f"{status} {guest.process.tail()}")


def run(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, check=False)
    expect(done.returncode == 0, f"guestram {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def make_disk(path, base=None):
    backing = ["-b", base, "-F", "qcow2"] if base else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path] +
                   ([] if base else ["24M"]), check=True, timeout=20)


def memory_of(pid, path):
    """KiB of the guest's memory in a QEMU that maps such a path, by the kernel's words for them."""
    figures = {}
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        ours = False
        for line in smaps:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ours = path in line
            elif ours and line.endswith("kB\n"):
                word, value = line.split()[:2]
                figures[word[:-1]] = figures.get(word[:-1], 0) + int(value)
    return figures


def qemu_below(pid):
    """The QEMU that `guestram qemu clone` of this process id has started."""
    found = subprocess.run(["pgrep", "-P", str(pid), "qemu-system"], capture_output=True, text=True,
                           check=False).stdout.split()
    expect(len(found) == 1, f"one QEMU below {pid}: {found}")
    return int(found[0])


def prepare():
    """The folder of the guest's kernel and initramfs."""
    return subprocess.run([f"{DEMO}/prepare", "--quiet"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def missing():
    """What such guests and their clones need and is not there."""
    tools = [tool for tool in ("qemu-system-x86_64", "qemu-img", "busybox", "cpio", "setpriv",
                               "fusermount3") if not shutil.which(tool)]
    return tools + ([] if os.access("/dev/fuse", os.R_OK | os.W_OK) else ["/dev/fuse"])
