"""The parameters of a ``postgresql://`` URL or a service, and which of them can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_BY_ASYNCPG: Final = "asyncpg, which connects here, can't do that"
_NOT_OF_LIBPQ: Final = "it is no parameter of PostgreSQL's but of another library"

# The values that a parameter may have; others are refused, with its name in the message.
_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "target_session_attrs": frozenset(
        {"any", "primary", "standby", "read-write", "read-only", "prefer-standby"}
    ),
    "ssl": frozenset({"true"}),
    "pgbouncer": frozenset({"true", "false"}),
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "sslcompression": frozenset({"0"}),
    "client_encoding": frozenset({"UTF8", "utf8", "utf-8", "UTF-8", "auto"}),
}
# Accepted, and not passed on. The time limits of calls find a dead line sooner than keepalives do.
_WITHOUT_EFFECT: Final = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "sslcompression",
        "tcp_user_timeout",
    }
)
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "gssdelegation",
            "hostaddr",
            "load_balance_hosts",
            "max_protocol_version",
            "min_protocol_version",
            "oauth_client_id",
            "oauth_issuer",
            "replication",
            "require_auth",
            "requirepeer",
            "scram_client_key",
            "scram_server_key",
            "sslcertmode",
            "sslcrldir",
            "sslkeylogfile",
            "sslsni",
        ),
        _NOT_BY_ASYNCPG,
    ),
    **dict.fromkeys(
        (
            "connection_limit",
            "pool_timeout",
            "prepareThreshold",
            "prepared_statement_cache_size",
            "socket_timeout",
            "socketTimeout",
            "sslaccept",
            "tcpKeepAlive",
        ),
        _NOT_OF_LIBPQ,
    ),
    "schema": "give it as an argument of open_postgres_repository",
    "currentSchema": "give schema= as an argument of open_postgres_repository",
    "command_timeout": "give command_timeout_seconds= to open_postgres_repository",
    "statement_cache_size": "behind a pooler open with pgbouncer=True",
}
# Parameters that asyncpg reads from a URL, and we do not.
OF_ASYNCPG: Final = frozenset(
    {
        "gsslib",
        "krbsrvname",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "target_session_attrs",
    }
)
OF_SERVER: Final = frozenset({"dbname", "host", "passfile", "password", "port", "user"})


def checked(given: dict[str, str]) -> dict[str, str]:
    """Return the parameters under the names that we and asyncpg know.

    Raises:
        ValueError: one has no effect here, or a wrong value.
    """
    for name, value in given.items():
        if name in _REFUSED:
            raise ValueError(f"the parameter {name} can't be used: {_REFUSED[name]}")
        if name in _VALUES and value not in _VALUES[name]:
            known = ", ".join(sorted(_VALUES[name]))
            raise ValueError(f"the parameter {name} must be one of: {known}")
    known_as = {"database": "dbname"}
    kept = {
        known_as.get(name, name): value
        for name, value in given.items()
        if name not in _WITHOUT_EFFECT
    }
    # As in libpq, for the sake of JDBC.
    if kept.pop("ssl", None):
        kept.setdefault("sslmode", "require")
    if fallback := kept.pop("fallback_application_name", None):
        kept.setdefault("application_name", fallback)
    return kept
