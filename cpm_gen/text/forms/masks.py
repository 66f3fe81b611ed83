"""The tokens that a form allows next: a :class:`cpm_gen.sampling.constraints.Constraint`.

What fits a place depends on the rest of the segment and on the rhyme groups that its label may still have
(:mod:`~cpm_gen.text.forms.slot_masks`). What was written adds: characters and rhyme words that must not come twice, words that must not
arise, text that repeats.

No dead ends: a label keeps only groups with enough characters for its remaining words (:mod:`~cpm_gen.text.forms.rhyme_groups`); where
characters of a group become few, they are kept for its words; every slot has tokens of one character; what makes a forbidden word
unavoidable is not written (:mod:`~cpm_gen.text.forms.bans`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np

from cpm_gen.errors import InputError
from cpm_gen.sampling.constraints import NO_IDS, Floats32, Indices
from cpm_gen.text.forms.bans import Bans
from cpm_gen.text.forms.bigrams import Bigrams
from cpm_gen.text.forms.form import Form, Slot
from cpm_gen.text.forms.lexicon import LINE_END, LONGEST, Lexicon
from cpm_gen.text.forms.lookahead import Lookahead
from cpm_gen.text.forms.program import Program, Segment, make_program
from cpm_gen.text.forms.rhyme_groups import RhymeGroups
from cpm_gen.text.forms.slot_masks import NONE, Fitting, SlotMasks
from cpm_gen.text.forms.state import RUN, Mask, State

_NOTHING: list[Indices] = []


class FormMasks:
    """A form over a vocabulary. Safe to use for several texts at once.

    bigrams: of the vocabulary, for the lookahead; None: every token counts the same. program: in place of the form's own. Raises
    FormError for a form that the vocabulary cannot fill.
    """

    reason: Literal["form"] = "form"

    def __init__(
        self, form: Form, lexicon: Lexicon, bigrams: Bigrams | None = None, program: Program | None = None
    ) -> None:
        self.form = form
        self._lexicon = lexicon
        sounding = lexicon.sounds(form.book, form.lenient, form.neutral)
        program = program or make_program(form, lexicon)
        self._segments = program.segments
        self._groups = RhymeGroups(form, program, lexicon, sounding)
        self._slots = SlotMasks(lexicon, sounding, form.forbidden)
        self._lookahead = Lookahead(
            lexicon, sounding, bigrams or Bigrams.even(lexicon.size), program, self._groups, self._slots
        )
        self._numbers = [  # of each segment's rest after some characters; segments that repeat others depend on the text
            [self._slots.number(s.slots[at:], s.source) for at in range(len(s.slots))]
            if s.copies is None and s.same is None
            else []
            for s in self._segments
        ]
        self._given = frozenset(s.given for segment in self._segments for s in segment.slots if s.given)
        self._fixes = bool(self._given) or any(s.same is not None for s in self._segments)
        self._given_words = tuple(
            (s.label, s.slots[-1].given) for s in self._segments if s.rhymes and s.label and s.slots[-1].given
        )
        self._bans = Bans(form.forbidden, program.combinations, lexicon)
        self._zero = frozenset(map(int, lexicon.zero))
        self._signs = {sign: frozenset(map(int, ids)) for sign, ids in lexicon.signs.items()}
        self._sign_ids = {sign: np.unique(np.concatenate([ids, lexicon.zero])) for sign, ids in lexicon.signs.items()}
        self._all = np.ones(lexicon.size, dtype=np.bool_)
        self._ending_in = functools.lru_cache(4096)(self._find_ending_in)
        self._covering = functools.lru_cache(4096)(self._find_covering)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the masks that are kept."""
        return self._slots.kept_bytes

    def _find_ending_in(self, c: str, length: int) -> Indices:
        """Tokens of ``length`` characters of which ``c`` is the last."""
        texts = self._lexicon.texts
        found = [i for i in map(int, self._lexicon.containing.get(c, NONE)) if texts[i].endswith(c)]
        return np.array([i for i in found if len(texts[i]) == length], dtype=np.intp)

    def begin(self) -> State:
        """The state before the first token."""
        if not self.form.distinct:
            return State(groups=self._groups.begin())
        free = self._all.copy()
        free[self._lexicon.repeating] = False
        for c in self._given:
            free[self._lexicon.containing.get(c, NONE)] = False
        return State(groups=self._groups.begin(), free=free)

    def finished(self, state: State) -> bool:
        """Whether the text is complete."""
        return state.segment == len(self._segments)

    def line_ends(self, state: State) -> bool:
        """Whether a clause is complete, its signs included, and nothing of the next one is written."""
        begun = state.count > 0 or state.end >= 0 or state.zero
        return state.segment > 0 and not begun and bool(self._segments[state.segment - 1].ends)

    def line_left(self, state: State) -> int | None:
        """Characters and signs that are left of the clause at a state; None if they are not fixed."""
        left = -state.count
        for number, segment in enumerate(self._segments[state.segment :]):
            if segment.least != len(segment.slots) or segment.copies is not None:
                return None
            signs = segment.ends if number or state.end < 0 else segment.ends[state.end :]
            left += segment.least + sum(sign != LINE_END for sign in signs)
            if segment.ends:
                break
        return left

    def advance(self, state: State, token: int) -> State:
        """The state after ``token``; raises InputError for a token that does not fit there."""
        if state.segment == len(self._segments):
            raise InputError("the form is complete; no token follows")
        if token in self._zero and not state.zero:
            return dataclasses.replace(state, zero=True)
        segment = self._segments[state.segment]
        text = self._lexicon.texts.get(token)
        if text is None or state.end >= 0:
            sign = segment.ends[max(state.end, 0)] if segment.ends else None
            if sign is None or token not in self._signs[sign] or (state.end < 0 and not self._may_end(state, segment)):
                raise InputError(f"token {token} does not fit the form at segment {state.segment + 1}")
            return self._after_sign(self._closed(state, segment) if state.end < 0 else state, segment)
        if state.count + len(text) > len(segment.slots):
            raise InputError(f"token {token} does not fit the form at segment {state.segment + 1}")
        return self._after_characters(state, segment, token, text)

    def _after_characters(self, state: State, segment: Segment, token: int, text: str) -> State:
        used, free, count = state.used, state.free, state.count + len(text)
        if free is not None and segment.copies is None:
            slots = segment.slots[state.count : count]
            new = [c for c, slot in zip(text, slots, strict=True) if slot.given is None and c not in used]
            if new:
                free = free.copy()
                for c in new:
                    free[self._lexicon.containing[c]] = False
                used = used.union(new)
        state = State(
            state.segment,
            count,
            -1,
            state.text + text,
            token,
            False,
            (state.run + text)[-RUN:],
            state.texts,
            state.groups,
            state.words,
            (state.readings + self._lexicon.readings[token])[-RUN:],
            used,
            free,
        )
        if count < len(segment.slots) and (segment.copies is None or self._copied(state, segment) != state.text):
            return state
        state = self._closed(state, segment)
        return state if segment.ends else self._next(state, state.run, state.readings)

    def _closed(self, state: State, segment: Segment) -> State:
        """The segment's text is complete; separators are next."""
        groups, words = state.groups, state.words
        if segment.rhymes and segment.label is not None:
            groups = self._groups.after(state, segment)
            words = (*words, (segment.label, state.text[-1]))
        return dataclasses.replace(state, end=0, groups=groups, words=words, texts=(*state.texts, state.text))

    def _after_sign(self, state: State, segment: Segment) -> State:
        if state.end + 1 < len(segment.ends):
            return dataclasses.replace(state, end=state.end + 1, zero=False, run="", readings=())
        return self._next(state, "", ())

    def _next(self, state: State, run: str, readings: tuple[str | None, ...]) -> State:
        """The state before the first character of the next segment."""
        return State(
            state.segment + 1,
            last=state.last,
            run=run,
            texts=state.texts,
            groups=state.groups,
            words=state.words,
            readings=readings,
            used=state.used,
            free=state.free,
        )

    def _copied(self, state: State, segment: Segment) -> str:
        """The whole text of a segment that repeats another's."""
        return state.texts[segment.copies or 0][-len(segment.slots) :]

    def allowed(self, state: State) -> Indices:
        """The ids that may come next, ascending."""
        if state.segment == len(self._segments):
            return NONE
        segment = self._segments[state.segment]
        if state.end >= 0:
            sign = segment.ends[state.end]
            return self._lexicon.signs[sign] if state.zero else self._sign_ids[sign]
        zero = not state.zero and bool(self._zero)
        if segment.copies is None:
            ids = self._unwritten(state, segment, zero)
        else:
            rest = self._rest(state, segment)
            ids = self._slots.fitting(self._slots.number(rest, segment.source), None, zero).ids
        if segment.ends and segment.least < len(segment.slots) and self._may_end(state, segment):
            signs = self._lexicon.signs[segment.ends[0]]
            ids = np.insert(ids, ids.searchsorted(signs), signs)
        return ids

    def forbidden(self, state: State) -> frozenset[int]:
        """None: what may come is always listed."""
        return NO_IDS

    def bias(self, state: State, allowed: Indices) -> Floats32 | None:
        """How likely the line can be completed after each of the allowed ids (see :mod:`cpm_gen.text.forms.lookahead`)."""
        return self._lookahead.bias(state, allowed)

    def _rest(self, state: State, segment: Segment) -> tuple[Slot, ...]:
        """The slots that are left of a segment, with the characters that are known."""
        if segment.copies is not None:
            return tuple(Slot("中", c) for c in self._copied(state, segment)[state.count :])
        rest = segment.slots[state.count :]
        if segment.same is not None:
            rest = (*rest[:-1], Slot("中", state.texts[segment.same][-1]))
        return rest

    def _may_end(self, state: State, segment: Segment) -> bool:
        """Whether a segment of several lengths may end here."""
        if segment.copies is not None or state.count < segment.least or not self._bans.may_end(state):
            return False
        if not segment.rhymes or segment.label is None:
            return segment.same is None or state.text[-1] == state.texts[segment.same][-1]
        if (segment.label, state.text[-1]) in (*state.words, *self._given_words):
            return False
        groups = self._groups.of_word(state.last, segment)
        return not groups.isdisjoint(self._groups.open(state, segment.label))

    def _unwritten(self, state: State, segment: Segment, zero: bool) -> Indices:
        """The ids that fit, without those that repeat what must not come twice or lead to a word that must not arise."""
        rest = self._rest(state, segment)
        near = segment.rhymes and segment.label is not None and len(rest) <= LONGEST
        groups = self._groups.open(state, segment.label) if near and segment.label else None
        numbers = self._numbers[state.segment]
        number = numbers[state.count] if numbers else self._slots.number(rest, segment.source)
        fitting = self._slots.fitting(number, groups, zero)
        barred = self._bans.barred(state, len(segment.slots))
        if near and rest[-1].given is None:
            words = (*state.words, *self._given_words)
            barred += [self._ending_in(word, len(rest)) for label, word in words if label == segment.label]
        misread, reserved, free = _NOTHING, None, state.free
        if state.run and not self.form.lenient and not rest[0].given:
            misread = self._lexicon.misread_after(state.run[-3:], state.readings[-3:])
        if free is None:
            if not barred and not misread:
                return fitting.ids
            free = self._all
        else:
            reserved = self._groups.reserved(state, segment)
            if self._fixes and any(slot.given for slot in rest[:LONGEST]):
                free = free.copy()
                free[self._with_given(state, rest, fitting)] = True
        if barred:
            free = free.copy()
            for ids in barred:
                free[ids] = False
        return _preferred(fitting, free, reserved, misread, len(self._zero) * zero)

    def _with_given(self, state: State, rest: tuple[Slot, ...], fitting: Fitting) -> list[int]:
        """Tokens that cover a given character and hold no other that is written or given."""
        taken = state.used | self._given
        return [i for i, chosen in self._covering(rest[:LONGEST]) if fitting.mask[i] and taken.isdisjoint(chosen)]

    def _find_covering(self, rest: tuple[Slot, ...]) -> list[tuple[int, frozenset[str]]]:
        """Tokens that reach the first given character, with the characters that they would choose, each once."""
        first = next(at for at, slot in enumerate(rest) if slot.given)
        found = []
        for i in map(int, self._lexicon.containing.get(rest[first].given or "", NONE)):
            text = self._lexicon.texts[i]
            chosen = [c for c, slot in zip(text, rest, strict=False) if not slot.given]
            if len(text) > first and len(set(chosen)) == len(chosen):
                found.append((i, frozenset(chosen)))
        return found


def _preferred(fitting: Fitting, free: Mask, reserved: Mask | None, misread: list[Indices], others: int) -> Indices:
    """The fitting ids that are free, without reserved ones and without those that make a misread word, unless nothing else is left.

    others: how many ids without width are among them.
    """
    for kept in (free,) if reserved is None else (free & ~reserved, free):
        if misread:
            left = kept.copy()
            for ids in misread:
                left[ids] = False
            found = fitting.among(left)
            if len(found) > others:
                return found
        found = fitting.among(kept)
        if len(found) > others:
            return found
    return found
