"""From settings to a run that is ready: the texts encoded, the network loaded, everything checked that costs no hours."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions, StyleName
from cpm_gen.errors import CheckpointError, ConfigError, InputError
from cpm_gen.finetuning.cpm1 import Cpm1Examples
from cpm_gen.finetuning.deepspeed_config import check_deepspeed
from cpm_gen.finetuning.device import find_device, find_precision
from cpm_gen.finetuning.gpt2 import load_network, new_network, parse_size
from cpm_gen.finetuning.language_model import LanguageModel
from cpm_gen.finetuning.memory import MemoryPlan, plan_memory
from cpm_gen.finetuning.run_folder import RunFolder
from cpm_gen.finetuning.samples import Sampler
from cpm_gen.finetuning.schedule import Progress
from cpm_gen.finetuning.setup import Setup
from cpm_gen.finetuning.texts import Reading, Source, Texts, encode_sources, find_sources
from cpm_gen.finetuning.windows import RandomWindows, Rows, Windows, held_out_rows
from cpm_gen.text.find_tokenizer import find_tokenizer, fitting_tokenizer
from cpm_gen.text.tokenizer import TextTokenizer

_CPM_1_LENGTH = 1024
_MEASURED = 60_000  # tokens of the held-out texts, as many of each source


@dataclass(frozen=True)
class Request:
    """What a person asks for. model: of ``model``, ``tokenizer`` and ``heads``. data: the paths of ``--data``.

    records: whether blank lines separate documents; None: as the style has it.
    """

    model: ModelOptions
    style: StyleName
    data: tuple[str, ...]
    records: bool | None
    seed: int
    options: FinetuneOptions

    def to_json(self) -> dict[str, Any]:
        """For ``run.json``; paths are absolute, so that a run goes on from any folder."""
        model = {
            name: getattr(self.model, name) for name in ("model", "tokenizer", "heads", "start_token", "end_token")
        }
        for name in ("model", "tokenizer"):
            if model[name] is not None and model[name] != "embedded":
                model[name] = str(Path(str(model[name])).absolute())
        data = [str(Path(name).absolute()) for name in self.data]
        return {
            "model": model,
            "style": self.style,
            "data": data,
            "records": self.records,
            "seed": self.seed,
            "options": dataclasses.asdict(self.options),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Request:
        """What :meth:`to_json` gave."""
        return Request(
            ModelOptions(**content["model"]),
            content["style"],
            tuple(content["data"]),
            content["records"],
            content["seed"],
            FinetuneOptions(**content["options"]),
        )


@dataclass(frozen=True)
class Prepared:
    """A run that is ready. checkpoint: of the model that it begins with; None: from nothing."""

    request: Request
    setup: Setup
    texts: Texts
    checkpoint: Checkpoint | None
    notes: tuple[str, ...]


def prepare(request: Request, folder: RunFolder, *, resume: bool, reading: Reading = lambda done, of: None) -> Prepared:
    """Check, read and load. With ``resume``, ``folder`` holds a run that was begun, and ``request`` is its.

    Raises ConfigError, InputError, TokenizerError or CheckpointError.
    """
    options = request.options
    notes: list[str] = []
    stored = folder.settings() if resume else None
    check_deepspeed(options.deepspeed)
    use_cpu, device = find_device(options.device)
    half = find_precision(stored["precision"] if stored else options.precision, device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # ranks that share this machine's cores
    threads = options.threads or (stored["threads"] if stored else max(1, (os.cpu_count() or 1) // here))
    torch.set_num_threads(threads)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if stored and stored["ranks"] != world:
        raise ConfigError(f"--resume: the run was begun with {stored['ranks']} ranks, not {world}; start as many")
    sources = find_sources(request.data, request.style, records=request.records)
    tokenizer, checkpoint, size = _opened(request)
    length = _length(options, size.positions)
    if checkpoint is None:
        _check_result(options, size, None, "the new network")
    else:
        _check_result(options, size, checkpoint.variant.inner, str(checkpoint.folder))
    texts, windows, held, test = _windows(request, sources, tokenizer, length, size.positions, reading, notes)
    if stored and stored["texts"] != texts.fingerprint:
        raise InputError("--resume: the texts are not those that the run was begun with; start again with --force")
    rows = _rows_of_rank(options, world)
    memory = plan_memory(
        size, _parameters(checkpoint, size), options, length=length, rows=rows, device=device, half=half is not None
    )  # a network that does not fit is not loaded
    if stored:
        memory = MemoryPlan(stored["micro_batch"], stored["checkpointing"])
    elif world > 1 and options.deepspeed is None:
        memory = _of_rank_0(memory, use_cpu)
    dropout = options.dropout or 0.0
    if checkpoint is None:
        model: Any = new_network(size, dropout, request.seed)
    else:
        model = load_network(checkpoint, request.model.heads, dropout)
    if options.lora is not None:
        model = with_adapters(model, options.lora, dropout, request.seed)
    progress = _progress(options, windows)
    resume_from = None
    if stored:
        newest = folder.newest()
        for step in folder.drop_incomplete(newest[0] if newest else 0):
            notes.append(f"the checkpoint of step {step:,} is not complete; it is passed over")
        if newest is not None:
            resume_from, progress.before = newest
    prompt = options.sample or texts.sources[0].beginning
    setup = Setup(
        model=model,
        windows=windows,
        held=held,
        test=test,
        options=options,
        learning_rate=options.learning_rate or _usual_learning_rate(options, size.hidden),
        seed=request.seed,
        folder=folder,
        progress=progress,
        memory=memory,
        half=half,
        use_cpu=use_cpu,
        prompt=prompt,
        sample=Sampler(tokenizer, request.style, prompt, request.seed),
        resume_from=resume_from,
    )
    if stored is None and int(os.environ.get("RANK", "0")) == 0:  # last: with --force it removes what the folder holds
        folder.begin(
            {
                **request.to_json(),
                "texts": texts.fingerprint,
                "ranks": world,
                "threads": threads,
                "micro_batch": memory.micro_batch,
                "checkpointing": memory.checkpointing,
                "precision": "float32" if half is None else str(half).removeprefix("torch."),
            }
        )
    return Prepared(request, setup, texts, checkpoint, tuple(notes))


def _opened(request: Request) -> tuple[TextTokenizer, Checkpoint | None, ModelSize]:
    """The tokenizer, the checkpoint (None: a new network) and the network's sizes."""
    if request.options.from_nothing is not None:
        if request.model.model not in (None, "embedded"):
            raise ConfigError("--from-nothing and --model exclude each other; a new network begins with no model")
        tokenizer = find_tokenizer(request.model)
        return tokenizer, None, parse_size(request.options.from_nothing, tokenizer.size)
    checkpoint = open_checkpoint(model_folder(request.model.model))
    if checkpoint.is_onnx:
        raise CheckpointError(
            f"{checkpoint.folder}: an ONNX file cannot be trained; take the checkpoint that it was made from"
        )
    tokenizer = fitting_tokenizer(request.model, checkpoint.vocabulary)
    return tokenizer, checkpoint, checkpoint.size(resolve_heads(checkpoint, request.model.heads))


def _parameters(checkpoint: Checkpoint | None, size: ModelSize) -> int:
    """Of the network, an output head of its own included."""
    return size.parameters if checkpoint is None else sum(math.prod(t.shape) for t in checkpoint.tensors.values())


def _windows(
    request: Request,
    sources: Sequence[Source],
    tokenizer: TextTokenizer,
    length: int,
    positions: int,
    reading: Reading,
    notes: list[str],
) -> tuple[Texts, Windows, list[Rows], list[Rows]]:
    """The texts, the windows of the run, those that are measured in it, and those that are measured at its end."""
    if request.options.recipe == "cpm1":
        examples = Cpm1Examples(sources, tokenizer, length, request.seed)
        if examples.long_lines:
            notes.append(
                f"{examples.long_lines:,} lines have more than {length + 1:,} tokens and are cut into windows; break them by hand"
            )
        return examples.texts, examples, examples.dev, examples.test
    texts = encode_sources(sources, tokenizer, request.options.held_out, reading)
    for source in texts.sources:
        if source.unknown > 0.01 * (len(source.train) + len(source.held)):
            share = source.unknown / (len(source.train) + len(source.held))
            notes.append(
                f"{source.source.path}: {share:.1%} of the tokens are characters that the vocabulary does not have; they are not "
                "learned. A vocabulary of these texts (cpm-gen vocabulary) needs --from-nothing"
            )
    ends = tokenizer.boundary_ids("sentence") or frozenset()
    most = _MEASURED // len(texts.sources)
    held = [row for s in texts.sources for row in held_out_rows(s.held, length, most, texts.unk)]
    return texts, RandomWindows(texts, ends, length, positions, request.seed), held, []


def with_adapters(model: LanguageModel, rank: int, dropout: float, seed: int) -> Any:
    """``model`` with low-rank adapters (Hu et al. 2021) on the matrices of its layers; only these are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,  # transformers' Conv1D stores [inputs, outputs]
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's, of what transformers renames
        return get_peft_model(model, config)


def _length(options: FinetuneOptions, positions: int) -> int:
    most = min(positions, _CPM_1_LENGTH) if options.recipe == "cpm1" else positions
    if options.length is not None and options.length > positions:
        raise ConfigError(f"--length must be at most {positions:,}, the network's positions, not {options.length:,}")
    return options.length or most


def _rows_of_rank(options: FinetuneOptions, world: int) -> int:
    batch = options.batch or 1
    if batch % world:
        raise ConfigError(f"--batch must be a multiple of {world}, the number of ranks, not {batch}")
    rows = batch // world
    if options.micro_batch is not None and rows % options.micro_batch:
        raise ConfigError(
            f"--micro-batch must divide {rows}, the windows of a step on a rank, not {options.micro_batch}"
        )
    return rows


def _of_rank_0(memory: MemoryPlan, use_cpu: bool) -> MemoryPlan:
    """Rank 0's plan: the ranks see different amounts of free memory, and must take as many parts of a step."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=True, backend="gloo") if use_cpu else PartialState()
    shared: list[MemoryPlan] = broadcast_object_list([memory])
    return shared[0]


def _check_result(options: FinetuneOptions, size: ModelSize, inner: int | None, name: str) -> None:
    """Check that the shards that are asked for can be cut, before hours are spent."""
    tensor_table.check_degree(
        options.tensor_parallel, vocabulary=None, heads=size.heads, hidden=size.hidden, inner=inner, where=name
    )


def _progress(options: FinetuneOptions, windows: Windows) -> Progress:
    if options.minutes is not None:
        return Progress(None, options.minutes * 60)
    if options.steps is not None:
        return Progress(options.steps)
    assert options.epochs is not None
    return Progress(max(1, round(options.epochs * windows.epoch_windows() / (options.batch or 1))))


def _usual_learning_rate(options: FinetuneOptions, hidden: int) -> float:
    if options.from_nothing is not None:
        return (1.0 if options.optimizer == "muon" else 0.25) / hidden
    return (0.4 if options.lora is not None else 0.08) / hidden
