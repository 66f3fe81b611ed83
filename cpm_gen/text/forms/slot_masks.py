"""The tokens that fit the rest of a segment, independent of the text before it; computed once and kept."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from cpm_gen.sampling.constraints import Indices
from cpm_gen.text.forms.form import Slot
from cpm_gen.text.forms.lexicon import LONGEST, TONE_BITS, Lexicon, Sounding
from cpm_gen.text.forms.state import Mask

_BYTES = 6 << 20  # of the masks and ids that are kept
_FEW = 4  # below this part of the vocabulary ids are looked up; above it, a pass over all is quicker
NONE = np.empty(0, dtype=np.intp)


@dataclass(frozen=True)
class Fitting:
    """Tokens that fit: as a mask, bool ``[V]``, and as ascending ids."""

    mask: Mask
    ids: Indices

    def among(self, free: Mask) -> Indices:
        """The ids that are ``free``, ascending."""
        if len(self.ids) * _FEW < len(free):
            few: Indices = self.ids[free[self.ids]]
            return few
        many: Indices = (self.mask & free).nonzero()[0]
        return many


class SlotMasks:
    """The tokens that fit runs of slots, for one form. Safe to use from several threads: what two compute at once is equal."""

    def __init__(self, lexicon: Lexicon, sounding: Sounding, forbidden: tuple[str, ...]) -> None:
        self._lexicon = lexicon
        self._sounding = sounding
        self._runs: list[tuple[tuple[Slot, ...], bool, bool]] = []
        self._numbers: dict[tuple[tuple[Slot, ...], bool, bool], int] = {}
        self._whole = functools.lru_cache(_BYTES // (8 * lexicon.size) + 8)(self._find_whole)
        self._kept: OrderedDict[tuple[int, frozenset[str] | None, bool], Fitting] = OrderedDict()
        self._bytes = 0
        self._allowed = np.ones(lexicon.size, dtype=np.bool_)
        for word in forbidden:
            holding = [i for i in lexicon.containing.get(word[0], NONE) if word in lexicon.texts[int(i)]]
            self._allowed[holding] = False

    @property
    def kept_bytes(self) -> int:
        """Bytes of the masks and ids that are kept."""
        return self._bytes

    def number(self, slots: tuple[Slot, ...], source: bool) -> int:
        """The number of a run; runs that the same tokens fit have the same. source: another segment copies its text."""
        run = slots[:LONGEST], len(slots) > LONGEST, source
        found = self._numbers.get(run)
        if found is None:
            found = self._numbers[run] = len(self._runs)
            self._runs.append(run)
        return found

    def fitting(self, number: int, groups: frozenset[str] | None, zero: bool = False) -> Fitting:
        """The tokens that fit the run; those that reach its end rhyme with ``groups``. zero: and those without width."""
        key = number, groups, zero
        found = self._kept.get(key)
        if found is None:
            mask = self._mask(self._runs[number], groups)
            mask[self._lexicon.zero] = zero
            ids = mask.nonzero()[0]
            ids.flags.writeable = mask.flags.writeable = False
            found = self._kept[key] = Fitting(mask, ids)
            self._bytes += mask.nbytes + ids.nbytes
            while self._bytes > _BYTES and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.mask.nbytes + oldest.ids.nbytes
        return found

    def _mask(self, run: tuple[tuple[Slot, ...], bool, bool], groups: frozenset[str] | None) -> Mask:
        inner, ending = self._whole(run)
        last = run[0][-1]
        if ending is None:
            return inner.copy()
        if groups is None or last.given is not None:
            return inner | ending
        rhyming = np.zeros(self._lexicon.size, dtype=np.bool_)
        for tone in ("平", "仄") if last.tone == "中" else (last.tone,):
            for group in groups:
                rhyming[self._sounding.ending.get((tone, group), NONE)] = True
        rhyming &= ending
        rhyming |= inner
        return rhyming

    def _find_whole(self, run: tuple[tuple[Slot, ...], bool, bool]) -> tuple[Mask, Mask | None]:
        """The tokens that end before the run's end, and those that reach it; None: none do."""
        slots, longer, source = run
        lexicon, tones = self._lexicon, self._sounding.tones
        mask = np.zeros(lexicon.size, dtype=np.bool_)
        fits = self._allowed.copy()
        if source:  # its tokens are spelled out again if the text continues in another way
            fits &= lexicon.spelled
        for at, slot in enumerate(slots):
            if slot.given is not None:
                fits &= lexicon.codes[at] == ord(slot.given)
            elif slot.tone != "中":
                fits &= (tones[at] & TONE_BITS[slot.tone]) != 0
            ending = fits & (lexicon.length == at + 1)
            if at + 1 == len(slots) and not longer:
                return mask, ending
            mask |= ending
        return mask, None
