"""Requests of the works API that several tests make, and what an undisturbed run generates."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.waiting import until

BODY: dict[str, Any] = {"prompt": "话说天下大势，", "style": "novel", "max_new_tokens": 300, "seed": 7}


def create(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """Create a work from BODY and ``body``, and return it."""
    response = client.post("/works", json={**BODY, **body})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/works/{response.json()['id']}"
    return response.json()


def look(client: httpx.Client, id: str) -> dict[str, Any]:
    """Return the work with its token ids."""
    response = client.get(f"/works/{id}", params={"token_ids": True})
    assert response.status_code == 200, response.text
    return response.json()


def settled(client: httpx.Client, id: str) -> dict[str, Any]:
    """Wait until the work is neither queued nor running, and return it."""
    return until(lambda: work if (work := look(client, id))["state"] not in ("queued", "running") else None, every=0.1)


def grown(client: httpx.Client, id: str, tokens: int) -> dict[str, Any]:
    """Wait until the work has at least ``tokens`` tokens, and return it."""
    return until(lambda: w if (w := look(client, id))["usage"]["completion_tokens"] >= tokens else None, every=0.05)


def follow(client: httpx.Client, id: str, last: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yield id, name and data of the work's events until the stream ends. Closing the iterator closes the connection."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.stream("GET", f"/works/{id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        event, name = "", ""
        for line in response.iter_lines():
            if line.startswith("id: "):
                event = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield event, name, json.loads(line[6:])


def joined(events: list[tuple[str, str, Any]], index: int = 0) -> tuple[str, list[int]]:
    """Return the text and the ids of the token events of one text."""
    mine = [data for _, name, data in events if name == "token" and data["index"] == index]
    return "".join(d["text"] for d in mine), [i for d in mine for i in d["token_ids"]]


def undisturbed(client: httpx.Client, **body: Any) -> list[tuple[str, list[int]]]:
    """Return text and ids that /generate answers for the same body."""
    response = client.post("/generate", json={**BODY, **body}, timeout=600)
    assert response.status_code == 200, response.text
    return [(c["text"], c["token_ids"]) for c in response.json()["choices"]]


def written(work: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Return text and ids of each text of a work."""
    return [(c["text"], c["token_ids"]) for c in work["choices"]]
