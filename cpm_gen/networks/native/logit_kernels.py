"""The native library's part in the choice of tokens; see :class:`cpm_gen.sampling.kernels.LogitKernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.networks.native import library
from cpm_gen.sampling.kernels import Pick


class NativeLogitKernels:
    """Runs on the threads of a model. model: its handle, which has to live as long."""

    def __init__(self, model: int) -> None:
        self._model = model
        self._library = library.load_library()

    def choose(self, logits: NDArray[np.float32], picks: Sequence[Pick]) -> list[list[int]]:
        """See :meth:`LogitKernels.choose`."""
        numbers = np.array([number for pick in picks for number in pick.numbers])
        tokens = np.empty(len(numbers), dtype=np.int64)
        from_numbers, to_tokens = _address(numbers), _address(tokens)
        described = (library.CPick * len(picks))()
        done = 0
        for at, pick in enumerate(picks):
            allowed, bias, banned, params = pick.allowed, pick.bias, pick.banned, pick.params
            described[at] = library.CPick(
                pick.row,
                params.top_k,
                0 if allowed is None else len(allowed),
                None if allowed is None else _address(allowed),
                None if bias is None else _address(bias),
                len(banned),
                _address(banned),
                params.temperature,
                params.top_p,
                params.min_p,
                len(pick.numbers),
                from_numbers + 8 * done,
                to_tokens + 8 * done,
            )
            done += len(pick.numbers)
        self._library.cpm_choose(self._model, _address(logits), logits.shape[1], described, len(picks))
        flat = iter(tokens.tolist())
        return [[next(flat) for _ in pick.numbers] for pick in picks]

    def log_sums(self, logits: NDArray[np.float32]) -> list[float]:
        """See :meth:`LogitKernels.log_sums`."""
        sums = np.empty(len(logits))
        self._library.cpm_log_sums(self._model, _address(logits), *logits.shape, _address(sums))
        found: list[float] = sums.tolist()
        return found


def _address(array: NDArray[Any]) -> int:
    """Where the numbers of a contiguous array are."""
    address: int = array.__array_interface__["data"][0]  # quicker than ndarray.ctypes
    return address
