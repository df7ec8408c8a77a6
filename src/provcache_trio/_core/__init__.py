"""The queue itself, from the acceptance of an entry to its settlement.

It may import the vocabulary, msgspec and trio.
It must never import a store, a journal, a sink or an exporter; it uses them through protocols.

Reading order is the order in which an entry travels; imports point down this list, never up::

    opening         the way in      open_write_behind_queue: the arguments and the nursery
    exits           the way out     the drain, and what every exit reports
    entry_types     agreement       whether repository, journal and sink have one type of entries
    assembly        the parts       built in one step from what the caller asked for
    queue           accept          WriteBehindQueue: one synchronous step per entry
    seam            the read side   what a cache asks of its queue
    recorder        on disk         the journal's task
    intake          a relay         entries that come from a stream, not from producers
    replay          after a crash   entries that a dead process left in the journal, page by page
    durability      the truth       whether accepted entries would survive a crash
    waiting_room    no room         producers that wait, first come, first served
    supervisor      crashes         restarts the tasks below, or gives up
    batcher         full or due     sends the head of the line to the writer
    writer          retry, isolate  the supervised loop around one upsert_many
    outbox          dead letters    entries that the store refused, on their way to the sink
    portions                        how many letters are sent at once
    journaled_line                  a line that notes what the recorder has to write
    lanes           keys            the lines of all writers, and which one a key belongs to
    line            batches         the open batch, the batches in line, the one being written
    calls           foreign code    how long a call takes, and calls of the queue from inside one
    batch           entries         one batch, from its first entry to its last settled one
    progress        parts           what is left of a batch, and what happens to what failed
    doubt           evidence        whether an entry or the store is to blame for an unknown error
    pace            too slow        how many entries are sent at once
    watch           trouble         whether the store is reachable, and whether it refuses everything
    backoff         waits           how long to wait before the next try
    lifetime        life            the state from beginning to end of a queue
    ledger          counters        in which every step of an entry is booked
    verdict         classify        what a repository's exception means
"""
