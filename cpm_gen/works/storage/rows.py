"""Rows of the tables to records and back.

A row may be damaged or written by another version: SQLite stores any type in any column. Reading never fails. A column that cannot be
read gets a neutral value, and the record's ``damage`` names the first such column.
"""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import sqlalchemy as sa

from cpm_gen.works.storage.records import Damage, State, StoredText, StoredWork, TextPiece, WorkChange

CUT = 200  # characters of a prompt in a list of works
LATEST = 999_999_999_999.0  # seconds; a time that cannot be read, which the database sorts after all others
_WHOLE = range(2**63)


def raw(table: sa.Table, *left_out: str) -> list[sa.ColumnElement[Any]]:
    """The columns of a table as the database stores them: JSON as text, binary data unconverted."""
    columns: list[sa.ColumnElement[Any]] = []
    for column in table.c:
        if column.name in left_out:
            continue
        if isinstance(column.type, sa.JSON):
            columns.append(sa.cast(column, sa.Text).label(column.name))
        elif isinstance(column.type, sa.LargeBinary):
            columns.append(sa.type_coerce(column, sa.types.NullType()).label(column.name))
        else:
            columns.append(column)
    return columns


def work_row(work: StoredWork) -> dict[str, Any]:
    """The row of a new work."""
    row = {f.name: getattr(work, f.name) for f in dataclasses.fields(work) if f.name not in ("texts", "damage", "held")}
    return row | {"opening": opening(work.prompt)}


def opening(prompt: str | list[str]) -> str | list[str]:
    """The beginning of a prompt, or of each, for lists."""
    return prompt[:CUT] if isinstance(prompt, str) else [p[:CUT] for p in prompt]


def text_row(work: str, text: StoredText) -> dict[str, Any]:
    """The row of a text."""
    row = dataclasses.asdict(text)
    return row | {"work": work, "most": row.pop("max_tokens"), "prompt_ids": _bytes(text.prompt_ids)}


def change_row(change: WorkChange, now: float) -> dict[str, Any]:
    """What is saved of a work itself, and which one it is (``of``)."""
    state = "queued" if change.state == "running" else change.state
    return {"of": change.id, "state": state, "error": change.error, "updated": now}


def saved_text_row(work: str, text: StoredText) -> dict[str, Any]:
    """What is saved of a text, and which one it is (``of``, ``at``)."""
    row = text_row(work, text)
    del row["prompt_ids"]
    return row | {"of": row.pop("work"), "at": row.pop("place")}


def piece_row(work: str, place: int, pieces: Sequence[TextPiece]) -> dict[str, Any]:
    """One row for consecutive pieces."""
    ids = _bytes([i for piece in pieces for i in piece.token_ids])
    text = "".join(piece.text for piece in pieces)
    return {
        "work": work,
        "place": place,
        "token": pieces[0].token,
        "char": pieces[0].char,
        "token_ids": ids,
        "text": text,
    }


def read_work(row: sa.RowMapping, texts: Sequence[sa.RowMapping] | None) -> StoredWork:
    """A work from its row and those of its texts; ``texts=None`` for a row of a list, which has neither texts nor parameters."""
    columns = _Columns()
    work = StoredWork(
        id=str(row["id"]),
        owner=columns.text("owner", row["owner"]),
        model=columns.text("model", row["model"]),
        network=columns.text("network", row["network"]),
        state=columns.state(row["state"]),
        created=columns.seconds("created", row["created"]),
        updated=columns.seconds("updated", row["updated"]),
        prompt=columns.json("prompt", row["prompt"], _is_prompt, "", "a text or a list of texts"),
        parameters={} if texts is None else columns.json("parameters", row["parameters"], _is_object, {}, "an object"),
        metadata=columns.json("metadata", row["metadata"], _is_metadata, {}, "an object of texts"),
        error=None if row["error"] is None else columns.json("error", row["error"], _is_error, None, "an error"),
        held=bool(row.get("held")),
        texts=[_text(columns, text) for text in texts or ()],
    )
    if texts is not None and [text.place for text in work.texts] != list(range(max(1, len(work.texts)))):
        columns.refuse("texts", "are not complete")
    work.damage = columns.damage
    return work


def _text(columns: _Columns, row: sa.RowMapping) -> StoredText:
    place = columns.whole("texts.place", row["place"])
    at = f"texts.{place}"
    return StoredText(
        place=place,
        prompt_ids=columns.ids(f"{at}.prompt_ids", row["prompt_ids"]),
        sample=columns.whole(f"{at}.sample", row["sample"]),
        max_tokens=None if row["most"] is None else columns.whole(f"{at}.most", row["most"]),
        tokens=columns.whole(f"{at}.tokens", row["tokens"]),
        chars=columns.whole(f"{at}.chars", row["chars"]),
        finish_reason=columns.finish_reason(f"{at}.finish_reason", row["finish_reason"]),
        slides=columns.whole(f"{at}.slides", row["slides"]),
        window_start=columns.whole(f"{at}.window_start", row["window_start"]),
        text_start=columns.whole(f"{at}.text_start", row["text_start"]),
    )


def read_piece(row: sa.RowMapping) -> TextPiece:
    """A piece. Token ids that cannot be read are left out, which leaves a gap between the pieces."""
    columns = _Columns()
    return TextPiece(
        token=columns.whole("token", row["token"]),
        char=columns.whole("char", row["char"]),
        token_ids=columns.ids("token_ids", row["token_ids"]),
        text=columns.text("text", row["text"]),
    )


def whole_sum(total: float | None) -> int:
    """A sum of counts; 0 if damaged rows make it infinite or negative."""
    return int(total) if total is not None and 0 <= total < 2**63 else 0


class _Columns:
    """Reads columns of one work and remembers the first that cannot be read."""

    def __init__(self) -> None:
        self.damage: Damage | None = None

    def refuse(self, name: str, message: str) -> None:
        self.damage = self.damage or Damage(f"the stored {name} {message}", name)

    def text(self, name: str, value: object) -> str:
        if isinstance(value, str):
            return value
        self.refuse(name, "must be a text")
        return ""

    def whole(self, name: str, value: object) -> int:
        if type(value) is int and value in _WHOLE:
            return value
        self.refuse(name, "must be a whole number from 0 to 2**63 - 1")
        return 0

    def seconds(self, name: str, value: object) -> float:
        if isinstance(value, (int, float)) and 0 <= value <= LATEST:
            return float(value)
        self.refuse(name, "must be seconds since 1970")
        return LATEST

    def state(self, value: object) -> State:
        if value in get_args(State):
            return cast(State, value)
        self.refuse("state", f"must be one of {', '.join(get_args(State))}")
        return "paused"

    def finish_reason(self, name: str, value: object) -> str | None:
        if value is None or value in ("length", "stop", "form", "story"):
            return value
        self.refuse(name, "must be length, stop, form or story")
        return None

    def ids(self, name: str, value: object) -> tuple[int, ...]:
        if isinstance(value, bytes) and len(value) % 4 == 0:
            return tuple(array("I", value))
        self.refuse(name, "must be 32-bit integers")
        return ()

    def json(self, name: str, value: object, fits: Callable[[Any], bool], neutral: Any, what: str) -> Any:
        try:
            content = json.loads(cast(str, value))
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()  # what cannot be sent cannot be read
        except (TypeError, ValueError, RecursionError):
            self.refuse(name, "must be JSON")
            return neutral
        if fits(content):
            return content
        self.refuse(name, f"must be {what}")
        return neutral


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(p, str) for p in value)
    )


def _is_metadata(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _is_error(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"code", "message", "field"}:
        return False
    return (
        isinstance(value["code"], str) and isinstance(value["message"], str) and isinstance(value["field"], str | None)
    )


def _bytes(ids: Sequence[int]) -> bytes:
    return array("I", ids).tobytes()
