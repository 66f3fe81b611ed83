"""ONNX files: what they compute in onnxruntime, what they consist of, and the backend that runs them."""

import json
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.convert import convert
from cpm_gen.checkpoints.formats.gguf_writer import export_gguf
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.checkpoints.tensor_to_write import read_slice
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request
from cpm_gen.errors import CheckpointError, ConfigError, CpmGenError, InputError
from cpm_gen.networks.onnx.export import export_onnx
from tests.huggingface_folders import ODD, logits, random_folder
from tests.random_networks import SMALL, random_checkpoint, random_state

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IDS = [5, 60, 17, 0, 33, 33, 8, 21, 59, 2, 44, 13]
PRIMITIVES = {
    "Gather",
    "MatMul",
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Sqrt",
    "ReduceMean",
    "Reshape",
    "Transpose",
    "Split",
    "Squeeze",
    "Softmax",
    "Tanh",
    "Concat",
}
FORMS: dict[str, dict[str, Any]] = {"free": {}, "past": {"past": True}, "fixed": {"batch": 3, "length": 12}}


def run(path: Path, **inputs: Any) -> dict[str, np.ndarray]:
    """All outputs of a file, by name."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def places(past: int, tokens: int) -> dict[str, np.ndarray]:
    """Positions and bias of one row, with -inf where attention must not see."""
    bias = np.full((1, 1, tokens, past + tokens), -np.inf, np.float32)
    for n in range(tokens):
        bias[..., n, : past + n + 1] = 0
    return {"position_ids": np.arange(past, past + tokens)[None], "attention_bias": bias}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(random_checkpoint(tmp_path / "net", degree=2))


@pytest.mark.parametrize("variant", [{}, ODD], ids=["plain", "odd"])
def test_every_form_computes_what_gpt2_computes(tmp_path: Path, variant: dict[str, Any]) -> None:
    config, state = random_folder(tmp_path / "hf", **variant)
    checkpoint, path = open_checkpoint(tmp_path / "hf"), tmp_path / "x.onnx"
    wanted = logits(state, config, IDS).numpy()
    assert export_onnx(checkpoint, path) < 1e-4
    got = run(path, input_ids=np.array([IDS]), **places(0, len(IDS)))
    np.testing.assert_allclose(got["logits"][0], wanted, atol=1e-4)
    export_onnx(checkpoint, path, past=True, force=True)
    state_now = {f"past_{what}_{n}": np.zeros((1, 4, 0, 8), np.float32) for what in ("key", "value") for n in range(2)}
    at, rows = 0, []
    for count in (3, 1, 6, 2):
        got = run(path, input_ids=np.array([IDS[at : at + count]]), **places(at, count), **state_now)
        rows.append(got.pop("logits")[0])
        state_now = {name.replace("present", "past"): value for name, value in got.items()}
        at += count
    np.testing.assert_allclose(np.concatenate(rows), wanted, atol=1e-4)
    export_onnx(checkpoint, path, batch=2, length=12, force=True)
    got = run(path, input_ids=np.array([IDS[::-1], IDS]))
    np.testing.assert_allclose(got["logits"][1], wanted, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_holds_primitives_of_opset_13_alone(tmp_path: Path, source: Checkpoint, form: str) -> None:
    export_onnx(source, tmp_path / "x.onnx", **FORMS[form])
    onnx.checker.check_model(str(tmp_path / "x.onnx"), full_check=True)
    model = onnx.load(tmp_path / "x.onnx")
    assert {node.op_type for node in model.graph.node} <= PRIMITIVES
    assert ([(i.domain, i.version) for i in model.opset_import], model.ir_version) == ([("", 13)], 8)
    names = [given.name for given in model.graph.input]
    if form == "fixed":
        (given,), (output,) = model.graph.input, model.graph.output
        assert given.name == "input_ids"
        assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [3, 12]
        assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [3, 12, SMALL.vocabulary]
    else:
        assert names[:3] == ["input_ids", "position_ids", "attention_bias"]
        assert names[3:] == (["past_key_0", "past_value_0", "past_key_1", "past_value_1"] if form == "past" else [])


def test_weights_that_do_not_fit_lie_in_a_second_file(tmp_path: Path, source: Checkpoint) -> None:
    whole, divided = tmp_path / "whole.onnx", tmp_path / "divided.onnx"
    export_onnx(source, whole)
    export_onnx(source, divided, most_inside=10_000)
    assert listing(tmp_path) == ["divided.onnx", "divided.onnx.data", "net", "whole.onnx"]
    assert divided.stat().st_size < 20_000
    given = {"input_ids": np.array([IDS]), **places(0, len(IDS))}
    assert np.array_equal(run(whole, **given)["logits"], run(divided, **given)["logits"])
    with cpm_gen.load(divided) as llm:
        assert llm.score(IDS)[1:] == pytest.approx(cpm_gen.load(tmp_path / "net").score(IDS)[1:], abs=1e-4)
    with pytest.raises(InputError, match=r"divided\.onnx: exists already"):
        export_onnx(source, divided)
    export_onnx(source, divided, force=True)
    assert listing(tmp_path) == ["divided.onnx", "net", "whole.onnx"]


def test_a_float16_file_is_half_as_large_and_computes_nearly_the_same(tmp_path: Path) -> None:
    config, state = random_folder(tmp_path / "hf", dtype=torch.float16)
    export_onnx(open_checkpoint(tmp_path / "hf"), tmp_path / "x.onnx", dtype="float16", batch=1, length=12)
    got = run(tmp_path / "x.onnx", input_ids=np.array([IDS]))["logits"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got[0], logits(state, config, IDS).numpy(), atol=0.05)


@pytest.mark.parametrize(
    "name", ["transformer.layers.1.mlp.dense_h_to_4h.weight", "transformer.layers.0.input_layernorm.bias"]
)
def test_numbers_beyond_float16_are_refused_by_name(tmp_path: Path, name: str) -> None:
    state = random_state()
    state[name].view(-1)[3] = 1e5
    save_checkpoint(tmp_path / "net", state, degree=1, iteration=7)
    (tmp_path / "net" / "config.json").write_text('{"heads": 8}')
    with pytest.raises(CheckpointError, match=rf"{name} holds numbers beyond float16's range"):
        export_onnx(open_checkpoint(tmp_path / "net"), tmp_path / "x.onnx", dtype="float16")
    assert listing(tmp_path) == ["net"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_matrix_is_read_transposed_without_a_second_copy(source: Checkpoint, dtype: torch.dtype) -> None:
    name = "transformer.layers.1.mlp.dense_4h_to_h.weight"
    turned = read_slice(source, name, 0, 1, dtype, transposed=True)
    assert turned.is_contiguous()
    assert torch.equal(turned.T, read_slice(source, name, 0, 1, dtype))


def greedy(model: Path, **options: Any) -> list[int]:
    with cpm_gen.load(model, window_hop=5, **options) as llm:
        request = Request(tuple(IDS), llm.window, None, SamplingParams(temperature=0.0), 0, max_new_tokens=60)
        written = llm.engine.token_engine.add(request)
        while llm.engine.token_engine.busy:
            llm.engine.token_engine.step()
        return list(written.tokens)


@pytest.mark.parametrize("form", FORMS)
def test_greedy_text_past_the_window_is_the_torch_network_s(tmp_path: Path, form: str) -> None:
    random_folder(tmp_path / "hf", **ODD)
    export_onnx(open_checkpoint(tmp_path / "hf"), tmp_path / "x.onnx", **FORMS[form])
    limit = {"window_limit": 11}
    wanted = greedy(tmp_path / "hf", kernels="torch", decoder="recompute", **limit)
    assert len(set(wanted[len(IDS) :])) > 5
    assert greedy(tmp_path / "x.onnx", kernels="onnx", **limit) == wanted
    assert greedy(tmp_path / "x.onnx", decoder="recompute", **limit) == wanted


def test_a_batch_of_texts_and_scores_are_the_torch_network_s(tmp_path: Path) -> None:
    export_onnx(open_checkpoint(EMBEDDED), tmp_path / "x.onnx", past=True)
    settings: dict[str, Any] = {"n": 3, "max_new_tokens": 12, "seed": 5, "temperature": 0.9}
    with cpm_gen.load(tmp_path / "x.onnx", tokenizer=EMBEDDED) as ours, cpm_gen.load() as llm:
        prompts = ["春天", "山中相送罢，日暮掩柴扉。"]
        assert [c.token_ids for c in ours.generate_many(prompts, **settings)] == [
            c.token_ids for c in llm.generate_many(prompts, **settings)
        ]
        ids = llm.encode("春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。")
        assert ours.score(ids)[1:] == pytest.approx(llm.score(ids)[1:], abs=1e-4)


def test_a_file_that_computes_something_else_gets_no_name(tmp_path: Path, source: Checkpoint) -> None:
    def damage(what: str, done: int, of: int) -> None:
        if (what, done) == ("checking", 0):
            (file,) = tmp_path.glob(".x.onnx.*/x.onnx")
            content = bytearray(file.read_bytes())
            content[-1] ^= 64  # the exponent of a weight
            file.write_bytes(content)

    with pytest.raises(CheckpointError, match="logits of the ONNX file differ by"):
        export_onnx(source, tmp_path / "x.onnx", progress=damage)
    assert listing(tmp_path) == ["net"]


@pytest.mark.parametrize("moment", ["writing", "checking"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, source: Checkpoint, moment: str) -> None:
    (tmp_path / "x.onnx").write_text("old")

    def interrupt(what: str, done: int, of: int) -> None:
        if what == moment:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export_onnx(source, tmp_path / "x.onnx", force=True, progress=interrupt)
    assert listing(tmp_path) == ["net", "x.onnx"]
    assert (tmp_path / "x.onnx").read_text() == "old"


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, source: Checkpoint) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match="could not be written: File too large"):
            export_onnx(source, tmp_path / "x.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == ["net"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch": 2}, "both --batch and --length"),
        ({"batch": 2, "length": 17}, "from 1 to 16"),
        ({"batch": 0, "length": 8}, "at least 1"),
        ({"batch": 2, "length": 8, "past": True}, "--past needs free shapes"),
        ({"dtype": "bfloat16"}, "float32 or float16"),
        ({"heads": 7}, "7 heads"),
    ],
)
def test_impossible_shapes_are_refused(tmp_path: Path, source: Checkpoint, options: dict[str, Any], word: str) -> None:
    with pytest.raises(CpmGenError, match=word):
        export_onnx(source, tmp_path / "x.onnx", **options)
    assert listing(tmp_path) == ["net"]


def test_what_is_no_export_of_ours_is_refused_by_name(tmp_path: Path, source: Checkpoint) -> None:
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    cases = {"foreign": foreign.SerializeToString(), "empty": b"", "text": b"hello, this is no protocol buffer"}
    export_onnx(source, tmp_path / "good.onnx")
    cases["truncated"] = (tmp_path / "good.onnx").read_bytes()[:50_000]
    for name, content in cases.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}\.onnx: (not an ONNX file|an ONNX file that cpm-gen)"):
            open_checkpoint(tmp_path / f"{name}.onnx")
    with pytest.raises(CheckpointError, match=r"absent\.onnx: No such file"):
        open_checkpoint(tmp_path / "absent.onnx")
    with pytest.raises(CheckpointError, match="holds no weights that can be converted"):
        export_onnx(open_checkpoint(tmp_path / "good.onnx"), tmp_path / "again.onnx")
    with pytest.raises(CheckpointError, match="holds no weights that can be converted"):
        convert(tmp_path / "good.onnx", tmp_path / "again", "shards", degree=3)
    with pytest.raises(CheckpointError, match="holds no weights that can be converted"):
        export_gguf(open_checkpoint(tmp_path / "good.onnx"), tmp_path / "again.gguf", None)


@pytest.mark.parametrize(
    "options", [{"kernels": "torch"}, {"dtype": "bfloat16"}, {"quantize": "int8"}, {"tensor_parallel": 2}]
)
def test_options_that_an_onnx_file_cannot_have_are_refused(
    tmp_path: Path, source: Checkpoint, options: dict[str, Any]
) -> None:
    export_onnx(source, tmp_path / "x.onnx")
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=rf"{name} {value} does not fit an ONNX file"):
        cpm_gen.load(tmp_path / "x.onnx", **options)


def test_the_onnx_backend_needs_an_onnx_file(tmp_path: Path, source: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"--model takes its path"):
        cpm_gen.load(source.folder, kernels="onnx")


def test_inspect_says_what_an_onnx_file_is(
    tmp_path: Path, source: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    from cpm_gen.cli.main import main

    assert (
        main(
            [
                "export",
                "--format",
                "onnx",
                str(source.folder),
                str(tmp_path / "x.onnx"),
                "--batch",
                "1",
                "--length",
                "9",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'x.onnx'}\n"
    assert "checked in onnxruntime" in said.err
    assert main(["inspect", str(tmp_path / "x.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["positions"], found["heads"]) == ("ONNX", 9, 8)
    assert (found["network"], found["parameters"], found["memory"], found["possible_degrees"]) == (None, None, {}, [1])
    assert main(["inspect", str(tmp_path / "x.onnx")]) == 0
    assert "memory per rank" not in capsys.readouterr().out
