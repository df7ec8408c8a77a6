"""The queues' numbers in the text formats of Prometheus; needs the extra ``prometheus``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from provcache_trio.prometheus import QueueCollector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provcache_trio._vocabulary.protocols import ObservedQueue


def expose(queues: Iterable[ObservedQueue], accept: str) -> tuple[bytes, str]:
    """Return the numbers in the format that the header ``accept`` prefers, and its name."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(*queues))
    try:
        encode, content_type = choose_encoder(accept)
    except Exception:  # noqa: BLE001  # prometheus_client's parser, of a header that is malformed
        encode, content_type = choose_encoder("")
    return encode(registry), content_type
