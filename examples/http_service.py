"""Was this artifact verified under this policy? Over HTTP, each decision computed once.

    pip install 'provcache-trio[postgres,status]' hypercorn starlette
    python http_service.py postgresql://… /var/lib/verified ./verify 127.0.0.1:8080

``./verify ARTIFACT POLICY`` is a program of yours that decides, at great expense: status 0 means
verified, 1 refused, and anything else that it could not decide. Then::

    GET    /decision?artifact=sha256:…&policy=sha256:…   {"verified": true, "decided_at": …}
    DELETE /decisions?policy=sha256:…                    {"deleted": 1234}
    GET    /status/                                      a page; also /status/metrics, /status/livez

A decision is answered at once and stored behind the answer. While the database is away, decisions are
computed, answered and kept in the journal. SIGTERM and SIGINT end the service in order.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import signal
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    StoreError,
    StoreMisconfiguredError,
    WriteBehindOptions,
    build_veri_key,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.status import StatusApp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable
    from typing import Any

    from starlette.requests import Request

# An orchestrator sends SIGKILL 30 s after SIGTERM. These two, and 5 s for closing, come before.
GRACEFUL_SECONDS = 3.0
# After an outage the queue tries again within 2 s; an invalidation waits for that.
OPTIONS = WriteBehindOptions(drain_timeout_seconds=20.0, retry_cap_seconds=2.0)
# A frozen database fails a read after this, and only then we compute. A read may wait for two
# others, and each of them for a connection; so requests are given five times as long.
STORE_SECONDS = 2.0
REQUEST_SECONDS = 10.0
AT_ONCE = 16  # programs that decide


def hash_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


VERIFIED, REFUSED = hash_of(b"verified"), hash_of(b"refused")
UNUSED = hash_of(b"")  # inputs that these decisions do not depend on


class UndecidedError(Exception):
    """The program that decides could not."""


class Question(NamedTuple):
    """What is asked, and the key of its answer."""

    artifact: str
    policy: str
    window: str
    key: str


def question(artifact: str, policy: str) -> Question:
    window = f"{dt.datetime.now(dt.UTC):%G-W%V}"  # so each decision is made anew every week
    key = build_veri_key(
        source_hash=artifact,
        sbom_hash=UNUSED,
        vex_hashes=[],
        policy_hash=policy,
        signer_set_hash=UNUSED,
        time_window=window,
    )
    return Question(artifact, policy, window, key)


class Decider:
    """Runs the program, but not for everybody at once."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def decide(self, asked: Question) -> ProvcacheEntry:
        """Make the decision.

        Raises:
            UndecidedError: the program could not.
        """
        async with self._limit:
            # The decision rests on what was known when it began: that is its date.
            began = dt.datetime.now(dt.UTC)
            command = [self._program, asked.artifact, asked.policy]
            done = await trio.run_process(command, capture_stdout=True, check=False)
        if done.returncode not in {0, 1}:
            raise UndecidedError(f"the program that decides ended with {done.returncode}")
        digest = DecisionDigest(
            verdict_hash=(VERIFIED, REFUSED)[done.returncode],
            proof_root=hash_of(done.stdout),
            replay_seed=ReplaySeed(),
            trust_score=(100, 0)[done.returncode],
        )
        return ProvcacheEntry(
            veri_key=asked.key,
            decision=digest,
            policy_hash=asked.policy,
            signer_set_hash=UNUSED,
            feed_epoch=asked.window,
            created_at=began,
            expires_at=began + dt.timedelta(days=7),
        )


async def get_decision(request: Request) -> JSONResponse:
    parameters = request.query_params
    try:
        asked = question(parameters["artifact"], parameters["policy"])
    except KeyError as error:
        return JSONResponse({"error": f"{error} is missing"}, 400)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    compute = partial(request.state.decider.decide, asked)
    with trio.fail_after(REQUEST_SECONDS):
        entry = await request.state.cache.get_or_compute(asked.key, compute)
    return JSONResponse(
        {
            "verified": entry.decision.verdict_hash == VERIFIED,
            "decided_at": entry.created_at.isoformat(),
        }
    )


async def delete_decisions(request: Request) -> JSONResponse:
    """Forget what a policy decided, here and in the database; other processes need 5 s more.

    Unless it says 200 some may be left, and it has to be asked again.
    """
    try:
        # While the database is away this waits for it.
        with trio.fail_after(REQUEST_SECONDS):
            deleted = await request.state.cache.invalidate_where(
                policy_hash=request.query_params.get("policy", "")
            )
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"deleted": deleted})


def refusing(status: int, reason: str) -> Any:  # noqa: ANN401  # Starlette wants no more
    """Return a handler of errors."""

    # Starlette would run a function that is not async in a thread.
    async def answer(_: Request, error: Exception) -> JSONResponse:  # noqa: ASYNC124  # see above
        logging.getLogger(__name__).warning("%s: %r", reason, error)
        headers = {"Retry-After": "1"}
        return JSONResponse({"error": reason}, status_code=status, headers=headers)

    return answer


def make_app(dsn: str, state: Path, program: str) -> Starlette:
    status = StatusApp()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, object]]:
        # This order is the point. Blocks are left from the last to the first: computations end, so
        # nothing more is stored; the queue drains; then the files and the connections are closed.
        async with (
            open_postgres_repository(
                dsn,
                create=True,
                connect_timeout_seconds=STORE_SECONDS,
                command_timeout_seconds=STORE_SECONDS,
            ) as repository,
            # Both wait for a predecessor that still drains.
            open_journal(state / "journal", lock_timeout_seconds=30) as journal,
            open_dead_letters(state / "dead-letters.db", lock_timeout_seconds=30) as letters,
            open_write_behind_queue(
                repository, OPTIONS, name="decisions", journal=journal, dead_letters=letters
            ) as queue,
            open_cache(queue, repository, on_store_error="miss") as cache,
        ):
            status.add(queue)
            yield {"cache": cache, "decider": Decider(program)}

    return Starlette(
        routes=[
            Route("/decision", get_decision),
            Route("/decisions", delete_decisions, methods=["DELETE"]),
            Mount("/status", status),
        ],
        exception_handlers={
            StoreMisconfiguredError: refusing(503, "the database needs a person"),
            StoreError: refusing(503, "the database can't be reached"),
            trio.TooSlowError: refusing(503, f"it took more than {REQUEST_SECONDS:.0f} s"),
            trio.ClosedResourceError: refusing(503, "the service is ending"),
            UndecidedError: refusing(502, "the program that decides could not"),
        },
        lifespan=lifespan,
    )


async def until_one_comes(signals: AsyncIterable[int]) -> None:
    async for _ in signals:
        return


async def main(dsn: str, state: str, program: str, bind: str) -> None:
    config = Config.from_mapping(
        bind=[bind], errorlog=logging.getLogger("hypercorn"), graceful_timeout=GRACEFUL_SECONDS
    )
    # Around everything, so that a second signal can't kill the program while it drains.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        app: Any = make_app(dsn, Path(state), program)  # their types of ASGI differ
        await serve(app, config, shutdown_trigger=partial(until_one_comes, signals))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
