"""For your own tests: stand-ins for a store and a dead letter sink, and a contract for stores.

The stand-ins behave like the real ones (every call is a checkpoint, a batch is stored whole or not
at all) and do on request what a real store does at the worst moment. All waiting uses
trio's clock, so ``trio.testing.MockClock`` drives it and an outage of an hour takes no time.
With pytest-trio::

    async def test_an_outage_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
        repository = MemoryRepository()
        repository.down()
        async with open_write_behind_queue(repository) as queue:
            await queue.enqueue(entry)
            await trio.sleep(3600)
            assert queue.metrics().state == "waiting"
            repository.up()
        assert repository.rows == {entry.veri_key: entry}

``check_repository`` tests whether a repository of your own keeps the promises that the queue
relies on.
"""

# What lives here is for the tests of applications: fakes of both ends of a queue, and the contract.
# It may import the vocabulary.
# It must never import the core or a store, which such tests do not need.

from provcache_trio._vocabulary.faces import show_public_names

from ._contract import check_repository as check_repository
from ._fakes import (
    MemoryDeadLetters as MemoryDeadLetters,
    MemoryRepository as MemoryRepository,
    RepositoryCrash as RepositoryCrash,
)

__all__ = ["MemoryDeadLetters", "MemoryRepository", "RepositoryCrash", "check_repository"]

show_public_names(globals())
