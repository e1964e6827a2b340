#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The guestram program as its users meet it: exit codes, messages, JSON, progress.

Usage: cli_test.py PROGRAM TEST [ARGUMENT...]

Each test is a function; meson names them one by one. A test fails by an assertion that says what
was expected and what came.
"""
import json
import os
import pty
import subprocess
import sys

PROGRAM = sys.argv[1]


def run(*arguments, timeout=120):
    """Standard input, output and error are no terminal."""
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


def expect(condition, what, result=None):
    if not condition:
        if result is not None:
            what += f"\nexit code {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
        raise AssertionError(what)


def test_usage():
    """A mistake is `guestram: what: why`, exit code 2, nothing on stdout."""
    cases = [
        ([], "guestram: no verb given"),
        (["fly"], "guestram: no such verb: fly"),
        (["--fly"], "guestram: unrecognized option '--fly'"),
        (["bench"], "guestram: bench: which benchmark?"),
        (["bench", "fly"], "guestram: bench: no such benchmark: fly"),
        (["bench", "lookup", "access"], "guestram: bench: one benchmark at a time: access"),
        (["bench", "--fly"], "guestram: bench: unrecognized option '--fly'"),
        (["torture", "again"], "guestram: torture: it takes no argument: again"),
        (["torture", "--seconds"], "guestram: torture: option '--seconds' requires an argument"),
        (["torture", "--seconds", "0"], "guestram: torture: --seconds: 0 is not between 1 and"),
        (["torture", "--seconds", "-1"], "guestram: torture: --seconds: not a whole number: -1"),
        (["torture", "--seconds", "1s"], "guestram: torture: --seconds: not a whole number: 1s"),
        (["torture", "--seconds", ""], "guestram: torture: --seconds: not a whole number: "),
        (["torture", "--readers", "65"], "guestram: torture: --readers: 65 is not between 1 and"),
        (["torture", "--writers", "99999999999999999999999"], "guestram: torture: --writers: 9"),
        (["torture", "--baseline", "fly"], "guestram: torture: no such baseline: fly"),
    ]
    for arguments, message in cases:
        result = run(*arguments)
        expect(result.returncode == 2, f"{arguments}: exit code 2", result)
        expect(result.stderr.startswith(message), f"{arguments}: {message!r}", result)
        expect("--help'" in result.stderr, f"{arguments}: a pointer to --help", result)
        expect(result.stdout == "", f"{arguments}: nothing on stdout", result)


def test_help():
    """--help names every verb and option, and exits with 0; so does --version."""
    result = run("--help")
    expect(result.returncode == 0 and result.stderr == "", "--help", result)
    for verb in ("map", "top", "torture", "bench", "--help", "--version"):
        expect(verb in result.stdout, f"--help names {verb}", result)
    options = {
        "torture": ["--seconds", "--readers", "--writers", "--seed", "--baseline", "--json"],
        "bench": ["--json", "--quick", "lookup|update|access|reclaim|dirty|window|change|blk|migrate|pager|snapshot"],
    }
    if " migrate " in run("--help").stdout:  # as built
        options["migrate"] = ["--channels", "--memory", "--writes", "--seconds", "--zstd", "--rate",
                              "--downtime", "--rounds", "--postcopy", "send|receive"]
    for verb, names in options.items():
        result = run(verb, "--help")
        expect(result.returncode == 0 and result.stderr == "", f"{verb} --help", result)
        expect(f"Usage: guestram {verb}" in result.stdout, f"{verb} --help: usage", result)
        for name in names:
            expect(name in result.stdout, f"{verb} --help names {name}", result)
    for arguments in (["--version"], ["-V"], ["torture", "--version"]):
        result = run(*arguments)
        words = result.stdout.split()
        expect(result.returncode == 0 and len(words) == 2 and words[0] == "guestram" and
               len(words[1].split(".")) == 3, f"{arguments}: guestram x.y.z", result)


def test_output_error():
    """A disk that is full is an error, not a success."""
    for arguments in (["--version"], ["bench", "access", "--quick", "--json"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            result = subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=full,
                                    stderr=subprocess.PIPE, text=True, timeout=120)
        expect(result.returncode == 1, f"{arguments} > /dev/full: exit code 1, got "
               f"{result.returncode}, {result.stderr}")


TORTURE_KEYS = {
    "baseline", "seconds", "readers", "writers", "seed", "lookups", "removals", "reclaims",
    "stale", "leaked_blocks", "leaked_fds", "rss_growth_kib", "grace_us", "lookups_per_second",
    "errors", "first_stale", "first_error", "note",
}


def torture(*arguments):
    result = run("torture", "--json", *arguments)
    expect(result.stderr == "", "no progress in a pipe", result)
    figures = json.loads(result.stdout)
    expect(set(figures) == TORTURE_KEYS, f"the keys {sorted(TORTURE_KEYS)}", result)
    expect(set(figures["grace_us"]) == {"p50", "p99"}, "grace_us: p50, p99", result)
    return result, figures


def test_torture():
    """Nothing stale, nothing leaked, and it really did something."""
    result, figures = torture("--seconds", "2", "--readers", "2", "--writers", "2", "--seed", "7")
    expect(result.returncode == 0, "exit code 0", result)
    for key in ("stale", "leaked_blocks", "leaked_fds", "errors"):
        expect(figures[key] == 0, f"{key} is 0", result)
    expect((figures["readers"], figures["writers"], figures["seed"]) == (2, 2, 7), "as asked", result)
    expect(figures["lookups"] > 10000, "many lookups", result)
    expect(figures["removals"] > 100, "many removals", result)
    expect(figures["reclaims"] >= figures["removals"], "each removal is reclaimed", result)
    expect(0 < figures["grace_us"]["p50"] <= figures["grace_us"]["p99"], "grace periods", result)
    expect(figures["baseline"] is None and figures["note"] is None, "not the baseline", result)


def test_torture_text():
    """What people read has the same verdict."""
    result = run("torture", "--seconds", "1", "--readers", "1")
    expect(result.returncode == 0, "exit code 0", result)
    expect("verdict: nothing stale, nothing leaked" in result.stdout, "a verdict", result)


def test_torture_baseline():
    """The old design is caught, whatever the number of readers."""
    for readers in ("1", "2", "4"):
        result, figures = torture("--seconds", "2", "--readers", readers, "--baseline", "shared-mru")
        expect(result.returncode == 1, "exit code 1", result)
        expect(figures["stale"] > 0, "stale > 0", result)
        expect(figures["baseline"] == "shared-mru", "names the baseline", result)
        expect("hook" in figures["note"], "tells of the hook", result)
        expect(figures["errors"] == 0 and figures["leaked_blocks"] == 0, "no other fault", result)
        expect(figures["first_stale"], "says what was stale", result)


ROW_KEYS = {
    "lookup": [{"ranges", "space_mib", "lookups", "threads", "addresses", "empty_loop", "limit",
                "guestram", "guestram_64", "cursor", "bisect", "shared_mru", "rwlock", "vm_memory",
                "to_limit"}],
    "update": [{"what", "ranges", "guestram", "vm_memory"},
               {"what", "turns", "mean", "first_1000", "last_1000", "rss_growth_kib", "fds_growth",
                "maps_growth"},
               {"what", "blocks", "mib"}],
    "access": [{"what", "ranges", "kind", "plain", "guestram", "over"},
               {"what", "bytes", "memcpy_ns", "guestram_ns", "memcpy_gb_s", "guestram_gb_s",
                "ratio"}],
    "pager": [{"what", "by", "p50_us", "p99_us"}, {"what", "pages come", "ms", "faults"}],
    "reclaim": [{"what", "samples", "p50_us", "p99_us", "max_us"}],
    "blk": [{"target", "what", "depth", "requests_s", "qemu", "ratio", "requests_cpu_s", "qemu_cpu",
             "ratio_cpu", "p50_us", "p99_us", "qemu_p50_us", "qemu_p99_us"},
            {"target", "what", "depth", "server", "changes_s", "quiet_p99_us", "changing_p99_us", "ratio"}],
    "snapshot": [{"what", "MiB", "threads", "GB_s"},
                 {"what", "MiB", "ms", "rounds", "KiB in the pause"},
                 {"what", "memory", "clones", "start, ms each", "touches, ms each", "all, s",
                  "private, MiB each", "seen and shared, MiB each", "page tables, KiB each"}],
    "migrate": [{"socket", "receiver", "read_write_gb_s", "hashed_gb_s", "guestram_gb_s",
                 "hashed_ratio", "ratio"},
                {"socket", "channels", "zstd", "guestram_gb_s"},
                {"what", "read_gb_s", "looked_at_gb_s", "ratio", "moved_gb_s"},
                {"move", "writes_mib_s", "link_mib_s", "allowed_ms", "rounds", "downtime_ms",
                 "guest_sees_ms"}],
}
# Of a peer that may be missing, or a part that a smaller build has not.
PEER_ROWS = {
    "snapshot": [{"what", "layout", "MiB", "MiB of content", "first access, ms",
                  "working set there, ms", "all there, ms", "load instead, ms", "RSS grows by, MiB",
                  "load: RSS grows by, MiB"}],
    "blk": [{"target", "qemu_setting", "requests_s", "requests_cpu_s"}],
}


def check_goal(goal, result):
    expect(set(goal) - {"why"} == {"name", "value", "relation", "goal", "met"}, "a goal's keys",
           result)
    expect(goal["relation"] in ("<=", ">="), "a relation", result)
    if goal["met"] is None:
        expect(goal["value"] is None and goal["why"], "not measured: says why", result)
        return
    value, limit = goal["value"], goal["goal"]
    if value is None:  # not a number
        expect(goal["met"] is False, "no number meets no goal", result)
    elif abs(value - limit) > 1e-4 * abs(limit):  # beyond what printing rounds
        right = value <= limit if goal["relation"] == "<=" else value >= limit
        expect(goal["met"] is right, f"{goal['name']}: met is judged right", result)


def test_bench(which):
    """The JSON is well-formed, whole, and its exit code is that of its goals."""
    result = run("bench", which, "--quick", "--json", timeout=300)
    expect(result.stderr == "", "no progress in a pipe", result)
    figures = json.loads(result.stdout)
    expect(set(figures) == {"bench", "quick", "machine", "rows", "goals"}, "the keys", result)
    expect(figures["bench"] == which and figures["quick"] is True, "its name", result)
    expect(set(figures["machine"]) == {"cores", "processor", "kernel"}, "the machine", result)
    expect(figures["machine"]["cores"] == os.cpu_count(), "its cores", result)
    expect(figures["machine"]["kernel"] == os.uname().release, "its kernel", result)
    kinds = []
    for row in figures["rows"]:
        if set(row) in PEER_ROWS.get(which, []):
            continue
        expect(set(row) in ROW_KEYS[which], f"a row with the keys {sorted(row)}", result)
        if set(row) not in kinds:
            kinds.append(set(row))
    expect(len(kinds) == len(ROW_KEYS[which]), "rows of every kind", result)
    expect(figures["goals"], "goals", result)
    for goal in figures["goals"]:
        check_goal(goal, result)
    failed = any(goal["met"] is False for goal in figures["goals"])
    expect(result.returncode == int(failed), "exit code 1 when a goal is not met", result)
    if which == "snapshot":
        memory = [goal for goal in figures["goals"]
                  if goal["name"].startswith(("RSS growth", "private memory"))]
        # images are 4 to 64 times as long; small ones cost what the pager itself needs, too
        expect(len(memory) in (1, 13) and all(goal["value"] < 2 for goal in memory),
               "a sparse image costs its content, a clone what it wrote", result)
        for row in figures["rows"]:
            if "layout" in row:
                expect(0 < row["working set there, ms"] < row["all there, ms"],
                       "moments one after the other", result)
    if which == "lookup":
        shapes = {(r["ranges"], r["lookups"], r["threads"], r["addresses"]) for r in figures["rows"]}
        threads = 2 if len(os.sched_getaffinity(0)) > 1 else 1
        expect(len(shapes) == len(figures["rows"]) == 6 * 2 * threads * 2, "all shapes once", result)
        expect({r["ranges"] for r in figures["rows"]} == {1, 16, 64, 256, 1024, 4096}, "all sizes",
               result)


def test_bench_blk_alone():
    """Without qemu-storage-daemon its goals say what is missing, and ours is measured."""
    result = subprocess.run([PROGRAM, "bench", "blk", "--quick", "--json"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
                            env={**os.environ, "PATH": "/nowhere"}, check=False)
    figures = json.loads(result.stdout)
    missing = [goal for goal in figures["goals"] if goal["met"] is None]
    expect(missing and all("qemu-system-common" in goal["why"] for goal in missing),
           "what is missing", result)
    rows = [row for row in figures["rows"] if "qemu" in row]
    expect(len(rows) == 2 * 8, "every load on both targets", result)
    for row in rows:
        expect(row["qemu"] is None and row["ratio"] is None, "nothing of the peer", result)
        expect(row["requests_s"] > 0 and row["requests_cpu_s"] > 0, "ours is measured", result)
        expect(0 < row["p50_us"] <= row["p99_us"], "its latencies", result)
    for row in figures["rows"]:
        expect("server" not in row or row["changes_s"] > 1, "the table changed", result)


def test_bench_text():
    """The table names the goals that are not met as such."""
    result = run("bench", "reclaim", "--quick")
    expect(result.returncode in (0, 1), "exit code", result)
    expect(("NOT MET" in result.stdout) == (result.returncode == 1), "NOT MET with exit 1", result)
    expect("call_rcu" in result.stdout and "p50_us" in result.stdout, "its table", result)


def test_progress():
    """Progress goes to a terminal, and only there."""
    master, slave = pty.openpty()
    with subprocess.Popen([PROGRAM, "torture", "--seconds", "1", "--json"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave) as child:
        os.close(slave)
        figures = json.loads(child.stdout.read())
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    expect(b"torture: " in shown and b"lookups" in shown, f"progress, got {shown!r}")
    expect(shown.endswith(b"\r\x1b[K"), f"the line is wiped at the end, got {shown[-40:]!r}")
    expect(figures["stale"] == 0, "and figures on stdout")


def main():
    test = globals()["test_" + sys.argv[2]]
    test(*sys.argv[3:])


main()
