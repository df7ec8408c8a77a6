"""The read side: a cache over a queue and its repository that never serves what its queue replaced.

::

    async with open_sqlite_repository("cache.db") as repository:
        async with open_write_behind_queue(repository) as queue:
            async with open_cache(queue, repository) as cache:
                entry = await cache.get_or_compute(veri_key, decide)

**An answer may miss what other processes wrote or invalidated for at most ``memory_seconds``.**
It never misses what this queue accepted: a read that begins after a version was accepted returns
that version, or one that wins over it, until the store refuses it.
"""

# This folder holds the read side: memory, reads, computations and invalidations.
# It may import the vocabulary and the core, whose queue reports what it accepts and refuses.
# It must never import a store; it works with any repository that has ``get_many``.

from provcache_trio._vocabulary.faces import show_public_names
from provcache_trio._vocabulary.metrics import CacheMetrics as CacheMetrics

from ._cache import Cache as Cache
from ._opening import open_cache as open_cache
from ._reads import ReadableRepository as ReadableRepository

__all__ = ["Cache", "CacheMetrics", "ReadableRepository", "open_cache"]

show_public_names(globals())
