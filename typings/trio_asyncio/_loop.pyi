import asyncio

_original_policy: asyncio.AbstractEventLoopPolicy

class _FakedPolicy:
    policy: asyncio.AbstractEventLoopPolicy | None
