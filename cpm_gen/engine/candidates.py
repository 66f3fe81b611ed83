"""Candidates for a sentence: a text forks into rows, each writes the sentence, and the best row's tokens become the text's.

The rows are ordinary sequences. Rows of equal tokens have one slot and one row of the network: one of them leads, and the others draw
from its logits, each with its own random numbers. A row whose token differs gets a copy of the leader's slot and runs by itself from then
on, so nothing is encoded twice. All rows of a sentence begin with equal tokens.

In a form, the rows wait for each other in the middle of a clause. Those that are behind there become forks of those ahead and draw with
random numbers of their own from then on: a particle filter with one turn a clause. A row's number stays, so what it draws is a
function of the text so far.
"""

from __future__ import annotations

import math

from cpm_gen.engine.scheduler import Scheduler
from cpm_gen.engine.sequence import Sequence
from cpm_gen.networks.interface import SlotCopy
from cpm_gen.sampling.ranking import EARLIER, Sentences, choose_sentence, own_score, parents, shared


def growing(text: Sequence) -> list[Sequence]:
    """What the next step continues: the text, or those of its candidates that may still be the best, have not reached the end and wait
    for no other one. Of candidates with equal tokens, the leader alone.
    """
    begin, meet = len(text.tokens), text.meet
    leaders = [row for row in text.rows if row.leader is None]
    rows = [row for row in leaders if not (row.beaten or row.sentence_ends(begin))] if text.rows else [text]
    return rows if meet is None else [row for row in rows if _left(row) > meet]


def _left(text: Sequence) -> float:
    """The characters that are left of the line at the end of a text or a row; infinite where that is not fixed."""
    constraint = text.request.constraint
    left = None if constraint is None or text.finish_reason is not None else constraint.line_left(text.form)
    return math.inf if left is None else left


def begin_sentence(text: Sequence, scheduler: Scheduler) -> None:
    """Fork a text whose tokens are all encoded."""
    length = _left(text)
    text.meet = None if length == math.inf else int(length) // 2
    text.rows = [text.fork(number) for number in range(text.request.candidates)]
    for row in text.rows[1:]:
        row.leader = text.rows[0]
    scheduler.move(text, text.rows[0])


def drawing_with(leader: Sequence, text: Sequence) -> list[Sequence]:
    """The rows that draw from a leader's logits, itself first."""
    return [leader, *(row for row in text.rows if row.leader is leader)]


def part(text: Sequence, scheduler: Scheduler) -> list[SlotCopy]:
    """After a step, let rows that drew other tokens than their leaders run by themselves; the copies have to be made before that."""
    copies: list[SlotCopy] = []
    leaders: dict[tuple[int, int], Sequence] = {}
    for row in text.rows:
        before, token = row.leader, row.tokens[-1]
        if before is None or token == before.tokens[-1]:
            continue
        row.leader = leaders.get((id(before), token))
        if row.leader is None:
            leaders[id(before), token] = row
            copies += scheduler.fork(before, row)
    return copies


def meet(text: Sequence, scheduler: Scheduler) -> None:
    """Once all rows are in the middle of a clause, replace those behind by forks of those ahead."""
    if text.meet is None or growing(text):
        return
    begin, request = len(text.tokens), text.request
    assert request.sentences is not None
    found = parents(
        request.sentences,
        [row.tokens[begin:] for row in text.rows],
        [row.logprob for row in text.rows],
        [0 if row.sentence_ends(begin) else int(_left(row)) for row in text.rows],
        text.tokens[-EARLIER:],
    )
    text.meet = None
    replaced = [number for number, parent in enumerate(found) if parent != number]
    staying = [row for number, row in enumerate(text.rows) if number not in replaced]
    for number in replaced:
        _leave(text.rows[number], staying, scheduler)
    for number in replaced:
        parent = text.rows[found[number]]
        row = text.rows[number] = parent.fork(number)
        row.leader = parent.leader or parent


def _leave(row: Sequence, staying: list[Sequence], scheduler: Scheduler) -> None:
    """Drop a row. If it leads others that stay, the first of them gets what is held for it and leads instead."""
    led = [other for other in staying if other.leader is row]
    if led:
        scheduler.move(row, led[0])
    else:
        scheduler.release(row)
    for other in led:
        other.leader = None if other is led[0] else led[0]


def end_sentence(text: Sequence, scheduler: Scheduler) -> bool:
    """Once no row is growing, append the best one's tokens to the text. False: some are.

    A row without a next token ends the text with its failure.
    """
    begin = len(text.tokens)
    failed = next((row for row in text.rows if row.failure is not None), None)
    if failed is not None:
        text.failure, text.finish_reason = failed.failure, failed.finish_reason
        release_rows(text, scheduler)
        return True
    assert text.request.sentences is not None
    if text.meet is not None and not all(row.sentence_ends(begin) for row in text.rows):
        return False
    _drop_beaten(text, text.request.sentences)
    if growing(text):
        return False
    text.choice = choose_sentence(
        text.request.sentences,
        [row.tokens[begin:] for row in text.rows],
        [row.logprob for row in text.rows],
        text.tokens[-EARLIER:],
        [not row.beaten for row in text.rows],
    )
    best = text.rows[text.choice.kept]
    scheduler.move(best.leader or best, text)
    text.adopt(best)
    release_rows(text, scheduler)
    return True


def _drop_beaten(text: Sequence, sentences: Sentences) -> None:
    """Mark the rows that are behind a complete one already, where all have the same number of characters at the end."""
    begin, request = len(text.tokens), text.request
    length = _left(text)
    if request.complete or length == math.inf:
        return
    best = -math.inf
    for row in text.rows:
        if not row.beaten and row.sentence_ends(begin):
            if row.own_score is None:
                same = shared(sentences.read(row.tokens[begin:]), sentences.read(text.tokens[-EARLIER:]))
                row.own_score = own_score(row.logprob, int(length), same)
            best = max(best, row.own_score)
    for row in text.rows:
        row.beaten = row.own_score is None and own_score(row.logprob, int(length), 0.0) < best


def release_rows(text: Sequence, scheduler: Scheduler) -> None:
    """Drop the rows and what is held for them."""
    for row in text.rows:
        scheduler.release(row)
    text.rows, text.meet = [], None
