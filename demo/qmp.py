# SPDX-License-Identifier: MIT
"""A client of QMP, QEMU's control protocol: JSON lines over a Unix socket, with events."""

import asyncio
import json


class QmpError(Exception):
    """QEMU refused a command, or is gone."""


class Qmp:
    """One connection. Replies come in the order of the commands; events are kept until awaited."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._replies = []          # futures, oldest first
        self._events = []
        self._news = asyncio.Condition()
        self._closed = False
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, path):
        reader, writer = await asyncio.open_unix_connection(path)
        greeting = json.loads(await reader.readline() or b"{}")
        if "QMP" not in greeting:
            raise QmpError(f"no QMP greeting on {path}")
        qmp = cls(reader, writer)
        await qmp.run("qmp_capabilities")
        return qmp

    async def _read(self):
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    async with self._news:
                        self._events.append(message)
                        self._news.notify_all()
                elif self._replies:
                    reply = self._replies.pop(0)
                    if not reply.done():
                        reply.set_result(message)
        except (OSError, ValueError):
            pass
        self._closed = True
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(QmpError("QEMU closed the connection"))
        async with self._news:
            self._news.notify_all()

    async def run(self, command, timeout=10, **arguments):
        if self._closed:
            raise QmpError(f"{command}: QEMU is gone")
        reply = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._writer.write(json.dumps(message).encode() + b"\n")
        answer = await asyncio.wait_for(reply, timeout)
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    async def event(self, names, timeout, **data):
        """The first event that has one of these names and this data, now or later."""
        def wanted(event):
            return event["event"] in names and all(
                event.get("data", {}).get(k) == v for k, v in data.items())

        async with asyncio.timeout(timeout):
            async with self._news:
                while True:
                    for event in self._events:
                        if wanted(event):
                            self._events.remove(event)
                            return event
                    if self._closed:
                        raise QmpError(f"QEMU left before {' or '.join(names)}")
                    await self._news.wait()

    async def close(self):
        self._task.cancel()
        self._writer.close()
