"""``provcache top``: the queues of a running program, from its status page.

::

    views       once, in lines, or in a table
    table       the table
    words       numbers and words
    watch       the answers so far, and the pace that they come to
    source      how the page is asked
    document    what it answers
"""
