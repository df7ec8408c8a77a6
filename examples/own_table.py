"""Orders, a JSON object a line, into a table of your own: own_table.py URL-OR-FILE < orders.jsonl."""

import datetime as dt
import sys
from collections.abc import Iterable
from decimal import Decimal

import msgspec
import trio

from provcache_trio import Table, WriteBehindMetrics, open_write_behind_queue
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository


class Order(msgspec.Struct, frozen=True):
    """What is known of an order; a later version takes its place."""

    number: int
    changed_at: dt.datetime
    total: Decimal
    note: str | None = None


ORDERS = Table(Order, "orders", key="number", newer="changed_at")


async def record(where: str, orders: Iterable[Order]) -> WriteBehindMetrics:
    is_url = where.startswith("postgresql:")
    opening = open_postgres_repository if is_url else open_sqlite_repository
    async with (
        opening(where, table=ORDERS, create=True) as store,
        open_write_behind_queue(store) as queue,
    ):
        await queue.enqueue_many(orders)
    return queue.metrics()


if __name__ == "__main__":
    lines = (msgspec.json.decode(line, type=Order) for line in sys.stdin)
    done = trio.run(record, sys.argv[1], lines)
    print(f"{done.total_persisted} written, {done.total_failed} refused")
