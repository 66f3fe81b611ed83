"""What the database holds of a work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["queued", "running", "paused", "finished", "failed"]  # running is stored as queued


@dataclass(kw_only=True)
class StoredText:
    """One text of a work.

    place: its index, prompt by prompt and sample by sample. max_tokens: tokens to write; None for no limit. tokens, chars: how many
    are written. window_start, text_start: as in :class:`~cpm_gen.outputs.Chunk`.
    """

    place: int
    prompt_ids: tuple[int, ...]
    sample: int
    max_tokens: int | None
    tokens: int = 0
    chars: int = 0
    finish_reason: str | None = None
    slides: int = 0
    window_start: int = 0
    text_start: int = 0


@dataclass(frozen=True)
class Lease:
    """The right to write a work. holder: the process that has it. epoch: how often the work was taken, which no two tenures share."""

    holder: str
    epoch: int


OWNED = Lease("", 0)  # of every work in a database that belongs to one process


@dataclass(frozen=True)
class Damage:
    """The first part of a row that could not be read: what is wrong, and the name of the column."""

    message: str
    field: str


@dataclass(kw_only=True)
class StoredWork:
    """A long generation.

    model: the model's name. network: the properties of the model that must be the same to continue the work. parameters: a
    :class:`~cpm_gen.works.spec.WorkSpec` as JSON. created, updated: seconds since 1970. error: code, message and field of why the work
    failed or was paused. metadata: the client's own. damage: set where a part of the row could not be read and has a neutral value.
    held: whether a process has its lease.
    """

    id: str
    owner: str
    model: str
    network: str
    state: State
    created: float
    updated: float
    prompt: str | list[str]
    parameters: Mapping[str, Any]
    metadata: Mapping[str, str]
    error: Mapping[str, Any] | None = None
    texts: list[StoredText] = field(default_factory=list)
    damage: Damage | None = None
    held: bool = False


@dataclass(frozen=True)
class StoredSummary:
    """A work in a list: its prompt is cut, its parameters are left out. tail: the end of its first text."""

    work: StoredWork
    tokens: int
    chars: int
    tail: str


@dataclass(frozen=True)
class TextPiece:
    """Consecutive tokens of a text and their characters. token, char: how many of each stand before the piece."""

    token: int
    char: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def end(self) -> int:
        """Tokens of the text up to the end of the piece."""
        return self.token + len(self.token_ids)

    def after(self, token: int, char: int) -> TextPiece:
        """The part of the piece that follows a position in it."""
        return TextPiece(token, char, self.token_ids[token - self.token :], self.text[max(0, char - self.char) :])


@dataclass(frozen=True)
class WorkChange:
    """What :meth:`~cpm_gen.works.storage.store.Store.save` commits of a work: state, error, and of each changed text its new pieces.

    lease: the lease under which it may be committed; None or OWNED: it is not checked.
    """

    id: str
    state: State
    error: Mapping[str, Any] | None = None
    texts: Sequence[tuple[StoredText, Sequence[TextPiece]]] = ()
    lease: Lease | None = None
