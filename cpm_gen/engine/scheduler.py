"""The two schedulers: what the network runs in each step to continue the sequences. Both use the same window, so the same context.

:class:`RecomputeScheduler` is the reference: it runs the whole context for every token. :class:`CachedScheduler` uses the KV cache
and must give the same tokens at any length: when the window moves, its tokens get positions ``0..`` again, so their keys are
encoded again. (The original's ``*_fast`` scripts keep the old keys; their text turns to noise past the position table.)

Moving the window causes no pause. A decode step with a small batch is bound by reading the weights and has room for more rows,
so the next window is encoded in a second slot, a few tokens a step, while the sequence continues in the first. When the window
moves, the second slot lacks only the newest token, and it replaces the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Protocol

from cpm_gen.engine.sequence import Sequence
from cpm_gen.networks.interface import Segment, SlotCopy


@dataclass(frozen=True)
class ScheduledSegment:
    """A segment to run for a sequence; if ``segment.logits``, it yields the sequence's next token."""

    sequence: Sequence
    segment: Segment


class Scheduler(Protocol):
    """Decides what the network runs in each step."""

    def plan(self, running: Seq[Sequence]) -> list[ScheduledSegment]:
        """The segments of one step: each running sequence gets its next token or comes nearer to it. Empty if none runs."""

    def release(self, sequence: Sequence) -> None:
        """Free what is held for a sequence that has ended."""

    def fork(self, source: Sequence, target: Sequence) -> list[SlotCopy]:
        """``target`` begins as a copy of ``source``: what has to be copied before it runs."""

    def move(self, source: Sequence, target: Sequence) -> None:
        """Hold for ``target`` what is held for ``source``, whose tokens it continues."""


class RecomputeScheduler:
    """Runs the whole context for every token, without a cache."""

    def plan(self, running: Seq[Sequence]) -> list[ScheduledSegment]:
        """The whole context of each sequence."""
        return [ScheduledSegment(s, Segment(s.context().tolist())) for s in running]

    def release(self, sequence: Sequence) -> None:
        """Nothing is held."""

    def fork(self, source: Sequence, target: Sequence) -> list[SlotCopy]:
        """Nothing to copy."""
        return []

    def move(self, source: Sequence, target: Sequence) -> None:
        """Nothing is held."""


@dataclass
class Counts:
    """What a cached scheduler has run. All but ``slides`` and ``slides_at_once`` count tokens (rows through the network)."""

    decoded: int = 0  # decode steps
    prompt: int = 0  # prefill of prompts
    ahead: int = 0  # next windows, encoded during decode steps
    at_once: int = 0  # windows that moved before they were encoded
    slides: int = 0  # moves of a window
    slides_at_once: int = 0  # moves without a second slot that was ready


@dataclass
class _Slot:
    index: int
    start: int  # where the window that it holds begins
    cached: int = 0  # number of its tokens that are encoded


CHUNK = 5  # tokens of a next window encoded together: its cached keys and values are read once for all of them
BESIDE = 64  # most prefill tokens in a step that also decodes
_ALONE = 4  # factor on the budget for prefill in a step that decodes nothing: fewer passes over the weights


class CachedScheduler:
    """One token a step for each decoding sequence; chunked prefill and next windows use the rest of the step's budget.

    batch: most sequences at once, candidates that wait for others included. slots: windows of the KV cache, at least ``batch``;
    those above hold next windows. budget: tokens a step over all sequences, not counting windows that moved before they were
    encoded. Sequences whose request has ``recompute`` run without a slot.
    """

    def __init__(self, batch: int, slots: int, budget: int) -> None:
        assert slots >= batch
        self._batch = batch
        self._budget = budget
        self.free_slots = list(range(slots))[::-1]
        self._now: dict[int, _Slot] = {}  # by id of the sequence
        self._next: dict[int, _Slot] = {}
        self._due_tokens = 0.0  # tokens of next windows that should have been encoded by now
        self.slots = slots
        self.counts = Counts()

    @property
    def slots_used(self) -> int:
        """Number of slots that hold a window."""
        return self.slots - len(self.free_slots)

    def plan(self, running: Seq[Sequence]) -> list[ScheduledSegment]:
        """Decode steps first, then windows that moved before they were encoded, prefill, and next windows."""
        cached = [s for s in running if not s.request.recompute]
        recomputed = RecomputeScheduler().plan([s for s in running if s.request.recompute])
        return self._plan(cached) + recomputed

    def _plan(self, running: Seq[Sequence]) -> list[ScheduledSegment]:
        budget = self._budget
        work, prompts, decoding = [], [], []
        for sequence in running:
            slot, moved = self._current_slot(sequence)
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
        # prefill always advances by at least one token; if no sequence decodes, the step may be longer
        room = min(max(budget, 1), BESIDE) if decoding else _ALONE * budget
        for sequence, slot, missing in prompts:
            count = min(missing, room)
            if count:
                work.append(self._run(sequence, slot, count, logits=count == missing))
                self.counts.prompt += count
                budget -= count
                room -= count
        return work + self._plan_ahead(decoding, budget, self._spare_slots())

    def _spare_slots(self) -> int:
        """Free slots beyond those reserved for sequences that may still join."""
        return len(self.free_slots) - (self._batch - len(self._now))

    def _plan_ahead(self, decoding: Seq[Sequence], budget: int, spare: int) -> list[ScheduledSegment]:
        """Chunks of next windows, as many tokens as keep all of them on time; the window that is furthest behind comes first."""
        pending = []
        begun = [s for s in decoding if s.shows_next]
        for steps, missing, ready, sequence in sorted(map(self._due, begun), key=lambda due: due[0]):
            held = id(sequence) in self._next
            if missing > 0 and (held or spare > 0):  # the window that moves first gets the first slot
                spare -= not held
                pending.append((missing / steps, steps, missing, ready, sequence))
        self._due_tokens = min(self._due_tokens, CHUNK) + sum(pace for pace, *_ in pending)
        work = []
        for pace, steps, missing, ready, sequence in sorted(pending, key=lambda found: -found[0]):
            chunk = min(missing, max(CHUNK, math.ceil(pace)))
            if steps == 1:  # the last step before it moves
                chunk = missing
            elif ready < chunk or self._due_tokens < min(CHUNK, chunk):
                continue
            count = min(chunk, budget)
            if count <= 0:
                break
            ahead = self._next.get(id(sequence))
            if ahead is None:
                assert sequence.next_start is not None
                ahead = self._next[id(sequence)] = _Slot(self.free_slots.pop(), sequence.next_start)
            work.append(self._run(sequence, ahead, count, logits=False))
            self.counts.ahead += count
            self._due_tokens -= count
            budget -= count
        return work

    def _current_slot(self, sequence: Sequence) -> tuple[_Slot, bool]:
        """The slot of the sequence's current window, and whether the window moved before its slot was encoded."""
        key = id(sequence)
        slot = self._now.get(key)
        if slot is None:
            slot = self._now[key] = _Slot(self.free_slots.pop(), sequence.start)
        if slot.start == sequence.start:
            return slot, False
        self.counts.slides += 1
        ahead = self._next.pop(key, None)
        if ahead is None:
            slot.start, slot.cached = sequence.start, 0
        else:
            assert ahead.start == sequence.start
            self.free_slots.append(slot.index)
            slot = self._now[key] = ahead
        late = sequence.length(slot.start) - slot.cached > 1
        self.counts.slides_at_once += late
        return slot, late

    def _due(self, sequence: Sequence) -> tuple[int, int, int, Sequence]:
        """(steps until the window moves, tokens of the next one not yet encoded, tokens that can be encoded now, sequence)."""
        window, start = sequence.request.window, sequence.next_start
        inserted, steps = sequence.next_inserted, sequence.steps_left()
        most = sequence.request.max_new_tokens
        if start is None or inserted is None or (most is not None and most - sequence.step < steps):
            return steps, 0, 0, sequence  # not known yet, or the text ends before the window moves
        ahead = self._next.get(id(sequence))
        cached = ahead.cached if ahead else 0
        # when the window moves, all of its tokens but the newest must be encoded
        missing = len(inserted) + window.limit - (start - sequence.start) - cached
        return steps, missing, sequence.length(start) - cached, sequence

    @staticmethod
    def _run(sequence: Sequence, slot: _Slot, count: int, *, logits: bool) -> ScheduledSegment:
        segment = Segment(sequence.shown(slot.start, slot.cached, count), slot.cached, slot.index, logits)
        slot.cached += count
        return ScheduledSegment(sequence, segment)

    def release(self, sequence: Sequence) -> None:
        """Free the sequence's slots."""
        for held in (self._now, self._next):
            slot = held.pop(id(sequence), None)
            if slot is not None:
                self.free_slots.append(slot.index)

    def fork(self, source: Sequence, target: Sequence) -> list[SlotCopy]:
        """Give ``target`` a slot, and one for the next window if ``source`` has one and there is a spare one."""
        copies = []
        for held in (self._now, self._next):
            slot = held.get(id(source))
            if slot is None or (held is self._next and self._spare_slots() <= 0):
                continue
            held[id(target)] = replace(slot, index=self.free_slots.pop())
            copies.append(SlotCopy(slot.index, held[id(target)].index, slot.cached))
        return copies

    def move(self, source: Sequence, target: Sequence) -> None:
        """The slots change their holder; what they hold stays."""
        for held in (self._now, self._next):
            if id(source) in held:
                held[id(target)] = held.pop(id(source))
