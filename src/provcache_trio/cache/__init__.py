"""The read side: a cache over a queue and its repository that is never stale by its own doing.

::

    async with open_sqlite_repository("cache.db") as repository:
        async with open_write_behind_queue(repository) as queue:
            async with open_cache(queue, repository) as cache:
                entry = await cache.get_or_compute(veri_key, decide)

**Of what other processes write, invalidations included, an answer is stale for at most
``memory_seconds``.** Of what this queue accepted it is never stale: a read that begins after a
version was accepted returns that version, or one that wins over it, until the store refuses it.
"""

# The read side lives here: what is remembered, reads, computations, invalidations.
# It may import the vocabulary and the core, whose queue reports to it what it accepts and refuses.
# It must never import a store: any repository with ``get_many`` will do.

from provcache_trio._vocabulary.faces import show_public_names
from provcache_trio._vocabulary.metrics import CacheMetrics as CacheMetrics

from ._cache import Cache as Cache
from ._opening import open_cache as open_cache
from ._reads import ReadableRepository as ReadableRepository

__all__ = ["Cache", "CacheMetrics", "ReadableRepository", "open_cache"]

show_public_names(globals())
