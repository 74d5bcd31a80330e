"""The command line: parses arguments, reports progress on stderr and the result on stdout."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from .command import Failure
from .repository import Result, make
from .sets import SETS


def main() -> int:
    """Runs the program and returns its exit status: 0 made or kept, 1 failed (2 is usage)."""
    arguments = _parser().parse_args()
    begin = time.monotonic()

    def report(step: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {step}", file=sys.stderr, flush=True)

    chosen = SETS[arguments.set]
    try:
        result = make(chosen, arguments.out.absolute(), arguments.cache.absolute(), report)
    except (Failure, OSError) as failure:
        print(f"make-rpm-repo: {failure}", file=sys.stderr)
        if isinstance(failure, Failure) and failure.hint:
            print(f"hint: {failure.hint}", file=sys.stderr)
        return 1
    print(_json(result) if arguments.json else _text(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make-rpm-repo",
        description="Makes a signed RPM repository out of Debian packages, to test dnf with.",
    )
    parser.add_argument("--set", choices=sorted(SETS), required=True, help="the packages to make")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets repo/ and RPM-GPG-KEY-test"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=_default_cache(),
        metavar="DIR",
        help="keeps the downloaded packages (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _default_cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "make-rpm-repo"


def _json(result: Result) -> str:
    described = {
        "repository": str(result.repository),
        "key": str(result.key),
        "kept": result.kept,
        **asdict(result.stamp),
    }
    return json.dumps(described, indent=2)


def _text(result: Result) -> str:
    verb = "kept" if result.kept else "made"
    mebibytes = result.stamp.size_bytes / 2**20
    return (
        f"{verb} {result.repository}: {result.stamp.packages} packages, {mebibytes:.0f} MiB\n"
        f"key {result.key}"
    )


if __name__ == "__main__":
    sys.exit(main())
