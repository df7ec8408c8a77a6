"""Every fault at random, on two processes with the same keys, and a check of what is left.

    python -m tests.chaos --seconds 600 --seed 7

``worker`` is one of the processes: it writes down what each caller asked for and was told.
``storm`` makes the faults, by a seed. ``verdict`` holds what was written down against a table
that remembers every version that a row has had.
"""
