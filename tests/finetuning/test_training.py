"""Runs of the trainer: beside an independent network, repeated, with adapters, over ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.locate import open_checkpoint
from tests.cli.conftest import Run
from tests.finetuning.independent_network import Network
from tests.finetuning.runs import flags, request_for, trained, whole
from tests.processes import TORCHRUN

pytest.importorskip("accelerate")


def independent(model: Path) -> Network:
    network = Network(layers=2, hidden=32, heads=4, vocabulary=400, positions=32)
    network.load_state_dict(whole(model))
    return network


def test_losses_equal_those_of_an_independent_network(model: Path, songs: Path, tmp_path: Path) -> None:
    request = request_for(model, songs, steps=20, batch=4, dropout=0.0, learning_rate=1e-3, warmup=0.1, clip=0.0)
    prepared, outcome, steps = trained(request, tmp_path / "out")
    network = independent(model)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    expected = []
    for step in range(20):
        at = (step + 0.5) / 20
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (at / 0.1 if at < 0.1 else (1 - at) / 0.9)
        rows = [prepared.setup.windows.rows(step * 4 + n, step >= 17) for n in range(4)]
        parts = [torch.cat([torch.from_numpy(getattr(r, n)) for r in rows]) for n in ("ids", "targets", "positions")]
        loss = network(*parts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert [s.loss for s in steps if s.loss is not None] == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0]
    held = [s.held_out for s in steps if s.held_out is not None]
    assert outcome.before == held[0]
    network.requires_grad_(False)
    losses = [
        float(network(*(torch.from_numpy(getattr(r, n)) for n in ("ids", "targets", "positions"))))
        for r in prepared.setup.held
    ]
    counts = [int((r.targets != -100).sum()) for r in prepared.setup.held]
    exact = sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)
    assert held[-1] == pytest.approx(exact, rel=1e-4)


def test_a_run_gives_a_model_with_its_card(run: Run, model: Path, songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, err = run(*flags(model, songs, out, "--steps", 10, "--tensor-parallel", 2, "--licence", "CC0-1.0"))
    assert status == 0, err
    report = json.loads(said)
    assert (report["steps"], report["best_step"], report["tokens"]) == (10, 10, 10 * 8 * 32)
    assert (report["threads"], report["micro_batch"], report["gradient_checkpointing"]) == (1, 8, False)
    assert report["held_out_after"] < report["held_out_before"]
    assert {p.name for p in out.iterdir()} == {
        "10", "MODEL_CARD.md", "chinese_vocab.model", "vocab.json", "config.json", "latest_checkpointed_iteration.txt",
        "loss.png", "tensorboard", "training.json", "training.jsonl",
    }  # fmt: skip
    assert json.loads((out / "config.json").read_text())["architectures"] == ["GPT2LMHeadModel"]  # no class of ours
    assert open_checkpoint(out).degree == 2
    assert open_checkpoint(out).dtype == torch.float32  # the model's
    card = (out / "MODEL_CARD.md").read_text()
    assert "CC0-1.0" in card and "| 20 | 1 |" in card and card.count("cpm-gen lyric") == 3
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "step 10: held-out loss" in err
    with cpm_gen.load(out, threads=1) as llm:
        ids = llm.encode("一", "plain")
        assert len(llm.score([*ids, 20, 30])) == len(ids) + 2
    again = run(*flags(model, songs, tmp_path / "again", "--steps", 10))
    assert json.loads(again[1])["weights_sha256"] == report["weights_sha256"]
    other = run(*flags(model, songs, tmp_path / "other", "--steps", 10, "--seed", 1))
    assert json.loads(other[1])["weights_sha256"] != report["weights_sha256"]


def test_adapters_merged_equal_adapters_applied(model: Path, songs: Path, tmp_path: Path) -> None:
    request = request_for(model, songs, steps=15, lora=4, learning_rate=0.02, dropout=0.0)
    prepared, outcome, _ = trained(request, tmp_path / "out")
    assert outcome.after < outcome.before
    adapted = prepared.setup.model.eval()
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        applied = adapted(input_ids=ids).logits
        base = adapted.disable_adapter
        with base():
            before = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload()(input_ids=ids).logits
    assert (merged - applied).abs().max() < 1e-4
    assert (before - applied).abs().max() > 0.01


def test_a_hugging_face_folder_opens_in_transformers(run: Run, model: Path, songs: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    status, said, err = run(
        *flags(model, songs, out, "--steps", 5, "--to", "hf", "--output-dtype", "float32", "--lora", 2)
    )
    assert status == 0, err
    network = transformers.GPT2LMHeadModel.from_pretrained(out).eval()
    from cpm_gen.finetuning.gpt2 import weights_hash

    assert weights_hash(network) == json.loads(said)["weights_sha256"]
    ids = torch.arange(10, 30)
    with torch.no_grad():
        logprobs = network(ids[None]).logits[0].log_softmax(-1)
    with cpm_gen.load(out, threads=1) as llm:
        scores = llm.score(ids.tolist())[1:]
    assert scores == pytest.approx([float(logprobs[n, i]) for n, i in enumerate(ids[1:].tolist())], abs=1e-4)


@pytest.mark.slow
def test_a_run_ends_early_and_keeps_the_best_weights(model: Path, songs: Path, tmp_path: Path) -> None:
    request = request_for(model, songs, steps=400, learning_rate=0.05, patience=3, dropout=0.0, batch=2)
    prepared, outcome, steps = trained(request, tmp_path / "out")
    held = {s.step: s.held_out for s in steps if s.held_out is not None}
    assert outcome.early and outcome.steps < 400
    assert outcome.best == min(held, key=held.__getitem__) < outcome.steps
    state = prepared.setup.model.eval()
    rows = prepared.setup.held
    total, count = 0.0, 0
    with torch.no_grad():
        for r in rows:
            logits = state(input_ids=torch.from_numpy(r.ids), position_ids=torch.from_numpy(r.positions)).logits
            targets = torch.from_numpy(r.targets)
            total += float(torch.nn.functional.cross_entropy(logits[0], targets[0], reduction="sum", ignore_index=-100))
            count += int((targets != -100).sum())
    assert total / count == pytest.approx(held[outcome.best], rel=1e-4)


def test_a_run_that_makes_it_worse_says_so(model: Path, songs: Path, tmp_path: Path) -> None:
    request = request_for(model, songs, steps=30, learning_rate=0.9, patience=1, dropout=0.0)
    _, outcome, steps = trained(request, tmp_path / "out")
    held = {s.step: s.held_out for s in steps if s.held_out is not None}
    assert outcome.early and outcome.best > 0
    assert outcome.after == held[outcome.best] > outcome.before


def test_the_best_of_worse_weights_is_a_checkpoint(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where ``--save-every`` saves at other steps than those that are measured."""
    losses = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr("cpm_gen.finetuning.trainer.WindowTrainer.measured", lambda *_: next(losses))
    request = request_for(model, songs, steps=30, batch=2, patience=3, save_every=100)
    _, outcome, _ = trained(request, tmp_path / "out")
    assert (outcome.early, outcome.steps, outcome.best, outcome.after) == (True, 15, 5, 2.0)


@pytest.mark.slow
def test_two_ranks_train_as_one(model: Path, songs: Path, tmp_path: Path) -> None:
    words = ("--steps", 12, "--dropout", 0, "--precision", "float32", "--learning-rate", 0.001)
    one, two = tmp_path / "one", tmp_path / "two"
    for out, begin in ((one, [sys.executable, "-m", "cpm_gen"]), (two, TORCHRUN)):
        done = subprocess.run([*begin, *flags(model, songs, out, *words)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)  # of rank 0 alone
    a, b = whole(one), whole(two)
    for weights in (
        a,
        b,
    ):  # a key's bias shifts all scores of a query alike: its gradient is rounding, which Adam scales up
        for name, values in weights.items():
            if name.endswith("query_key_value.bias"):
                values.view(3, -1)[1].zero_()
    losses = [
        [json.loads(line).get("loss") for line in (out / "training.jsonl").read_text().splitlines()]
        for out in (one, two)
    ]
    assert [x for x in losses[1] if x] == pytest.approx([x for x in losses[0] if x], rel=1e-5)
    assert max(float((a[n] - b[n]).abs().max()) for n in a) < 1e-4
    start = whole(model)
    assert max(float((a[n] - start[n]).abs().max()) for n in a) > 1e-3


@pytest.mark.slow
def test_the_clock_and_a_new_network(run: Run, vocabulary: Path, songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, err = run(
        "finetune", "--from-nothing", "2x32x4x32", "--tokenizer", str(vocabulary), "--data", str(songs),
        "--output", str(out), "--minutes", "0.2", "--threads", "1", "--json", "--patience", "0",
    )  # fmt: skip
    assert status == 0, err
    report = json.loads(said)
    assert 11 < report["seconds"] < 30
    assert report["optimizer"] == "muon" and report["based_on"] is None
    log = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    held = [entry["held_out"] for entry in log if "held_out" in entry]
    assert min(held) < held[0] - 0.5  # later the twenty songs are learned by heart
    assert open_checkpoint(out).dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize(("style", "held"), [("lyric", 2), ("novel", 10)])
def test_the_recipe_of_cpm_1_runs(run: Run, model: Path, songs: Path, tmp_path: Path, style: str, held: int) -> None:
    text = "\n\n".join(path.read_text().strip() for path in sorted(songs.iterdir()))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    status, said, err = run(*flags(model, tmp_path / "a.txt", out, "--recipe", "cpm1", "--style", style, "--epochs", 2))
    assert status == 0, err
    report = json.loads(said)
    assert (report["learning_rate"], report["precision"], report["recipe"]) == (1e-5, "float32", "cpm1")
    assert report["data"][0]["held_out_documents"] == held
    assert report["test_loss"] > 0
    assert f"measured once: {report['test_loss']:.3f}" in (out / "MODEL_CARD.md").read_text()
