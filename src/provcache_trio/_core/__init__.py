"""The queue itself, from the acceptance of an entry to its settlement.

It may import the vocabulary, msgspec and trio.
It must never import a store, a journal, a sink or an exporter: it knows them by protocols only.

Reading order is the order in which an entry travels; imports point down this list, never up::

    opening         the exits       open_write_behind_queue: the nursery and the drain
    entry_types     agreement       whether repository, journal and sink have the same entries
    assembly        the parts       made whole in one step out of what the caller asked for
    queue           accept          WriteBehindQueue: one synchronous step per entry
    seam            the read side   what a cache asks of its queue
    recorder        on disk         the journal's task
    intake          a relay         entries that come from a stream, not from producers
    replay          after a crash   what a dead process left in the journal, page by page
    durability      the truth       whether what is accepted would survive a crash
    waiting_room    no room         producers that wait, first come, first served
    supervisor      crashes         restarts the tasks below, or gives up
    batcher         full or due     hands the head of the line to the writer
    writer          retry, isolate  the supervised loop around one upsert_many
    outbox          dead letters    what the store refused, on its way to the sink
    portions                        how many letters are sent at once
    journaled_line                  what the recorder has to know of a line
    lanes           keys            the lines of all writers, and which of them a key belongs to
    line            batches         the open batch, the batches in line, the one being written
    calls           foreign code    how long a call takes, and who calls the queue from inside one
    batch           entries         one batch, from its first entry to its last settled one
    progress        parts           what is left of a batch, and what becomes of what failed
    doubt           evidence        whether an entry or the store is to blame for an unknown error
    pace            too slow        how many entries are sent at once
    watch           trouble         whether the store is there, and whether it refuses everything
    backoff         waits           how long to wait before the next try
    lifetime        life            beginning and end of a queue
    ledger          counters        what every step of an entry is booked in
    verdict         classify        what a repository's exception means
"""
