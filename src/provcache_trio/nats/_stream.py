"""Creates the stream and its one consumer, and checks their settings."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import msgspec

from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio._asyncio.calls import call_once
from provcache_trio._vocabulary.checks import check_int, check_seconds, check_text
from provcache_trio._vocabulary.errors import (
    StoreMisconfiguredError,
    StoreUnavailableError,
    reworded,
)

from ._errors import OTHER_CONSUMER, OTHER_STREAM
from ._monitor import syncs_always
from ._servers import read_access
from ._session import Answer, Session, ask

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from ._connection import Connection

CONSUMER: Final = "relay"
_MOST_REPLICAS: Final = 5  # the servers' own limit
_MOST_HELD: Final = (
    20_000  # messages that all relays together may have; each costs the servers a little
)
_NANOSECONDS: Final = 1_000_000_000
_STALE_SECONDS: Final = 5
_is_name: Final = re.compile(r"[A-Za-z0-9_-]{1,200}").fullmatch


class Names(NamedTuple):
    """The names of a stream and of the requests about it."""

    stream: str

    @property
    def subject(self) -> str:
        """The subject of its messages."""
        return f"provcache.{self.stream}"

    def api(self, verb: str, *, consumer: bool = False) -> str:
        """Return the subject of a request about it."""
        of = f".{CONSUMER}" if consumer else ""
        return f"$JS.API.{verb}.{self.stream}{of}"


_OTHERS: Final = {f"JetStream {number}" for number in (OTHER_STREAM, OTHER_CONSUMER)}


def names_of(stream: object) -> Names:
    """Return the names of that stream.

    Raises:
        TypeError: ``stream`` is not a str.
        ValueError: a stream can't have that name.
    """
    check_text("stream", stream)
    if not _is_name(cast("str", stream)):
        raise ValueError("stream must be 1 to 200 letters, digits, - and _")
    return Names(cast("str", stream))


# Answers of the servers


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a stream that matter to us."""

    subjects: list[str] = []
    retention: str = ""
    storage: str = ""
    discard: str = ""
    max_age: int = 0
    max_bytes: int = -1
    max_msgs: int = -1
    max_msg_size: int = -1
    num_replicas: int = 1


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A follower as the leader sees it."""

    name: str
    current: bool = False
    offline: bool = False
    active: int = 0  # nanoseconds since it was last heard


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The servers that keep the stream."""

    leader: str = ""
    replicas: list[Replica] = []


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How much is in the stream."""

    messages: int = 0
    bytes: int = 0
    first_ts: datetime | None = None


class _Found(Answer, frozen=True, kw_only=True):
    """The settings of a stream or a consumer, as the servers have them."""

    config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class StreamInfo(Answer, frozen=True, kw_only=True):
    """The answer to STREAM.INFO and STREAM.CREATE."""

    config: StreamConfig = StreamConfig()
    cluster: Cluster | None = None
    state: State = State()
    ts: datetime | None = None

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest message, by the servers' clock alone; 0.0 when there is none."""
        if not self.state.messages or self.ts is None or self.state.first_ts is None:
            return 0.0
        return max(0.0, (self.ts - self.state.first_ts).total_seconds())


class ConsumerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a consumer that matter to us."""

    ack_policy: str = ""
    ack_wait: int = 0
    max_deliver: int = -1


class ConsumerInfo(Answer, frozen=True, kw_only=True):
    """The answer to CONSUMER.INFO and CONSUMER.CREATE."""

    config: ConsumerConfig = ConsumerConfig()
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_pending: int = 0

    @property
    def ack_wait_seconds(self) -> float:
        """How long a message belongs to a relay that does not extend it."""
        return self.config.ack_wait / _NANOSECONDS


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``check`` found out about a stream that can be used.

    Attributes:
        messages: the number of messages; an entry is in one of them until it is in the store.
        bytes: their size together.
        max_bytes: the largest such size; above it producers wait.
        oldest_seconds: the age of the oldest message; 0.0 when there is none.
        ack_pending: the number of messages that relays hold: taken, and not acknowledged yet.
        redelivered: the number of those that were delivered more than once.
        replicas: the number of servers that are to keep it.
        current: the number of those that have all of it.
        sync_always: whether each of them syncs a message to disk before it acknowledges it; None if
            that is not known.
    """

    messages: int
    bytes: int
    max_bytes: int
    oldest_seconds: float
    ack_pending: int
    redelivered: int
    replicas: int
    current: int
    sync_always: bool | None


# Creating them


async def create_stream(
    servers: str | Sequence[str],
    stream: str,
    *,
    max_bytes: int,
    replicas: int = 3,
    ack_wait_seconds: float = 30,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | PathLike[str] | None = None,
    tls: ssl.SSLContext | None = None,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> None:
    """Create a stream and the consumer that its relays share; nothing else does.

    The stream is kept in files by several servers, a majority of which acknowledges each
    message. A message leaves it when a relay has acknowledged it, never by age. A full stream
    refuses new messages. A stream that exists with the same settings stays as it is.

    Args:
        servers: URLs such as ``nats://n1,n2,n3``, or ``tls://…``, in one str or several; see
            ``open_stream_repository``.
        stream: its name: 1 to 200 letters, digits, ``-`` and ``_``.
        max_bytes: its largest size, which the servers reserve.
        replicas: the number of servers that keep it, 1 to 5; with 3, one may be lost.
        ack_wait_seconds: after so much silence of a relay, others get its messages; 1 to 3600.
        user: see ``open_stream_repository``.
        password: see there.
        token: see there.
        credentials: see there.
        tls: see there.
        bridge: see there.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that it can't have.
        StoreUnavailableError: no server answers, or there is no majority of them.
        StoreMisconfiguredError: the stream exists with other settings; there are too few servers,
            or they have too little room; access was refused.
    """
    access = read_access(
        servers, user=user, password=password, token=token, credentials=credentials, tls=tls
    )
    names = names_of(stream)
    check_int("max_bytes", max_bytes, at_least=1)
    check_int("replicas", replicas, at_least=1, at_most=_MOST_REPLICAS)
    check_seconds("ack_wait_seconds", ack_wait_seconds, positive=True, at_most=3600)
    if ack_wait_seconds < 1:
        raise ValueError("ack_wait_seconds must be at least 1")
    wait = round(ack_wait_seconds * _NANOSECONDS)
    settings = stream_settings(names, max_bytes, replicas)
    await call_once(bridge, partial(_create, Session(access, names.stream), names, settings, wait))


def stream_settings(names: Names, max_bytes: int, replicas: int) -> dict[str, Any]:
    """Return the settings for STREAM.CREATE."""
    return {
        "name": names.stream,
        "subjects": [names.subject],
        "storage": "file",
        "retention": "workqueue",
        "discard": "new",
        "max_bytes": max_bytes,
        "num_replicas": replicas,
    }


def consumer_settings(ack_wait: int) -> dict[str, Any]:
    """Return the settings for CONSUMER.CREATE."""
    return {
        "durable_name": CONSUMER,
        "name": CONSUMER,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ack_wait,
        "max_deliver": -1,
        "max_ack_pending": _MOST_HELD,
    }


async def _create(session: Session, names: Names, settings: dict[str, Any], wait: int) -> None:
    config = consumer_settings(wait)
    consumer = {"stream_name": names.stream, "config": config, "action": "create"}
    try:
        await _make(session, names, settings, settings)
        await _make(session, names, consumer, config, consumer=True)
    finally:
        await session.close()  # noqa: ASYNC102  # asyncio's, and bounded


async def _make(
    session: Session,
    names: Names,
    request: dict[str, Any],
    wanted: dict[str, Any],
    *,
    consumer: bool = False,
) -> None:
    """Make the stream or its consumer; an error names the settings in which an existing one differs.

    Raises:
        StoreError: it can't be made.
    """
    what = "CONSUMER" if consumer else "STREAM"
    subject = names.api(f"{what}.CREATE", consumer=consumer)
    other: StoreMisconfiguredError | None = None
    try:
        await session.ask(subject, msgspec.json.encode(request), Answer, patience=10)
    except StoreMisconfiguredError as error:
        if error.error_class not in _OTHERS:
            raise
        other = error
    if other is not None:
        subject = names.api(f"{what}.INFO", consumer=consumer)
        found = await session.ask(subject, b"", _Found)
        words = filter(None, (str(other), _difference(found.config, wanted)))
        raise reworded(other, ": ".join(words))


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the settings in which the two differ, with both values, which are no secrets."""
    return ", ".join(
        f"{name} is {_shown(name, found.get(name))}, not {_shown(name, value)}"
        for name, value in wanted.items()
        if found.get(name) != value
    )


def _shown(name: str, value: Any) -> str:  # noqa: ANN401  # of any setting
    return f"{value / _NANOSECONDS:g} s" if name == "ack_wait" and value else str(value)


# Checking them


async def consumer_of(connection: Connection, names: Names) -> ConsumerInfo:
    """Return the servers' report on the consumer; raise unless relays can use it.

    Raises:
        StoreError: it is missing, or would drop messages, or there is no answer.
        Exception: see ``Connection.request``.
    """
    found = await ask(connection, names.api("CONSUMER.INFO", consumer=True), b"", ConsumerInfo)
    config = found.config
    if config.ack_policy != "explicit" or config.max_deliver > 0:
        raise StoreMisconfiguredError(
            "the stream's consumer would drop messages: it must acknowledge explicitly, and have "
            "no max_deliver"
        )
    return found


async def report_of(session: Session, names: Names, monitors: Sequence[str]) -> StreamReport:
    """Return a report on the stream; see ``StreamRepository.check``.

    Raises:
        StoreError: it can't be used.
    """
    info = await session.ask(names.api("STREAM.INFO"), b"", StreamInfo)
    _check_settings(info.config, names)
    consumer = await session.use(lambda connection: consumer_of(connection, names), "a request")
    replicas = info.config.num_replicas
    current, keepers = keepers_of(info.cluster)
    check_majority(current, replicas)
    config, state = info.config, info.state
    return StreamReport(
        messages=state.messages,
        bytes=state.bytes,
        max_bytes=config.max_bytes,
        oldest_seconds=info.oldest_seconds,
        ack_pending=consumer.num_ack_pending,
        redelivered=consumer.num_redelivered,
        replicas=replicas,
        current=current,
        sync_always=await _sync_always(monitors, keepers),
    )


def check_majority(current: int, replicas: int) -> None:
    """Raise StoreUnavailableError unless a majority of the replicas has all of the stream."""
    if 2 * current <= replicas:
        raise StoreUnavailableError(f"only {current} of {replicas} replicas have all of the stream")


def keepers_of(cluster: Cluster | None) -> tuple[int, set[str]]:
    """Return how many servers have all of the stream, and the names of all that keep it."""
    if cluster is None:  # a single server
        return 1, set()
    stale = _STALE_SECONDS * _NANOSECONDS
    current = sum(
        one.current and not one.offline and one.active < stale for one in cluster.replicas
    )
    return 1 + current, {cluster.leader, *(one.name for one in cluster.replicas)}


def _check_settings(config: StreamConfig, names: Names) -> None:
    wanted: dict[str, object] = {
        "retention": "workqueue",
        "discard": "new",
        "storage": "file",
        "max_age": 0,
        "max_msgs": -1,
        "max_msg_size": -1,
        "subjects": [names.subject],
    }
    others = [name for name, value in wanted.items() if getattr(config, name) != value]
    if others:
        raise StoreMisconfiguredError(f"the stream has other settings: {', '.join(others)}")


async def _sync_always(monitors: Sequence[str], keepers: set[str]) -> bool | None:
    """Return whether each server syncs always, as far as these pages say."""
    said: Counter[bool] = Counter()
    known: set[str] = set()
    for url in monitors:
        name, always = await syncs_always(url)
        known.add(name)
        said[always] += 1
        if not always:
            raise StoreMisconfiguredError(
                f"the server {name} does not sync always: a power cut may lose what it acknowledged; "
                "set sync_interval: always"
            )
    return True if known and keepers <= known else None
