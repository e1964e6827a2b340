#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The USDT probes are in the library, and fire.

Usage: probes_test.py LIBRARY PROGRAM SCRIPT notes|gdb|bpftrace

`notes` reads them with readelf; `gdb` stops a run of PROGRAM (`guestram torture`) at them and looks at
their arguments; `bpftrace` lets SCRIPT make its histograms. Exit status 77: what a test needs is
missing, and it says what.
"""
import os
import re
import shutil
import subprocess
import sys
import time

LIBRARY, PROGRAM, SCRIPT, TEST = sys.argv[1:5]

# Name: how many arguments.
PROBES = {"map": 6, "unmap": 3, "delete": 3, "resize": 4, "discard": 4, "grace_begin": 1,
          "grace_end": 1, "reclaim": 4}


def skip(why):
    print(f"skip: {why}")
    sys.exit(77)


def need(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        skip(f"not installed: {', '.join(missing)}")


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def test_notes():
    need("readelf")
    shown = subprocess.run(["readelf", "-n", LIBRARY], capture_output=True, text=True, check=True)
    found = {}
    for provider, name, arguments in re.findall(
            r"Provider: (\S+)\n\s+Name: (\S+)\n\s+Location: \S+\n?.*\n?\s+Arguments: (.*)",
            shown.stdout.replace(", Base:", "\nBase:")):
        expect(provider == "guestram", f"provider {provider}")
        found.setdefault(name, set()).add(len(arguments.split()))
    expect({name: {count} for name, count in PROBES.items()} == found, f"{PROBES} in {found}")


def test_gdb():
    """A tracer that needs nothing of the kernel: breakpoints at the probes."""
    need("gdb")
    commands = ["set breakpoint pending on", "set confirm off", "set pagination off",
                "set debuginfod enabled off", "start", "break -probe-stap guestram:map",
                "continue", 'printf "map %s %s %d\\n", $_probe_arg0, $_probe_arg3, $_probe_argc',
                "delete", "break -probe-stap guestram:reclaim", "continue",
                'printf "reclaim %s %lu %lu\\n", $_probe_arg1, $_probe_arg2, $_probe_arg3', "kill"]
    words = ["gdb", "-nx", "-batch"]
    for command in commands:
        words += ["-ex", command]
    shown = subprocess.run([*words, "--args", PROGRAM, "torture", "--seconds", "30"], text=True,
                           capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
                           env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    output = shown.stdout + shown.stderr
    if re.search(r"ptrace: Operation not permitted|Could not trace", output):
        skip("this machine lets nobody trace (ptrace)")
    expect(re.search(r"^map \S+ \S+ 6$", output, re.MULTILINE), f"map fires: {output}")
    match = re.search(r"^reclaim \S+ (\d+) (\d+)$", output, re.MULTILINE)
    expect(match, f"reclaim fires: {output}")
    expect(int(match[1]) >= 4096 and int(match[2]) > 0, f"bytes and nanoseconds: {match[0]}")


def test_bpftrace():
    need("bpftrace")
    if os.geteuid():
        skip("bpftrace needs root")
    try:
        probe = subprocess.run(["bpftrace", "-e", "BEGIN { exit(); }"], capture_output=True,
                               text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        skip("bpftrace does not start within a minute")
    if probe.returncode:
        skip(f"bpftrace does not work here: {(probe.stderr.strip().splitlines() or ['?'])[-1]}")
    process = subprocess.Popen([PROGRAM, "torture", "--seconds", "8"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)     # bpftrace -p wants the library to be there
        shown = subprocess.run(["bpftrace", "-p", str(process.pid), SCRIPT], capture_output=True,
                               text=True, timeout=90, check=False)
    finally:
        process.kill()
        process.wait()
    output = shown.stdout + shown.stderr
    if re.search(r"uprobe|tracefs|debugfs|Operation not permitted", output) and shown.returncode:
        skip(f"no uprobes here: {(shown.stderr.strip().splitlines() or ['?'])[-1]}")
    expect(not shown.returncode, output)
    expect(re.search(r"@deleted: [1-9]", output), f"deletions: {output}")
    for name in ("grace_us", "reclaim_us"):
        expect(re.search(rf"@{name}:\s*\n[\[(].*\|", output), f"histogram {name}: {output}")


try:
    globals()["test_" + TEST]()
except AssertionError as error:
    print(error)
    sys.exit(f"{TEST}: failed")
print(f"{TEST}: passed")
