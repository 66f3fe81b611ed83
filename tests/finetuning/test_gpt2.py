"""Networks of other kinds than CPM-1's, as the trainer gets them."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError, ConfigError
from tests.text.vocabularies import models_folder

transformers = pytest.importorskip("transformers")


def test_every_folder_gives_the_network_of_transformers() -> None:
    """Activations, epsilons, inner sizes, heads that are not tied."""
    from cpm_gen.finetuning.gpt2 import load_network

    seen = 0
    for folder in sorted(path for path in (models_folder() / "ok").iterdir() if (path / "model.safetensors").is_file()):
        config = json.loads((folder / "config.json").read_text())
        if config.get("model_type") != "gpt2":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
            ours = load_network(open_checkpoint(folder), None, 0.1).eval()
        ids = torch.arange(5, 5 + min(12, theirs.config.n_positions))[None] % theirs.config.vocab_size
        with torch.no_grad():
            assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5), folder.name
        seen += 1
    assert seen >= 3


def test_sizes_of_a_new_network(tmp_path: Path) -> None:
    from cpm_gen.finetuning.gpt2 import new_network, parse_size

    assert parse_size("2x32x4x64", 300) == ModelSize(layers=2, hidden=32, heads=4, vocabulary=300, positions=64)
    assert parse_size("cpm-distill", 300) == ModelSize(12, 768, 12, 300, 1024)
    path = tmp_path / "mine.yaml"
    path.write_text("size: {layers: 1, hidden: 8, heads: 2, vocabulary: 9, positions: 16}\n")
    assert parse_size(str(path), 300) == ModelSize(1, 8, 2, 300, 16)
    with pytest.raises(ConfigError, match="positions at least 16"):
        parse_size("1x8x2x8", 300)
    size = parse_size("2x32x4x64", 300)
    assert sum(p.numel() for p in new_network(size, 0.0, 1).parameters()) == size.parameters


def test_an_onnx_file_is_refused(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("onnx")
    from cpm_gen.cli.main import main
    from cpm_gen.finetuning.gpt2 import load_network

    assert main(["export", str(model), str(tmp_path / "model.onnx"), "--format", "onnx"]) == 0
    with pytest.raises(CheckpointError, match="an ONNX file cannot be trained"):
        load_network(open_checkpoint(tmp_path / "model.onnx"), None, 0.0)
