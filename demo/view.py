# SPDX-License-Identifier: MIT
"""What the demo prints: a line each second and at each event, and the verdict."""

import time

HEAD = "   time  guest memory  blocks  ranges   requests  in flight  verified  bad   what"


def mib(count):
    return f"{count / (1 << 20):.0f} MiB"


class View:
    def __init__(self, quiet):
        self.quiet = quiet
        self.start = time.monotonic()
        self._lines = 0

    def restart(self):
        """Count the time from now: what was downloaded before is no part of it."""
        self.start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.start

    def say(self, text):
        if not self.quiet:
            print(text, flush=True)

    def line(self, sample, event=""):
        """One row; what the back-end does not tell is a dash."""
        if self.quiet:
            return
        if self._lines % 20 == 0:
            print(HEAD)
        self._lines += 1

        def cell(key, width):
            value = sample.get(key)
            return f"{'-' if value is None else format(value, ',')}".rjust(width)

        print(f"{self.seconds():6.1f}s {cell('memory', 9)} MiB {cell('blocks', 7)} "
              f"{cell('ranges', 7)} {cell('requests', 10)} {cell('in_flight', 10)} "
              f"{cell('verified', 9)} {cell('bad', 4)}   {event}".rstrip(), flush=True)

    @staticmethod
    def verdict(rows, seconds):
        """rows: (what, value, wanted, is it right?). True when all are."""
        right = all(row[3] for row in rows)
        print()
        for what, value, wanted, ok in rows:
            print(f"  {'ok    ' if ok else 'WRONG '} {what:<34} {value:>12}   ({wanted})")
        print(f"\n{'The demo passed' if right else 'THE DEMO FAILED'} in {seconds:.0f} s.", flush=True)
        return right
