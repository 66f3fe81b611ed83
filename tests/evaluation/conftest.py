"""One loaded copy of the embedded model for all tests of this package."""

from collections.abc import Iterator

import pytest

from cpm_gen.config.options import ModelOptions
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.runtime.text_engine import TextEngine

TEXT = "话说宋江在寨中饮酒，忽见一人飞奔上山，报说官军已到山下。" * 2


@pytest.fixture(scope="package")
def engine() -> Iterator[TextEngine]:
    with TextEngine.load(ModelOptions(threads=1, batch=2)) as engine:
        yield engine


@pytest.fixture(scope="package")
def network() -> Iterator[TorchModel]:
    """The torch network, which other computations in these tests run whole, without windows or caches of the engine."""
    with TextEngine.load(ModelOptions(threads=1, batch=1, kernels="torch", decoder="recompute")) as engine:
        assert isinstance(engine.loaded.runner.network, TorchModel)
        yield engine.loaded.runner.network
