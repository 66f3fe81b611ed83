"""Constraints on a text: which tokens may come next. Pure functions of the constraint and the tokens written so far.

The engine keeps a constraint's state beside the window and independent of it, so that a text is the same alone, in a batch, after a
restart and past the window. Token ids only; what a constraint means is decided where it is made (:mod:`cpm_gen.text.forms`,
:mod:`cpm_gen.text.stories.chapters`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Floats32 = NDArray[np.float32]

NO_IDS: frozenset[int] = frozenset()
Reason = Literal["form", "story"]  # why a constraint ended a text


class Constraint(Protocol):
    """What the tokens of a text have to fulfil. A state is a value: it never changes, and equal tokens give equal states."""

    @property
    def reason(self) -> Reason:
        """The finish reason of a text that it ends."""

    def begin(self) -> Any:
        """The state before the first token."""

    def advance(self, state: Any, token: int) -> Any:
        """The state after ``token``, which has to be one of the allowed; raises InputError for another."""

    def allowed(self, state: Any) -> Indices | None:
        """The ids that may come next, ascending, at least one; None: any. Not for a finished state."""

    def forbidden(self, state: Any) -> frozenset[int]:
        """Ids that may not come next, besides those that are not allowed: few, where any other may. Not for a finished state."""

    def bias(self, state: Any, allowed: Indices) -> Floats32 | None:
        """What to add to the logits of the allowed ids, a function of the state alone; None: nothing."""

    def line_ends(self, state: Any) -> bool:
        """Whether a line is complete and the next one has not begun: candidates are compared there."""

    def line_left(self, state: Any) -> int | None:
        """Characters and signs that are left of the line at a state, line ends left out; None if that depends on what is written."""

    def finished(self, state: Any) -> bool:
        """Whether the text is complete, so that no token follows."""


def state_after(constraint: Constraint, tokens: Iterable[int]) -> Any:
    """The state after these tokens, the first to be written among them."""
    state = constraint.begin()
    for token in tokens:
        state = constraint.advance(state, token)
    return state
