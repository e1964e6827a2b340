# SPDX-License-Identifier: MIT
"""What both demos need on the machine: programs, the library built, the guest's kernel."""

import os
import shutil
import subprocess
import sys

from process import Failure

DEMO = os.path.dirname(os.path.realpath(__file__))
DISK_SIZE = 64 << 20


def prepare(quiet):
    """Kernel and initramfs; their folder."""
    try:
        return subprocess.run([f"{DEMO}/prepare"] + ["--quiet"] * quiet, check=True, text=True,
                              stdout=subprocess.PIPE).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise Failure("the guest's kernel or initramfs could not be made") from error


def find_tools(options):
    missing = [tool for tool in ("qemu-system-x86_64", "busybox", "cpio", "setpriv")
               if not shutil.which(tool)]
    if missing:
        print(f"demo: not installed: {', '.join(missing)} (scripts/install-deps brings them)")
        sys.exit(77)
    if not options.backend:
        build = subprocess.run(["make", "-s", "-C", os.path.dirname(DEMO), "build"], check=False,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if build.returncode:
            sys.exit(f"{build.stdout}\ndemo: the build failed")
        options.backend = os.path.join(os.path.dirname(DEMO), "build/src/cli/guestram")
    if not shutil.which(options.backend):
        sys.exit(f"demo: no program {options.backend}")
