"""Networks on disk in every engine's format, each written once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models import random_checkpoint, size_of

from cpm_gen.config.model_sizes import ModelSize
from peers import ENGINES
from peers.check import Answer, Verdict, answer, judge
from peers.client import Peer
from peers.weights import export

OURS = "ours"


@dataclass
class Store:
    """A folder of networks. ``python`` is the Python in which the peers are installed."""

    folder: Path
    python: str
    threads: int
    _reference: Answer | None = None

    def network(self, name: str, *, varied: bool = False) -> tuple[Path, ModelSize]:
        """A folder with the checkpoint and the peers' copy of its weights; and the network's size."""
        folder = self.folder / (f"{name}-varied" if varied else name)

        def write(folder: Path) -> None:
            size = random_checkpoint(folder / OURS, name, varied=varied)
            export(folder / OURS, size.heads, folder / "weights")

        _once(folder, write)
        return folder, size_of(name)

    def converted(self, network: Path, engine: str, dtype: str) -> Path:
        """The folder of the network in an engine's format; raises PeerError."""
        if engine == OURS:
            return network / OURS

        def write(target: Path) -> None:
            with Peer(engine, self.python) as peer:
                peer.ask("convert", weights=str(network / "weights"), dtype=dtype, target=str(target))

        target = network / f"{ENGINES[engine][0].removeprefix('peers.')}-{dtype}"
        _once(target, write)
        return target

    def start(self, engine: str) -> Peer:
        """Start the engine's process."""
        return Peer(engine, sys.executable if engine == OURS else self.python, self.threads)

    def check(self, engine: str, dtype: str) -> Verdict:
        """Check whether the engine computes the same network as cpm_gen in float32; raises PeerError."""
        network, _ = self.network("tiny", varied=True)
        if self._reference is None:
            with self.start(OURS) as peer:
                self._reference = answer(peer, network / OURS, "float32", self.threads)
        target = self.converted(network, engine, dtype)
        with self.start(engine) as peer:
            return judge(answer(peer, target, dtype, self.threads), self._reference, dtype)

    def drop(self, network: Path) -> None:
        """Delete a network in all its formats."""
        shutil.rmtree(network)


def _once(folder: Path, write: Callable[[Path], None]) -> None:
    """Write ``folder`` unless it is complete; an incomplete one is written again."""
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        (folder / "made").touch()
