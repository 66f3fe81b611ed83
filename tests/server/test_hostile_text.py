"""schemathesis' bodies with lone surrogates, NUL and control characters in every string field: refused or taken, never an error of ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.service_process import Server, idle, until

# fmt: off
TEXTS = (
    "\ud800", "a\udfff", "\udc00\ud800", "\0", "a\0b", "\x01\x02\x1b[31m", "\x7f\x85", "\u2028\u2029", "\ufeff", "\ufffe\uffff",
    "\U0010ffff", "\u202e\u2066", "\r\n\r\n", "",
)
# fmt: on


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where strings stand in a body, keys of objects included as (…, key, None)."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, key, None)
            yield from strings(entry, (*path, key))
    elif isinstance(value, list):
        for at, entry in enumerate(value):
            yield from strings(entry, (*path, at))


def with_text(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """A copy of a body with a text in one place."""
    if not path:
        return text
    first, *rest = path
    if rest == [None]:
        return {(text if key == first else key): entry for key, entry in value.items()}
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[first] = with_text(copy[first], tuple(rest), text)
    return copy


def test_a_text_is_put_where_it_belongs():
    body = {"a": "x", "b": ["y", {"c": "z"}], "d": 1}
    places = list(strings(body))
    assert places == [("a", None), ("a",), ("b", None), ("b", 0), ("b", 1, "c", None), ("b", 1, "c"), ("d", None)]
    assert with_text(body, ("b", 1, "c"), "!") == {"a": "x", "b": ["y", {"c": "!"}], "d": 1}
    assert with_text(body, ("b", 1, "c", None), "!") == {"a": "x", "b": ["y", {"!": "z"}], "d": 1}
    assert body == {"a": "x", "b": ["y", {"c": "z"}], "d": 1}


def is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.slow
def test_no_text_in_any_field_breaks_anything(start):
    short = ("--max-text-tokens", "64", "--request-timeout", "30", "--max-work-tokens", "16", "--no-access-log")
    server: Server = start(*short)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    with server.client() as client:
        for operation in operations:
            if not operation.body:
                continue

            @given(case=operation.as_strategy(), data=st.data())
            @settings(
                max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def check(case: Any, data: st.DataObject) -> None:
                places = list(strings(case.body))
                if not places:
                    return
                body = with_text(case.body, data.draw(st.sampled_from(places)), data.draw(st.sampled_from(TEXTS)))
                if isinstance(body, dict):
                    body = {k: v for k, v in body.items() if k not in ("stream", "timeout")}
                path = case.formatted_path
                response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
                assert response.status_code < 500, (path, body, response.text)
                response.json()
                if not is_unicode(body):
                    assert response.status_code in (400, 404, 422), (path, body, response.text)

            check()
        listed = client.get("/works", params={"limit": 200})
        assert listed.status_code == 200
        for work in listed.json()["works"]:
            assert client.get(f"/works/{work['id']}").status_code == 200
            assert client.delete(f"/works/{work['id']}").status_code == 204
        assert client.get("/health/ready").status_code == 200
    until(lambda: idle(server))
    assert "Traceback" not in server.log, server.log
