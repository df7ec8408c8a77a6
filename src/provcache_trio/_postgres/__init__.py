"""What ``provcache_trio.postgres`` is made of; nothing else imports from here.

Reading order: ``rows`` and ``schema`` (what is stored), ``verdicts`` (what errors mean),
``session`` (one connection, the asyncio side), ``bridge`` and its two kinds (how a trio task
calls that side).
"""
