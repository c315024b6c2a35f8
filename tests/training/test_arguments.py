"""The settings of a stage, and of the allocator of a GPU's memory."""

import pytest
import torch

from malt_fast.config.stages import StageConfig
from malt_fast.training import arguments
from malt_fast.training.arguments import training_arguments

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.mark.parametrize("given", [None, *VARIABLES])
def test_segments_grow_unless_the_user_has_set_the_allocator(given, tmp_path, monkeypatch):
    """On a GPU; here the device is only said to be one."""
    asked = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", asked.append)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "max_split_size_mb:64")
    training_arguments(StageConfig(), tmp_path, "cpu", 0)
    assert asked == []
    monkeypatch.setattr(arguments, "_use_cpu", lambda device: False)
    training_arguments(StageConfig(), tmp_path, "cuda", 0)
    assert asked == ([] if given else ["expandable_segments:True"])
