# SPDX-License-Identifier: MIT
"""Run a compiler, and keep what it says beside the object file that it makes.

``python compile_log.py COMPILER ARGUMENT ... -o OBJECT ...`` writes OBJECT.log, so that an incremental build still has
the words about the files that it did not compile again. What ptxas says of kernels is kept and not printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

QUIET = re.compile(r"ptxas info|\s+\d+ bytes stack frame")


def main(command: list[str]) -> int:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines(keepends=True)
    sys.stdout.writelines(line for line in lines if not QUIET.match(line))
    if "-o" in command:
        log = Path(command[command.index("-o") + 1] + ".log")
        log.unlink(missing_ok=True)
        if done.returncode == 0:
            log.write_text(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
