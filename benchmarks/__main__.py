"""Measure, in one run, the queue and what people would use instead.

    python -m benchmarks [--part NAME ...] [--quick] [--json FILE] [--document DIRECTORY] [--check]

Parts: cache, in_process, growth, harm, journal, postgres, sqlite, stream. ``--document`` writes
``benchmarks.md`` and its plots; ``--check`` exits with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.document import write_document
from benchmarks.figures import (
    Findings,
    Report,
    describe_machine,
    installed_versions,
    text_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("cache", "in_process", "growth", "harm", "journal", "postgres", "sqlite", "stream")


def main() -> int:
    """Run the parts, show what they found, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", action="append", choices=PARTS, metavar="NAME")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; figures are rough"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    parser.add_argument("--document", type=Path, metavar="DIRECTORY", help="write it for reading")
    parser.add_argument("--check", action="store_true", help="fail if a bar is missed")
    arguments = parser.parse_args()
    report = Report(
        command=" ".join(["python -m benchmarks", *sys.argv[1:]]),
        machine=describe_machine(),
        versions=installed_versions(),
        findings=Findings(),
    )
    print(report.machine)
    print(", ".join(f"{name} {number}" for name, number in report.versions.items()))
    for part in arguments.part or PARTS:
        findings = run_part(part, quick=arguments.quick)
        print(f"\n{part}\n{text_table(findings.figures)}", flush=True)
        for what in findings.absent:
            print(f"not measured: {what}")
        report.findings.extend(findings)
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    if arguments.document is not None:
        write_document(report, arguments.document)
    missed = [figure.name for figure in report.findings.figures if not figure.meets_bar]
    if missed:
        print(f"\nbars missed: {', '.join(missed)}")
    return 1 if arguments.check and missed else 0


def run_part(part: str, *, quick: bool) -> Findings:
    """Return what a part found, or that it can't be run here."""
    try:
        run: Callable[..., Findings] = importlib.import_module(f"benchmarks.{part}").run
    except ModuleNotFoundError as error:
        return Findings(absent=[f"{part}: {error.name} is not installed"])
    return run(quick=quick)


if __name__ == "__main__":
    sys.exit(main())
