"""Every check of this project; ``nox`` alone runs what CI runs, ``nox -s full`` all of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"  # uv installs in two seconds, not seventeen
nox.options.error_on_external_run = True

# Else every worker of every session compiles all tests anew: four seconds, instead of once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = nox.project.python_versions(PROJECT)
CODE = ("src", "tests", "benchmarks", "examples", "noxfile.py")


def find_pythons(minors: list[str]) -> list[str]:
    """Return those of ``minors`` that are on this machine, and put them on PATH.

    pyenv keeps them off it: its shims find only the version that is switched on.
    """
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: list[str] = []
    for minor in minors:
        candidates = sorted(root.glob(f"versions/{minor}.*/bin/python{minor}"))
        on_path = shutil.which(f"python{minor}")
        if on_path is not None:
            candidates.append(Path(on_path))
        for candidate in candidates:
            command = [str(candidate), "-c", "import venv"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:  # noqa: S603  # found above
                os.environ["PATH"] = f"{candidate.parent}{os.pathsep}{os.environ['PATH']}"
                found.append(minor)
                break
    return found


PYTHONS = find_pythons(SUPPORTED)
# Not promised yet; tested wherever it is.
COMING = find_pythons(["3.14"])
# The oldest measures coverage, the newest is unkind, and those between have the oldest dependencies.
ENDS = list(dict.fromkeys([*PYTHONS[:1], *PYTHONS[-1:], *COMING]))
BETWEEN = PYTHONS[1:-1] or PYTHONS[:1]
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
PROMTOOL = shutil.which("promtool")
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
MISSING = [
    f"tests on CPython {minor}: not installed" for minor in SUPPORTED if minor not in PYTHONS
]
if CHROMIUM is None:
    MISSING.append("the status page in a browser: no chromium (apt-get install chromium)")
if PROMTOOL is None:
    MISSING.append("alert rules and dashboard: no promtool (apt-get install prometheus)")
if shutil.which("cc") is None:
    MISSING.append("an unkind machine's slow disk: no C compiler (apt-get install gcc)")
if PGBOUNCER is None:
    MISSING.append("a queue behind PgBouncer: no pgbouncer (apt-get install pgbouncer)")

EVERYTHING = "[cli,nats,otel,postgres,prometheus,status]"
# What tests, drives a browser or builds installs the same: of one Python, .ci/run has it once.
ALL_TESTS = ("test", "browser", "package")
# Tests spend half of their time waiting; and a worker that has none left takes those of another.
# Each takes two seconds to collect them, and servers of its own. CI runs other sessions beside.
AT_ONCE = ("-n", os.environ.get("TEST_WORKERS", "3"), "--dist", "worksteal")
QUICK = "not heavy and not browser and not promtool"
WITHIN = f"{QUICK} and not whole_process and not two_pythons"
# Which keys share a lane depends on it. Here it is the same in every run; `unkind` draws one.
STEADY = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}

nox.options.sessions = [
    "lint",
    "types",
    *(f"tests-{minor}" for minor in ENDS),
    "lowest",
    "heavy",
    "tools",
    "unkind",
    "mutants",
    "benchmark",
    "docs",
    "package",
    "coverage",
]


def find_code() -> list[Path]:
    """Return every file of Python that is ours."""
    return [
        path
        for top in map(Path, CODE)
        for path in (sorted(top.rglob("*.py")) if top.is_dir() else [top])
    ]


def find_tests(*markers: str) -> list[str]:
    """Return the files that name one of ``markers``; tests/conftest.py wants those that have it to.

    To collect all tests takes each worker two seconds, for sessions that run a few of them.
    """
    return [
        str(path)
        for path in sorted(Path("tests").rglob("test_*.py"))
        if any(marker in path.read_text("utf-8") for marker in markers)
    ]


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the wheel that users would get, and what ``groups`` name, as pinned."""
    needed = nox.project.dependency_groups(PROJECT, *groups)
    # As pip does: else the first test to import a module waits for its compilation.
    compiled = {"UV_COMPILE_BYTECODE": "1"}
    session.install("-c", "constraints.txt", f".{extras}", *needed, env=compiled)


def name_commit(session: nox.Session) -> str:
    """Return a seed that is the same in every run of a commit, and another one in the next."""
    command = ("git", "rev-parse", "--short", "HEAD")
    done = session.run(*command, external=True, silent=True, success_codes=[0, 128])
    return str(done).strip()  # where there is no repository, it says so: a seed as good


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and the habits that keep trio programs alive."""
    session.install("-c", "constraints.txt", *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    # It takes a second for a thousand lines, and has nothing to say of a file without async.
    asynchronous = [str(path) for path in find_code() if "async" in path.read_text("utf-8")]
    # What is not enabled is not run.
    rules = "ASYNC1,ASYNC2,ASYNC3,ASYNC4"
    session.run("python", ".ci/async_rules.py", f"--enable={rules}", *asynchronous)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, with two checkers and for three platforms; each public name has one."""
    install(session, "test", "browser", "types", extras=EVERYTHING)
    session.run("mypy")
    session.run("mypy", "--platform", "darwin", "src")
    session.run("mypy", "--config-file", "tests/typing/windows.ini")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "provcache_trio")


@nox.session(python=[*PYTHONS, *COMING])
def tests(session: nox.Session) -> None:
    """Run the tests that take no time; the oldest CPython measures coverage.

    What one session does, others need not. Tests of whole processes run on the oldest one, and on
    the newest in ``unkind``; what no Python changes runs there and in ``lowest``, where no tracer
    makes it slow. ``unkind`` runs all but a few tests on the newest one: here it runs those few, and
    draws the examples in full, of which all others draw a tenth, since they are the same each time.
    ``lowest`` runs on those between, so ``nox`` alone leaves them out here. With arguments, it is
    any of them.
    """
    install(session, *ALL_TESTS, extras=EVERYTHING)
    chosen: tuple[str, ...]
    if session.posargs:
        chosen = (QUICK,)
    elif session.python == PYTHONS[0]:
        few = ("--few",) if len(PYTHONS) > 1 else ()
        chosen = (f"{QUICK} and not two_pythons", "--cov", "--cov-report=", *few)
    elif session.python == PYTHONS[-1]:
        few_of_them = ("hypothesis", "stops_processes")
        chosen = (f"{QUICK} and ({' or '.join(few_of_them)})", *find_tests(*few_of_them))
    else:
        chosen = (WITHIN, "--few")
    session.run("pytest", *AT_ONCE, "-m", *chosen, *session.posargs, env=STEADY)


@nox.session(python=BETWEEN)
def lowest(session: nox.Session) -> None:
    """Run them with the oldest trio and msgspec that are allowed, and four writers a queue.

    They run on the CPythons between the oldest and the newest one, which no other session of CI
    tests; without any, on the oldest.
    """
    install(session, "test", extras=EVERYTHING)
    oldest = [need.replace(">=", "==") for need in PROJECT["project"]["dependencies"]]
    session.install(*oldest)
    chosen = (f"{QUICK} and not whole_process", "--few", "--writers", "4")
    session.run("pytest", *AT_ONCE, "-m", *chosen, *session.posargs, env=STEADY)


@nox.session
def heavy(session: nox.Session) -> None:
    """Run the tests that take seconds, and those of faults, once."""
    install(session, *ALL_TESTS, extras=EVERYTHING)
    # Which tests of faults have a table of the user's own.
    drawn = {"PROVCACHE_SEED": os.environ.get("PROVCACHE_SEED", name_commit(session))}
    chosen = session.posargs or find_tests("heavy")
    session.run("pytest", *AT_ONCE, "-m", "heavy", *chosen, env=STEADY | drawn)


@nox.session
def tools(session: nox.Session) -> None:
    """Look at the status page with Chromium, and at ops/ with promtool, where they are."""
    here = {"browser": CHROMIUM, "promtool": PROMTOOL}
    markers = [marker for marker, found in here.items() if found is not None]
    if not markers:
        session.skip("neither chromium nor promtool is here")
    install(session, *ALL_TESTS, extras=EVERYTHING)
    chosen = session.posargs or find_tests(*markers)
    session.run("pytest", *AT_ONCE, "-m", " or ".join(markers), *chosen, env=STEADY)


@nox.session(python=PYTHONS[-1:])
def unkind(session: nox.Session) -> None:
    """Run the quick tests on a machine that is as unkind as a seed says: ``-- SEED``."""
    install(session, *ALL_TESTS, extras=EVERYTHING)
    seed, *arguments = session.posargs or [name_commit(session)]
    chosen = f"{QUICK} and not stops_processes"
    session.run("python", "-m", "tests.unkind", seed, "--few", "-m", chosen, *arguments)


@nox.session
def mutants(session: nox.Session) -> None:
    """Put known bugs into a copy of the code and demand that the tests find each of them."""
    install(session, *ALL_TESTS, extras=EVERYTHING)
    session.run("python", "-m", "tests.mutants", *session.posargs, env=STEADY)


@nox.session
def mutants_in_lanes(session: nox.Session) -> None:
    """Demand the same of queues with four writers."""
    install(session, *ALL_TESTS, extras=EVERYTHING)
    session.run("python", "-m", "tests.mutants", "--writers", "4", *session.posargs, env=STEADY)


@nox.session(python=PYTHONS[:1])
def fuzz(session: nox.Session) -> None:
    """Search, guided by coverage, for bytes that make an entry which can't be stored."""
    install(session, "fuzz")
    session.run("python", "-m", "tests.fuzz", *(session.posargs or ["-max_total_time=60"]))


@nox.session(python=PYTHONS[-1:])
def benchmark(session: nox.Session) -> None:
    """Measure roughly; ``-- --document docs`` measures well, and writes docs/benchmarks.md."""
    install(session, "benchmarks", extras="[nats,postgres,postgres-server]")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--quick"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, strictly, and check where each of its links leads."""
    install(session, "docs")
    site = "build/site"
    # Not --quiet: a warning that is not printed does not fail it either.
    session.run("mkdocs", "build", "--site-dir", site, env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("python", "-m", "tests.site", site)


@nox.session(python=PYTHONS[:1])
def package(session: nox.Session) -> None:
    """Build what users get, twice, and follow the quickstart with it in an empty environment."""
    install(session, *ALL_TESTS, extras=EVERYTHING)
    session.run("python", "-m", "tests.packaged", *session.posargs)


@nox.session(python=PYTHONS[:1])
def instructions(session: nox.Session) -> None:
    """Count, under valgrind, what an entry costs, and fail where that is more than it was."""
    install(session)
    session.run("python", "-m", "benchmarks.instructions", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Demand that the tests of one Python ran every branch, and say what was not run."""
    session.install("-c", "constraints.txt", "coverage")
    session.run("coverage", "report")
    for line in MISSING:
        session.warn(f"not run: {line}")


@nox.session
def full(session: nox.Session) -> None:
    """Run everything at full counts; anything that can't be run is a failure."""
    if MISSING:
        session.error("; ".join(f"not run: {line}" for line in MISSING))
    every_tests = [f"tests-{minor}" for minor in PYTHONS]
    for name in ("lint", "types", *every_tests, *(f"lowest-{minor}" for minor in BETWEEN)):
        session.notify(name)
    session.notify("heavy", ["--full"])
    session.notify("tools")
    session.notify(f"unkind-{PYTHONS[-1]}", [])
    session.notify("mutants")
    session.notify("mutants_in_lanes")
    session.notify("docs")
    session.notify(f"package-{PYTHONS[0]}", [])
    session.notify(f"fuzz-{PYTHONS[0]}", ["-max_total_time=300"])
    session.notify(f"instructions-{PYTHONS[0]}", [])
    session.notify(f"benchmark-{PYTHONS[-1]}", ["--quick"])
    session.notify("coverage")
