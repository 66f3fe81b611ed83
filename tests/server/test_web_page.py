"""The page as files; tests/page has it in a browser."""

import re
from pathlib import Path

import httpx
import pytest

import cpm_gen
from cpm_gen.config.fields import declared
from cpm_gen.config.options import SamplingParams, TextOptions
from tests.service_process import Server, error

FOLDER = Path(cpm_gen.__file__).parent / "server" / "static"
FILES = sorted(path.name for path in FOLDER.iterdir())


def test_the_page_has_a_strict_policy_and_needs_no_key(start) -> None:
    server: Server = start(environment={"CPM_GEN_API_KEYS": "me:a-key-of-twenty-characters-and-more"})
    with server.client() as client:
        page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not any("unsafe" in value or "http" in value or "*" in value for value in policy.values())
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-cache"


NAMESPACES = {  # names of XML vocabularies, which no browser fetches
    "http://www.w3.org/2000/svg",
    "http://www.w3.org/1999/xhtml",
    "http://www.idpf.org/2007/ops",
    "http://www.idpf.org/2007/opf",
    "http://purl.org/dc/elements/1.1/",
}


@pytest.mark.parametrize("name", FILES)
def test_its_files_are_served_and_asked_for_again(client: httpx.Client, name: str) -> None:
    first = client.get(f"/page/{name}")
    assert first.content == (FOLDER / name).read_bytes()
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert first.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
    again = client.get(f"/page/{name}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["", "nothing.js", "..%2Fpage.py", "../page.py", "%2e%2e%2fpage.py"])
def test_nothing_else_is_served(client: httpx.Client, name: str) -> None:
    response = client.get(f"/page/{name}")
    assert response.status_code == 404
    assert error(response)["code"] == "not_found"


def test_the_page_is_no_part_of_the_documented_interface(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


@pytest.mark.parametrize("name", FILES)
def test_files_are_short_and_need_nothing_from_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text.count("\n") < 320
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[^\s\"']*", text))
    assert addresses <= NAMESPACES
    # in a script, src and href belong to a file that it exports
    links = r"(?:src|href)=\"([^\"]+)\"" if name.endswith(".html") else r"from \"([^\"]+)\""
    for target in re.findall(links, text):
        assert target.removeprefix("./").removeprefix("page/") in FILES, target
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    if name.endswith(".html"):
        assert not re.search(r"\bstyle=|\son\w+=|<script>|<style", text)


def test_it_has_no_bound_default_or_preset_of_its_own() -> None:
    text = (FOLDER / "settings.js").read_text("utf-8")
    assert "/settings" in text
    for name in (*declared(SamplingParams), *declared(TextOptions), "window.hop"):
        # these three stand outside the folded sheet; the seed of a work is not taken over
        assert name in ("style", "max_new_tokens", "temperature", "seed", "n") or f'"{name}"' not in text, name
    assert not re.search(r"2 \*\* \d+|\bmin: -?\d|\bmax: \d|\bis: ", text)


def test_every_setting_it_shows_has_a_label_in_both_languages() -> None:
    for language in ("zh", "en"):
        words = (FOLDER / f"{language}.js").read_text("utf-8")
        shown = {
            name for name in declared(SamplingParams) if name not in ("min_new_tokens", "banned_ids", "logit_bias")
        }
        assert shown <= set(re.findall(r'"field\.([\w.]+)"', words))


def test_both_languages_say_the_same_things() -> None:
    tables = [
        re.findall(r'^  "?([\w.]+)"?: "(.+)",$', (FOLDER / f"{n}.js").read_text("utf-8"), re.M) for n in ("zh", "en")
    ]
    chinese, english = (dict(table) for table in tables)
    assert len(chinese) > 100
    assert set(chinese) == set(english)
    for name, words in chinese.items():
        # {message} is the service's, in English; where the Chinese says all, it is left out
        assert set(re.findall(r"\{\w+\}", words)) == set(re.findall(r"\{\w+\}", english[name])), name
    used = "".join((FOLDER / name).read_text("utf-8") for name in FILES if name not in ("zh.js", "en.js"))
    families = (
        "boundary",
        "choices",
        "error",
        "fault",
        "field",
        "state",
        "theme",
        "tone",
        "work",
        "wrong",
    )  # names that are put together
    assert [n for n in chinese if f'"{n}"' not in used and re.split(r"[._]", n)[0] not in families] == []
