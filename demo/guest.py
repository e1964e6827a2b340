# SPDX-License-Identifier: MIT
"""The guest: QEMU with a vhost-user disk, its DIMMs and virtio-mem, and its worker's line."""

import asyncio
import os

from process import Failure, Process, listens, until
from qmp import Qmp, QmpError

BASE_MIB = 256
VMEM_MIB = 512      # the most that virtio-mem can give


class Guest:
    """A running guest. `figures` are the latest that its worker told; `words` what it said."""

    def __init__(self, process, qmp, reader, writer, console):
        self.process = process
        self.qmp = qmp
        self.figures = {}
        self.complaints = []
        self.console = console
        self._said = []
        self._writer = writer
        self._task = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def start(cls, kernel, disk_socket, folder, name="", more=(), chardev="", disk=""):
        """
        `name` goes before the names of its files, `more` after QEMU's options; `chardev` and `disk`
        are further properties of those.
        """
        def path(file):
            return os.path.join(folder, name + file)

        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", "tcg,thread=multi", "-smp", "2",
            "-m", f"{BASE_MIB}M,slots=8,maxmem=8G", "-machine", "q35,memory-backend=ram",
            "-object", f"memory-backend-memfd,id=ram,size={BASE_MIB}M,share=on",
            "-kernel", f"{kernel}/vmlinuz", "-initrd", f"{kernel}/initramfs",
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on "
            "memhp_default_state=online_movable",
            "-chardev", f"socket,id=disk,path={disk_socket}{chardev}",
            "-device", f"vhost-user-blk-pci,chardev=disk,num-queues=2{disk}",
            "-object", f"memory-backend-memfd,id=vmem,size={VMEM_MIB}M,share=on,reserve=off",
            "-device", "virtio-mem-pci,id=vmem0,memdev=vmem,requested-size=0",
            "-serial", f"file:{path('console.log')}",
            "-serial", f"unix:{path('worker.sock')},server=on,wait=off",
            "-qmp", f"unix:{path('qmp.sock')},server=on,wait=off",
            *more]
        process = await Process.start("QEMU", command, path("qemu.log"))
        try:
            await until("QEMU listens", 10, lambda: listens(path("qmp.sock"), path("worker.sock")),
                        process)
            reader, writer = await asyncio.open_unix_connection(path("worker.sock"))
            qmp = await asyncio.wait_for(Qmp.connect(path("qmp.sock")), 10)
        except BaseException:
            await process.stop()
            raise
        return cls(process, qmp, reader, writer, path("console.log"))

    async def _read(self, reader):
        try:
            while line := await reader.readline():
                word, *rest = line.decode(errors="replace").split() or [""]
                values = dict(pair.split("=", 1) for pair in rest if "=" in pair)
                if word in ("ready", "stat", "watching", "keeping", "freed", "done"):
                    self.figures = {key: int(value) for key, value in values.items()}
                if word in ("bad", "error"):
                    self.complaints.append(line.decode(errors="replace").strip())
                if word != "stat":
                    self._said.append((word, values))
        except (OSError, ValueError) as error:
            self.complaints.append(f"worker's line: {error}")

    async def hear(self, word, timeout):
        """Wait for a line that begins with this word; its values."""
        def find():
            for said in self._said:
                if said[0] == word:
                    self._said.remove(said)
                    return said
            return None

        return (await until(f"the guest says '{word}'", timeout, find, self.process))[1]

    async def tell(self, text, answer, timeout):
        self._writer.write(text.encode() + b"\n")
        return await self.hear(answer, timeout)

    def memory(self):
        """MiB that the guest's Linux says it has."""
        return self.figures.get("mem", 0) // 1024

    def shared_inodes(self):
        """Of the memory that QEMU shares: inode and bytes."""
        inodes = {}
        folder = f"/proc/{self.process.pid}/fd"
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}").startswith("/memfd:memory-backend"):
                    stat = os.stat(f"{folder}/{name}")
                    inodes[stat.st_ino] = stat.st_size
            except OSError:
                pass
        return inodes

    async def plug(self, number, size):
        """Plug a DIMM; its guest-physical address and the inode of its memory."""
        before = self.shared_inodes()
        await self.qmp.run("object-add", qom_type="memory-backend-memfd", id=f"m{number}",
                           size=size, share=True)
        inode, = set(self.shared_inodes()) - set(before)
        await self.qmp.run("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"m{number}")
        for device in await self.qmp.run("query-memory-devices"):
            if device["data"].get("id") == f"dimm{number}":
                return device["data"]["addr"], inode
        raise Failure(f"QEMU does not list dimm{number} after plugging it")

    async def unplug(self, number, timeout):
        """Ask the guest to give the DIMM up, again when it says no; wait until QEMU has let go."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        refusals = 0
        while True:
            await self.qmp.run("device_del", id=f"dimm{number}")
            event = await self.qmp.event(
                ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"), deadline - loop.time(),
                device=f"dimm{number}")
            if event["event"] == "DEVICE_DELETED":
                break
            refusals += 1
            await asyncio.sleep(0.2)

        async def delete():
            try:
                await self.qmp.run("object-del", id=f"m{number}")
                return True
            except QmpError:        # still held for an instant after the event
                return False
        await until(f"QEMU gives up m{number}", 5, delete, self.process)
        return refusals

    async def vmem(self):
        """Of virtio-mem: first guest-physical address, and bytes that the guest has plugged."""
        for device in await self.qmp.run("query-memory-devices"):
            if device["data"].get("id") == "vmem0":
                return device["data"]["memaddr"], device["data"]["size"]
        raise Failure("QEMU does not list its virtio-mem device")

    async def request(self, size, timeout):
        """Ask the guest to have this much of virtio-mem, and wait until it has."""
        await self.qmp.run("qom-set", path="/machine/peripheral/vmem0", property="requested-size",
                           value=size)

        async def done():
            return (await self.vmem())[1] == size
        await until(f"the guest has {size >> 20} MiB of virtio-mem", timeout, done, self.process)

    def allocated(self, inode):
        """Bytes that a shared memory of QEMU really has."""
        folder = f"/proc/{self.process.pid}/fd"
        for name in os.listdir(folder):
            try:
                stat = os.stat(f"{folder}/{name}")
            except OSError:
                continue
            if stat.st_ino == inode and os.readlink(f"{folder}/{name}").startswith("/memfd:"):
                return stat.st_blocks * 512
        raise Failure(f"QEMU has no shared memory with inode {inode}")

    async def stop(self):
        """The worker checks the whole disk, then the guest powers off; QEMU's exit status."""
        await self.tell("stop", "done", 30)
        status = await self.process.wait(10)
        if status is None:
            raise Failure("the guest did not power off within 10 s")
        return status

    async def kill(self):
        self._task.cancel()
        self._writer.close()
        await self.qmp.close()
        await self.process.stop(2)
