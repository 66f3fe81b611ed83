"""What each process of a batch gets of the machine."""

import dataclasses
import os

import pytest
import torch

from cpm_gen.batch.replica_worker import replica_options
from cpm_gen.batch.replicas import Assignment
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.resolve import resolve
from cpm_gen.runtime.plan import LoadPlan, Machine, plan_load


def plan(device: str, degree: int = 1, **options: object) -> LoadPlan:
    found = plan_load(ModelOptions(device="cpu", **options), Machine(cpus=64))
    return dataclasses.replace(found, devices=(torch.device(device),), degree=degree)


@pytest.mark.parametrize(
    ("device", "degree", "devices"),
    [
        ("cuda", 1, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", 1, ["cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:0", 2, ["cuda:0", "cuda:2", "cuda:4"]),
    ],
)
def test_each_has_gpus_of_its_own(device: str, degree: int, devices: list[str]) -> None:
    assert [replica_options(plan(device, degree), place, 3).device for place in range(3)] == devices


def test_cores_are_shared_unless_their_number_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    useful = dataclasses.replace(plan("cpu"), threads=6)
    assert [replica_options(useful, 0, count).threads for count in (1, 2, 4, 16)] == [6, 4, 2, 1]
    assert replica_options(plan("cpu", threads=3), 0, 4).threads == 3


def test_an_assignment_holds_all_settings() -> None:
    flags = {"stop": ("。",), "logit_bias": ("3:-1",), "batch": "4", "keep_lines": ("\n",), "seed": "7", "form": "五绝"}
    given = Assignment(1, 2, 3, resolve(flags=flags))
    read = Assignment.from_json(given.to_json())
    assert read == given
