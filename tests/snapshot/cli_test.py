#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""guestram snapshot from outside: images in, a child, all that is told of it, images out."""

import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

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


SVG = "{http://www.w3.org/2000/svg}"


def picture(*words, status=0):
    """What a picture's legend counts, and what the titles of its cells add up to."""
    assert run(*words, "--svg", "picture.svg", status=status).stdout == b"", words
    root = xml.parse("picture.svg").getroot()
    assert root.tag == SVG + "svg"
    legend = {}
    for text in root.iter(SVG + "text"):
        if text.get("class") == "l":
            name, pages = re.fullmatch(r"(.*): (\d+) pages, .*", text.text).groups()
            legend[name] = int(pages)
    cells = dict.fromkeys(legend, 0)
    for title in root.iter(SVG + "title"):
        for part in re.split(", |; ", title.text.split(": ", 1)[1]):
            # names have commas of their own, and what follows those has no number
            if part.split()[0].isdigit():
                pages, start = part.split(" ", 1)
                cells[next(name for name in legend if name == start or name.startswith(start + ","))] += int(pages)
    assert cells == legend, (cells, legend)
    assert len(list(root.iter(SVG + "g"))) <= 8192
    return root, legend


def check_legend(legend, snapshot):
    """It tells the same as list-pages."""
    runs = told("list-pages", "--json", snapshot)["runs"]
    pages = {(what, own): sum(run["length"] // 4096 for run in runs
                              if run["what"] == what and (run["parent"] == 0) == own)
             for what in ("zero", "content") for own in (True, False)}
    all_pages = sum(block["length"] for block in told("info", "--json", snapshot)["blocks"]) // 4096
    names = list(legend)
    assert legend[names[1]] == pages["zero", True] and legend[names[2]] == pages["zero", False], (legend, pages)
    assert legend[names[3]] + legend[names[4]] == pages["content", True], (legend, pages)
    assert legend[names[5]] == pages["content", False], (legend, pages)
    assert sum(legend[name] for name in names[:6]) == all_pages, (legend, all_pages)


def pictures():
    content = os.urandom(262144)
    with open("equal", "wb") as file:      # the same chunk three times, one of its own, then nothing
        file.write(content * 2 + os.urandom(4096) + bytes(262144 - 4096) + content)
        file.truncate(8 << 30)
    with open("changed", "wb") as file:
        file.write(content + bytes(262144) + b"y" * 8192)
        file.truncate(8 << 30)
    run("save", "--layout", "packed", "--block", "a <&\"\x01\xe4=equal", "equal.gr")
    run("save", "--block", "a <&\"\x01\xe4=changed", "--parent", "equal.gr", "changed.gr")
    root, legend = picture("info", "equal.gr")
    check_legend(legend, "equal.gr")
    assert legend["stored once, used several times"] == 192 and legend["stored"] == 1, legend
    assert [text.text for text in root.iter(SVG + "text") if text.get("class") == "b"] == ['a <&"?\xe4']
    assert len(list(root.iter(SVG + "g"))) == 1024 and os.path.getsize("picture.svg") < 1 << 18
    _, legend = picture("info", "changed.gr")
    check_legend(legend, "changed.gr")
    assert legend["changed since the parent"] == 2 and legend["shared with the parent"] == 64, legend
    assert legend["zero since the parent"] >= 128, legend
    # the same page twice, pages past the end, another block: each page counts once, if it is one
    with open("set", "w", encoding="ascii") as file:
        file.write("guestram working set 1\n0 2000\n1000 2000\n1fffff000 2000\n"
                   "fffffffffffff000 1000\nblock other\n0 1000\n")
    root, legend = picture("info", "--order", "set", "changed.gr")
    assert legend["in the working set"] == 4, legend
    assert len([path for path in root.iter(SVG + "path") if path.get("class") == "m"]) == 2
    _, legend = picture("diff", "equal.gr", "changed.gr", status=1)
    assert legend == {"zero in both": (8 << 30 >> 12) - 194, "the same": 64, "differ": 130}, legend
    for words in (["info", "equal.gr", "--svg", "none/x"], ["info", "equal.gr", "--svg", "/dev/full"],
                  ["info", "--svg", "x.svg", "--order", "none", "equal.gr"],
                  ["info", "--svg", "x.svg", "--order", "equal.gr", "equal.gr"]):
        assert run(*words, status=1).stderr.startswith(b"guestram: "), words
    assert not [name for name in os.listdir() if "x.svg" in name or ".tmp" in name]
    for words in (["info", "--svg", "x", "--json", "equal.gr"], ["verify", "--svg", "x", "equal.gr"],
                  ["info", "--order", "set", "equal.gr"],
                  ["diff", "--svg", "x", "--order", "set", "equal.gr", "equal.gr"]):
        run(*words, status=2)
    # many blocks: those that are drawn have less room, and all are counted
    with open("page", "wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
    blocks = [word for n in range(64) for word in ("--block", f"b{n:02}=page")]
    run("save", *blocks, "many.gr")
    _, legend = picture("info", "many.gr")
    check_legend(legend, "many.gr")
    assert legend["stored"] == 64, legend


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
        pictures()


main()
