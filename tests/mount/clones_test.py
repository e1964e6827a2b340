#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
One Linux guest is frozen, and eight clones go on from there, each with its own disk.

Usage: clones_test.py PROGRAM [--clones N]

Boots the demo's guest under QEMU, saves it with `guestram qemu save --quit`, mounts the snapshot with
N clones, and starts them all at once with `guestram qemu clone`: first with private memory, which
shares the snapshot's pages, then with memory of their own that is shared (share=on). Each must go on
from where the guest was (its count of verified blocks grows), find every block of the disk as the saved
guest had written it, and write to its own. Then one is saved again, as a child of the snapshot, and a
clone of that goes on, too.

Prints when the first words of each clone came, and what memory they share. Exit status 77: something
that it needs is not there.
"""
import asyncio
import json
import os
import sys
import tempfile

sys.dont_write_bytecode = True

from guests import (Failure, Process, QmpError, command, end, expect, make_disk, memory_of, missing,
                    prepare, qemu_below, run, start, until)

PROGRAM = os.path.realpath(sys.argv[1])
CLONES = int(sys.argv[3]) if sys.argv[2:3] == ["--clones"] else 8


class Clones:
    def __init__(self, kernel, folder):
        self.kernel, self.folder = kernel, folder
        self.mount = f"{folder}/mount"
        os.mkdir(self.mount)
        self.server = None

    async def serve(self, snapshot):
        self.server = await Process.start("mount", [PROGRAM, "mount", snapshot, self.mount,
                                                    "--clones", str(CLONES)],
                                          f"{self.folder}/mount.log")
        await until("it is mounted", 10, lambda: "is mounted at" in self.server.tail(), self.server)

    async def start(self, number, private, base, snapshot=None):
        name = f"{'private' if private else 'shared'}-{number}-"
        disk = f"{self.folder}/{name}disk"
        make_disk(disk, base)
        where = snapshot or (self.mount if private else f"{self.mount}/clone-{number}")
        words = [PROGRAM, "qemu", "clone", "--name", name[:-1], *["--private"] * private, where,
                 "--", *command(self.kernel, self.folder, name, disk)]
        return await start(words, self.folder, name)

    async def save_child(self, guest, child):
        """The first of those that are shared, as a child of the snapshot; QEMU ends."""
        parent, path = child
        told = json.loads(run(PROGRAM, "qemu", "save", "--json", "--quit", "--parent", parent, "--qmp",
                                  f"{self.folder}/shared-1-save", path))
        await until("the saved clone ends", 20, lambda: not guest.process.running)
        expect(not guest.process.child.returncode, f"guestram's exit code: {guest.process.tail()}")
        print(f"saved again: {told['data_bytes'] >> 10} KiB differ from the parent", flush=True)
        expect(0 < told["data_bytes"] < 64 << 20, f"only what differs: {told}")

    async def grandchild(self, path, saved):
        """A clone of what a clone was, from a mount of its own."""
        guest, seconds = await self.start(0, False, f"{self.folder}/shared-1-disk", path)
        try:
            expect(guest.figures["ok"] >= saved["ok"], f"it goes on from {saved}: {guest.figures}")
            await end(guest)
        finally:
            await guest.kill()
        print(f"clone of the clone: first words after {seconds:.2f} s", flush=True)

    async def all(self, private, base, saved, child=None):
        """Start them at once; each goes on. Seconds to their first words, their memory, figures."""
        started = await asyncio.gather(*(self.start(n + 1, private, base) for n in range(CLONES)),
                                       return_exceptions=True)
        guests = [one[0] for one in started if not isinstance(one, BaseException)]
        try:
            for one in started:
                if isinstance(one, BaseException):
                    raise one
            for guest in guests:
                expect(guest.figures["ok"] >= saved["ok"], f"it goes on from {saved}: {guest.figures}")
            await until("all of them verify their disks", 40, lambda: all(
                guest.figures["ok"] > saved["ok"] + 5 for guest in guests))
            memory = [memory_of(qemu_below(guest.process.pid), self.mount) for guest in guests]
            if child:
                await self.save_child(guests[0], child)
            await asyncio.gather(*(end(guest) for guest in guests[bool(child):]))
        finally:
            for guest in guests:
                await guest.kill()
        return sorted(one[1] for one in started), memory, guests[0].figures

    async def stop(self):
        if self.server:
            await self.server.stop()


def tell(what, seconds, memory):
    total = {word: sum(m[word] for m in memory) for word in ("Rss", "Pss", "Private_Dirty",
                                                            "Shared_Clean")}
    print(f"{what}: first words after {seconds[0]:.2f} to {seconds[-1]:.2f} s; guest memory of all "
          f"{len(memory)}: {total['Rss'] >> 10} MiB seen, {total['Pss'] >> 10} MiB taken, "
          f"{total['Private_Dirty'] >> 10} MiB their own", flush=True)
    return total


async def boot(kernel, folder):
    make_disk(f"{folder}/base")
    guest, seconds = await start(command(kernel, folder, "saved-", f"{folder}/base"), folder, "saved-")
    try:
        await until("its disk works", 20, lambda: guest.figures.get("ok", 0) > 20, guest.process)
        snapshot = f"{folder}/guest.snapshot"
        told = json.loads(run(PROGRAM, "qemu", "save", "--json", "--quit", "--qmp",
                                  f"{folder}/saved-save", snapshot))
        await until("QEMU ends", 10, lambda: not guest.process.running)
    finally:
        await guest.kill()
    print(f"booted in {seconds:.1f} s; saved: {told['data_bytes'] >> 20} of "
          f"{told['memory_bytes'] >> 20} MiB, {told['device_bytes'] >> 10} KiB of devices", flush=True)
    return snapshot, guest.figures


async def check(folder):
    kernel = prepare()
    snapshot, saved = await boot(kernel, folder)
    clones = Clones(kernel, folder)
    try:
        await clones.serve(snapshot)
        for private in (True, False):
            child = None if private else (snapshot, f"{folder}/child.snapshot")
            seconds, memory, last = await clones.all(private, f"{folder}/base", saved, child)
            total = tell("private" if private else "shared", seconds, memory)
            if private:
                expect(CLONES == 1 or total["Pss"] < total["Rss"], "they share the snapshot's pages")
        await clones.grandchild(child[1], last)
    finally:
        await clones.stop()


def main():
    if missing():
        print(f"skip: not there: {', '.join(missing())}")
        return 77
    with tempfile.TemporaryDirectory(prefix="guestram-clones-") as folder:
        try:
            asyncio.run(check(folder))
        except (Failure, QmpError, OSError, TimeoutError) as error:
            print(f"clones: failed: {error}")
            return 1
    print("clones: passed")
    return 0


sys.exit(main())
