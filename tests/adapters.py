"""LoRA adapters far from zero, for tests that must see their effect."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from malt_fast.utils.seals import seal


def make_adapter(
    base: str, folder: Path, seed: int, *, targets: str | Sequence[str] = "all-linear", r: int = 4
) -> str:
    """Write a random adapter of `base`; seed -1 leaves B at zero, so that it has no effect."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    modules = targets if isinstance(targets, str) else list(targets)
    tuned = get_peft_model(plain, LoraConfig(r=r, lora_alpha=2 * r, target_modules=modules))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name and seed >= 0:
            torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(str(folder))
    return str(folder)


def write_index(run: Path, stages: Mapping[str, str]) -> None:
    """adapters/index.json of adapters written by hand, and their seals.

    stages: the last stage of each role.
    """
    for folder in (run / "adapters").glob("*/*"):
        seal(folder, "written by hand", [file.name for file in folder.iterdir()])
    index = {
        role: {"sft": f"round-0/{role}/sft", "final": f"round-0/{role}/{stage}", "stage": stage}
        for role, stage in stages.items()
    }
    (run / "adapters" / "index.json").write_text(json.dumps(index))
