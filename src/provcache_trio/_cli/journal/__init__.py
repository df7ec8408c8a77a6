"""``provcache journal``: entries that a dead process left.

::

    commands     the commands, their options, and their exit statuses
    inspection   the contents of a journal
    replay       writing them to a store
"""
