"""``provcache journal``: what a dead process left.

::

    commands     their options, and what they end with
    inspection   what a journal holds
    replay       writing it into a store
"""
