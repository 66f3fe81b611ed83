"""The two ways to get the next token's logits, side by side. Both ask the same window for the same context.

:class:`Recompute` is the oracle: short, obvious, kept for good. :class:`Cached` must equal it at every token, however long:
when the window moves, the kept context stands at positions ``0..`` again, so no key ever carries a position it no longer has.
(The original's ``*_fast`` scripts keep such keys; their text turns to noise past the position table.)

Moving costs no pause: a decode step at small batch reads every weight for a few rows and has rows to spare, so the next window
is encoded in a second slot, a few tokens at a time, while the sequence writes on in the first. When the window moves, the second
slot lacks the newest token only, and the two are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from cpm_gen.engine.sequence import Sequence
from cpm_gen.networks.interface import Segment


@dataclass(frozen=True)
class Work:
    """A segment to run for a sequence; with ``segment.logits``, its next token comes of it."""

    sequence: Sequence
    segment: Segment


class Decoder(Protocol):
    """Says what the network must run to continue sequences."""

    def plan(self, running: Seq[Sequence]) -> list[Work]:
        """The work of one step; at least one segment of it has logits, or brings one nearer to having them."""

    def release(self, sequence: Sequence) -> None:
        """The sequence has ended; forget it."""


class Recompute:
    """The whole context for every token, no cache."""

    def plan(self, running: Seq[Sequence]) -> list[Work]:
        """Everything that each window shows."""
        return [Work(s, Segment(s.context().tolist())) for s in running]

    def release(self, sequence: Sequence) -> None:
        """Nothing is kept."""


@dataclass
class Counts:
    """What a cached decoder did. All but slides count tokens (rows through the network)."""

    decoded: int = 0
    prompt: int = 0
    ahead: int = 0  # of next windows, beside decoding
    at_once: int = 0  # of windows that moved before they were encoded
    slides: int = 0
    slides_at_once: int = 0  # of those, the ones that found no second slot, or not in time


@dataclass
class _Slot:
    index: int
    start: int  # of the window that it holds
    cached: int = 0  # tokens of it that are encoded


_CHUNK = 5  # tokens of a next window at a time: what it holds already is read once for all of them
BESIDE = 64  # tokens of prompts in a step at the most, while others wait for their next token
_ALONE = 4  # times the budget, for prompts while no sequence decodes: fewer passes over the weights


class Cached:
    """One token a step for each sequence; prompts in chunks and next windows ahead of time with the rows to spare.

    batch: most sequences at once; slots: windows of cache, those above ``batch`` hold next windows. budget: tokens a step
    over all sequences, tokens of windows that were not ready in time not counted. Sequences whose request says so are recomputed
    among the others and take no slot.
    """

    def __init__(self, batch: int, slots: int, budget: int) -> None:
        assert slots >= batch
        self._batch = batch
        self._budget = budget
        self._free = list(range(slots))[::-1]
        self._now: dict[int, _Slot] = {}  # by id of the sequence
        self._next: dict[int, _Slot] = {}
        self._owed = 0.0  # tokens of next windows
        self.slots = slots
        self.counts = Counts()

    @property
    def slots_used(self) -> int:
        """Slots that hold a window now."""
        return self.slots - len(self._free)

    def plan(self, running: Seq[Sequence]) -> list[Work]:
        """First every sequence that lacks one token, then windows that moved unready, prompts, and next windows."""
        cached = [s for s in running if not s.request.recompute]
        recomputed = Recompute().plan([s for s in running if s.request.recompute])
        return self._plan(cached) + recomputed

    def _plan(self, running: Seq[Sequence]) -> list[Work]:
        budget = self._budget
        work, prompts, decoding = [], [], []
        for sequence in running:
            slot, moved = self._settle(sequence)
            missing = sequence.length(slot.start) - slot.cached
            if missing == 1:
                work.append(self._run(sequence, slot, 1, logits=True))
                decoding.append(sequence)
                self.counts.decoded += 1
                budget -= 1
            elif moved:
                work.append(self._run(sequence, slot, missing, logits=True))
                self.counts.at_once += missing
            else:
                prompts.append((sequence, slot, missing))
        # however many decode, a prompt comes nearer; where none does, nobody's next token waits for this step
        room = min(max(budget, 1), BESIDE) if decoding else _ALONE * budget
        for sequence, slot, missing in prompts:
            count = min(missing, room)
            if count:
                work.append(self._run(sequence, slot, count, logits=count == missing))
                self.counts.prompt += count
                budget -= count
                room -= count
        # one slot stays for every sequence that may still join
        spare = len(self._free) - (self._batch - len(running))
        return work + self._plan_ahead(decoding, budget, spare)

    def _plan_ahead(self, decoding: Seq[Sequence], budget: int, spare: int) -> list[Work]:
        """Parts of next windows: together as many tokens as keep all on time, in chunks, the window that lags most first."""
        pending = []
        for steps, missing, ready, sequence in sorted(map(self._due, decoding), key=lambda due: due[0]):
            held = id(sequence) in self._next
            if missing > 0 and (held or spare > 0):  # whose window moves first has the first slot
                spare -= not held
                pending.append((missing / steps, steps, missing, ready, sequence))
        self._owed = min(self._owed, _CHUNK) + sum(pace for pace, *_ in pending)
        work = []
        for pace, steps, missing, ready, sequence in sorted(pending, key=lambda found: -found[0]):
            chunk = min(missing, max(_CHUNK, math.ceil(pace)))
            if steps == 1:  # now or never
                chunk = missing
            elif ready < chunk or self._owed < min(_CHUNK, chunk):
                continue
            count = min(chunk, budget)
            if count <= 0:
                break
            ahead = self._next.get(id(sequence))
            if ahead is None:
                assert sequence.next_start is not None
                ahead = self._next[id(sequence)] = _Slot(self._free.pop(), sequence.next_start)
            work.append(self._run(sequence, ahead, count, logits=False))
            self.counts.ahead += count
            self._owed -= count
            budget -= count
        return work

    def _settle(self, sequence: Sequence) -> tuple[_Slot, bool]:
        """The slot of the sequence's window as it stands now, and whether it moved with no slot ready for it."""
        key = id(sequence)
        slot = self._now.get(key)
        if slot is None:
            slot = self._now[key] = _Slot(self._free.pop(), sequence.start)
        if slot.start == sequence.start:
            return slot, False
        self.counts.slides += 1
        ahead = self._next.pop(key, None)
        if ahead is None:
            slot.start, slot.cached = sequence.start, 0
        else:
            assert ahead.start == sequence.start
            self._free.append(slot.index)
            slot = self._now[key] = ahead
        late = sequence.length(slot.start) - slot.cached > 1
        self.counts.slides_at_once += late
        return slot, late

    def _due(self, sequence: Sequence) -> tuple[int, int, int, Sequence]:
        """Steps until the window moves, and of the next one the tokens to be encoded before that and those that can be now."""
        window, start = sequence.request.window, sequence.next_start
        steps = window.limit + 1 - sequence.length(sequence.start)
        most = sequence.request.max_new_tokens
        if start is None or (most is not None and most - sequence.step < steps):
            return steps, 0, 0, sequence  # not known yet, or it ends before the window moves
        ahead = self._next.get(id(sequence))
        cached = ahead.cached if ahead else 0
        # when the window moves, all but the newest of its tokens must be there
        return steps, window.limit - (start - sequence.start) - cached, sequence.length(start) - cached, sequence

    @staticmethod
    def _run(sequence: Sequence, slot: _Slot, count: int, *, logits: bool) -> Work:
        segment = Segment(sequence.shown(slot.start, slot.cached, count), slot.cached, slot.index, logits)
        slot.cached += count
        return Work(sequence, segment)

    def release(self, sequence: Sequence) -> None:
        """Free the sequence's slots."""
        for held in (self._now, self._next):
            slot = held.pop(id(sequence), None)
            if slot is not None:
                self._free.append(slot.index)
