"""The CUDA graphs backend on one GPU: correctness, distance from memory bandwidth, cost of slides, prompts and batching.

    python benchmarks/gpu.py --json FILE                       # 2.6 B parameters, bfloat16; --dtype int8: weights only
    python benchmarks/gpu.py --model tiny --positions 64 --device cpu --batches 1 4       # tries the script out

Random weights are created on the device, so no file is read. First the texts and logits of the graphs are compared with the torch
network's on the same device; a difference stops the benchmark. "of the copy": the time in which a large copy moves (reads and writes) the
bytes that a step must read (:func:`models.bytes_per_step`), divided by the step's time. "gpu_ms": the passes alone, replayed without
the host; the rest of a step is Python, the head and sampling. Hugging Face is measured if it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_network import GREEDY, NOVEL, check, kernels, made
from models import bytes_per_step, percentile, save, size_of
from window import stretch

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.networks.cuda_graphs.model import ROWS, Graphed, GraphedModel
from cpm_gen.networks.interface import Segment


class Bench:
    """A loaded network and its measurements."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.size = dataclasses.replace(size_of(args.model), positions=args.positions)
        self.window = Window(self.size.positions - 1, (self.size.positions - 1) // 2)
        self.rows: list[dict[str, Any]] = []
        quantized = args.dtype == "int8"
        dtype = torch.bfloat16 if quantized else getattr(torch, args.dtype)
        self.plain = made(self.size, dtype, self.device, quantized)
        most = max(args.batches)
        began = time.perf_counter()
        slots = max(3, most + -(-most // 2))  # three: of the text past its window and the one inside it
        self.runner = ModelRunner(GraphedModel(self.plain, kernels(self.device)), slots)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.say("loaded", seconds_to_capture=time.perf_counter() - began, gib=self.memory())
        self.copied = self.copy()

    def say(self, work: str, **numbers: float) -> None:
        """Print a row and keep it."""
        shown = {name: float(f"{value:.4g}") for name, value in numbers.items()}
        self.rows.append({"model": self.args.model, "dtype": self.args.dtype, "work": work, **shown})
        print(f"{work:32s}", "  ".join(f"{name} {value:g}" for name, value in shown.items()), flush=True)
        save(self.rows, self.args.json)

    def memory(self) -> float:
        """GiB that torch has reserved on the device so far (peak)."""
        return torch.cuda.max_memory_reserved(self.device) / 2**30 if self.device.type == "cuda" else 0.0

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def seconds(self, function: Callable[[], object], times: int = 20) -> float:
        """Seconds of one call, the device's work included: the median of five runs of ``times`` calls."""
        function()
        spent = []
        for _ in range(5):
            self.wait()
            began = time.perf_counter()
            for _ in range(times):
                function()
            self.wait()
            spent.append((time.perf_counter() - began) / times)
        return statistics.median(spent)

    def copy(self) -> float:
        """Measure a copy: bytes per second, read and written."""
        source = torch.ones(2**28 if self.device.type == "cuda" else 2**22, device=self.device)
        target = torch.empty_like(source)
        speed = 2 * source.nbytes / self.seconds(lambda: target.copy_(source))
        self.say("copy", gb_s=speed / 1e9)
        return speed

    def engine(self, batch: int, budget: int = 256) -> Engine:
        return Engine(self.runner, CachedScheduler(batch, batch + -(-batch // 2), budget), batch=batch)

    def request(self, length: int, tokens: int, params: SamplingParams, seed: int = 0) -> Request:
        dice = random.Random(seed)
        prompt = tuple(dice.randrange(11, self.size.vocabulary) for _ in range(length))
        return Request(prompt, self.window, None, params, seed, max_new_tokens=tokens)

    def near(self) -> None:
        """Compare the logits of the graphs with the torch network's, in this precision."""
        whole = Segment(self.request(self.window.limit // 2, 1, GREEDY).prompt)
        want = self.plain.next_logits([whole], None)
        got = self.runner.next_logits([Segment(whole.ids, 0, 0)])
        error = float((got - want).std() / want.std())
        self.say("logits beside the plain network", relative_error=error)
        assert error < (1e-3 if self.args.dtype == "float32" else 0.2), "the logits differ by more than rounding"

    @torch.inference_mode()
    def matrices(self) -> None:
        """Each kind of matrix over all layers, the kernels against torch."""
        layers: Any = self.plain.transformer.layers
        kinds = {
            "gelu(h -> 4h)": lambda ops, x, n: ops.gelu(x, layers[n].mlp.dense_h_to_4h),
            "h -> 4h": lambda _, x, n: F.linear(x, layers[n].mlp.dense_h_to_4h.whole()),
            "4h -> h in parts": lambda ops, x, n: ops.branch(x, layers[n].mlp.dense_4h_to_h),
            "4h -> h": lambda _, x, n: F.linear(x, layers[n].mlp.dense_4h_to_h.whole()),
            "h -> h in parts": lambda ops, x, n: ops.branch(x, layers[n].attention.dense),
            "h -> h": lambda _, x, n: F.linear(x, layers[n].attention.dense.whole()),
        }
        ops, hidden = kernels(self.device), self.size.hidden
        for name, run in kinds.items():
            inputs, outputs = (
                4 * hidden if name.startswith("4h") else hidden,
                4 * hidden if "4h" in name[2:] else hidden,
            )
            speeds = {}
            for count in (1, 16, 128):
                x = torch.randn(count, inputs, device=self.device).to(self.plain.dtype)

                def all_layers(x: torch.Tensor = x, run: Callable[..., object] = run) -> None:
                    for n in range(self.size.layers):
                        run(ops, x, n)

                graph = Graphed(all_layers, self.device, None, self.stream)
                moved = self.size.layers * inputs * outputs * layers[0].mlp.dense_h_to_4h.weight.itemsize
                speeds[f"rows_{count}_of_the_copy"] = moved / self.copied / self.seconds(graph.run, 3)
            self.say(f"{name}, {'ours' if '(' in name or 'parts' in name else 'torch'}", **speeds)

    def decode(self, batch: int, params: SamplingParams, name: str) -> None:
        """Decode steps at a batch size, with contexts around half a window."""
        tokens, length = self.args.tokens, self.window.limit // 2 - self.args.tokens // 2
        engine = self.engine(batch, budget=1 << 20)  # all prompts in the first step
        texts = [engine.add(self.request(length, tokens + 8, params, n)) for n in range(batch)]
        while min(text.step for text in texts) < 2:
            engine.step()
        times = []
        while len(texts) == batch and all(text.finish_reason is None for text in texts):
            began = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - began)
        while engine.busy:
            engine.step()
        step = statistics.median(times)
        least = bytes_per_step(
            self.size, "bfloat16" if self.args.dtype == "float16" else self.args.dtype, batch, length
        )
        passes = self.seconds(self.graph(batch).run, 10)
        self.say(
            f"decode, batch {batch}, {name}",
            ms=1e3 * step, p99_ms=1e3 * percentile(times, 0.99), gpu_ms=1e3 * passes, tokens_s=batch / step,
            of_the_copy=least / self.copied / step,
        )  # fmt: skip

    @torch.inference_mode()
    def where_time_goes(self, batch: int) -> None:
        """Print the kernels of a pass as torch's profiler reports them."""
        kind = (
            torch.profiler.ProfilerActivity.CUDA if self.device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
        )
        with torch.profiler.profile(activities=[kind]) as profile:
            for _ in range(3):
                self.graph(batch).run()
            self.wait()
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        print(f"three passes of {batch} rows")
        print(profile.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=40))

    def graph(self, batch: int) -> Graphed:
        """The pass that a decode step of this batch runs."""
        return self.runner.cache._graphs[next(n for n in ROWS if n >= batch)]

    def past_the_window(self) -> None:
        for share in (2, 4):
            window = Window(self.window.limit, self.window.limit // share)
            times = stretch(self.runner, window, 2, 3)
            inside, past = (statistics.mean(times[where]) for where in ("inside", "past"))
            self.say(f"past the window, hop 1/{share}", inside_ms=1e3 * inside, past_ms=1e3 * past, speed=inside / past)

    def first_token(self) -> None:
        length = min(500, self.window.limit)
        spent = []
        for n in range(7):
            engine = self.engine(1)
            text = engine.add(self.request(length, 1, NOVEL, n))
            began = time.perf_counter()
            while text.finish_reason is None:
                engine.step()
            spent.append(time.perf_counter() - began)
        self.say(f"first token after {length}", ms=1e3 * statistics.median(spent), worst_ms=1e3 * max(spent))

    def mixed(self, batch: int, budget: int) -> None:
        """ITL of a mixed load: a new request every few steps, prompts of up to half a window."""
        dice, engine = random.Random(1), self.engine(batch, budget)
        todo = [
            self.request(dice.randint(4, self.window.limit // 2), dice.randint(8, self.args.tokens), NOVEL, n)
            for n in range(3 * batch)
        ]
        last: dict[int, float] = {}
        gaps, tokens, steps = [], 0, 0
        began = time.perf_counter()
        while todo or engine.busy:
            if todo and (steps % 3 == 0 or not engine.busy):
                engine.add(todo.pop())
            advanced: list[Sequence] = engine.step()
            steps, tokens, now = steps + 1, tokens + len(advanced), time.perf_counter()
            gaps += [now - last[id(text.request)] for text in advanced if id(text.request) in last]
            last |= {id(text.request): now for text in advanced}
        middle, high = percentile(gaps, 0.5), percentile(gaps, 0.99)
        speed = tokens / (time.perf_counter() - began)
        self.say(
            f"mixed, batch {batch}, budget {budget}",
            itl_p50_ms=1e3 * middle, itl_p99_ms=1e3 * high, p99_over_p50=high / middle, tokens_s=speed,
        )  # fmt: skip

    @torch.inference_mode()
    def hugging_face(self) -> None:
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

        s = self.size
        config = GPT2Config(
            vocab_size=s.vocabulary, n_positions=s.positions, n_embd=s.hidden, n_layer=s.layers, n_head=s.heads,
            bos_token_id=None, eos_token_id=None, attn_implementation="eager",
        )  # fmt: skip
        with torch.device(self.device):
            model = GPT2LMHeadModel(config).to(self.plain.dtype).eval()
            cache = DynamicCache(config=config)
            ids = torch.randint(11, s.vocabulary, (1, self.window.limit // 2))
        times = []
        for _ in range(min(40, self.window.limit // 2)):
            began = time.perf_counter()
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            ids.tolist()
            times.append(time.perf_counter() - began)
        self.say("Hugging Face, eager, batch 1", ms=1e3 * statistics.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpm-large", help="of configs/, or tiny")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16", "int8"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--positions", type=int, default=1024, help="of the network; fewer to try it out")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--budgets", nargs="+", type=int, default=[256, 128, 64], help="of a step, in a mixed load")
    parser.add_argument("--tokens", type=int, default=128, help="of a text, at most half the window")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    args.tokens = min(args.tokens, args.positions // 2 - 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        print(torch.cuda.get_device_name(device), "torch", torch.__version__)
    else:
        torch.set_num_threads(1)
    check(device, args.dtype == "int8")
    bench = Bench(args)
    bench.near()
    for batch in args.batches:
        bench.decode(batch, GREEDY, "greedy")
        bench.decode(batch, NOVEL, "novel")
    bench.past_the_window()
    bench.first_token()
    for budget in args.budgets:
        bench.mixed(min(32, max(args.batches)), budget)
    bench.matrices()
    for batch in args.batches:
        bench.where_time_goes(batch)
    try:
        bench.hugging_face()
    except (ImportError, torch.OutOfMemoryError) as error:
        print(f"Hugging Face was not measured: {error}")


if __name__ == "__main__":
    main()
