"""``provcache dead-letters``: what a store refused.

::

    commands    their options, and what they end with
    letters     looking, and throwing away
    retry       sending again
"""
