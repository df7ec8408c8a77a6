"""What the queue does with a real PostgreSQL server, beside what people would write by hand."""

from benchmarks.postgres.suite import run as run
