"""``python -m tests.packaged``: build sdist and wheel twice, install the wheel, and use it.

- The source distribution has every file of the tree, docs and tests included, and no other; tests
  pass from it.
- Built from the tree and from the unpacked distribution, under another umask and at another time,
  the wheel is the same, byte for byte.
- What README says to try, in a clone and with a wheel, does what it says there; and so does, in an
  empty environment, every command of the quickstart: from the installation to the first row, in SQLite and in PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.support.pgserver import run_postgres_server
from tests.support.programs import ROOT
from tests.support.quickstart import COMMANDS, PRINTED, README_COMMANDS, URL, run, save_files

# The files are the same, so a few will do.
TESTS = ("tests/core/test_queue.py", "tests/whole/test_exports.py", "tests/whole/test_site.py")

BEGAN = time.monotonic()


def report(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)  # noqa: T201  # for whoever waits


def tracked_files() -> set[str]:
    """Return the files of the tree: those that git knows, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


def build(tree: Path, target: Path, kind: str) -> Path:
    """Build a ``kind`` of distribution of ``tree``, and return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    [made] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def copy_tree(target: Path) -> None:
    """Copy the tree to ``target``, each file as new as this moment."""
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def unpack(sdist: Path, target: Path) -> Path:
    """Unpack the source distribution, and return its one folder; it holds what the tree does."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    [folder] = target.iterdir()
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if difference := names ^ tracked_files() ^ {"PKG-INFO"}:
        raise AssertionError(f"only in the tree or in the source distribution: {difference}")
    return folder


def build_twice(scratch: Path) -> tuple[Path, Path]:
    """Return the wheel, and the unpacked source distribution that the same wheel is built from."""
    copy_tree(scratch / "tree")
    sdist = build(scratch / "tree", scratch / "dist", "sdist")
    wheel = build(scratch / "tree", scratch / "wheels", "wheel")
    unpacked = unpack(sdist, scratch / "unpacked")
    umask = os.umask(0o077)
    again = build(unpacked, scratch / "again", "wheel")
    os.umask(umask)
    if wheel.read_bytes() != again.read_bytes():
        raise AssertionError(f"{wheel.name} is not reproducible")
    return wheel, unpacked


def follow_the_pages(scratch: Path, wheels: Path) -> None:
    """Type what README and the quickstart say, each in an empty folder, or in a copy of the tree."""
    folder, beside_a_wheel = scratch / "newcomer", scratch / "beside a wheel"
    folder.mkdir()
    shutil.copytree(wheels, beside_a_wheel)
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_FIND_LINKS": f"{wheels} {os.environ.get('PIP_FIND_LINKS', '')}",
    }
    # The third one runs all tests, this one among them.
    cloned, of_a_wheel = [command for command in README_COMMANDS if not command.endswith("/nox")]
    for demo, where in ((cloned, scratch / "tree"), (of_a_wheel, beside_a_wheel)):
        report(demo)
        run(demo, where, environment)
    save_files(folder)
    with run_postgres_server() as server:
        dsn = server.create_database("shop")
        for command in COMMANDS:
            report(command)
            printed = run(command.replace(URL, f"'{dsn}'"), folder, environment)
            if "record.py" in command and printed != PRINTED:
                raise AssertionError(printed)


def main() -> None:
    """Do all of it in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        wheel, unpacked = build_twice(scratch)
        report(f"{wheel.name} is reproducible, and the source distribution is whole")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        subprocess.run(command, cwd=unpacked, check=True)
        follow_the_pages(scratch, wheel.parent)
        report("from the installation to the first row, in SQLite and in PostgreSQL")


if __name__ == "__main__":
    main()
