"""Candidates for a sentence: a text forks into rows, each writes the sentence, and the best row's tokens become the text's.

The rows are ordinary sequences with slots of their own. Those that share tokens share what was encoded: a row gets a copy of the text's
slot, so nothing is encoded again. All rows of a sentence draw their first token from the same logits.

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
    for no other one.
    """
    begin, meet = len(text.tokens), text.meet
    rows = [row for row in text.rows if not (row.beaten or row.sentence_ends(begin))] if text.rows else [text]
    return rows if meet is None else [row for row in rows if _left(row) > meet]


def _left(text: Sequence) -> float:
    """The characters that are left of the line at the end of a text or a row; infinite where that is not fixed."""
    constraint = text.request.constraint
    left = None if constraint is None or text.finish_reason is not None else constraint.line_left(text.form)
    return math.inf if left is None else left


def begin_sentence(text: Sequence, scheduler: Scheduler) -> list[SlotCopy]:
    """Fork a text whose tokens are all encoded; the copies have to be made before its rows run."""
    length = _left(text)
    text.meet = None if length == math.inf else int(length) // 2
    text.rows = [text.fork(number) for number in range(text.request.candidates)]
    copies = [copy for row in text.rows[1:] for copy in scheduler.fork(text, row)]
    scheduler.move(text, text.rows[0])
    return copies


def meet(text: Sequence, scheduler: Scheduler) -> list[SlotCopy]:
    """Once all rows are in the middle of a clause, let those ahead go on in place of those behind; the copies are made as above."""
    if text.meet is None or growing(text):
        return []
    begin, request = len(text.tokens), text.request
    assert request.sentences is not None
    found = parents(
        request.sentences,
        [row.tokens[begin:] for row in text.rows],
        [row.logprob for row in text.rows],
        [0 if row.sentence_ends(begin) else int(_left(row)) for row in text.rows],
        text.tokens[-EARLIER:],
    )
    text.meet, copies = None, []
    for number, parent in enumerate(found):
        if parent != number:
            scheduler.release(text.rows[number])
            text.rows[number] = text.rows[parent].fork(number)
            copies += scheduler.fork(text.rows[parent], text.rows[number])
    return copies


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
    scheduler.move(best, text)
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
