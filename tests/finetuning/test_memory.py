"""What training needs of memory, before a network is loaded."""

from pathlib import Path

import pytest
import torch

from cpm_gen.config.finetune_options import finetune_options
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import InputError

pytest.importorskip("accelerate")
SIZE = ModelSize(layers=2, hidden=32, heads=4, vocabulary=50, positions=16)
CPU = torch.device("cpu")


def test_adapters_are_counted_as_peft_makes_them() -> None:
    from cpm_gen.finetuning.gpt2 import new_network
    from cpm_gen.finetuning.memory import adapter_parameters
    from cpm_gen.finetuning.prepare import with_adapters

    adapted = with_adapters(new_network(SIZE, 0.0, 1), 3, 0.0, 1)
    assert adapter_parameters(SIZE, 3) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(("lora", "needed"), [(None, 16 * 2_000), (2, 4 * 2_000 + 16 * 2 * 2 * 16 * 32)])
def test_weights_gradients_and_moments_must_fit(monkeypatch: pytest.MonkeyPatch, lora: int | None, needed: int) -> None:
    from cpm_gen.finetuning import memory

    options = finetune_options({"steps": 1} if lora is None else {"steps": 1, "lora": lora}, "lyric")
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        if fits:
            plan = memory.plan_memory(SIZE, 2_000, options, length=16, rows=8, device=CPU, half=False)
            assert plan == memory.MemoryPlan(1, True)
        else:
            with pytest.raises(InputError, match="training needs about"):
                memory.plan_memory(SIZE, 2_000, options, length=16, rows=8, device=CPU, half=False)


def test_a_network_that_does_not_fit_is_not_loaded(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpm_gen.finetuning import memory, prepare
    from cpm_gen.finetuning.run_folder import RunFolder

    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000)
    monkeypatch.setattr(prepare, "load_network", lambda *_: pytest.fail("the network was loaded"))
    options = finetune_options({"steps": 1, "threads": 1}, "lyric")
    request = prepare.Request(ModelOptions(model=str(model)), "lyric", (str(songs),), None, 0, options)
    with pytest.raises(InputError, match="training needs about"):
        prepare.prepare(request, RunFolder(tmp_path / "out"), resume=False)
