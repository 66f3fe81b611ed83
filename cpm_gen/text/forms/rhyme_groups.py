"""The rhyme groups that each label of a form may still have, so that there are characters for all its words.

A label starts with every group that has enough characters, and each rhyme word leaves those that it is in. Where no character may come
twice, a group whose characters become few is left out, or what remains of it is kept for its words.
"""

from __future__ import annotations

import functools

import numpy as np

from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.lexicon import LONGEST, Lexicon, Sounding
from cpm_gen.text.forms.program import SLACK, Program, Segment
from cpm_gen.text.forms.slot_masks import NONE
from cpm_gen.text.forms.state import Mask, State

_TONES = ("平", "仄")
Known = tuple[tuple[str, frozenset[str]], ...]


class RhymeGroups:
    """The groups of one form's labels over a vocabulary."""

    def __init__(self, form: Form, program: Program, lexicon: Lexicon, sounding: Sounding) -> None:
        self._form = form
        self._lexicon = lexicon
        self._sounding = sounding
        self._groups = program.groups
        self._given = frozenset(s.given for segment in program.segments for s in segment.slots if s.given)
        # rhyme words that are left for each label, by tone, from each segment on
        self._left: list[dict[str, dict[str, int]]] = [{}]
        for segment in reversed(program.segments):
            left = {label: dict(tones) for label, tones in self._left[-1].items()}
            if segment.rhymes and segment.slots[-1].given is None and segment.label:
                tones = left.setdefault(segment.label, {})
                tones[segment.slots[-1].tone] = tones.get(segment.slots[-1].tone, 0) + 1
            self._left.append(left)
        self._left.reverse()
        self._unclaimed = functools.lru_cache(4096)(self._find_unclaimed)
        self._spare = functools.lru_cache(4096)(self._find_spare)

    def begin(self) -> Known:
        """The groups of the labels whose group the form chooses."""
        chosen = {label for label, _ in self._form.groups}
        return tuple((label, groups) for label, groups in self._groups.items() if label in chosen)

    def after(self, state: State, segment: Segment) -> Known:
        """The groups of all labels after the last word of ``segment``."""
        label = segment.label or ""
        groups = dict(state.groups)
        fitting = self.of_word(state.last, segment) & self.open(state, label)
        groups[label] = fitting or groups.get(label, self._groups[label])
        return tuple(groups.items())

    def of_word(self, token: int, segment: Segment) -> frozenset[str]:
        """The groups of a rhyme word, as the token reads it."""
        slot = segment.slots[-1]
        if slot.given is not None:
            return segment.given_groups
        sounds = self._sounding.last[token]
        return frozenset(g for tone, g in sounds if g and slot.tone in ("中", tone))

    def open(self, state: State, label: str) -> frozenset[str]:
        """The groups that a label may have: with enough characters for its words that are left, and not another label's."""
        groups = next((known for own, known in state.groups if own == label), None)
        if groups is None:
            groups = self._unclaimed(label, state.groups)
        if state.free is None:
            return groups
        taken = len(state.used) + len(self._given)
        least, _, spare = self._spare(state.segment, label, groups)
        if least >= taken:
            return groups
        short = {g for g in groups if spare[g] < taken and self._room(state, label, g) < 0}
        return (groups - short or groups) if short else groups

    def _find_unclaimed(self, label: str, known: Known) -> frozenset[str]:
        others = frozenset[str]().union(*(groups for _, groups in known))
        return (self._groups[label] - others) or self._groups[label]

    def _pools(self, group: str) -> tuple[frozenset[str], frozenset[str]]:
        level, oblique = (self._sounding.pool.get((tone, group), frozenset[str]()) for tone in _TONES)
        return level, oblique

    def _rooms(self, segment: int, label: str, group: str, taken: frozenset[str]) -> int:
        left = self._left[segment].get(label, {})
        level, oblique = self._pools(group)
        rooms = [len((level | oblique) - taken) - sum(left.values())]
        rooms += [len(level - taken) - left["平"]] if left.get("平") else []
        rooms += [len(oblique - taken) - left["仄"]] if left.get("仄") else []
        return min(rooms)

    def _find_spare(self, segment: int, label: str, groups: frozenset[str]) -> tuple[int, int, dict[str, int]]:
        """How many characters each group has above its need while nothing is written; the least and the most of them first."""
        spare = {g: self._rooms(segment, label, g, frozenset()) for g in groups}
        return min(spare.values()), max(spare.values()), spare

    def _room(self, state: State, label: str, group: str) -> int:
        """How many characters of a group are left above those that a label still needs."""
        return self._rooms(state.segment, label, group, state.used | self._given)

    def reserved(self, state: State, segment: Segment) -> Mask | None:
        """Tokens that hold characters of a group which has become small, and are no rhyme words of it; None: there are none."""
        found: Mask | None = None
        taken = len(state.used) + len(self._given)
        for label in self._left[state.segment]:
            groups = self.open(state, label)
            if self._spare(state.segment, label, groups)[1] - taken > SLACK:
                continue
            room, best = max((self._room(state, label, g), g) for g in groups)
            if room > SLACK:
                continue
            own = np.zeros(self._lexicon.size, dtype=np.bool_)
            for c in frozenset().union(*self._pools(best)) - state.used:
                own[self._lexicon.containing.get(c, NONE)] = True
            if segment.rhymes and segment.label == label and state.count + LONGEST >= segment.least:
                for tone in _TONES:  # a character by itself may be the word
                    ids = self._sounding.ending.get((tone, best), NONE)
                    own[ids[self._lexicon.length[ids] == 1]] = state.count + 1 < segment.least
            found = own if found is None else found | own
        return found
