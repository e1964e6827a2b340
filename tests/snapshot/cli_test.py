#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""guestram snapshot from outside: images in, a child, all that is told of it, images out."""

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.realpath(sys.argv[1])


def run(*words, status=0):
    done = subprocess.run([PROGRAM, "snapshot", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60, check=False)
    assert done.returncode == status, f"{words}: {done.returncode}: {done.stderr.decode()}"
    return done


def told(*words, status=0):
    return json.loads(run(*words, status=status).stdout)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        first = bytearray(os.urandom(8192) + bytes(1 << 20) + b"x" * 4096)
        second = bytearray(first)
        second[4096:8192] = bytes(4096)
        second[12288] = 7
        for name, image in ("one", first), ("two", second), ("odd", b"x" * 100):
            with open(name, "wb") as file:
                file.write(image)
        made = told("save", "--json", "--block", "ram=one", "--block", "rom=two", "one.gr")
        assert made["data"] == 3 * 4096 + 3 * 4096, made
        told("save", "--json", "--block", "ram=two", "--block", "rom=two", "--parent", "one.gr", "two.gr")
        info = told("info", "--json", "two.gr")
        assert [file["data"] + file["zero"] for file in info["files"]] == [8192, 24576], info
        assert [block["block"] for block in info["blocks"]] == ["ram", "rom"], info
        runs = told("list-pages", "--json", "two.gr")["runs"]
        assert {"block": "ram", "offset": 4096, "length": 4096, "what": "zero", "parent": 0} in runs, runs
        different = told("diff", "--json", "one.gr", "two.gr", status=1)
        assert different["pages"] == 2, different
        assert [(run["offset"], run["length"]) for run in different["runs"]] == [(4096, 4096), (12288, 4096)]
        assert told("diff", "--json", "two.gr", "two.gr")["pages"] == 0
        run("pack", "two.gr", "packed.gr")
        run("flatten", "--layout", "packed", "packed.gr", "flat.gr")
        assert len(told("info", "--json", "flat.gr")["files"]) == 1
        os.unlink("one.gr")
        assert told("verify", "--json", "flat.gr")["whole"] is True
        run("load", "flat.gr", "out")
        assert read("out/ram") == second and read("out/rom") == second
        assert run("extract", "flat.gr", "ram", "-").stdout == second
        # what cannot be is told, and leaves nothing
        for words in (["info", "two.gr"], ["verify", "one"], ["extract", "flat.gr", "none", "x"],
                      ["save", "--block", "ram=odd", "x"], ["save", "--block", "ram=none", "x"]):
            assert run(*words, status=1).stderr.startswith(b"guestram: snapshot"), words
        assert not os.path.exists("x")
        for words in ([], ["none"], ["save", "x"], ["info"], ["info", "a", "b"], ["save", "--block", "x", "y"],
                      ["pack", "--level", "20", "a", "b"]):
            run(*words, status=2)


main()
