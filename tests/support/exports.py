"""What the package offers: its public modules, and the names in each."""

from __future__ import annotations

# What DESIGN names in the modules beside the flat namespace.
MODULES = {
    "cache": ["Cache", "CacheMetrics", "ReadableRepository", "open_cache"],
    "dead_letters": [
        "DeadLetters",
        "DeadLettersFullError",
        "StoredLetter",
        "UnreadableLetter",
        "open_dead_letters",
    ],
    "journal": [
        "Durability",
        "FileJournal",
        "Restored",
        "SetAside",
        "count_set_aside",
        "open_journal",
        "restore_set_aside",
    ],
    "nats": [
        "Relay",
        "StreamLook",
        "StreamMetrics",
        "StreamReport",
        "StreamRepository",
        "create_stream",
        "open_relay",
        "open_stream_repository",
    ],
    "otel": ["OpenTelemetry"],
    "postgres": ["PostgresRepository", "open_postgres_repository"],
    "prometheus": ["QueueCollector"],
    "sqlite": ["SQLiteRepository", "open_sqlite_repository"],
    "status": ["ObservedQueue", "StatusApp", "StatusServer", "open_status_server"],
    "testing": ["MemoryDeadLetters", "MemoryRepository", "RepositoryCrash", "check_repository"],
}


def is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)
