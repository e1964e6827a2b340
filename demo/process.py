# SPDX-License-Identifier: MIT
"""Child processes that never outlive the demo: the disk's back-end and QEMU."""

import asyncio
import json
import os


class Failure(Exception):
    """Something the demo depends on went wrong; the text says what."""


class Process:
    """A child with its output in a log file. The kernel ends it should the demo be killed."""

    def __init__(self, name, child, log):
        self.name = name
        self.child = child
        self.log = log

    @classmethod
    async def start(cls, name, command, log):
        with open(log, "wb") as out:
            # a session of its own: Ctrl-C reaches the demo only, which then ends its children
            child = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "KILL", "--", *command, stdin=asyncio.subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True)
        return cls(name, child, log)

    @property
    def pid(self):
        return self.child.pid

    @property
    def running(self):
        return self.child.returncode is None

    def check(self):
        if not self.running:
            raise Failure(f"{self.name} left with {self.child.returncode}:\n{self.tail()}")

    def tail(self, lines=15):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return "".join(log.readlines()[-lines:]).rstrip()
        except OSError as error:
            return str(error)

    async def wait(self, timeout):
        """The exit status, or None when it has not left in time."""
        try:
            return await asyncio.wait_for(self.child.wait(), timeout)
        except TimeoutError:
            return None

    async def stop(self, timeout=5):
        """End it by SIGTERM, else by SIGKILL; the exit status."""
        if self.running:
            self.child.terminate()
        status = await self.wait(timeout)
        if status is None:
            self.child.kill()
            status = await self.child.wait()
        return status


async def until(what, timeout, test, *processes, pause=0.02):
    """Wait until test() is true while these processes run; Failure names what did not come."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        value = test()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        for process in processes:
            process.check()
        if asyncio.get_running_loop().time() > deadline:
            raise Failure(f"{what}: not within {timeout} s")
        await asyncio.sleep(pause)


def listens(*paths):
    """Does somebody accept connections on each of these Unix sockets?"""
    with open("/proc/net/unix", encoding="utf-8") as sockets:
        found = {line.split()[-1] for line in sockets if line.split()[3] == "00010000"}
    return found.issuperset(paths)


class Backend:
    """
    The vhost-user disk: `guestram serve blk`, or QEMU's own qemu-storage-daemon to compare with.
    The latter tells no figures, so those that /proc knows stand in for them.
    """

    def __init__(self, process, status_socket):
        self.process = process
        self._status_socket = status_socket

    @classmethod
    async def start(cls, program, image, folder, name=""):
        """`name` goes before the names of its files."""
        disk = os.path.join(folder, f"{name}disk.sock")
        status = None
        if os.path.basename(program) == "qemu-storage-daemon":
            command = [program, "--blockdev", f"driver=file,filename={image},node-name=file",
                       "--blockdev", "driver=raw,file=file,node-name=disk", "--export",
                       f"vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={disk},"
                       "num-queues=2,writable=on"]
        else:
            status = os.path.join(folder, f"{name}status.sock")
            command = [program, "serve", "blk", "--socket", disk, "--file", image, "--queues", "2",
                       "--status", status]
        process = await Process.start(os.path.basename(program), command,
                                      os.path.join(folder, f"{name}backend.log"))
        backend = cls(process, status)
        backend.socket = disk
        await until(f"{process.name} listens on its sockets", 10,
                    lambda: listens(*filter(None, (disk, status))), process)
        return backend

    async def status(self):
        """The status as the back-end tells it, or None when this one tells nothing."""
        if not self._status_socket:
            return None
        self.process.check()
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_unix_connection(self._status_socket)
                text = await reader.read()
                writer.close()
            document = json.loads(text)
            return {**document["members"]["blk"], "ram": document["rams"][0]["stats"]}
        except (OSError, ValueError, KeyError, TimeoutError) as error:
            self.process.check()
            raise Failure(f"status of {self.process.name}: {error or type(error).__name__}") \
                from error

    def mappings(self):
        """Of shared memory, by inode: [mappings, bytes mapped, bytes this process touched]."""
        found = {}
        entry = None
        try:
            with open(f"/proc/{self.process.pid}/smaps", encoding="utf-8") as smaps:
                for line in smaps:
                    words = line.split()
                    if not words[0].endswith(":"):      # first-last rights offset device inode path
                        shared = len(words) > 5 and words[5].startswith("/memfd:memory-backend")
                        entry = found.setdefault(int(words[4]), [0, 0, 0]) if shared else None
                        if entry:
                            entry[0] += 1
                    elif entry and words[0] == "Size:":
                        entry[1] += int(words[1]) << 10
                    elif entry and words[0] == "Rss:":
                        entry[2] += int(words[1]) << 10
        except OSError:
            self.process.check()
        return found
