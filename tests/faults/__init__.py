"""Faults of a real PostgreSQL, made one by one, and a harness that holds a queue to its promises.

To add one, write its context manager in ``catalogue.py``: what comes before ``yield`` makes the
fault, what comes after mends it. It then runs with everything else here, is mixed into the
chaos, and needs a row in docs/operating/faults.md.
"""
