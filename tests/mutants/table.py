"""The bugs, each as a change of the code, and the tests that must find it.

A letter in brackets is that of a bug of the original, a channel with a background service. Of
its bugs, three have no place in this code: what failed is never written back to the channel,
so it can't be dropped there when it is full (f), be lost once it is completed (j), or block
its own consumer (k).
"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """A text that is in ``file`` exactly once, and what takes its place."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A bug."""

    name: str
    changes: tuple[Change, ...]
    killed_by: tuple[str, ...]


def mutant(name: str, killed_by: str, *changes: tuple[str, str, str]) -> Mutant:
    """Return a mutant; ``killed_by`` names one ``folder/module::test``, or several by spaces."""
    tests: list[str] = []
    for test in killed_by.split():
        folder, slash, module = test.rpartition("/")
        tests.append(f"tests/{folder}{slash}test_{module.replace('::', '.py::test_')}")
    return Mutant(name, tuple(Change(*change) for change in changes), tuple(tests))


ACCOUNTING = (
    mutant(
        "counted before it is accepted (b)",
        "core/queue::enqueue_nowait_would_block_when_full",
        (
            "_core/queue.py",
            "        if batch is None:\n            self._refuse()\n",
            "        if batch is None:\n            ledger.enqueued += 1\n            self._refuse()\n",
        ),
        (
            "_core/queue.py",
            "                    ledger.enqueued += 1\n                    ledger.depth += 1\n",
            "                    ledger.depth += 1\n",
        ),
        (
            "_core/line.py",
            "        ledger.enqueued += 1\n        ledger.depth += 1\n",
            "        ledger.depth += 1\n",
        ),
    ),
    mutant(
        "counted after an await (b)",
        "core/random_cancellation::cancelled_at_any_step_of_a_program_nothing_accepted_is_lost",
        (
            "_core/queue.py",
            "        await self._checkpoint()\n        if not self._accept(entry, None):\n",
            "        await self._checkpoint()\n        if self._accept(entry, None):\n"
            "            self._ledger.enqueued -= 1\n"
            "            await trio.lowlevel.cancel_shielded_checkpoint()\n"
            "            self._ledger.enqueued += 1\n"
            "        else:\n",
        ),
    ),
    mutant(
        "counters are read one by one (r)",
        "core/ledger::metrics_reads_every_counter_in_one_step",
        (
            "_core/queue.py",
            "total_persisted=ledger.persisted,",
            "total_persisted=int(ledger.persisted),",
        ),
    ),
    mutant(
        "a dead letter is counted before the sink has it",
        "core/letters::refused_entries_are_counted_only_when_the_sink_has_them",
        ("_core/outbox.py", "        if self._sink is None:\n", "        if posted:\n"),
    ),
    mutant(
        "letters that the sink never took are forgotten",
        "core/letters::what_the_sink_never_took_is_handed_back",
        ("_core/assembly.py", "            *self.outbox.abandon(kept=kept),\n", ""),
    ),
)

ACCEPTING = (
    mutant(
        "dropped when full, without a word (q)",
        "core/queue::enqueue_nowait_would_block_when_full",
        ("_core/queue.py", "        raise trio.WouldBlock\n", "        return\n"),
    ),
    mutant(
        "one more than the capacity",
        "core/queue::enqueue_nowait_would_block_when_full",
        (
            "_core/line.py",
            "ledger.depth >= most",
            "ledger.depth > most",
        ),
        (
            "_core/queue.py",
            "ledger.depth < self._room.most",
            "ledger.depth <= self._room.most",
        ),
    ),
    mutant(
        "a merge function overtakes those who wait",
        "core/queue::a_merge_function_does_not_overtake_producers_that_wait_either",
        ("_core/waiting_room.py", "        self.most = 0\n", ""),
    ),
    mutant(
        "nobody is let in at once after somebody had to wait",
        "core/queue::a_merge_function_does_not_overtake_producers_that_wait_either",
        ("_core/waiting_room.py", "            self.most = self._capacity\n", "            pass\n"),
    ),
    mutant(
        "a batch holds a key twice (g)",
        "core/queue::without_coalescing_every_version_is_written_in_order",
        (
            "_core/line.py",
            "# As ``place``, inlined: ``enqueue`` costs 3 % of a checkpoint less.\n"
            "        batch = self.open\n        if batch is None or batch is holder:\n",
            "batch = self.open\n        if batch is None:\n",
        ),
    ),
    mutant(
        "sealing forgets which keys are in line",
        "core/queue::a_key_in_line_is_admitted_though_the_queue_is_full",
        (
            "_core/line.py",
            "            self.open = None\n            self.hurry(batch, reason)\n",
            "            self.open = None\n            self._unlist(batch)\n"
            "            self.hurry(batch, reason)\n",
        ),
    ),
    mutant(
        "a key that could not be noted as in line is written all the same",
        "core/misbehaving::a_key_that_can_not_be_compared_at_the_last_moment_leaves_no_trace",
        (
            "_core/line.py",
            "        try:\n            self.holders[key] = batch\n        except BaseException:\n"
            "            self.take_back(batch)\n",
            "        try:\n            self.holders[key] = batch\n        except BaseException:\n            pass\n",
        ),
    ),
    mutant(
        "a key that could not be noted as in line is written all the same (in place)",
        "core/misbehaving::a_key_that_can_not_be_compared_at_the_last_moment_leaves_no_trace",
        ("_core/queue.py", "                        line.take_back(batch)\n", ""),
    ),
    mutant(
        "a batch stays in line though its only entry was taken back",
        "core/misbehaving::a_key_that_can_not_be_compared_at_the_last_moment_leaves_no_trace",
        (
            "_core/line.py",
            "            self.batches.pop()\n            self.open = None\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a batch is in line before its first key is hashed",
        "core/misbehaving::a_key_that_can_not_be_hashed_at_the_last_moment_leaves_no_trace",
        (
            "_core/line.py",
            "        batch.entries[key] = entry\n        self.seal(",
            "        self.seal(",
        ),
        (
            "_core/line.py",
            "        self.batches.append(batch)\n",
            "        self.batches.append(batch)\n        batch.entries[key] = entry\n",
        ),
    ),
    mutant(
        "a batch that is taken leaves its keys behind in line",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "deque(map(holders.pop, batch.entries), maxlen=0)",
            "pass",
        ),
    ),
    mutant(
        "a key that was sealed long ago is not found in line",
        "core/many_keys::a_newer_version_takes_the_place_of_the_one_in_line_wherever_that_is",
        (
            "_core/line.py",
            "        for holders in reversed(self.holders_before or ()):\n",
            "        for keys in ():\n",
        ),
    ),
    mutant(
        "a key that was noted long ago is not found in line (in place)",
        "core/many_keys::a_batch_that_still_fills_takes_no_key_that_is_in_line_already",
        ("_core/queue.py", "                    and line.holders_before is None\n", ""),
    ),
    mutant(
        "flush waits for later entries too",
        "core/queue::flush_seals_but_a_key_may_still_be_replaced_in_place",
        (
            "_core/queue.py",
            "        self._lanes.seal(FlushReason.REQUESTED)\n",
            "        for line in self._lanes.lines:\n"
            "            for batch in line.batches:\n"
            "                line.hurry(batch, FlushReason.REQUESTED)\n",
        ),
    ),
    mutant(
        "no protection from KeyboardInterrupt",
        "whole/interrupt::enqueue_nowait_is_whole_at_every_instruction",
        (
            "_core/queue.py",
            "    @trio.lowlevel.enable_ki_protection\n    def enqueue_nowait",
            "    def enqueue_nowait",
        ),
    ),
    mutant(
        "no protection from KeyboardInterrupt after a checkpoint",
        "whole/interrupt::an_interrupt_in_a_callback_of_accept_leaves_the_step_whole",
        (
            "_core/queue.py",
            "    @trio.lowlevel.enable_ki_protection\n    def _accept(",
            "    def _accept(",
        ),
    ),
    mutant(
        "no protection from KeyboardInterrupt in bulk",
        "whole/interrupt::an_interrupt_in_a_callback_of_accept_leaves_the_step_whole",
        (
            "_core/queue.py",
            "    @trio.lowlevel.enable_ki_protection\n    def _accept_some",
            "    def _accept_some",
        ),
    ),
    mutant(
        "who waits for room waits for ever after the end (i)",
        "core/exits::producers_that_wait_for_room_are_sent_away_when_the_queue_closes",
        ("_core/assembly.py", "        self.room.close(lifetime.name)\n", ""),
    ),
    mutant(
        "producers are stopped after the drain, not before (t)",
        "core/exits::a_queue_that_drains_says_so_and_takes_nothing",
        ("_core/assembly.py", "        lifetime.disown()\n", ""),
    ),
    mutant(
        "all who wait for one entry get one exception object",
        "core/queue::persist_of_a_refused_entry_raises_an_error_of_its_own",
        (
            "_core/outbox.py",
            "            for receipt in batch.receipts.get(key, ()):\n"
            "                receipt.error = failure.rejection()\n",
            "            error = failure.rejection()\n"
            "            for receipt in batch.receipts.get(key, ()):\n"
            "                receipt.error = error\n",
        ),
    ),
)

BATCHING = (
    mutant(
        "the batch is in a local variable while it is handed over (a)",
        "core/random_cancellation::cancelled_at_any_step_of_a_program_nothing_accepted_is_lost",
        (
            "_core/batcher.py",
            "        await channel.send(batch)\n",
            "        line.batches.popleft()\n"
            "        await channel.send(batch)\n"
            "        line.batches.appendleft(batch)\n",
        ),
    ),
    mutant(
        "the timer starts again with every entry (o)",
        "core/queue::the_interval_counts_from_the_oldest_entry",
        (
            "_core/batcher.py",
            "    if not batch.due:",
            "    before = len(batch.entries)\n    if not batch.due:",
        ),
        (
            "_core/batcher.py",
            "    return batch\n",
            "    if not batch.due and len(batch.entries) > before:\n"
            "        batch.opened_at = lifetime.clock()\n"
            "        return await _due_batch(line, lifetime)\n"
            "    return batch\n",
        ),
    ),
    mutant(
        "an idle batcher looks now and then",
        "core/callers::an_idle_queue_wakes_nobody",
        (
            "_core/batcher.py",
            "        await line.bell.wait()\n    batch",
            "        with trio.move_on_after(1):\n            await line.bell.wait()\n    batch",
        ),
    ),
    mutant(
        "a write removes by key, and with it a newer version",
        "core/queue::a_key_being_written_gets_a_new_place_behind",
        (
            "_core/line.py",
            "        settled = len(keys)\n",
            "        settled = len(keys)\n        for key in keys:\n            for other in self.batches:\n                other.entries.pop(key, None)\n",
        ),
    ),
    mutant(
        "a batch is full one entry early",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "if len(batch.entries) == self.batch_size:",
            "if len(batch.entries) >= self.batch_size - 1:",
        ),
        (
            "_core/queue.py",
            "if len(entries) == line.batch_size:",
            "if len(entries) >= line.batch_size - 1:",
        ),
    ),
    mutant(
        "a batch takes one entry too many",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "if len(batch.entries) == self.batch_size:",
            "if len(batch.entries) == self.batch_size + 1:",
        ),
        (
            "_core/queue.py",
            "if len(entries) == line.batch_size:",
            "if len(entries) == line.batch_size + 1:",
        ),
    ),
    mutant(
        "the age of a batch does not count",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        ("_core/batcher.py", "flush_interval_seconds - age)", "flush_interval_seconds)"),
    ),
    mutant(
        "a batch that can't grow waits for its interval",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "            self.open = None\n            self.hurry(batch, reason)\n",
            "            self.open = None\n",
        ),
    ),
    mutant(
        "only the open batch coalesces",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "        holder = self.holders.get(key)\n        ledger",
            "        holder = self.holders.get(key)\n        if holder is not self.open:\n"
            "            holder = None\n        ledger",
        ),
        (
            "_core/queue.py",
            "            if holder is None:\n",
            "            if holder is not line.open:\n                holder = None\n"
            "            if holder is None:\n",
        ),
    ),
    mutant(
        "a version that came first replaces one that came later",
        "core/batching_model::what_is_written_when_is_what_the_model_says",
        (
            "_core/line.py",
            "entry = self.merge(entries[key], entry)",
            "entry = self.merge(entry, entries[key])",
        ),
    ),
    mutant(
        "only the first two versions of an entry merge",
        "core/entries::a_queue_merges_entries_by_it_and_lets_the_newer_of_anything_else_win",
        (
            "_core/line.py",
            "        if not isinstance(new, ProvcacheEntry):\n            self.plain",
            "        if new is not old:\n            self.plain",
        ),
    ),
)

WRITING = (
    mutant(
        "what changes nothing speaks for the store",
        "core/writer::entries_that_change_nothing_do_not_speak_for_a_store_that_refuses_every_change",
        ("_core/writer.py", "        if changed:\n", "        if changed >= 0:\n"),
    ),
    mutant(
        "what failed goes to the tail (c)",
        "core/writer::a_failed_batch_stays_at_the_head_and_nothing_overtakes_it",
        (
            "_core/writer.py",
            "        await self.backoff.wait(failures)\n        self._lifetime.ledger.retries += len(part.keys)\n",
            "        await self.backoff.wait(failures)\n        self._lifetime.ledger.retries += len(part.keys)\n        line, ledger = self._line, self._lifetime.ledger\n        failed = line.writing\n        if line.batches:\n            ledger.in_flight -= len(part.keys)\n            ledger.depth += len(part.keys)\n            failed.progress.parts.clear()\n            line.batches.append(failed)\n",
        ),
    ),
    mutant(
        "poison burns the retries of its batch (d)",
        "core/writer::one_refused_entry_is_isolated_at_every_position",
        (
            "_core/writer.py",
            "                await self._rejected(batch, progress, part, call, result)\n",
            "                await self._rolled_back(batch, progress, part, call, result)\n",
        ),
    ),
    mutant(
        "no backoff (e)",
        "core/writer::backoff_has_full_jitter_and_doubles_up_to_the_cap",
        ("_core/backoff.py", "        delay = random.uniform(0, ceiling)", "        delay = 0.0"),
    ),
    mutant(
        "a timeout counts as not written, and as the entry's fault (s)",
        "core/writer::an_unavailable_store_is_retried_without_end_and_uses_up_no_retry",
        ("_core/verdict.py", "    (OSError, _AWAY),", "    (OSError, Verdict(Kind.REJECTED)),"),
    ),
    mutant(
        "a store that refuses everything is believed",
        "core/writer::a_store_that_refuses_everything_is_misconfigured_and_nothing_is_dead_lettered",
        ("_core/watch.py", "_STORE: Final = 20", "_STORE: Final = 10**9"),
    ),
    mutant(
        "the store is blamed for what the repository refuses by itself",
        "core/local_refusals::any_number_of_them_in_a_row_becomes_letters_at_once_and_stops_nothing",
        (
            "_core/writer.py",
            "        if not (condemned or failure.local):\n",
            "        if not condemned:\n",
        ),
    ),
    mutant(
        "what the repository refuses by itself waits under suspicion",
        "core/local_refusals::under_suspicion_they_are_final_and_wait_for_nothing",
        (
            "_core/writer.py",
            "        if self._watch.suspecting and not failure.local:\n",
            "        if self._watch.suspecting:\n",
        ),
    ),
    mutant(
        "the words of a store become part of a letter",
        "core/local_refusals::the_words_of_a_store_are_not_kept",
        (
            "_vocabulary/failures.py",
            'getattr(self.error, "reason", None) if self.local else None',
            'getattr(self.error, "reason", None)',
        ),
    ),
    mutant(
        "a run of bad entries stops the good ones behind it",
        "core/probes::the_drain_stores_what_is_behind_a_run_of_bad_entries",
        (
            "_core/writer.py",
            "            await self.backoff.wait(self._failures)\n            await self._try_from_behind()\n",
            "            await self.backoff.wait(self._failures)\n",
        ),
    ),
    mutant(
        "an entry from behind that changes nothing speaks for the store",
        "core/probes::what_was_there_already_proves_nothing",
        (
            "_core/writer.py",
            "isinstance(result, Failure) and _changed(result, 1):\n",
            "isinstance(result, Failure):\n",
        ),
    ),
    mutant(
        "a forked child writes its parent's entries",
        "core/probes::a_forked_child_tries_no_entry_from_behind",
        ("_core/writer.py", "        if self._lifetime.forked:\n", "        if False:\n"),
    ),
    mutant(
        "a letter does not count the call that tried its entry from behind",
        "core/probes::good_entries_behind_a_run_of_bad_ones_are_stored_and_the_bad_become_letters",
        ("_core/writer.py", "        tries[key] = tries.get(key, 0) + 1\n", ""),
    ),
    mutant(
        "the same entry from behind is tried again and again",
        "core/probes::a_store_that_refuses_everything_is_still_to_blame",
        ("_core/writer.py", "        self._tried_from_behind += 1\n", ""),
    ),
    mutant(
        "an entry from behind overtakes an older version of its key",
        "core/probes::an_entry_of_which_an_older_version_is_open_is_not_tried",
        (
            "_core/line.py",
            "        if any(key in older.entries for older in before):\n            return None\n",
            "",
        ),
    ),
    mutant(
        "a repository's own cancellation is taken for the end (n)",
        "core/verdict::a_foreign_cancelled_is_an_unknown_error",
        (
            "_core/verdict.py",
            "        if scope.cancel_called:\n",
            "        if isinstance(error, trio.Cancelled):\n            raise\n"
            "        if scope.cancel_called:\n",
        ),
    ),
    mutant(
        "a task dies and nobody learns of it (l)",
        "core/supervision::a_crashed_writer_goes_on_after_a_second_with_the_batch_it_held",
        (
            "_core/supervisor.py",
            "                    self._note_crash(task, error, give_up)\n",
            "                    return\n",
        ),
    ),
    mutant(
        "crashes add up over a lifetime",
        "core/supervision::crashes_with_something_persisted_in_between_never_add_up",
        ("_core/writer.py", "        self._lifetime.note_persisted(self._lane)\n", ""),
    ),
    mutant(
        "what is refused under suspicion gets no other chance",
        "core/writer::a_store_that_refuses_everything_is_misconfigured_and_nothing_is_dead_lettered",
        (
            "_core/progress.py",
            "            return [key for key, _ in open_ones]\n",
            "            return []\n",
        ),
    ),
    mutant(
        "a store that answered is still taken for lost by the backoff",
        "core/writer::an_answer_ends_an_outage_for_the_backoff_too",
        (
            "_core/writer.py",
            "        if not self._watch.suspecting:\n            self._failures = 0\n",
            "",
        ),
    ),
    mutant(
        "the backoff goes on where the last outage ended",
        "core/writer::backoff_starts_again_after_a_success",
        (
            "_core/writer.py",
            "        self._failures = self._closed = 0\n",
            "        self._closed = 0\n",
        ),
    ),
    mutant(
        "a letter that waits for the sink has no age",
        "core/letters::a_letter_that_waits_for_the_sink_counts_in_the_oldest_age",
        ("_core/queue.py", "opened = [self._outbox.oldest(), ", "opened = ["),
    ),
    mutant(
        "logging that raises crashes us",
        "core/misbehaving::logging_that_raises_does_not_hold_up_dead_letters",
        (
            "_vocabulary/log.py",
            "    except Exception:  # noqa: BLE001  # a filter",
            "    except ():  # a filter",
        ),
    ),
    mutant(
        "an interrupt in a task of the repository's own is swallowed",
        "whole/interrupt::an_interrupt_in_a_task_of_the_repository_s_own_is_handed_on_to_the_main_task",
        (
            "_core/verdict.py",
            "            signal.raise_signal(signal.SIGINT)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "an error class that does not call its base has no attributes",
        "core/misbehaving::an_error_class_that_does_not_call_its_base_means_what_its_base_means",
        (
            "_vocabulary/errors.py",
            "    error_class: str | None = None\n    sqlstate: str | None = None\n    constraint",
            "    constraint",
        ),
    ),
)

FAILURES = (
    mutant(
        "a hint is believed unseen",
        "core/evidence::a_wrong_index_costs_a_call_and_no_good_entry",
        (
            "_core/writer.py",
            "            progress.single_out(part, index)\n",
            "            progress.single_out(part, index)\n            await self._refuse(batch, progress, progress.parts[-1], call, failure)\n",
        ),
    ),
    mutant(
        "hints are believed after one was wrong",
        "core/evidence::a_wrong_index_costs_a_call_and_no_good_entry",
        (
            "_core/writer.py",
            "            progress.believes_hints = False\n",
            "            pass\n",
        ),
    ),
    mutant(
        "an unknown error is halved at once",
        "core/evidence::an_unknown_error_that_has_gone_at_the_retry_costs_one_call",
        (
            "_core/writer.py",
            "part.failed_unknown or part.was_halved:",
            "True:",
        ),
    ),
    mutant(
        "each half of an unknown error is retried",
        "core/evidence::the_good_neighbours_of_one_unknown_error_are_stored_within_a_backoff_and_some_calls",
        (
            "_core/writer.py",
            "progress.halve(part, was_halved=True)",
            "progress.halve(part)",
        ),
    ),
    mutant(
        "a known class of unknown errors waits a failure",
        "core/evidence::sixty_unknown_errors_of_one_class_in_a_batch_take_rounds_and_not_hours",
        (
            "_core/writer.py",
            "            or progress.is_narrowed(failure.error_class, self._last_stored)\n",
            "",
        ),
    ),
    mutant(
        "a drain waits a failure",
        "core/evidence::while_draining_no_failure_waits_until_a_round_begins",
        (
            "_core/writer.py",
            "            self._lifetime.closing.is_set()\n            or progress",
            "            progress",
        ),
    ),
    mutant(
        "nothing waits after an entry failed alone",
        "core/evidence::after_one_failed_alone_each_failure_of_another_class_waits",
        (
            "_core/writer.py",
            "        elif progress.failed_alone and not (",
            "        elif False and not (",
        ),
    ),
    mutant(
        "what was stored before it failed is evidence against an entry",
        "core/doubt::what_was_stored_before_its_first_failure_is_no_evidence core/doubt::only_what_was_stored_since_its_last_failure_is_evidence",
        (
            "_core/doubt.py",
            "        stored_since = 0 < self._call < case.last_stored\n        self._call = case.call\n",
            "        stored_since = case.last_stored > self._call\n        self._call = self._call or 0\n",
        ),
    ),
    mutant(
        "a call of another lane is evidence against an entry",
        "core/lanes::another_lane_s_success_does_not_condemn_what_fails_for_an_unknown_reason",
        (
            "_core/writer.py",
            "last_stored=self._last_stored,",
            "last_stored=call - 1,",
        ),
    ),
    mutant(
        "a flapping store condemns entries",
        "core/evidence::a_flapping_store_has_to_fail_an_entry_as_often_as_max_retries",
        (
            "_core/writer.py",
            "flaps=watch.flaps,",
            "flaps=False,",
        ),
    ),
    mutant(
        "a drain condemns what nobody knows",
        "core/evidence::what_is_in_doubt_at_the_end_of_a_drain_is_undelivered",
        (
            "_core/doubt.py",
            "        if case.draining:\n            return False\n",
            "",
        ),
    ),
    mutant(
        "several in doubt are condemned like one",
        "core/evidence::several_in_doubt_wait_ten_minutes_longer_and_one_error_line_says_so",
        (
            "_core/doubt.py",
            "        return case.alone or case.now - self._used_up_at >= _LONGER_SECONDS\n",
            "        return True\n",
        ),
    ),
    mutant(
        "one is condemned while others are in doubt",
        "core/evidence::an_unknown_outage_of_half_a_minute_costs_nothing_where_two_are_in_doubt",
        (
            "_core/writer.py",
            "alone=watch.one_in_doubt and progress.parts == [part],",
            "alone=True,",
        ),
    ),
    mutant(
        "what fails alone says nothing about the store",
        "core/evidence::twenty_that_fail_alone_are_the_store_s_fault",
        (
            "_core/writer.py",
            "            watch.refused(self.backoff, call, failure, counts=progress.counts(key, watch.run))\n            doubt = ",
            "            doubt = ",
        ),
    ),
    mutant(
        "what failed alone and is then refused counts twice in a run",
        "core/lanes::what_failed_alone_and_is_then_refused_counts_once core/progress::what_failed_alone_and_is_refused_counts_once_in_a_run",
        (
            "_core/progress.py",
            "        return doubt is None or doubt.first_call not in run\n",
            "        return True\n",
        ),
    ),
    mutant(
        "what failed alone never counts again",
        "core/lanes::what_failed_alone_before_another_lane_was_proof_counts_again_when_it_is_refused core/progress::what_failed_alone_and_is_refused_counts_once_in_a_run",
        (
            "_core/progress.py",
            "        return doubt is None or doubt.first_call not in run\n",
            "        return doubt is None\n",
        ),
    ),
    mutant(
        "a call that began before the suspicion ends it",
        "core/lanes::a_slow_call_that_began_before_the_store_broke_is_no_proof core/watch::a_proof_by_a_call_that_began_before_the_suspicion_ends_none",
        (
            "_core/watch.py",
            "        elif call > self._suspected_at:\n",
            "        else:\n",
        ),
    ),
    mutant(
        "a proof forgets refusals that came after it",
        "core/watch::a_proof_drops_the_refusals_by_calls_that_began_before_it",
        (
            "_core/watch.py",
            "for refusal in self.run if refusal >= call]",
            "for refusal in () if refusal >= call]",
        ),
    ),
    mutant(
        "a proof wakes only its own lane",
        "core/watch::a_proof_by_any_lane_releases_and_wakes_every_held_lane",
        (
            "_core/watch.py",
            "            for lane in released:\n                lane.cut()\n",
            "",
        ),
    ),
    mutant(
        "held lanes are not released",
        "core/watch::a_proof_by_any_lane_releases_and_wakes_every_held_lane",
        (
            "_core/watch.py",
            "            self._held.clear()\n",
            "            pass\n",
        ),
    ),
    mutant(
        "what was refused under suspicion by a lane is lost when another proves the store",
        "core/lanes::what_one_lane_refused_under_suspicion_is_stored_whichever_lane_proves_the_store",
        (
            "_core/progress.py",
            "        return [key for key, refusal in open_ones if refusal.epoch != epoch]\n",
            "        return []\n",
        ),
    ),
    mutant(
        "a lane that has finished its batch still waits",
        "core/writer::a_store_that_fails_for_unknown_reasons_until_all_is_isolated_is_not_away",
        (
            "_core/writer.py",
            "        self._watch.finished(self.backoff)\n",
            "",
        ),
    ),
    mutant(
        "a second refusal counts again",
        "core/progress::refusals_of_a_batch_of_which_nothing_was_stored_count_but_for_second_tries",
        (
            "_core/progress.py",
            "        if self.stored or key in self.second:\n",
            "        if self.stored:\n",
        ),
    ),
    mutant(
        "all who wait with keys in line go to the disk at once",
        "core/door::no_more_than_250_go_to_the_disk_at_once_however_many_wait_with_keys_in_line",
        (
            "_core/waiting_room.py",
            "taken += self._take_with(key, most - len(taken))",
            "taken += self._take_with(key, 10**6)",
        ),
    ),
    mutant(
        "who waits with a key in line is forgotten once 250 were taken",
        "core/door::who_waits_with_a_key_in_line_learns_that_the_disk_fails_however_many_they_are",
        (
            "_core/waiting_room.py",
            "        # For those that still wait with it.\n        self._note_place(key)\n",
            "",
        ),
    ),
    mutant(
        "a lane first lost and then misconfigured says nothing",
        "core/watch::a_lane_first_lost_then_misconfigured_logs_both",
        (
            "_core/watch.py",
            "        if self.trouble == before:\n",
            "        if before is not None:\n",
        ),
    ),
    mutant(
        "a closed store is drained for all of the time",
        "core/evidence::a_store_that_was_closed_before_its_queue_costs_nothing_and_ends_the_drain",
        (
            "_core/writer.py",
            "                self._lifetime.end_drain()\n",
            "                pass\n",
        ),
    ),
    mutant(
        "a drain that gave up at once says that its time was up",
        "core/evidence::a_store_that_was_closed_before_its_queue_costs_nothing_and_ends_the_drain core/unfit_letters::letters_that_never_fit_are_found_whatever_the_sink_says_of_them",
        (
            "_core/exits.py",
            '                    self._shortfall = f": the {why}"\n',
            "",
        ),
    ),
    mutant(
        "a closed store is said to be the sink's fault",
        "core/evidence::a_store_that_was_closed_before_its_queue_costs_nothing_and_ends_the_drain",
        ("_core/lifetime.py", "        self.store_is_closed = True\n", ""),
    ),
    mutant(
        "a store that was closed once ends the drain",
        "core/evidence::closed_once_while_draining_is_tried_again",
        (
            "_core/writer.py",
            "_CLOSED_FOR_GOOD: Final = 2",
            "_CLOSED_FOR_GOOD: Final = 1",
        ),
    ),
    mutant(
        "closed calls need not be in a row",
        "core/evidence::closed_once_while_draining_is_tried_again",
        (
            "_core/writer.py",
            "        if not result.closed:\n            self._closed = 0\n",
            "",
        ),
    ),
    mutant(
        "a closed store is an unknown error",
        "core/evidence::a_closed_queue_as_the_store_of_another_costs_nothing",
        (
            "_core/verdict.py",
            "Verdict(Kind.MISCONFIGURED, closed=True)",
            "Verdict(Kind.UNKNOWN)",
        ),
    ),
    mutant(
        "a stream that broke is an unknown error",
        "core/verdict::each_error_means_one_thing",
        (
            "_core/verdict.py",
            "    (trio.BrokenResourceError, _AWAY),\n",
            "",
        ),
    ),
    mutant(
        "one slow call halves a batch",
        "core/evidence::a_batch_that_is_too_much_is_halved_after_three_calls_and_then_after_one",
        (
            "_core/pace.py",
            "_ROW: Final = 3",
            "_ROW: Final = 1",
        ),
    ),
    mutant(
        "a batch that is too much is never halved",
        "core/evidence::a_batch_that_is_too_much_is_halved_after_three_calls_and_then_after_one",
        (
            "_core/pace.py",
            "_ROW: Final = 3",
            "_ROW: Final = 10**9",
        ),
    ),
    mutant(
        "fewer are sent at once for ever",
        "core/evidence::what_is_sent_at_once_grows_to_batch_size_again",
        (
            "_core/pace.py",
            "            self.most = min(2 * self.most, self._batch_size)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a network's timeout is a slow store",
        "core/verdict::only_a_store_that_was_at_work_was_too_slow core/evidence::an_outage_that_is_not_slow_halves_nothing",
        (
            "_core/verdict.py",
            '            if cls is TimeoutError and getattr(leaf, "errno", None) is not None:\n',
            "            if False:\n",
        ),
    ),
    mutant(
        "transient retries have no end",
        "core/writer::an_entry_whose_own_transient_retries_are_used_up_is_a_dead_letter",
        (
            "_core/writer.py",
            "        if most is None or part.retries < most:\n",
            "        if True:\n",
        ),
    ),
    mutant(
        "a key forges lines of the log",
        "core/log::no_key_and_no_queue_s_name_begins_a_line_of_the_log",
        (
            "_vocabulary/log.py",
            "else escaped(arg) for arg",
            "else arg for arg",
        ),
    ),
    mutant(
        "an unknown error is located in somebody's library",
        "core/verdict::an_unknown_error_is_located_in_the_repository_s_own_code",
        (
            "_core/verdict.py",
            '            if module.partition(".")[0] == package:\n',
            "            if True:\n",
        ),
    ),
    mutant(
        "closing cuts the first backoffs only",
        "core/exits::closing_cuts_a_backoff_however_many_there_were_before",
        (
            "_core/backoff.py",
            "                if draining:\n",
            "                if draining or failures > 3:\n",
        ),
    ),
    mutant(
        "what was refused under suspicion is not tried again once some of its batch was stored",
        "core/writer::entries_that_change_nothing_do_not_speak_for_a_store_that_refuses_every_change",
        (
            "_core/progress.py",
            "            return [key for key, refusal in open_ones if refusal.is_doubtful(epoch)]\n",
            "            return []\n",
        ),
    ),
    mutant(
        "a lane that has finished its batch is still held",
        "core/watch::a_lane_that_finishes_its_batch_leaves_held_waiting_and_doubt",
        (
            "_core/watch.py",
            "        self._held.discard(lane)\n",
            "",
        ),
    ),
    mutant(
        "a lane that has finished its batch is still in doubt",
        "core/watch::a_lane_that_finishes_its_batch_leaves_held_waiting_and_doubt",
        (
            "_core/watch.py",
            "        self.doubts(lane, 0)\n        held",
            "        held",
        ),
    ),
    mutant(
        "a lane first misconfigured and then lost says nothing",
        "core/watch::a_lane_first_lost_then_misconfigured_logs_both",
        (
            "_core/watch.py",
            "        if self.trouble == before:\n",
            "        if self.trouble == before or before is Kind.MISCONFIGURED:\n",
        ),
    ),
    mutant(
        "a sequence that may not be used is found at the first entry only",
        "stores/postgres_tables::a_sequence_that_fills_a_column_and_may_not_be_used_is_named_with_its_grant",
        (
            "postgres/_requests.py",
            "    await _check_sequences(connection, plan)\n",
            "",
        ),
    ),
    mutant(
        "a sequence for which a field has the values has to be granted",
        "stores/postgres_tables::a_sequence_that_fills_a_column_and_may_not_be_used_is_named_with_its_grant",
        (
            "postgres/_statements.py",
            " AND a.attname <> ALL ($2::text[])\n",
            " AND $2::text[] IS NOT NULL\n",
        ),
    ),
    mutant(
        "of several causes that a person has to mend only the first is logged",
        "core/watch::each_new_cause_that_a_person_has_to_mend_is_logged_once",
        (
            "_core/watch.py",
            "            if not misconfigured or not self._is_news(cause):\n",
            "            if True:\n",
        ),
    ),
    mutant(
        "causes that alternate flood the log",
        "core/watch::causes_that_alternate_are_a_line_each_a_minute_and_ten_at_most",
        (
            "_core/watch.py",
            " and cause not in self._causes",
            "",
        ),
    ),
    mutant(
        "what an outage is called is logged each time it changes",
        "core/watch::what_an_outage_is_called_meanwhile_is_not_logged",
        (
            "_core/watch.py",
            "            if not misconfigured or not self._is_news(cause):\n",
            "            if not self._is_news(cause):\n",
        ),
    ),
    mutant(
        "a lost store is logged at every try",
        "core/watch::the_twentieth_refusal_brings_suspicion_a_new_epoch_and_one_line core/writer::an_outage_is_two_log_lines",
        (
            "_core/watch.py",
            "        if self.trouble == before:\n",
            "        if self.trouble is None:\n",
        ),
    ),
    mutant(
        "what is refused under suspicion does not hold its lane",
        "core/watch::a_proof_by_any_lane_releases_and_wakes_every_held_lane",
        (
            "_core/watch.py",
            "        if self.suspecting:\n            self.hold(lane, failure)\n",
            "",
        ),
    ),
    mutant(
        "a full queue that serves as a store is an unknown error",
        "core/evidence::a_full_queue_as_the_store_of_another_costs_nothing",
        (
            "_core/verdict.py",
            "    (trio.WouldBlock, _TOO_SLOW),",
            "    (trio.WouldBlock, Verdict(Kind.UNKNOWN)),",
        ),
    ),
    mutant(
        "no backoff of a drain is short",
        "core/exits::no_backoff_of_a_drain_exceeds_a_tenth_of_its_time",
        (
            "_core/backoff.py",
            "            ceiling = min(ceiling, options.drain_timeout_seconds / 10)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "closing cuts no backoff",
        "core/exits::closing_cuts_the_backoff_that_is_under_way",
        (
            "_core/backoff.py",
            "                await lifetime.closing.wait()\n",
            "                await trio.sleep_forever()\n",
        ),
    ),
)

LANES = (
    mutant(
        "crashes of all lanes add up",
        "core/lanes::crashes_in_several_lanes_do_not_add_up",
        (
            "_core/lifetime.py",
            "        shared = self._crashes[None]\n",
            "        shared = sum(self._crashes.values()) - self._crashes[lane]\n",
        ),
    ),
    mutant(
        "parallel writers reorder a key (p)",
        "core/lanes::versions_of_a_key_are_written_in_order core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        (
            "_core/lanes.py",
            "        return self.lines[self.number_of(key)]\n",
            "        depths = [sum(len(b.entries) for b in line.batches) for line in self.lines]\n"
            "        busy = [line.writing is not None for line in self.lines]\n"
            "        return min(zip(busy, depths, self.lines), key=lambda one: one[:2])[2]\n",
        ),
    ),
    mutant(
        "keys that follow a pattern share a lane",
        "core/lanes::keys_that_follow_a_pattern_are_spread_over_the_lanes",
        ("_core/lanes.py", "(hash(key) * _SPREAD >> 32)", "hash(key)"),
    ),
    mutant(
        "a flush waits for one lane only",
        "core/lanes::a_flush_waits_for_every_lane core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        ("_core/queue.py", "        for fate in fates:\n", "        for fate in fates[-1:]:\n"),
    ),
    mutant(
        "only one lane's batches are sealed by a flush",
        "core/lanes::a_flush_has_every_lane_written_at_once",
        (
            "_core/lanes.py",
            "        for line in self.lines:\n            line.seal(reason)\n",
            "        self.lines[0].seal(reason)\n",
        ),
    ),
    mutant(
        "what is handed back is in the order of lanes",
        "core/lanes::what_is_handed_back_is_in_the_order_of_its_batches",
        ("_core/assembly.py", "        batches.sort(key=lambda batch: batch[0])\n", ""),
    ),
    mutant(
        "a lane waits for the letters of another",
        "core/lanes::a_lane_without_refusals_does_not_wait_for_another_lanes_letters",
        ("_core/outbox.py", "        if not batch.refused:\n            return\n", ""),
    ),
    mutant(
        "calls before an entry was put back are forgotten",
        "core/letters::attempts_are_the_calls_that_included_the_entry_though_it_was_put_back",
        ("_core/writer.py", "part.tries + progress.tries.get(key, 0)", "part.tries"),
    ),
    mutant(
        "a lane that finds the store again keeps it for itself",
        "core/lanes::the_first_lane_that_finds_the_store_again_wakes_the_others",
        (
            "_core/watch.py",
            "                if kind is not Kind.UNKNOWN:\n                    lane.cut()\n",
            "                pass\n",
        ),
    ),
    mutant(
        "the queue says that all is well while a lane waits",
        "core/lanes::while_one_lane_cannot_write_the_queue_says_that_it_waits",
        (
            "_core/watch.py",
            "        kind = self._waiting.pop(lane, None)\n        if kind is not None:\n",
            "        kind = self._waiting.pop(lane, None)\n        self._waiting.clear()\n        if kind is not None:\n",
        ),
    ),
    mutant(
        "a lane that works excuses the crashes of another",
        "core/lanes::a_lane_whose_task_crashes_again_and_again_ends_the_queue",
        (
            "_core/lifetime.py",
            "        del self._crashes[lane], self._crashes[None]\n",
            "        self._crashes.clear()\n",
        ),
    ),
    mutant(
        "crashes of the shared task add up over a lifetime",
        "core/lanes::crashes_of_the_shared_task_are_forgiven_when_any_lane_persists",
        (
            "_core/lifetime.py",
            "        del self._crashes[lane], self._crashes[None]\n",
            "        del self._crashes[lane]\n",
        ),
    ),
    mutant(
        "what was prepared is written although a newer version came",
        "core/prepare::a_version_that_came_after_the_preparation_is_the_one_that_is_written",
        (
            "_core/batch.py",
            "if len(entries) == len(before) and all(map(is_, entries, before)):",
            "if before:",
        ),
    ),
    mutant(
        "a batch is prepared that can still grow",
        "core/prepare::a_batch_that_can_still_grow_is_not_prepared",
        ("_core/batcher.py", " or line.can_grow(batch):", ":"),
    ),
    mutant(
        "every success of a lane wakes those that wait",
        "core/lanes::while_one_lane_cannot_write_the_queue_says_that_it_waits core/watch::a_lane_that_finds_no_store_waits_and_its_answer_wakes_the_others",
        (
            "_core/watch.py",
            "        if kind is not None:\n            self._report_end(wake=kind is not Kind.UNKNOWN, had=kind is not Kind.UNKNOWN)\n",
            "        had = kind not in {None, Kind.UNKNOWN}\n        self._report_end(wake=kind is not Kind.UNKNOWN, had=had)\n",
        ),
    ),
    mutant(
        "the oldest age is that of the first lane",
        "core/lanes::the_oldest_age_is_that_of_any_lane",
        (
            "_core/lanes.py",
            "each = (line.oldest() for line in self.lines)",
            "each = (line.oldest() for line in self.lines[:1])",
        ),
    ),
    mutant(
        "crashes of all lanes count against a shared task",
        "core/lanes::crashes_of_the_shared_task_add_up_with_those_of_the_worst_lane",
        (
            "_core/lifetime.py",
            "        return shared + max((n for lane, n in self._crashes.items() if lane is not None), default=0)\n",
            "        return shared + sum(n for lane, n in self._crashes.items() if lane is not None)\n",
        ),
    ),
    mutant(
        "crashes of a shared task do not count against a lane",
        "core/lanes::crashes_of_the_shared_task_add_up_with_those_of_the_worst_lane",
        (
            "_core/lifetime.py",
            "            return shared + self._crashes[lane]\n",
            "            return self._crashes[lane]\n",
        ),
    ),
    mutant(
        "a replay is over when the first lane is written",
        "core/lanes::a_flush_during_a_replay_waits_for_every_lane",
        (
            "_core/replay.py",
            "self._last_fates = self._lanes.tails()",
            "self._last_fates = self._lanes.tails()[:1]",
        ),
    ),
    mutant(
        "only the first lane's replayed batches are due",
        "core/door::what_is_replayed_is_spread_over_the_lanes_as_what_is_accepted",
        (
            "_core/replay.py",
            "        self._lanes.seal(FlushReason.DRAIN if",
            "        self._lines[0].seal(FlushReason.DRAIN if",
        ),
    ),
)

LEAVING = (
    mutant(
        "leaving leaves what the journal holds to the next queue",
        "core/journaled_exits::leaving_writes_everything_that_the_journal_holds",
        ("_core/lifetime.py", "            and not self.recovering\n", ""),
    ),
    mutant(
        "a page is taken over after the end",
        "core/journaled_exits::a_page_that_is_read_when_the_time_is_up_is_not_taken_over",
        ("_core/replay.py", "        await trio.lowlevel.checkpoint_if_cancelled()\n", ""),
    ),
    mutant(
        "who leaves is not told how much was not read",
        "core/journaled_exits::what_was_not_read_by_the_deadline_stays_in_the_journal_and_is_counted",
        ("_core/replay.py", "        left = held - self._taken\n", "        left = held\n"),
    ),
    mutant(
        "the last batch waits for its interval (a)",
        "core/exits::a_drain_waits_for_no_flush_interval",
        ("_core/assembly.py", "        self.lanes.seal(FlushReason.DRAIN)\n", ""),
    ),
    mutant(
        "the drain is not shielded",
        "core/exits::a_cancelled_scope_drains_first_and_absorbs_a_bare_cancelled",
        (
            "_core/exits.py",
            "move_on_after(seconds, shield=True)",
            "move_on_after(seconds, shield=False)",
        ),
    ),
    mutant(
        "the tasks that drain are cancelled (m)",
        "core/exits::a_cancelled_scope_drains_first_and_absorbs_a_bare_cancelled",
        (
            "_core/exits.py",
            "with trio.CancelScope(shield=True), parts.tasks()",
            "with trio.CancelScope(), parts.tasks()",
        ),
    ),
    mutant(
        "the drain does not keep its deadline (h)",
        "core/exits::at_the_deadline_what_is_left_is_handed_back_in_order_of_acceptance",
        (
            "_core/exits.py",
            "trio.move_on_after(seconds, shield",
            "trio.move_on_after(seconds + 100, shield",
        ),
    ),
    mutant(
        "the body's exception passes through our nursery",
        "core/exits::the_body_s_exception_goes_on_as_the_very_same_object",
        (
            "_core/exits.py",
            "            interrupt = await self._stop_tasks() or interrupt",
            "            self._parts.cancel_tasks()\n"
            "            kind, trace = type(error), getattr(error, '__traceback__', None)\n"
            "            await self._manager.__aexit__(error and kind, error, trace)",
        ),
    ),
    mutant(
        "who gives up waits for the drain all the same",
        "core/supervision::giving_up_during_the_drain_ends_it",
        (
            "_core/assembly.py",
            "        lifetime.drained.set()\n",
            "",
        ),
    ),
)

STORING = (
    mutant(
        "of two versions created at once, the first stays",
        "stores/repositories::storing_versions_one_by_one_is_storing_what_they_merge_to[sqlite]",
        (
            "sqlite/_rows.py",
            '"excluded.created_at >= created_at"',
            '"excluded.created_at > created_at"',
        ),
    ),
    mutant(
        "rows that stay as they are count as changed",
        "stores/repositories::rows_that_stay_as_they_are_do_not_count[sqlite]",
        ("sqlite/_rows.py", "WHERE {_ARRIVED_NEWER} AND (", "WHERE {_ARRIVED_NEWER} OR ("),
    ),
    mutant(
        "a batch is stored row by row",
        "stores/sqlite::an_entry_that_is_refused_is_named_and_nothing_is_stored",
        (
            "sqlite/_file.py",
            'with self._planned("BEGIN IMMEDIATE") as (connection, plan):\n                changed',
            'with self._planned("SELECT 1") as (connection, plan):\n                changed',
        ),
    ),
)

POSTGRES = (
    mutant(
        "identical rows are written again",
        "stores/postgres::batches_that_change_nothing_write_nothing_and_wait_for_no_row",
        ("postgres/_statements.py", "AS t ON true\\nWHERE {conditions}", "AS t ON true"),
    ),
    mutant(
        "identical rows are looked for among new ones",
        "stores/postgres::what_is_stored_is_looked_for_after_a_call_with_a_tenth_of_it[20-False]",
        (
            "postgres/_repository.py",
            "statements.upsert_changes if self._expects_repeats else statements.upsert",
            "statements.upsert_changes",
        ),
    ),
    mutant(
        "identical rows are written again by a retry",
        "stores/postgres::what_is_stored_is_looked_for_at_first_and_after_a_call_that_failed",
        (
            "postgres/_repository.py",
            "            self._expects_repeats = True\n            raise",
            "            raise",
        ),
    ),
    mutant(
        "a retry is acknowledged before a standby has what the first try stored",
        "stores/postgres_servers::no_retry_is_acknowledged_before_a_standby_has_what_an_earlier_try_stored",
        ("postgres/_repository.py", "if in_doubt and not changed:", "if False:"),
    ),
    mutant(
        "without a right a retry is acknowledged before a standby has what the first try stored",
        "stores/postgres_servers::a_role_that_may_not_mark_the_log_waits_for_a_standby_all_the_same",
        (
            "postgres/_requests.py",
            "return await packed.send(connection, packed.plan.statements.upsert)",
            "return 0",
        ),
    ),
    mutant(
        "a missing right is an error while the queue runs",
        "stores/postgres_servers::check_asks_for_the_mark_where_nothing_else_would_wait_for_a_standby",
        ("postgres/_requests.py", "except asyncpg.InsufficientPrivilegeError:", "except KeyError:"),
    ),
    mutant(
        "check does not ask for the right to mark the log",
        "stores/postgres_servers::check_asks_for_the_mark_where_nothing_else_would_wait_for_a_standby",
        ("postgres/_requests.py", "if not statements.upsert_locks and", "if False and"),
    ),
    mutant(
        "a cancelled call goes on in its thread",
        "stores/postgres_bridge::a_cancelled_call_that_waits_for_a_lock_leaves_nothing_on_the_server[thread]",
        (
            "_asyncio/thread.py",
            "            self._loop.call_soon_threadsafe(job.cancel)",
            "            pass",
        ),
    ),
    mutant(
        "a program that is cut off keeps the lock of the migration",
        "faults/faults::a_program_that_is_cut_off_while_it_makes_the_schema_does_not_keep_others_from_it",
        (
            "postgres/_session.py",
            '"idle_in_transaction_session_timeout": str(max(1, round(milliseconds))),',
            "",
        ),
    ),
    mutant(
        "a connection that is ended before its first call calls for a person",
        "stores/postgres::a_connection_that_is_ended_before_its_first_call_calls_for_nobody",
        (
            "postgres/_session.py",
            "if isinstance(error, OSError) or not is_lost(error, ended=connection.is_closed()):",
            "if True:",
        ),
    ),
    mutant(
        "a defect on a connection that works counts as an outage",
        "stores/postgres::a_statement_that_is_called_wrongly_is_no_outage",
        (
            "postgres/_errors.py",
            "return AWAY if is_lost(error, ended=ended) else UNKNOWN",
            "return AWAY",
        ),
    ),
    mutant(
        "a lock that somebody holds is no reason to wait",
        "faults/faults::a_queue_recovers_and_has_lost_nothing_when[somebody_holds_rows_for_longer_than_every_timeout]",
        ("_vocabulary/sqlstates.py", '"55P03": _BUSY,', '"55P03": UNKNOWN,'),
    ),
    mutant(
        "an error of asyncpg, which quotes the row, is the context of ours",
        "stores/postgres::a_constraint_tells_which_entry_it_refused",
        (
            "postgres/_session.py",
            "            failure, keep = await self._translate(error, waited)\n",
            "            failure, keep = await self._translate(error, waited)\n            raise failure\n",
        ),
    ),
    mutant(
        "a missing partition is the row's fault",
        "stores/postgres_errors::an_error_on_a_connection_means_one_thing",
        (
            "_vocabulary/sqlstates.py",
            '("23514", "ExecFindPartition")',
            '("23515", "ExecFindPartition")',
        ),
    ),
    mutant(
        "the index is lost in a partition",
        "stores/postgres::a_constraint_of_a_partition_tells_which_entry_it_refused",
        (
            "postgres/_rows.py",
            "    detail = error.detail if error.table_name else None\n",
            '    detail = error.detail if error.table_name == "entries" else None\n',
        ),
    ),
    mutant(
        "a primary that acknowledges nothing is asked again and again",
        "stores/postgres_servers::a_primary_that_acknowledges_nothing_does_not_keep_the_others_from_being_tried",
        (
            "postgres/_session.py",
            "            self._connector.begin_with_the_next_host()\n",
            "",
        ),
    ),
    mutant(
        "a silent network is a slow store",
        "stores/postgres::a_client_s_timeout_counts_only_once_a_fresh_connection_is_answered",
        (
            "postgres/_session.py",
            "            keep = too_slow = await self._answers()\n",
            "            too_slow = True\n",
        ),
    ),
    mutant(
        "whoever cancels a statement makes it too slow",
        "stores/postgres::neither_a_lock_nor_an_administrator_makes_a_statement_too_slow",
        (
            "postgres/_session.py",
            "        return of_server and waited >=",
            "        return of_server or waited <",
        ),
    ),
)

JOURNAL = (
    mutant(
        "the places of letters that came during a call are forgotten",
        "core/recorder::a_letter_that_comes_while_the_sink_is_called_stays_until_the_sink_has_it",
        (
            "_core/outbox.py",
            "            del self.places[:taken]\n",
            "            self.places.clear()\n",
        ),
    ),
    mutant(
        "a letter is written again and again",
        "core/recorder::a_letter_that_waits_for_its_sink_is_written_once",
        ("_core/recorder.py", "                place.unsafe = False\n", ""),
    ),
    mutant(
        "what is settled while the journal is rewritten stays in it",
        "core/recorder::what_is_settled_while_the_journal_is_rewritten_leaves_it_all_the_same",
        (
            "_core/recorder.py",
            '            self._note(place, cast("E", place.entry), number)\n',
            "            place.numbers = [number]\n",
        ),
    ),
    mutant(
        "what joined another batch stays in the journal",
        "core/recorder::what_joined_another_batch_is_in_the_journal_until_it_is_settled",
        (
            "_core/journaled_line.py",
            "        head.journaled.places.update(batch.journaled.places)\n",
            "",
        ),
    ),
    mutant(
        "what joined another batch is never written",
        "core/recorder::what_joined_another_batch_before_it_was_written_is_written_all_the_same",
        (
            "_core/journaled_line.py",
            "        unsafe.update(batch.journaled.unsafe)\n",
            "        unsafe.update()\n",
        ),
    ),
    mutant(
        "what joined another batch is written twice",
        "core/recorder::what_joined_another_batch_before_it_was_written_is_written_all_the_same",
        (
            "_core/journaled_line.py",
            "        batch.journaled.unsafe.clear()\n",
            "",
        ),
    ),
    mutant(
        "batches are written in the order in which they were marked",
        "core/recorder::versions_are_written_in_the_order_of_their_batches",
        ("_core/recorder.py", "sorted(notes.marked, key=_number)", "notes.marked"),
    ),
    mutant(
        "the journal answers before it has synced",
        "journal/journal_file::after_a_power_cut_at_any_operation_what_was_acknowledged_is_there",
        (
            "journal/_named_file.py",
            "        self._disk.sync(self._descriptor)\n        self.trusted = True\n        self.end +=",
            "        self.trusted = True\n        self.end +=",
        ),
    ),
    mutant(
        "a file whose sync failed is trusted again",
        "journal/journal_file::after_a_sync_failed_nothing_is_written_to_that_file",
        (
            "journal/_named_file.py",
            "        self.trusted = False\n        self._disk.sync(",
            "        self._disk.sync(",
        ),
    ),
    mutant(
        "a new file takes the place of the old one before it is synced",
        "journal/journal_file::after_a_power_cut_at_any_operation_what_was_acknowledged_is_there",
        (
            "journal/_new_file.py",
            "        self._write()\n        self._disk.sync(self._descriptor)\n",
            "        self._write()\n",
        ),
    ),
    mutant(
        "the name of a new file is not synced",
        "journal/journal_file::after_a_power_cut_at_any_operation_what_was_acknowledged_is_there",
        (
            "journal/_named_file.py",
            "        self._disk.sync_directory(self._directory)\n        self.trusted",
            "        self.trusted",
        ),
    ),
    mutant(
        "the name of what was set aside is not synced",
        "journal/journal_file::what_was_set_aside_has_a_name_on_the_disk_before_it_leaves_the_journal",
        (
            "journal/_aside.py",
            "        if is_new:\n            self._sync_directory()\n",
            "",
        ),
    ),
    mutant(
        "what can't be set aside takes the rest of its page along",
        "journal/journal::what_can_not_be_set_aside_yet_costs_nothing_else_of_its_page",
        (
            "journal/_journal.py",
            "        return found\n\n    def _report_unread",
            "        return [] if unread else found\n\n    def _report_unread",
        ),
    ),
    mutant(
        "what was never sent leaves the journal",
        "cli/journal::whatever_it_is_cut_off_in_only_what_was_written_leaves_the_journal",
        ("_cli/sending.py", "one in sent if id(one.entry)", "one in kept if id(one.entry)"),
    ),
    mutant(
        "a crash while an entry is taken over loses it",
        "journal/journal::a_crash_in_the_middle_of_a_page_costs_nothing_of_it",
        (
            "_core/replay.py",
            "            number, entry = page[0]\n",
            "            number, entry = page.popleft()\n",
        ),
        (
            "_core/replay.py",
            "            page.popleft()\n",
            "",
        ),
    ),
    mutant(
        "what the journal can't hold is said to stay in it",
        "journal/journal::what_json_does_not_hold_is_not_said_to_stay_in_the_journal",
        (
            "_core/recorder.py",
            "return written and not self._notes.unwritable",
            "return written",
        ),
    ),
    mutant(
        "a journal that was removed is written on",
        "journal/journal::a_journal_that_was_removed_is_made_anew",
        ("journal/_named_file.py", "        self._raise_if_replaced()\n", ""),
    ),
    mutant(
        "a payload is not checked",
        "journal/journal_file::every_flipped_byte_is_noticed_and_costs_at_most_its_record",
        (
            "journal/_records.py",
            "        if crc32(payload, crc32(_COVERED.pack(kind, length, number), self._salt)) != checksum:\n",
            "        if not checksum:\n",
        ),
    ),
    mutant(
        "missing numbers are not told",
        "journal/journal_file::every_flipped_byte_is_noticed_and_costs_at_most_its_record",
        (
            "journal/_scan.py",
            "self.missing += self._expected.between(self.last, number)",
            "pass",
        ),
    ),
    mutant(
        "what is missing at the end is not told",
        "journal/journal_file::every_truncation_is_noticed",
        (
            "journal/_scan.py",
            "        last = max(self.last, noted, self._expected.last)\n",
            "        last = max(self.last, self._expected.last)\n",
        ),
    ),
    mutant(
        "what is settled is written once",
        "journal/journal_file::every_flipped_byte_is_noticed_and_costs_at_most_its_record",
        (
            "journal/_records.py",
            "pack(RecordKind.SETTLED, number + 1, payload, salt)",
            'pack(RecordKind.SETTLED, number + 1, b"[]", salt)',
        ),
    ),
    mutant(
        "a version does not take the place of the one it was merged with",
        "journal/journal::a_merged_entry_is_replayed_once",
        ("_core/recorder.py", "(item.entry, tuple(item.place.numbers))", "(item.entry, ())"),
    ),
    mutant(
        "what is new overtakes what is replayed",
        "journal/journal::nothing_is_accepted_at_once_while_older_entries_are_to_come",
        ("_core/recorder.py", "if lifetime.recovering or self.always:", "if self.always:"),
    ),
    mutant(
        "what is settled stays in the journal",
        "journal/journal::a_settled_entry_leaves_the_journal_and_a_newer_version_of_its_key_does_not",
        ("_core/journaled_line.py", "            self.settled += place.numbers\n", ""),
    ),
    mutant(
        "an append that does not fit is not cut back",
        "journal/journal_room::an_append_that_does_not_fit_is_cut_back_and_a_smaller_one_fits",
        (
            "journal/_named_file.py",
            "            self._disk.truncate(self._descriptor, self.end)\n",
            "",
        ),
    ),
    mutant(
        "a journal that holds nothing is written before it is emptied",
        "core/recorder::a_journal_that_heals_by_itself_is_emptied_first_if_it_holds_nothing",
        (
            "_core/recorder.py",
            "        helps = not (heals and self._notes.held)\n",
            "        helps = not heals\n",
        ),
    ),
    mutant(
        "a file is emptied, and its note stays",
        "journal/journal_room::on_a_disk_of_any_size_that_others_fill_nothing_acknowledged_is_lost",
        (
            "journal/_file.py",
            "        self._note.wipe()\n",
            "",
        ),
    ),
    mutant(
        "an emptied file does not say at which number it goes on",
        "journal/journal_room::once_nothing_is_live_a_full_journal_is_emptied_without_any_room",
        ("journal/_file.py", "if self._bare and (entries or settled) else []", "if False else []"),
    ),
    mutant(
        "a new file is begun though it does not fit",
        "journal/journal_room::a_new_file_that_does_not_fit_takes_no_room_from_others",
        (
            "journal/_file.py",
            "            if self._file.free() < self._live.bytes:\n",
            "            if False:\n",
        ),
    ),
    mutant(
        "damage is set aside at every start",
        "journal/journal_room::damage_is_set_aside_once_however_often_the_file_is_opened",
        ("journal/_aside.py", "if hashlib.sha256(raw).digest() not in known)", "if raw)"),
    ),
    mutant(
        "a lock is put beside a file that is somebody else's",
        "journal/journal_aside::a_file_that_is_no_journal_is_left_as_it_is",
        ("journal/_opening.py", "        self._file.raise_if_foreign()\n", ""),
    ),
    mutant(
        "a journal for other entries than the repository is opened",
        "core/entry_types::a_journal_for_other_entries_than_the_repository_is_refused",
        (
            "_core/entry_types.py",
            "        return issubclass(one, other) or issubclass(other, one)\n",
            "        return isinstance(one, type)\n",
        ),
    ),
    mutant(
        "what was restored stays set aside",
        "cli/journal::what_was_set_aside_is_counted_and_brought_back",
        ("journal/_restore.py", "            file.keep_aside(self._left)\n", "            pass\n"),
    ),
    mutant(
        "looking whether a journal is in use needs to write",
        "cli/volumes::every_command_that_reads_works_on_a_read_only_volume",
        (
            "_disk/owner_lock.py",
            "flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
            "flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
        ),
    ),
    mutant(
        "an error of a journal is labelled with its file once more",
        "cli/journal::a_journal_that_a_service_owns_is_named_once",
        (
            "_cli/running.py",
            "            self.names_its_place = _names_its_place(error)\n",
            "",
        ),
    ),
    mutant(
        "records of other files are read",
        "journal/journal_file::a_record_of_another_file_is_damage",
        ("journal/_records.py", "return crc32(self.identity.encode())", "return 0"),
    ),
    mutant(
        "upgrade is not asked",
        "journal/journal_aside::a_renamed_type_is_refused_until_its_former_name_is_given",
        ("_disk/documents.py", "    if upgrade is None:\n", "    if inside is None:\n"),
    ),
    mutant(
        "a sync that takes too long is no reason for doubt",
        "journal/journal_full::durable_is_false_while_a_sync_takes_too_long",
        ("_core/durability.py", "now - began_at > _LONGEST_WRITE_SECONDS", "now < began_at"),
    ),
    mutant(
        "what waits behind a slow write is called durable",
        "journal/journal_full::durable_is_false_while_a_sync_takes_too_long",
        ("_core/durability.py", "        return marked_at is None or", "        return True or"),
    ),
    mutant(
        "what can't be written is called durable",
        "journal/journal::an_entry_that_json_does_not_hold_is_logged_by_its_key_and_written",
        ("_core/durability.py", "is not None or self._notes.unwritable:", "is not None:"),
    ),
    mutant(
        "what fails is tried again at once, without end",
        "journal/journal_full::what_fails_is_tried_again_less_and_less_often_and_then_once_a_second",
        ("_core/durability.py", "+ min(pause, longest)", "+ min(pause, 0.0)"),
    ),
    mutant(
        "what could not be written is forgotten",
        "journal/journal::interval_goes_on_while_the_disk_fails_and_says_so_and_heals",
        (
            "_core/recorder.py",
            "            self._again = self._in_call + self._again\n            self._durability.fail(error)\n            return error\n        self._calling = False\n        self._note_all",
            "            self._durability.fail(error)\n            return error\n        self._calling = False\n        self._note_all",
        ),
    ),
    mutant(
        "a letter that never fits holds up the exit",
        "core/unfit_letters::a_letter_that_never_fits_stays_beside_the_others_and_is_handed_back",
        ("_core/lifetime.py", "ledger.in_flight == self.unfit", "ledger.in_flight == 0"),
    ),
    mutant(
        "a database of somebody else gets files beside it",
        "stores/small_volumes::a_database_of_somebody_else_is_left_as_it_is",
        (
            "_disk/sqlite_connection.py",
            "    is_blank = not (application or version) and pages <= 1\n",
            "    is_blank = True\n",
        ),
        (
            "_disk/sqlite_connection.py",
            'if not is_blank or _application_in_log(f"{path}-wal") not in {None, ours.application_id}:',
            "if not is_blank:",
        ),
    ),
    mutant(
        "what was settled while it was written stays in the journal",
        "journal/journal::what_is_settled_while_it_is_written_leaves_the_journal_all_the_same",
        ("_core/recorder.py", "        if place.gone:\n", "        if False:\n"),
    ),
    mutant(
        "a dead letter leaves the journal before the sink has it",
        "journal/journal::a_dead_letter_stays_until_the_sink_has_it",
        (
            "_core/outbox.py",
            "                self.places.append(self._notes.take_out(batch, key))\n",
            "                self.places.append(self._notes.take_out(batch, key))\n"
            "                self._notes.settle(self.places[-1:])\n",
        ),
    ),
    mutant(
        "what is on disk is refused for what failed after it",
        "core/recorder::what_is_on_disk_is_accepted_though_the_call_after_it_fails",
        (
            "_core/recorder.py",
            "            if item.place.numbers:\n                self._accept(producer, item)\n",
            "            if item.place.numbers and error is None:\n"
            "                self._accept(producer, item)\n",
        ),
    ),
    mutant(
        "an entry is accepted although the disk failed",
        "journal/journal::always_tells_the_producer_that_the_disk_failed_and_heals",
        (
            "_core/recorder.py",
            "            if item.place.numbers:\n                self._accept(producer, item)\n",
            "            if not item.place.gone:\n                self._accept(producer, item)\n",
        ),
    ),
)

DOOR = (
    mutant(
        "what is replayed goes into the first lane",
        "core/door::what_is_replayed_is_spread_over_the_lanes_as_what_is_accepted core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        (
            "_core/replay.py",
            "return self._lines[self._lanes.number_of(key)]",
            "return self._lines[0]",
        ),
    ),
    mutant(
        "nobody is admitted when a replay is over",
        "core/door::when_a_replay_is_over_whoever_waits_is_admitted core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        (
            "_core/replay.py",
            "            self._room.open_door()\n",
            "            self._room.door_is_open = True\n",
        ),
    ),
    mutant(
        "who waits with a key in line waits for room all the same",
        "core/door::whose_key_the_journal_brought_into_line_is_admitted_before_later_calls",
        (
            "_core/waiting_room.py",
            "        for producer in tuple(self.producers):\n"
            "            if self._lanes.of(producer.key).holder",
            "        for producer in ():\n            if self._lanes.of(producer.key).holder",
        ),
    ),
    mutant(
        "only the first of those who wait with a key in line is admitted",
        "core/door::whose_key_the_journal_brought_into_line_is_admitted_before_later_calls",
        (
            "_core/waiting_room.py",
            "                self._leave(producer)\n                self.admit(producer)\n        self.let_in()",
            "                self._leave(producer)\n                self.admit(producer)\n"
            "                break\n        self.let_in()",
        ),
    ),
    mutant(
        "who still waits when others were admitted is not hurried",
        "core/door::those_who_still_wait_when_others_were_admitted_have_a_full_line_written core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        (
            "_core/waiting_room.py",
            "        if self.producers:\n            self.hurry()\n",
            "",
        ),
    ),
    mutant(
        "only the first line is hurried",
        "core/door::a_full_queue_has_the_heads_of_all_its_lines_written core/machine::with_several_lanes_and_a_journal_every_entry_is_accounted_for_too",
        (
            "_core/lanes.py",
            "        for line in self.lines:\n            if line.batches:",
            "        for line in self.lines[:1]:\n            if line.batches:",
        ),
    ),
    mutant(
        "before the disk, too, a key in line waits for room",
        "core/door::what_waits_with_a_key_in_line_needs_no_room_before_the_disk_either",
        (
            "_core/waiting_room.py",
            "        if not self.door_is_open and key in self._by_key:\n",
            "        if False:\n",
        ),
    ),
    mutant(
        "who comes while their key is in line is overlooked before the disk",
        "core/door::what_waits_with_a_key_in_line_needs_no_room_before_the_disk_either",
        (
            "_core/waiting_room.py",
            "[producer] = None\n            self._note_place(key)\n",
            "[producer] = None\n",
        ),
    ),
    mutant(
        "who shares a key with one who was admitted is overlooked before the disk",
        "core/door::who_shares_a_key_with_the_one_who_got_the_last_room_is_admitted_after_it",
        (
            "_core/waiting_room.py",
            "        batch.note_producer(producer.known_as)\n        self._note_place(key)\n",
            "        batch.note_producer(producer.known_as)\n",
        ),
    ),
    mutant(
        "what was replayed waits for the interval",
        "core/door::what_was_replayed_does_not_wait_for_the_interval",
        ("_core/replay.py", "        self._lanes.seal(FlushReason", "        str(FlushReason"),
    ),
    mutant(
        "a version of a journal that does not merge is set aside",
        "core/door::versions_in_a_journal_that_do_not_merge_are_both_written_in_order",
        (
            "_core/replay.py",
            "            self._unmerged, self._is_held_up = key, True\n",
            "            self._keyless.append(number)\n            return True\n",
        ),
    ),
    mutant(
        "who needs room when a replay is over waits on",
        "core/door::when_a_replay_is_over_whoever_waits_is_admitted",
        (
            "_core/waiting_room.py",
            "                self.admit(producer)\n        self.let_in()\n\n    @trio",
            "                self.admit(producer)\n\n    @trio",
        ),
    ),
    mutant(
        "when a replay is over whoever came last is first",
        "core/door::whose_key_the_journal_brought_into_line_is_admitted_before_later_calls",
        (
            "_core/waiting_room.py",
            "        for producer in tuple(self.producers):\n            if self._lanes",
            "        for producer in reversed(tuple(self.producers)):\n            if self._lanes",
        ),
    ),
    mutant(
        "before the disk a full line is not hurried",
        "journal/journal::a_full_line_is_written_for_those_who_came_together",
        (
            "_core/recorder.py",
            "                self._room.hurry()",
            "                pass",
        ),
    ),
    mutant(
        "room does not wake the journal",
        "journal/journal::always_accepts_no_more_than_there_is_room_for",
        (
            "_core/waiting_room.py",
            "        if self._bell is not None:\n            self._bell.ring()\n        while",
            "        while",
        ),
    ),
    mutant(
        "what the disk was writing is accepted after closing",
        "journal/journal::whoever_waits_for_the_disk_when_the_queue_is_left_is_sent_away",
        (
            "_core/recorder.py",
            "        if self._lifetime.closing.is_set():\n            name",
            "        if False:\n            name",
        ),
    ),
    mutant(
        "a letter that was not written yet is taken for written",
        "core/recorder::a_letter_that_comes_while_the_sink_is_called_stays_until_the_sink_has_it",
        (
            "_core/journaled_line.py",
            "        place.unsafe = key in unsafe\n",
            "",
        ),
    ),
    mutant(
        "what can't be written is reported for ever",
        "journal/journal::an_entry_that_json_does_not_hold_is_logged_by_its_key_and_written",
        (
            "_core/journaled_line.py",
            "            if self.unwritable:\n                self.unwritable.pop(place, None)\n",
            "",
        ),
    ),
    mutant(
        "younger batches are written before older ones",
        "core/recorder::versions_are_written_in_the_order_of_their_batches",
        (
            "_core/journaled_line.py",
            "            self.displaced += 1\n",
            "            pass\n",
        ),
    ),
)

FLUSHING = (
    mutant(
        "sealed batches are written one by one",
        "core/flush::a_flush_for_each_request_takes_as_few_calls_as_persist",
        ("_core/line.py", "            self._join(batch)\n", "            pass\n"),
    ),
    mutant(
        "batches that join make more than a call",
        "core/flush::sealed_batches_join_in_order_as_far_as_they_fit_into_one_call",
        (
            "_core/line.py",
            "len(head.entries) + len(batch.entries) > self.batch_size",
            "len(batch.entries) > self.batch_size",
        ),
    ),
    mutant(
        "the open batch joins, too",
        "core/flush::sealed_batches_join_in_order_as_far_as_they_fit_into_one_call",
        (
            "_core/line.py",
            "            if batch is self.open or len(head",
            "            if len(head",
        ),
    ),
    mutant(
        "without coalescing a batch joins one with the same key",
        "core/flush::without_coalescing_batches_with_a_key_in_common_do_not_join",
        (
            "_core/line.py",
            "            if not self._coalesce and not head",
            "            if False and not head",
        ),
    ),
    mutant(
        "a batch that joined another leaves its keys behind in line",
        "core/flush::a_key_that_joined_another_batch_is_known_until_it_is_written",
        (
            "_core/line.py",
            "            self._unlist(batch)\n            self._absorb",
            "            self._absorb",
        ),
    ),
    mutant(
        "who persists what joined another batch waits for ever",
        "core/flush::whoever_waits_for_a_batch_that_joins_another_learns_its_fate",
        ("_core/batch.py", "        self.receipts.update(batch.receipts)\n", ""),
    ),
    mutant(
        "who flushed a batch that joined another waits for ever",
        "core/flush::whoever_waits_for_a_batch_that_joins_another_learns_its_fate",
        ("_core/batch.py", "        self.fates += batch.fates\n", ""),
    ),
    mutant(
        "who brought what joined another batch is forgotten",
        "watching/otel::producers_of_a_batch_that_joined_another_are_linked_too",
        ("_core/batch.py", "            self.note_producer(producer)\n", "            pass\n"),
    ),
    mutant(
        "a flush leaves the letters to themselves",
        "core/flush::a_flush_waits_for_a_letter_that_came_while_the_sink_failed",
        ("_core/queue.py", "await self._outbox.wait_for(letters)", "True"),
    ),
    mutant(
        "a flush waits for a failing sink",
        "core/flush::a_flush_does_not_wait_longer_than_for_one_call_that_fails_with_its_letters",
        (
            "_core/outbox.py",
            "                failures += 1\n                self._tried = last\n",
            "                failures += 1\n",
        ),
    ),
    mutant(
        "a flush waits for the letters of later entries",
        "core/flush::a_flush_does_not_wait_for_the_letters_of_later_entries",
        (
            "_core/queue.py",
            "letters = max(letters, fate.letters)",
            "letters = self._outbox.posted",
        ),
        (
            "_core/queue.py",
            "await self._outbox.wait_for(letters)",
            "await self._outbox.wait_for(self._outbox.posted)",
        ),
    ),
    mutant(
        "a flush waits for letters that were handed back",
        "core/flush::a_flush_that_waits_for_a_letter_is_told_that_it_was_handed_back",
        ("_core/outbox.py", "        self._is_over = True\n", ""),
    ),
    mutant(
        "a flush ignores what the journal holds",
        "core/flush::a_flush_waits_for_everything_that_the_journal_held",
        (
            "_core/queue.py",
            "            fates += await self._recorder.replay.fates()\n",
            "            pass\n",
        ),
        (
            "_core/queue.py",
            "if abandoned or not tried or lifetime.recovering:",
            "if abandoned or not tried:",
        ),
    ),
    mutant(
        "a flush during a replay waits for what is accepted after it",
        "core/flush::a_flush_during_a_replay_does_not_wait_for_what_is_accepted_after_it",
        (
            "_core/replay.py",
            "        return self._last_fates\n",
            "        return self._lanes.tails()\n",
        ),
    ),
    mutant(
        "a flush waits for a replay that was given up",
        "core/flush::a_flush_is_told_when_the_journal_was_not_read_to_its_end",
        ("_core/assembly.py", "            self.recorder.replay.give_up()\n", "            pass\n"),
    ),
    mutant(
        "a sink's index is believed unseen",
        "core/unfit_letters::letters_that_never_fit_are_found_whatever_the_sink_says_of_them",
        (
            "_core/portions.py",
            "        if count == 1:\n",
            "        if count == 1 or index is not None:\n",
        ),
    ),
    mutant(
        "a sink's index is believed after one was wrong",
        "core/portions::no_index_is_believed_after_a_wrong_one_until_a_letter_was_found",
        (
            "_core/portions.py",
            "            self._believes_hints = False\n",
            "            pass\n",
        ),
    ),
    mutant(
        "letters that are too much for their sink are sent again and again",
        "core/unfit_letters::a_sink_that_is_too_slow_for_all_letters_gets_fewer_at_once",
        (
            "_core/portions.py",
            "            self._pace.was_too_slow(count)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a flush leaves letters to a sink that has refused another",
        "core/unfit_letters::letters_that_never_fit_are_found_whatever_the_sink_says_of_them",
        (
            "_core/outbox.py",
            "                if self._portions.refused",
            "                self._tried = last\n                if self._portions.refused",
        ),
    ),
    mutant(
        "letters that came during a call of the sink lose their age",
        "core/letters::a_letter_that_came_during_a_call_of_the_sink_keeps_its_age",
        (
            "_core/outbox.py",
            "        del self._opened_at[:taken]\n",
            "        self._opened_at.clear()\n",
        ),
    ),
    mutant(
        "any number of letters that their sink never takes is kept",
        "core/unfit_letters::no_more_letters_that_never_fit_are_kept_than_fit_into_a_batch",
        (
            "_core/outbox.py",
            "        if len(self._unfit) >= self._lifetime.options.batch_size:",
            "        if False:",
        ),
    ),
    mutant(
        "a letter that its sink never takes leaves a journal that is rewritten",
        "core/unfit_letters::a_letter_that_never_fits_stays_beside_the_others_and_is_handed_back",
        (
            "_core/outbox.py",
            "            yield letter, place\n",
            "            return\n            yield letter, place\n",
        ),
    ),
)

CALLING = (
    mutant(
        "a slow call is not logged",
        "core/calls::a_call_of_more_than_half_a_minute_is_one_warning_and_in_metrics",
        ("_core/calls.py", "_SLOW_SECONDS: Final = 30.0", "_SLOW_SECONDS: Final = 3e9"),
    ),
    mutant(
        "a slow call is logged again and again",
        "core/calls::a_call_of_more_than_half_a_minute_is_one_warning_and_in_metrics",
        (
            "_core/calls.py",
            "for call in self._under_way if not call.is_slow)",
            "for call in self._under_way)",
        ),
        (
            "_core/calls.py",
            "elif not call.is_slow and now >= call.began_at",
            "elif now >= call.began_at",
        ),
        (
            "_core/calls.py",
            "slow = (call.began_at + _SLOW",
            "slow = (trio.current_time() + _SLOW",
        ),
    ),
    mutant(
        "an alarm is left behind in an idle queue",
        "core/callers::an_idle_queue_wakes_nobody",
        (
            "_core/calls.py",
            "            self._set_alarm(math.inf)\n\n    def cancelled",
            "            pass\n\n    def cancelled",
        ),
    ),
    mutant(
        "what does not return when it is cancelled is not logged",
        "core/calls::a_repository_that_does_not_return_when_cancelled_is_named_after_five_seconds",
        ("_core/assembly.py", "        self.calls.cancelled()\n", ""),
    ),
    mutant(
        "a call from inside waits for itself",
        "core/calls::what_would_wait_for_the_call_that_it_is_made_in_is_refused",
        ("_core/calls.py", "            if call.is_of(self):\n", "            if False:\n"),
    ),
    mutant(
        "a task that outlives the call it was started in is refused",
        "core/calls::a_task_that_outlives_the_call_it_was_started_in_may_wait",
        ("_core/calls.py", "        self.over = True\n", ""),
    ),
    mutant(
        "a call from inside another queue's call is forgotten",
        "core/calls::a_call_that_goes_through_another_queue_and_comes_back_is_found",
        ("_core/calls.py", "            call = call.outer\n", "            return\n"),
    ),
    mutant(
        "a prepare that does not return holds up its lane",
        "core/calls::a_prepare_that_does_not_return_is_cancelled_once_the_writer_is_free",
        (
            "_core/line.py",
            "        if self.preparing is not None:\n            self.preparing.cancel()\n",
            "",
        ),
    ),
    mutant(
        "a prepare that never returns is called again and again",
        "core/calls::a_prepare_that_does_not_return_is_cancelled_once_the_writer_is_free",
        ("_core/batcher.py", "            self._prepare = None\n", ""),
    ),
    mutant(
        "a prepare that is late three times in a lifetime is given up",
        "core/calls::a_prepare_that_is_late_now_and_then_goes_on_being_called",
        ("_core/batcher.py", "            self._cut_off = 0\n\n", "            pass\n\n"),
    ),
    mutant(
        "whoever comes by may leave the queue",
        "core/journaled_exits::only_the_task_that_entered_can_leave",
        ("_core/opening.py", "    one_task = True\n", ""),
    ),
)

GROWTH = (
    mutant(
        "everybody who waits is looked at whenever somebody comes",
        "core/growth::one_of_many_costs_no_more_than_one_of_few[admit_through_the_journal]",
        (
            "_core/waiting_room.py",
            "        keys = self._need_no_room\n",
            "        keys = self._need_no_room\n        for _ in self.producers:\n            pass\n",
        ),
    ),
    mutant(
        "who does not wait any more is looked for",
        "core/growth::one_of_many_costs_no_more_than_one_of_few[cancel_those_who_persist_one_key]",
        (
            "_core/batch.py",
            "            self.register.pop(self, None)\n",
            "            waiting = list(self.register)\n"
            "            if self in waiting:\n"
            "                waiting.remove(self)\n"
            "                self.register.pop(self)\n",
        ),
    ),
)

TABLES = (
    mutant(
        "of two versions of a table's row that are equally new the first is kept",
        "core/table::every_rule_does_what_it_says",
        (
            "_vocabulary/table.py",
            "is_less(self._of_newer(later), self._of_newer(older))",
            "not is_less(self._of_newer(older), self._of_newer(later))",
        ),
    ),
    mutant(
        "a table compares moments by the clock on the wall",
        "core/table::moments_are_compared_as_moments_when_clocks_go_back",
        (
            "_vocabulary/merging.py",
            "if isinstance(value, datetime) and value.tzinfo is not UTC:",
            "if isinstance(value, datetime) and value.tzinfo is None:",
        ),
    ),
    mutant(
        "a queue does not ask the repository's table for the rule",
        "core/table::the_queue_takes_key_and_merge_from_the_table",
        ("_core/opening.py", "merge or declared.merge", "merge"),
    ),
    mutant(
        "a stored version without a number is never replaced",
        "stores/tables::every_store_merges_as_memory_does",
        ("sqlite/_plan.py", "(t.{column} IS NULL OR excluded", "(excluded"),
    ),
    mutant(
        "SQLite compares decimals as text",
        "stores/sqlite_tables::decimals_are_compared_as_numbers",
        ("sqlite/_plan.py", '" COLLATE {DECIMAL_ORDER}"', '" COLLATE BINARY"'),
    ),
    mutant(
        "SQLite compares text as the column says",
        "stores/sqlite_tables::text_is_compared_by_code_point_whatever_the_column_says",
        ("sqlite/_plan.py", '"str": " COLLATE BINARY"', '"str": ""'),
    ),
    mutant(
        "SQLite finds text unchanged that differs in case",
        "stores/sqlite_tables::text_is_compared_by_code_point_whatever_the_column_says",
        ("sqlite/_plan.py", "{column} COLLATE BINARY IS NOT t", "{column} IS NOT t"),
    ),
    mutant(
        "what a table keeps is replaced by a newer version",
        "stores/tables::every_store_merges_as_memory_does",
        (
            "sqlite/_plan.py",
            'if field.rule == "newest"]',
            'if field.rule in {"newest", "keep"}]',
        ),
    ),
    mutant(
        "a bool is stored as an int",
        "stores/sqlite_tables::what_can_not_be_stored_unchanged_is_refused_by_index_and_field",
        (
            "_vocabulary/values.py",
            "        if type(value) is not int:\n",
            "        if not isinstance(value, int):\n",
        ),
    ),
    mutant(
        "NaN is stored, as NULL",
        "stores/sqlite_tables::what_can_not_be_stored_unchanged_is_refused_by_index_and_field",
        ("sqlite/_cells.py", "    if math.isnan(number):\n", "    if False:\n"),
    ),
    mutant(
        "NaN among others is stored, as NULL",
        "stores/sqlite_tables::what_can_not_be_stored_unchanged_is_refused_by_index_and_field",
        (
            "sqlite/_cells.py",
            "if values.are(float, many) and not any(map(math.isnan, many)) else",
            "if values.are(float, many) else",
        ),
    ),
    mutant(
        "naive moments among others are stored",
        "stores/sqlite_tables::what_can_not_be_stored_unchanged_is_refused_by_index_and_field",
        ("_vocabulary/values.py", "all(zone is UTC for zone in map(_zone_of, values))", "True"),
    ),
    mutant(
        "JSON is not read back before it is stored",
        "stores/sqlite_tables::what_can_not_be_stored_unchanged_is_refused_by_index_and_field",
        (
            "_vocabulary/values.py",
            "            same = back == value\n",
            "            same = True\n",
        ),
    ),
    mutant(
        "a migration while it runs is not noticed",
        "stores/sqlite_tables::a_migration_while_it_runs_is_seen_at_once",
        ("sqlite/_file.py", "if schema_version(connection) != plan.version:", "if False:"),
    ),
    mutant(
        "a file that is somebody else's is switched to a write-ahead log",
        "stores/sqlite_tables::a_table_is_put_beside_those_of_somebody_else_if_that_is_asked",
        ("sqlite/_file.py", "        if is_empty:\n", "        if True:\n"),
    ),
    mutant(
        "an index on some rows is taken for one on the key",
        "stores/sqlite_tables::a_table_that_does_not_fit_names_the_column",
        ("sqlite/_catalogue.py", "if not is_unique or partial:", "if not is_unique:"),
    ),
    mutant(
        "a key that SQLite compares without case is taken",
        "stores/sqlite_tables::a_table_that_does_not_fit_names_the_column",
        ("sqlite/_catalogue.py", ' - {"BINARY"}', ' - {"BINARY", "NOCASE"}'),
    ),
    mutant(
        "rows are deleted whatever their version",
        "stores/tables::rows_are_deleted_by_fields_and_by_version[sqlite]",
        ("sqlite/_plan.py", "if before is not None and newer is not None:", "if False:"),
    ),
)


BACK_AT_ONCE = "stream/relays::what_could_not_be_written_is_given_back_at_once"
POSTGRES_TABLES = (
    mutant(
        "PostgreSQL orders text as the column's collation does",
        "stores/postgres_tables::versions_are_ordered_by_code_point_whatever_the_collation",
        ("postgres/_plan.py", 'order=_C_ORDER if is_text else ""', 'order=""'),
    ),
    mutant(
        "what a collation takes for equal is not written",
        "stores/postgres_tables::versions_are_ordered_by_code_point_whatever_the_collation",
        (
            "postgres/_plan.py",
            'told_apart="{}" + _C_ORDER if is_text else told_apart',
            "told_apart=told_apart",
        ),
    ),
    mutant(
        "PostgreSQL rounds what a numeric has no room for",
        "stores/postgres_tables::what_a_column_can_hold_comes_back_as_it_was_and_nothing_else_is_stored",
        ("postgres/_codecs.py", "if context.quantize(number, unit) != number:", "if False:"),
    ),
    mutant(
        "PostgreSQL cuts spaces that a varchar has no room for",
        "stores/postgres_tables::what_a_column_can_hold_comes_back_as_it_was_and_nothing_else_is_stored",
        (
            "postgres/_codecs.py",
            "        if length is not None and len(text) > length:",
            "        if False:",
        ),
    ),
    mutant(
        "jsonb makes another number of a float",
        "stores/postgres_tables::what_a_column_can_hold_comes_back_as_it_was_and_nothing_else_is_stored",
        ("postgres/_codecs.py", "codec.decode(_as_jsonb_writes(text)) != value", "False"),
    ),
    mutant(
        "None is JSON's null, and not NULL",
        "stores/postgres_tables::a_column_that_is_not_null_refuses_none_before_it_is_sent",
        ("postgres/_codecs.py", 'if text == "null":', "if False:"),
    ),
    mutant(
        "arrays of unequal rows are sent",
        "stores/postgres_tables::what_a_column_can_hold_comes_back_as_it_was_and_nothing_else_is_stored",
        ("postgres/_arrays.py", "    if 0 in lengths:\n", "    if False:\n"),
    ),
    mutant(
        "a migration while it runs is seen by new connections only",
        "stores/postgres_tables::a_migration_while_it_runs_is_seen_at_the_next_call",
        ("postgres/_session.py", "if error.sqlstate not in _OF_ALTERED_TABLES:", "if True:"),
    ),
    mutant(
        "what was packed before a migration is sent after it",
        "stores/postgres_tables::what_was_packed_before_a_migration_is_packed_anew",
        ("postgres/_repository.py", "if plan is not packed.plan:", "if False:"),
    ),
    mutant(
        "a table that was renamed is made once more",
        "stores/postgres_tables::a_migration_while_it_runs_is_seen_at_the_next_call",
        ("postgres/_tables.py", "self._create and is_first", "self._create"),
    ),
    mutant(
        "who looked before another connection made the table does not find it",
        "stores/postgres_tables::"
        "whoever_found_no_table_before_another_connection_made_it_finds_it_then",
        ("postgres/_tables.py", "self._create and is_first", "self._create and self.plan is None"),
    ),
    mutant(
        "an index on some of the rows is taken for one on all",
        "stores/postgres_tables::a_table_that_does_not_fit_is_named_with_its_column",
        ("postgres/_catalogue.py", "AND i.indpred IS NULL AND i.indexprs", "AND i.indexprs"),
    ),
    mutant(
        "a key may be compared by a collation that takes different texts for equal",
        "stores/postgres_tables::a_key_whose_collation_takes_different_texts_for_equal_is_refused",
        ("postgres/_catalogue.py", "if not columns[name].is_deterministic:", "if False:"),
    ),
    mutant(
        "the value of another column is taken for a key",
        "stores/postgres_tables::no_index_is_guessed_where_the_detail_is_about_something_else",
        ("postgres/_plan.py", "or (_ABOUT_COLUMNS(detail) and ours not in detail)", ""),
    ),
    mutant(
        "a version without a number is newer than others when rows are deleted in PostgreSQL",
        "stores/tables::rows_are_deleted_by_fields_and_by_version[postgres]",
        ("postgres/_plan.py", "({how.column} IS NULL OR {older})", "{older}"),
    ),
    mutant(
        "a version without a number is newer than others when rows are deleted in SQLite",
        "stores/tables::rows_are_deleted_by_fields_and_by_version[sqlite]",
        ("sqlite/_plan.py", "({column} IS NULL OR {column}", "({column}"),
    ),
    mutant(
        "PostgreSQL keeps the version that arrived first of two that are equally new",
        "stores/tables::every_store_merges_as_memory_does",
        (
            "postgres/_statements.py",
            'wins = f"{new}.{name}{order} >= t.{name}"',
            'wins = f"{new}.{name}{order} > t.{name}"',
        ),
    ),
    mutant(
        "a row is deleted that no longer matches",
        "stores/postgres_tables::rows_that_change_while_others_are_deleted_are_looked_at_again",
        (
            "postgres/_statements.py",
            'f"WHERE {rows.among(given)} AND {condition} {order}"',
            'f"WHERE {rows.among(given)} {order}"',
        ),
    ),
    mutant(
        "a transaction is left open by who deletes many rows",
        "stores/postgres_tables::no_transaction_is_left_when_deleting_many_rows_ends_early[cancelled]",
        (
            "postgres/_repository.py",
            "await self._calls.bridge.run(partial(close_all, self._lister.idle))",
            "pass",
        ),
    ),
    mutant(
        "letters of a class that was renamed can't be read",
        "cli/tables::letters_of_a_class_that_was_renamed_are_read_by_its_former_name",
        (
            "_cli/entries.py",
            "        self.aliases = tuple(aliases)\n",
            "        self.aliases = ()\n",
        ),
    ),
    mutant(
        "a password that is asked for is asked for once",
        "stores/postgres_passwords::an_async_function_is_asked_for_the_password_at_each_connect[thread]",
        ("postgres/_pool.py", "            if session.will_connect:\n", "            if False:\n"),
    ),
)

STREAM = (
    mutant(
        "a cancellation that nats-py swallows is lost",
        "stream/connections::a_cancellation_that_nats_py_swallows_is_raised_all_the_same",
        (
            "nats/_connection.py",
            "    if task is not None and task.cancelling():\n",
            "    if False:\n",
        ),
    ),
    mutant(
        "a late answer to a ping breaks a connection",
        "stream/connections::a_ping_that_is_answered_too_late_breaks_no_connection",
        (
            "nats/_connection.py",
            "        if self._pongs and self._pongs[0].done():\n",
            "        if False:\n",
        ),
    ),
    mutant(
        "a message is acknowledged when it arrives",
        BACK_AT_ONCE,
        (
            "nats/_source.py",
            "                self._arrived[message.number] = message\n",
            "                self._arrived[message.number] = message\n"
            "                self._done.append(message.reply)\n",
        ),
    ),
    mutant(
        "a message is acknowledged before it is written",
        BACK_AT_ONCE,
        (
            "nats/_source.py",
            "            self._held[number].taken = True\n",
            "            self._held[number].taken = True\n"
            "            self._done.append(self._held[number].reply)\n",
        ),
    ),
    mutant(
        "a message is acknowledged when its first entry is settled",
        "stream/relays::a_message_is_acknowledged_only_when_its_last_entry_is_persisted",
        ("nats/_source.py", "            held.left -= entries\n", "            held.left = 0\n"),
    ),
    mutant(
        "what was merged counts as done",
        "stream/relays::an_entry_that_another_took_the_place_of_is_done_when_that_one_is",
        (
            "_core/replay.py",
            "        place.numbers.append(number)\n",
            "        done = Place() if place.numbers else place\n"
            "        done.numbers.append(number)\n"
            "        if done is not place:\n"
            "            self._notes.settle([done])\n",
        ),
    ),
    mutant(
        "a message is done as soon as its letter is written",
        "stream/relays::a_refused_entry_is_acknowledged_only_when_its_letter_is_kept",
        (
            "_core/outbox.py",
            "                self.places.append(self._notes.take_out(batch, key))\n",
            "                self.places.append(self._notes.take_out(batch, key))\n"
            "                self._notes.settle(self.places[-1:])\n"
            "                self.places[-1].numbers = []\n",
        ),
    ),
    mutant(
        "what is held is not extended",
        "stream/relays::held_messages_are_extended_for_as_long_as_it_takes",
        ("nats/_puller.py", "_IN_PROGRESS, [*replies, *arrived])", "_IN_PROGRESS, [])"),
    ),
    mutant(
        "answers that a crash left wait for the next one",
        "stream/connections::a_defect_of_a_relay_s_answers_is_a_crash_after_which_they_are_sent",
        (
            "nats/_source.py",
            "        self._bell.set()\n        while True:\n",
            "        while True:\n",
        ),
    ),
    mutant(
        "a message that comes again is held twice",
        "stream/relays::a_message_that_comes_again_is_held_once",
        ("nats/_source.py", "            elif held is None:\n", "            elif True:\n"),
    ),
    mutant(
        "what is left is not given back",
        BACK_AT_ONCE,
        ("nats/_source.py", "back = (*self._back, *self._replies())", "back = ()"),
        ("nats/_puller.py", "        await self.answer(GIVEN_BACK, arrived)\n", ""),
    ),
    mutant(
        "each message is acknowledged alone",
        "stream/connections::messages_that_are_done_one_soon_after_the_other_are_acknowledged_together",
        ("nats/_source.py", "            await trio.sleep(_GATHER_SECONDS)\n", ""),
    ),
    mutant(
        "the consumer gives up",
        "stream/producers::create_stream_changes_nothing_the_second_time",
        ("nats/_stream.py", '"max_deliver": -1,', '"max_deliver": 1,'),
    ),
    mutant(
        "a full stream discards what is old",
        "stream/producers::create_stream_changes_nothing_the_second_time "
        "stream/producers::a_full_stream_is_unavailable_and_keeps_what_it_has",
        (
            "nats/_stream.py",
            '"discard": "new",\n        "max_bytes": max_bytes,',
            '"discard": "old",\n        "max_bytes": max_bytes,',
        ),
    ),
    mutant(
        "an empty line of a message counts as an entry",
        "stream/messages::an_empty_line_is_no_entry",
        (
            "nats/_messages.py",
            "                if len(entries) < count:\n",
            "                if False:\n",
        ),
    ),
    mutant(
        "a message with fewer entries than announced is taken for whole",
        "stream/messages::a_message_that_this_program_does_not_know_is_unreadable",
        (
            "nats/_messages.py",
            "        if found != envelope.count or not found:\n",
            "        if not found:\n",
        ),
    ),
    mutant(
        "what is compressed and cut off is taken for whole",
        "stream/messages::a_compressed_message_that_is_not_whole_is_unreadable",
        ("nats/_messages.py", "        if not stream.eof:\n", "        if False:\n"),
    ),
    mutant(
        "an entry is only known to be too large by the size of its piece",
        "stream/messages::an_entry_that_fits_into_no_message_is_refused_by_its_index",
        ("nats/_messages.py", "index=piece.first,", "index=0,"),
    ),
    mutant(
        "a publish waits for the former leader",
        "stream/connections::what_a_former_leader_left_unanswered_is_published_to_the_next_one",
        (
            "nats/_connection.py",
            "            self._fail_requests(LeaderChangedError())\n",
            "            pass\n",
        ),
    ),
    mutant(
        "who may not listen to advisories may not publish",
        "stream/connections::who_may_not_listen_to_advisories_may_publish",
        ("nats/_connection.py", " and _ADVISORY not in text:", ":"),
    ),
    mutant(
        "while a leader is elected everything is published again",
        "stream/connections::while_a_leader_is_elected_publishing_waits_and_sends_only_what_is_unanswered",
        (
            "nats/_repository.py",
            "                left, why = await self._send_once(left, connection)\n",
            "                _, why = await self._send_once(left, connection)\n",
        ),
    ),
    mutant(
        "what is decoded may hold any hash",
        "core/entries::a_hash_has_one_form",
        ("_vocabulary/entries.py", '            and _are_two_hashes(f"{verdict},{proof}")\n', ""),
    ),
    mutant(
        "what is decoded may hold an id of any type",
        "core/entries::an_id_of_a_wrong_type_is_a_type_error_too",
        ("_vocabulary/entries.py", 'if {*map(type, ids)} <= _ONLY_STR and "" not', 'if "" not'),
    ),
    mutant(
        "an entry is sent whatever comes of it",
        "stream/messages::what_would_not_be_read_back_as_it_is_is_refused_by_its_index",
        ("nats/_messages.py", "        return same and all(", "        return True or all("),
    ),
    mutant(
        "a message that can't be read is skipped",
        "stream/relays::a_message_that_cannot_be_read_stops_the_relay_until_it_is_gone",
        (
            "nats/_source.py",
            "                if not self._ready:\n",
            "                self._done.append(self._arrived.pop(number).reply)\n"
            "                if False:\n",
        ),
    ),
    mutant(
        "an entry that is too large for one server is refused",
        "stream/producers::an_entry_that_is_too_large_for_one_server_goes_to_another",
        ("nats/_repository.py", "others = self._session.servers - 1", "others = 0"),
    ),
    mutant(
        "a server that needs a person is passed over in silence",
        "stream/producers::a_server_that_needs_a_person_is_passed_over_and_logged_once",
        (
            "nats/_session.py",
            "                    self._report_passed_over(failures)\n",
            "",
        ),
    ),
    mutant(
        "a password is sent in plain text",
        "stream/producers::nothing_is_sent_without_tls_where_it_is_wanted",
        ("nats/_connection.py", "        if self._wants_tls and not", "        if False and not"),
    ),
)


CACHE = (
    mutant(
        "only the newest open version is merged",
        "cache/reads::every_open_version_is_merged_and_not_only_the_newest",
        (
            "_core/line.py",
            "return reduce(self.merge, versions) if versions else None",
            "return versions[-1] if versions else None",
        ),
    ),
    mutant(
        "what is being written is not merged with what is read",
        "cache/reads::with_coalescing_what_is_written_and_what_is_in_line_are_merged",
        (
            "_core/line.py",
            "versions.append(self.writing.entries[key])",
            "pass",
        ),
    ),
    mutant(
        "a refused version that may be tried again is forgotten",
        "cache/reads::a_version_that_is_refused_but_may_yet_be_tried_again_counts",
        (
            "_core/line.py",
            "versions.append(self.writing.refused[key].entry)",
            "pass",
        ),
    ),
    mutant(
        "what the inlined acceptance takes is not reported",
        "cache/reads::what_others_enqueue_past_the_cache_is_found_too",
        (
            "_core/queue.py",
            "self._line = self._simple_line if cache is None else None",
            "self._line = self._simple_line",
        ),
    ),
    mutant(
        "a version that takes a place in line is not reported",
        "cache/reads::what_others_enqueue_past_the_cache_is_found_too",
        (
            "_core/line.py",
            "            self.seal(FlushReason.FULL)\n        if self.observer is not None:\n",
            "            self.seal(FlushReason.FULL)\n        if self.observer is False:\n",
        ),
    ),
    mutant(
        "a version that is merged in line is not reported",
        "cache/reads::what_is_accepted_while_the_store_is_read_is_part_of_the_answer",
        (
            "_core/line.py",
            "            ledger.coalesced += 1\n            if self.observer is not None:\n",
            "            ledger.coalesced += 1\n            if self.observer is False:\n",
        ),
    ),
    mutant(
        "what is recovered is not reported",
        "cache/journal::what_is_recovered_while_the_store_is_read_is_part_of_the_answer",
        (
            "_core/journaled_line.py",
            "            ledger.coalesced += 1\n            if self.observer is not None:\n",
            "            ledger.coalesced += 1\n            if self.observer is False:\n",
        ),
    ),
    mutant(
        "a dead letter is not reported",
        "cache/reads::a_refused_version_is_forgotten",
        ("_core/outbox.py", "self.observer.refused(key)", "pass"),
    ),
    mutant(
        "a write goes blindly into memory",
        "cache/reads::a_write_does_not_go_blindly_into_memory",
        (
            "cache/_memory.py",
            "        if slot is not None:\n            entry = slot.entry\n",
            "        if slot is None:\n            self.keep(key, version, self._clock(), self._rules.now(), as_base=True)\n"
            "        else:\n            entry = slot.entry\n",
        ),
    ),
    mutant(
        "pending alone is served when the store is away",
        "cache/reads::what_is_pending_is_not_served_alone_when_the_store_is_away",
        (
            "cache/_reads.py",
            "        reading.failed.update(dict.fromkeys(keys, error))\n",
            "        reading.failed.update(\n"
            "            {key: error for key in keys if key not in reading.folded}\n        )\n",
        ),
    ),
    mutant(
        "an invalidation does not flush",
        "cache/invalidation::what_is_remembered_in_line_and_stored_goes",
        ("cache/_cache.py", "            await self._seam.flush()\n", ""),
    ),
    mutant(
        "an invalidation takes what is accepted meanwhile",
        "cache/invalidation::what_is_accepted_meanwhile_stays",
        (
            "cache/_cache.py",
            "delete_where(before=before, **equals)",
            "delete_where(before=None, **equals)",
        ),
    ),
    mutant(
        "a version that is dated now survives an invalidation",
        "cache/invalidation::a_version_of_this_instant_goes_and_one_dated_later_may_stay",
        ("cache/_rules.py", "return self.now() + _TICK", "return self.now()"),
    ),
    mutant(
        "an expired base is forgotten",
        "cache/reads::an_expired_version_stays_the_base_of_what_comes_later",
        (
            "cache/_memory.py",
            "        slot.entry = entry\n",
            "        slot.entry = entry if entry is None or self._rules.is_live(entry, now) else None\n",
        ),
    ),
    mutant(
        "a computation that outlives an invalidation is kept",
        "cache/computations::an_invalidation_overtakes_what_is_being_computed",
        (
            "cache/_computations.py",
            "is_overtaken = any_matches(computation.invalidations, result)",
            "is_overtaken = False",
        ),
    ),
    mutant(
        "a result that waits for room outlives an invalidation",
        "cache/computations::an_invalidation_overtakes_what_waits_for_room",
        ("cache/_computations.py", "            self._storing.cancel()\n", "            pass\n"),
    ),
    mutant(
        "who comes after an invalidation gets what was computed before",
        "cache/computations::an_invalidation_overtakes_what_is_being_computed",
        ("cache/_cache.py", "if not any_matches(before, answer):", "if True:"),
    ),
    mutant(
        "memory is never used",
        "cache/reads::memory_is_used_for_memory_seconds",
        ("cache/_memory.py", "if entry is None or self._clock() >=", "if True or self._clock() >="),
    ),
    mutant(
        "a version that is put makes an answer younger",
        "cache/reads::a_version_that_is_put_makes_no_answer_younger",
        (
            "cache/_memory.py",
            "            merged = version if entry is None else self._rules.merge(entry, version)\n",
            "            merged = version if entry is None else self._rules.merge(entry, version)\n"
            "            slot.read_at = self._clock()\n",
        ),
    ),
    mutant(
        "what an older call finds is remembered",
        "cache/reads::a_read_that_began_too_long_ago_is_not_joined",
        (
            "cache/_reads.py",
            "            older.unkept |= older.keys.keys() & reading.keys.keys()\n",
            "            pass\n",
        ),
        (
            "cache/_reads.py",
            "        reading.began_at = self._clock()\n",
            "        reading.began_at = self._clock() + 100\n",
        ),
    ),
    mutant(
        "a read that is too old is joined",
        "cache/reads::a_read_that_began_too_long_ago_is_not_joined",
        (
            "cache/_reads.py",
            "is_young = self._clock() < reading.began_at + self._memory.seconds",
            "is_young = True",
        ),
    ),
    mutant(
        "a read that has seen a refused version answers",
        "cache/reads::a_read_that_has_seen_a_version_that_is_refused_reads_again",
        (
            "cache/_reads.py",
            "            if key in reading.keys:\n                reading.again.add(key)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "get_many counts what is pending as stored",
        "cache/reads::get_many_counts_where_its_answers_come_from",
        (
            "cache/_reads.py",
            "return not (self.pending or self.failed or self.again)",
            "return not (self.failed or self.again)",
        ),
    ),
    mutant(
        "an expired version is not remembered for a computation that needs it",
        "cache/computations::what_is_computed_is_merged_with_what_was_there",
        (
            "cache/_reads.py",
            "keep(key, entry, began_at, now, as_base=key in bases)",
            "keep(key, entry, began_at, now, as_base=False)",
        ),
    ),
    mutant(
        "what was accepted is left out of an answer",
        "cache/reads::what_was_put_is_found_before_it_is_stored",
        ("cache/_reads.py", "if special or reading.folded:", "if special:"),
    ),
    mutant(
        "a read that overlaps with an invalidation is joined",
        "cache/invalidation::what_a_read_brings_back_meanwhile_is_not_remembered",
        (
            "cache/_reads.py",
            "joins = is_young and not reading.invalidations and",
            "joins = is_young and",
        ),
    ),
    mutant(
        "what an invalidation deleted before its fate was known is remembered",
        "cache/invalidation::what_was_deleted_before_its_fate_was_known_is_not_remembered",
        ("cache/_reads.py", "        if fates:\n", "        if False:\n"),
    ),
    mutant(
        "an invalidation that is over is never forgotten",
        "cache/invalidation::what_was_deleted_before_its_fate_was_known_is_not_remembered",
        (
            "cache/_reads.py",
            "            if not all(fate.known.is_set() for fate in fates)\n",
            "",
        ),
    ),
    mutant(
        "what a read brings back during an invalidation is remembered",
        "cache/invalidation::what_a_read_brings_back_meanwhile_is_not_remembered",
        ("cache/_reads.py", "return not invalidations or not (", "return True or not ("),
    ),
    mutant(
        "what is remembered is merged during an invalidation",
        "cache/invalidation::what_a_read_brings_back_meanwhile_is_not_remembered",
        ("cache/_cache.py", "        if self._reads.invalidations:\n", "        if False:\n"),
    ),
    mutant(
        "get_many returns what expired while it waited",
        "cache/reads::get_many_returns_nothing_that_expired_while_it_waited",
        ("cache/_cache.py", "if key in found and is_live(found[key], now)", "if key in found"),
    ),
    mutant(
        "each cold key is read by itself",
        "cache/reads::cold_keys_are_gathered_in_few_calls_at_once",
        ("cache/_reads.py", "_MOST_KEYS: Final = 500", "_MOST_KEYS: Final = 1"),
    ),
    mutant(
        "reads crowd out the writer",
        "cache/reads::cold_keys_are_gathered_in_few_calls_at_once",
        ("cache/_reads.py", "_MOST_CALLS: Final = 2", "_MOST_CALLS: Final = 100"),
    ),
    mutant(
        "a key that the store does not take fails all in its call",
        "cache/reads::a_key_that_the_store_does_not_take_fails_nobody_else",
        (
            "cache/_reads.py",
            "if len(keys) > 1 and isinstance",
            "if len(keys) > 1000 and isinstance",
        ),
    ),
    mutant(
        "a computation goes on when nobody waits for it",
        "cache/computations::a_computation_ends_when_nobody_waits_for_it",
        ("cache/_computations.py", "        self.scope.cancel()\n", ""),
    ),
    mutant(
        "a computation that is being cancelled is joined",
        "cache/computations::a_computation_that_can_not_end_at_once_is_not_joined",
        (
            "cache/_computations.py",
            "                if computation.leave():\n                    self._forget(computation)\n",
            "                computation.leave()\n",
        ),
    ),
    mutant(
        "those who wait share an error",
        "cache/computations::an_error_reaches_each_who_waits_with_an_object_of_its_own",
        ("cache/_cache.py", "raise copy_of(computation.error)", "raise computation.error"),
    ),
    mutant(
        "an error is made by its class",
        "cache/computations::an_error_reaches_each_who_waits_with_an_object_of_its_own",
        (
            "cache/_foreign.py",
            "    copy: BaseException = base.__new__(cls, *args)\n",
            "    copy: BaseException = cls(*args)\n",
        ),
    ),
    mutant(
        "a Cancelled of a group reaches others",
        "cache/computations::a_group_that_holds_cancelled_is_freed_of_it",
        ("cache/_foreign.py", ".split(trio.Cancelled)[1]", ".split(trio.TooSlowError)[1]"),
    ),
    mutant(
        "a full line holds up who may miss",
        "cache/computations::a_full_line_while_the_store_is_away_holds_nobody_up",
        ("cache/_computations.py", "if not (self._may_wait_for_room or", "if False and not ("),
    ),
    mutant(
        "a surrounding scope ends a computation",
        "cache/computations::a_scope_around_the_cache_does_not_reach_its_tasks",
        (
            "cache/_computations.py",
            "trio.CancelScope = trio.CancelScope(shield=True)",
            "trio.CancelScope = trio.CancelScope()",
        ),
    ),
)


WATCHING = (
    mutant(
        "what was seen of a stream long ago counts as known now",
        "stream/looks::what_was_not_seen_for_thirty_seconds_is_no_longer_current",
        ("nats/_looks.py", "current=age_seconds <= _CURRENT_SECONDS", "current=True"),
    ),
    mutant(
        "a look at a stream that hangs is waited for",
        "stream/looks::a_look_that_hangs_is_cut_off_after_five_seconds",
        ("nats/_looks.py", "trio.fail_after(_PATIENCE_SECONDS)", "trio.CancelScope()"),
    ),
    mutant(
        "a look at a stream ends the relay by an error",
        "stream/looks::failing_looks_end_nothing_and_are_logged_once[ours]",
        ("nats/_looks.py", "except Exception as error:", "except StoreError as error:"),
    ),
    mutant(
        "a look that is refused is repeated every ten seconds",
        "stream/looks::a_look_that_is_refused_is_repeated_once_a_minute",
        ("nats/_looks.py", "pause = _REFUSED_SECONDS", "pause = _EVERY_SECONDS"),
    ),
    mutant(
        "a relay looks over the connection that pulls",
        "stream/looks::a_relay_that_may_not_look_does_its_work",
        (
            "nats/_relay.py",
            "    looks = Looks(access, names)\n",
            "    looks = Looks(access, names)\n    looks.session = puller.session\n",
        ),
    ),
    mutant(
        "what a cache has counted is forgotten when another one follows",
        "cache/opening::a_queue_has_the_metrics_of_its_cache_and_those_of_earlier_ones "
        "watching/otel::a_cache_is_exported_with_its_queue_and_its_counters_go_on",
        ("_core/queue.py", "past.plus(cache.metrics())", "cache.metrics()"),
    ),
    mutant(
        "Prometheus gets what was seen of a stream long ago",
        "watching/prometheus::a_stream_is_shown_as_far_as_it_is_known_now[stale]",
        (
            "prometheus.py",
            "metrics.look is not None and metrics.look.current",
            "metrics.look is not None",
        ),
    ),
    mutant(
        "OpenTelemetry gets what was seen of a stream long ago",
        "watching/otel::a_stream_is_exported_as_far_as_it_is_known_now",
        ("otel.py", "stream.look is not None and stream.look.current", "stream.look is not None"),
    ),
    mutant(
        "OpenTelemetry lacks a counter",
        "watching/every_number::each_number_of_a_queue_is_exported",
        ("otel.py", "    _REFUSED,\n", ""),
    ),
    mutant(
        "Prometheus lacks a gauge",
        "watching/every_number::each_number_of_a_queue_is_exported",
        (
            "prometheus.py",
            '    _Number("producers_waiting", "producers_waiting", "Tasks that wait for room."),\n',
            "",
        ),
    ),
)


STRANGERS = (
    mutant(
        "a replay is well although entries were set aside",
        "cli/journal::a_replay_fails_and_says_where_entries_are_that_it_could_not_read",
        (
            "_cli/journal/replay.py",
            "        is_whole = self._was_intact and not (self.left or self.set_aside)\n",
            "        is_whole = self._was_intact and not self.left\n",
        ),
    ),
    mutant(
        "a replay is well although records were damaged",
        "cli/journal::a_replay_fails_if_records_were_damaged",
        (
            "_cli/journal/replay.py",
            "        is_whole = self._was_intact and not (self.left or self.set_aside)\n",
            "        is_whole = not (self.left or self.set_aside)\n",
        ),
    ),
    mutant(
        "a replay that can't look at its end says that nothing is left",
        "cli/journal::a_replay_whose_journal_is_gone_at_its_end_does_not_call_it_empty",
        (
            "_cli/journal/replay.py",
            "        self.left, self.set_aside = found.entries, found.set_aside.entries\n",
            "        self.left, self.set_aside = 0, found.set_aside.entries\n",
        ),
    ),
    mutant(
        "what a journal keeps is counted as lost",
        "core/journaled_exits::what_was_not_read_by_the_deadline_stays_in_the_journal_and_is_counted",
        (
            "_core/assembly.py",
            "        name, kept = lifetime.name, self.kept\n",
            "        name, kept = lifetime.name, False\n",
        ),
    ),
    mutant(
        "dead letters do not wait for their predecessor",
        "stores/dead_letters::a_successor_waits_for_its_predecessor_whatever_it_opens_first",
        (
            "dead_letters/_dead_letters.py",
            'partial(self._calls.run, self._file.open), "dead letters", self._lock_timeout_seconds\n',
            'partial(self._calls.run, self._file.open), "dead letters", 0\n',
        ),
    ),
    mutant(
        "a file that is no one's is waited for",
        "stores/dead_letters::a_lock_is_waited_for_no_longer_than_was_asked_and_other_trouble_is_not",
        (
            "_disk/owner_lock.py",
            "            if error.error_class != _IN_USE or trio.current_time() >= deadline:\n",
            "            if trio.current_time() >= deadline:\n",
        ),
    ),
    mutant(
        "a store that goes on writing after a cancelled call passes",
        "stores/contract::each_broken_promise_is_told",
        (
            "testing/_contract.py",
            "                    await trio.sleep(_LATER_SECONDS)\n",
            "",
        ),
    ),
    mutant(
        "asyncio.run is left with a loop of trio-asyncio's",
        "stores/postgres_bridge::after_trio_a_program_of_asyncio_has_a_loop_of_asyncio_s_own",
        ("_asyncio/trio_asyncio.py", "    _leave_asyncio_alone()\n", "    pass\n"),
    ),
    mutant(
        "a fake that was asked to check values takes all",
        "whole/testing::values_are_checked_if_a_test_asks_for_it",
        ("testing/_fakes.py", "            self._check(index, entry)\n", ""),
    ),
    mutant(
        "a drain blames an error that is over",
        "core/exits::an_error_at_the_deadline_blames_nothing_that_is_over",
        (
            "_core/exits.py",
            "        if not watch.last_cause or (watch.trouble is None and not self._parts.outbox.failing):\n",
            "        if not watch.last_cause:\n",
        ),
    ),
)

MUTANTS = (
    *ACCOUNTING,
    *ACCEPTING,
    *BATCHING,
    *WRITING,
    *FAILURES,
    *LANES,
    *LEAVING,
    *STORING,
    *TABLES,
    *POSTGRES_TABLES,
    *POSTGRES,
    *JOURNAL,
    *DOOR,
    *FLUSHING,
    *CALLING,
    *GROWTH,
    *STREAM,
    *CACHE,
    *WATCHING,
    *STRANGERS,
)
