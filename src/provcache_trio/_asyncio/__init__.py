"""The asyncio side, for drivers that are asyncio's: two bridges by which a trio task calls it.

It may import the vocabulary, and trio-asyncio where that bridge is made.
It must never know a driver: what is called, and what its errors mean, is the business of the stores.
"""
