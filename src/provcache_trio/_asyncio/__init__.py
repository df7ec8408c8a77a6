"""The asyncio side, for asyncio drivers: two bridges by which a trio task calls one.

It may import the vocabulary, and trio-asyncio where that bridge is made.
It must never know a driver: what is called, and what its errors mean, is the business of the stores.
"""
