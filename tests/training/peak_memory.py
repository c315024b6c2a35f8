"""Run as a program: peak memory of training steps beside the estimates, as JSON.

A process of its own, since the heap must return freed memory at once for peaks to be seen.
"""

import json
import sys
from pathlib import Path

import numpy as np
import transformers as hf

from malt_fast.config.schema import LoraConfig
from malt_fast.config.stages import StageConfig
from malt_fast.forest.role_data import RoleData
from malt_fast.training.activations import precision_of, shape_of, training_bytes
from malt_fast.training.adapters import load_model
from malt_fast.training.arguments import training_arguments
from malt_fast.training.checkpointing import switch
from malt_fast.training.packing import Packer, Packing
from malt_fast.training.trainer import StageTrainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common import peak_growth  # type: ignore[import-not-found]

SIZES = {
    "vocab_size": 300, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip


def examples(tokens: int) -> RoleData:
    """Two examples, half of whose tokens are prompts, that make one pack of `tokens` tokens."""
    part = np.arange(3, 3 + tokens // 4, dtype=np.int32) % 300
    completions = [np.append(part, np.int32(7)) for _ in range(2)]
    two = np.arange(2)
    return RoleData([part, part[::-1].copy()], completions, np.zeros((0, 2), np.int64), two, two)


def measure(folder: Path, dtype: str, bf16: bool, tokens: int) -> dict[str, tuple[int, int]]:
    """(measured, estimated) bytes of a step, by method."""
    model = load_model(
        str(folder / "base"), None, LoraConfig(r=8), dtype=dtype, seed=0, layout="trees"
    )
    settings = StageConfig(bf16=bf16, per_device_train_batch_size=2)
    packer = Packer("sft", examples(tokens), Packing("trees", tokens, 2, "cpu"))
    arguments = training_arguments(settings, folder, "cpu", 0)
    trainer = StageTrainer(packer, model, settings, arguments)
    trainer.accelerator.prepare_model(model)  # autocast
    assert packer.longest([0, 1]) == tokens
    sizes = training_bytes(shape_of(model.peft_model), precision_of(model, bf16), tokens)

    def step() -> None:
        trainer.training_step(model, trainer._thread.submit(packer, [0, 1]))
        model.zero_grad()

    out = {}
    for method, size in sizes.items():
        switch(model, method)
        step()
        out[method] = (peak_growth(step), size)
    return out


def main() -> None:
    folder, found = Path(sys.argv[1]), {}
    hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)).save_pretrained(folder / "base")
    for dtype, bf16 in (("float32", False), ("bfloat16", True)):
        for tokens in (512, 1024):
            found[f"{dtype} {tokens}"] = measure(folder, dtype, bf16, tokens)
    (folder / "peaks.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
