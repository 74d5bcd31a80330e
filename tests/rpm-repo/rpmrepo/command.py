"""Runs the programs this tool is made of, and turns their failures into messages with a remedy."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

#: The Debian package that holds each program we call.
PROVIDER = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "createrepo_c": "createrepo-c",
    "modifyrepo_c": "createrepo-c",
    "dpkg-deb": "dpkg",
    "gpg": "gpg",
    "gpgconf": "gpgconf",
    "rpmbuild": "rpm",
    "rpmsign": "rpm",
}

#: How much of a failed program's output is shown, in lines: errors stand at the end.
TAIL_LINES = 20


class Failure(Exception):
    """Something the user can read and act on: what failed and, where known, the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def require(programs: Sequence[str]) -> None:
    """Checks before any work that every program is installed.

    Raises Failure naming all that are missing and the packages to install.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = sorted({PROVIDER[program] for program in missing})
        raise Failure(
            f"not installed: {', '.join(missing)}",
            hint=f"apt-get install {' '.join(packages)}",
        )


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Runs a program to its end and returns its standard output.

    `environment` is added to our own. Raises Failure with the end of the program's output when
    its exit status is not zero.
    """
    words = [str(argument) for argument in arguments]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        raise Failure(
            f"{' '.join(words[:4])} … ended with status {done.returncode}:\n"
            + "\n".join(f"  {line}" for line in output[-TAIL_LINES:])
        )
    return done.stdout
