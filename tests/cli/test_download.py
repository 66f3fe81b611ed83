"""``cpm-gen download``: the list of public models, a URL, a mirror, the Hub, and what stops each."""

import hashlib
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from cpm_gen.checkpoints import hub
from cpm_gen.checkpoints.registry import hint, is_hub_id, registry
from cpm_gen.cli.main import main
from cpm_gen.errors import DownloadError
from tests.http_files import Files, hub_model, web_server
from tests.waiting import until

DATA = random.Random(2).randbytes(2_500_000)


@pytest.fixture
def files() -> Iterator[Files]:
    with web_server() as files:
        yield files


@pytest.fixture
def run(monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Exit status, standard output and standard error of a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["download", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


# the list


def test_every_model_of_the_issue_is_listed_with_what_is_known(run):
    status, out, _ = run()
    assert status == 0
    models = registry()
    for name in ("cpm-large", "cpm-medium", "cpm-distill", "cpm-generate", "gpt2", "gpt2-base-chinese"):
        assert re.search(rf"^{name} +{re.escape(models[name].parameters)} ", out, re.MULTILINE)
    for name, model in models.items():
        at = out.index(f"\n{name} ")
        entry = out[at : out.find("\n", out.index("here", at))]
        assert "never tried here" in entry
        assert (model.hub or "no address known") in entry
    hubs = {m.hub for m in models.values() if m.hub}
    assert {"TsinghuaAI/CPM-Generate", "uer/gpt2-chinese-lyric", "IDEA-CCNL/Wenzhong-GPT2-110M"} <= hubs
    assert "SHA-1 known" in out
    assert "no checksum published" in out


def test_the_list_holds_what_was_published():
    models = registry()
    assert {f.sha1 for f in models["cpm-large"].files} >= {
        "71d6b6ad4f47b46724eb82c05da8fb9175e62a7d",
        "42aa247a262e2011fa5e276f1a8389fad6d80edc",
    }
    assert all(model.hub or model.note for model in models.values())
    assert all(is_hub_id(model.hub) for model in models.values() if model.hub)


# a URL


def test_a_url_is_downloaded_into_the_folder(run, files, tmp_path):
    url = files.put("/x/model.bin", DATA)
    assert run(url) == (0, "model.bin\n", "")
    assert (tmp_path / "model.bin").read_bytes() == DATA
    sha = hashlib.sha256(DATA).hexdigest()
    assert run(url, "--to", "deep/er", "--sha256", sha.upper())[:2] == (0, "deep/er/model.bin\n")
    assert run(url, "--to", "deep/er", "--sha256", sha)[:2] == (0, "deep/er/model.bin\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["URL", "--sha256", "0" * 64], "not " + "0" * 64),
        (["URL", "--sha256", "abc"], "--sha256 must be 64 hexadecimal digits"),
        (["URL", "--to", ""], "--to has an empty name"),
        (["URL", "--from", "http://h/x"], "--from is for a model of the list"),
        (["file:///etc/passwd"], "must be an address like https://"),
        (["http://127.0.0.1:1/x"], "no connection"),
        (["--to", "x"], "give the name of a model"),
        (["cpm-larg"], "did you mean cpm-large?"),
        (["../../etc/passwd"], "no public model"),
        (["cpm-medium"], "No public address is known"),
        (["cpm-large"], "--from URL"),
        (["cpm-large", "--from", "nowhere"], "must be an address"),
        (["cpm-generate", "--from", "http://h/x"], "whose files are listed: cpm-large"),
        (["cpm-large", "--sha256", "0" * 64], "--sha256 is for a URL"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_status_2(run, files, tmp_path, words, says, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    url = files.put("/m.bin", DATA)
    status, out, err = run(*(url if word == "URL" else word for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("cpm-gen: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


# a mirror of files whose checksums were published


def test_a_mirror_is_compared_with_the_published_checksums(run, files, tmp_path):
    files.put("/cpm/latest_checkpointed_iteration.txt", b"80000\n")
    for rank in (0, 1):
        files.put(f"/cpm/80000/mp_rank_0{rank}_model_states.pt", DATA)
    status, out, err = run("cpm-large", "--from", files.url + "/cpm/", "--to", "large")
    assert (status, out) == (2, "")
    assert "sha1 is" in err
    assert "71d6b6ad4f47b46724eb82c05da8fb9175e62a7d" in err
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        "large/latest_checkpointed_iteration.txt"
    }
    assert "sha1 is" in run("cpm-large", "--from", files.url + "/cpm", "--to", "large")[2]


# the Hub


@pytest.fixture
def on_the_hub(files, monkeypatch) -> Files:
    """The server as the Hub of this process."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", files.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", files.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return files


MODEL = {
    "config.json": b'{"model_type": "gpt2"}',
    "vocab.txt": "[UNK]\n春\n".encode(),
    "model.safetensors": DATA,
    "pytorch_model.bin": DATA[::-1],
    "tf_model.h5": b"tf",
    "evil.py": b"print()",
    ".gitattributes": b"x",
}


def test_a_model_of_the_hub_is_downloaded_and_verified(run, on_the_hub, tmp_path):
    hub_model(on_the_hub, "owner/tiny", MODEL)
    on_the_hub.cut = [1_000_000]
    status, out, err = run("owner/tiny")
    assert (status, out, err) == (0, "tiny\n", "")
    assert {p.name: p.read_bytes() for p in (tmp_path / "tiny").iterdir()} == {
        name: MODEL[name] for name in ("config.json", "vocab.txt", "model.safetensors")
    }
    paths = [path.rpartition("/")[2] for path, _ in on_the_hub.asked if "resolve" in path]
    assert paths == ["model.safetensors", "model.safetensors", "vocab.txt", "config.json"]
    on_the_hub.asked = []
    assert run("owner/tiny")[0] == 0
    assert not [path for path, _ in on_the_hub.asked if "resolve" in path], "all is there"


def test_a_model_of_the_list_says_that_it_was_never_tried(run, on_the_hub):
    hub_model(on_the_hub, "uer/gpt2-chinese-lyric", MODEL)
    status, out, err = run("gpt2-chinese-lyric", "--to", "lyric")
    assert (status, out) == (0, "lyric\n")
    assert err.startswith("note: these weights were never tried")


def test_the_checksum_of_the_list_counts_more_than_the_hubs(run, on_the_hub, tmp_path):
    hub_model(on_the_hub, "openai-community/gpt2", MODEL)
    status, _, err = run("gpt2")
    assert status == 2
    assert "has 2,500,000 bytes, not 548,105,171" in err


@pytest.mark.parametrize("name", ["vocab.txt", "model.safetensors"])
def test_a_file_that_is_not_the_hubs_is_refused(run, on_the_hub, tmp_path, name):
    hub_model(on_the_hub, "owner/tiny", MODEL)
    [path] = (path for path in on_the_hub.content if path.endswith(name))
    on_the_hub.content[path] = MODEL[name][:-1] + b"x"
    status, _, err = run("owner/tiny")
    assert status == 2
    assert " is " in err and ", not " in err
    assert not (tmp_path / "tiny" / name).exists()
    assert not (tmp_path / "tiny" / "config.json").exists(), "the last file, so that half a model is none"


def test_a_name_that_leaves_the_folder_is_refused(run, on_the_hub, tmp_path):
    hub_model(on_the_hub, "owner/evil", MODEL | {"../../mp_rank_00.pt": b"x", "x/../../../y.model": b"x"})
    status, _, err = run("owner/evil")
    assert status == 2
    assert "is not the name of a file" in err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_one_line(run, on_the_hub):
    def absent(handler) -> None:
        handler.send_response(404)
        handler.send_header("X-Error-Code", "RepoNotFound")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    on_the_hub.special["/api/models/owner/none"] = absent
    status, _, err = run("owner/none")
    assert status == 2
    assert "no such model on the Hub" in err
    assert err.count("\n") == 1


def test_what_a_server_says_is_one_line_of_printable_characters(run, on_the_hub):
    def refuse(handler) -> None:
        answer = b'{"error": "no \\u001b[31mroom\\nnow"}'
        handler.send_response(400)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    on_the_hub.special["/api/models/owner/odd"] = refuse
    status, _, err = run("owner/odd")
    assert status == 2
    assert "the Hub does not answer" in err and "[31mroom now" in err
    assert err.removesuffix("\n").isprintable()


def test_without_huggingface_hub_one_line_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = run("owner/tiny")
    assert status == 2
    assert "pip install -c constraints.txt -e '.[hf]'" in err
    assert err.count("\n") == 1


def test_the_files_that_a_model_is_opened_with_are_chosen():
    split = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert hub.chosen("m", [*split, "config.json", "pytorch_model.bin", "a/model.safetensors", "spiece.model"]) == [
        *split, "spiece.model", "config.json",
    ]  # fmt: skip
    assert hub.chosen("m", ["pytorch_model.bin", "flax_model.msgpack"]) == ["pytorch_model.bin"]
    assert hub.chosen("m", ["80000/mp_rank_00_model_states.pt", "latest_checkpointed_iteration.txt"])[0].startswith(
        "80000/"
    )
    with pytest.raises(DownloadError, match=r"it has tf_model\.h5, which is not read"):
        hub.chosen("m", ["tf_model.h5", "config.json"])
    with pytest.raises(DownloadError, match="no weights"):
        hub.chosen("m", ["model.safetensors.index.json", "config.json"])


# beside it


def test_a_model_that_is_no_folder_is_said_to_be_downloadable(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("uer/gpt2-chinese-lyric", "cpm-large"):
        assert main(["inspect", name]) == 2
        assert f"cpm-gen download {name}" in capsys.readouterr().err
    assert hint("/no/such/folder") == ""
    assert "cpm-gen download cpm-large" in hint("cpm-larg")


def test_ctrl_c_keeps_what_is_there_and_says_so(files, tmp_path, begin):
    def slow(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.send_header("ETag", files.tag)
        handler.end_headers()
        handler.wfile.write(DATA[:1_100_000])
        handler.wfile.flush()
        until(lambda: stopped.poll() is not None)

    url = files.put("/m.bin", DATA)
    files.special["/m.bin"] = slow
    words = [sys.executable, "-m", "cpm_gen", "download", url]
    stopped = begin(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    part = tmp_path / "m.bin.part"
    until(lambda: part.exists() and part.stat().st_size > 0)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=60)
    assert (stopped.returncode, out, err) == (130, "", "stopped; the same command continues\n")
    del files.special["/m.bin"]
    files.asked = []
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "m.bin\n", "")
    assert (tmp_path / "m.bin").read_bytes() == DATA
    assert files.starts()[0] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]
