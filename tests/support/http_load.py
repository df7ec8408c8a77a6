"""Clients of ``examples/http_service.py`` in a process of their own, and what each was answered.

    python -m tests.support.http_load PORT POLICY...

Each of eight connections asks without end, of two questions one that was asked before, until the
service hangs up. What it was answered it prints, a JSON array a line: when it began to ask and
when it had the answer, by the machine's one clock, the policy, the artifact, and the answer.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import time
from random import Random
from threading import Lock, Thread
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.entries import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLIENTS: Final = 8
PATIENCE_SECONDS: Final = 60


class Answer(NamedTuple):
    """A line of what is printed."""

    began: float
    ended: float
    policy: str
    artifact: str
    verified: bool
    decided_at: str


def answers(lines: Iterable[bytes]) -> list[Answer]:
    """Return what was printed."""
    return [Answer(*json.loads(line)) for line in lines]


class Client:
    """One connection."""

    def __init__(self, number: int, port: int, policies: list[str], counter: Iterator[int]) -> None:
        self._chance = Random(number)  # noqa: S311  # no secret
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._policies = policies
        self._counter = counter
        self._asked = [next(counter)]

    def run(self, lock: Lock) -> None:
        """Ask until the service hangs up."""
        while (answer := self._ask()) is not None:
            with lock:
                print(json.dumps(answer), flush=True)  # noqa: T201  # it is a program

    def _ask(self) -> Answer | None:
        """Return the next answer, or None if there came none."""
        if self._chance.random() < 0.5:
            self._asked.append(next(self._counter))
        # Rather one of the last: the first ones are remembered by now.
        artifact = key_of(self._asked[-1 - int(self._chance.expovariate(0.1)) % len(self._asked)])
        policy = self._chance.choice(self._policies)
        began = time.monotonic()
        try:
            self._connection.request("GET", f"/decision?artifact={artifact}&policy={policy}")
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        if response.status != http.client.OK:
            raise AssertionError(f"{response.status}: {body!r}")
        answer = json.loads(body)
        decided = answer["verified"], answer["decided_at"]
        return Answer(began, time.monotonic(), policy, artifact, *decided)


def main(port: str, *policies: str) -> None:
    """Ask until the service hangs up."""
    lock, counter = Lock(), itertools.count()
    clients = [Client(number, int(port), [*policies], counter) for number in range(CLIENTS)]
    threads = [Thread(target=client.run, args=(lock,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
