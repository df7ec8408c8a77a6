"""``provcache dead-letters``: entries that a store refused.

::

    commands    the commands, their options, and their exit statuses
    letters     reading and removing letters
    retry       sending letters again
"""
