"""The commands, as they are typed."""

from __future__ import annotations

from typing import Final

from . import HERE, SECRET, CommandWalk

KEY: Final = f"sha256:{'a' * 64}"
STORE: Final = f"sqlite:{HERE}/cache.db"
NO_FILE: Final = f"{HERE}/none.db"
NO_STORE: Final = f"sqlite:{NO_FILE}"
NO_SERVER: Final = f"postgresql://app:{SECRET}@127.0.0.1:1/shop"
WRONG_URL: Final = f"mysql://app:{SECRET}@db/shop"
CLOSED_PORT: Final = ("127.0.0.1:1", "user app", "database shop")
NO_STREAM: Final = "nats://127.0.0.1:1/S"


def fails(command: str, status: int, words: str, *about: str) -> CommandWalk:
    return CommandWalk(command, status, about, tuple(words.split()))


COMMAND_WALKS: Final = [
    fails("ingest", 2, f"{HERE}/none.jsonl --to {WRONG_URL}", "sqlite:PATH or postgresql://"),
    fails("ingest", 2, f"- --to {STORE} --give-up-after 0", "--give-up-after"),
    fails("ingest", 2, f"- --to {STORE} --table shop", "--table", "MODULE:NAME"),
    fails("ingest", 2, f"- --to {STORE} --table no_such_shop:ORDERS", "--table", "'no_such_shop'"),
    fails("ingest", 2, f"- --to {STORE} --bogus", "--bogus", "provcache --help"),
    fails("ingest", 3, f"{HERE}/none.jsonl --to {STORE}", f"{HERE}/none.jsonl", "No such file"),
    fails("ingest", 3, f"{HERE}/one.jsonl --to sqlite:{HERE}/none/cache.db", f"{HERE}/none"),
    fails("ingest", 3, f"{HERE}/one.jsonl --to {NO_SERVER} --give-up-after 0.1", *CLOSED_PORT),
    fails("init", 2, "", "--to"),
    fails("init", 2, f"--to {STORE} --max-bytes 1GB", "--max-bytes"),
    fails("init", 2, f"--to {NO_STREAM}", "--max-bytes"),
    fails("init", 3, f"--to sqlite:{HERE}/none/cache.db", f"{HERE}/none"),
    fails("init", 3, f"--to {NO_STREAM} --max-bytes 1GB", "stream S at 127.0.0.1:1"),
    fails("get", 2, f"{KEY[:-1]} --from {STORE}", "VeriKey"),
    fails("get", 2, f"{KEY} --from http://{SECRET}@db", "sqlite:PATH"),
    fails("get", 3, f"{KEY} --from {NO_STORE}", NO_FILE, "provcache init --to"),
    fails("get", 1, f"{KEY} --from {STORE}", f"{HERE}/cache.db"),
    fails("stats", 2, f"--from postgresql://app:{SECRET}@x@db/shop", "an @"),
    fails("stats", 3, f"--from {NO_STORE}", NO_FILE, "provcache init --to"),
    fails("stats", 3, f"--from {NO_SERVER}", *CLOSED_PORT),
    fails("relay", 2, f"--from {NO_STREAM}", "--to"),
    fails("relay", 2, f"--from {NO_STREAM} --skip 5", "--skip SEQUENCE --into FILE"),
    fails("relay", 2, f"--from {NO_STREAM} --to {STORE} --status here", "--status"),
    fails("relay", 3, f"--from {NO_STREAM} --skip 5 --into {HERE}/5", "127.0.0.1:1"),
    fails("expire", 2, f"--in {STORE} --limit 0", "--limit"),
    fails("expire", 3, f"--in {NO_STORE}", NO_FILE),
    fails("top", 2, "localhost:9464", "http://127.0.0.1:9464"),
    fails("top", 2, "http://127.0.0.1:1 --interval 0", "--interval"),
    fails("top", 3, "http://127.0.0.1:1 --once", "127.0.0.1:1"),
    fails("demo", 2, "--to mysql://db", "sqlite:PATH"),
    fails("demo", 3, f"--paths {HERE}/none", f"{HERE}/none"),
    fails("dead-letters list", 2, f"--in {NO_FILE} --since then", "--since", "2d"),
    fails("dead-letters list", 3, f"--in {NO_FILE}", NO_FILE),
    fails("dead-letters show", 2, f"first --in {NO_FILE}", "NUMBER", "first"),
    fails("dead-letters show", 3, f"1 --in {NO_FILE}", NO_FILE),
    fails("dead-letters retry", 2, f"--in {NO_FILE} --to {WRONG_URL}", "sqlite:PATH"),
    fails("dead-letters retry", 3, f"--in {NO_FILE} --to {STORE}", NO_FILE),
    fails("dead-letters purge", 2, f"--in {NO_FILE}", "--yes"),
    fails("dead-letters purge", 3, f"--in {NO_FILE} --yes", NO_FILE),
    fails("journal status", 2, "", "PATH"),
    fails("journal status", 3, f"{HERE}/log", f"{HERE}/log"),
    fails("journal restore", 2, "", "PATH"),
    fails("journal restore", 3, f"{HERE}/log", f"{HERE}/log"),
    fails("journal replay", 2, f"{HERE}/log --to {WRONG_URL}", "sqlite:PATH"),
    fails("journal replay", 3, f"{HERE}/log --to {STORE}", f"{HERE}/log"),
]
