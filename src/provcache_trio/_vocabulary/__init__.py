"""The vocabulary of the package: entries, options, metrics, errors, protocols, checks.

They may import each other, msgspec and trio, and nothing else of this package.
They must never start a task or keep state; only ``opening``, the base of all openings, waits.
"""
