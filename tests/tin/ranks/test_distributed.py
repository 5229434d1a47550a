"""The device and the CPUs of a rank."""

import os

import pytest
import torch

from tin.ranks.distributed import DeviceError, cpus, start


def test_a_gpu_that_does_not_exist_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="finds no GPU on .*; set run.device=cpu"), start("cuda"):
        pass


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, 8),
        ({"LOCAL_WORLD_SIZE": "2"}, 4),
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
        ({"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "64"}, 8),
        ({"SLURM_CPUS_PER_TASK": "3"}, 8),  # in a batch script, outside of a step
    ],
)
def test_a_rank_uses_its_share_of_the_cpus(variables, expected, monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_ID", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cpus() == expected
