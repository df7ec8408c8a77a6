"""A throw-away PostgreSQL server for the demo, the benchmarks and the tests.

It may import the vocabulary's errors.
It must never import a store or a driver; it deals with programs, processes and directories.
"""

from .server import run_postgres_server as run_postgres_server

__all__ = ["run_postgres_server"]
