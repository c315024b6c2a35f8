"""Train the demonstration's base model from scratch: `python -m malt_fast.demo.build --out DIR`.

The task lets a small model on a laptop gain from outcome rewards. It is a demonstration, not
evidence about large language models. A question is a chain of five two-digit additions and
subtractions. The training data show all three roles with fixed bad habits:

    generator   writes the running totals, and forgets a carry or borrow more often than not
    verifier    says ok or no to each step; sometimes it checks carefully, else it says no at random
    refiner     writes the totals again, and ignores good advice more often than not

    47+38-19+25-36+14
    Draft: 75 56 81 45 59     (47+38 without its carry)
    Check: no ok ok ok ok
    Final: 85 66 91 55 69

Every habit is a coin toss (per step; per critique for the care of the verifier), so the model also
knows the good behaviour: pass@k is far above greedy accuracy, and training can close that gap.
Noticing a slip is hard for such a small model, and random verdicts hardly teach it. The verifier is
therefore always careful for most of the training, and gets its habit only at the end. A slip never
changes a units digit, so whether a step carries depends on the question alone. One sequence trains
all three roles: the prompts are nested, and the label after the last token of an output is the end
token, even where the sequence continues with the prompt of the next role.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from malt_fast.config.arguments import Program
from malt_fast.config.command import run_command
from malt_fast.config.sections import MAX, Section, setting

if TYPE_CHECKING:  # libraries that take seconds to import
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STEPS = 5
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
MARKS = ["\nDraft:", "\nCheck:", "\nFinal:"]
VERDICTS = [" ok", " no"]
VOCABULARY = [
    *SPECIAL,
    *MARKS,
    *VERDICTS,
    "+",
    "-",
    *[str(d) for d in range(10)],
    *[f" {d}" for d in range(10)],
]
ID = {token: i for i, token in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class Habits:
    """Probabilities; those of generator and refiner are for steps that carry or borrow."""

    slip: float = 0.55  # generator forgets the carry
    care: float = 0.40  # per critique: verifier flags exactly the slips
    alarm: float = 0.12  # per step of a careless critique: verifier flags it
    follow: float = 0.40  # refiner corrects a slip that was flagged
    repair: float = 0.05  # refiner corrects a slip that was not flagged
    keep: float = 0.95  # refiner keeps a correct step that was not flagged
    stand: float = 0.50  # refiner keeps a correct step that was flagged


def tokenizer() -> "PreTrainedTokenizerFast":
    """One token per digit; a leading space belongs to the tens digit. Decodes what it encodes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    words = Regex(r"\n(Draft|Check|Final):| ok| no| [0-9]|[0-9+\-]")
    core.pre_tokenizer = pre_tokenizers.Split(words, behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def questions(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`operands[n, 6]` in 10..89 and `signs[n, 5]` (+1, -1) with running totals in 10..99."""
    operands = np.zeros((n, STEPS + 1), np.int64)
    signs = np.zeros((n, STEPS), np.int64)
    operands[:, 0] = total = rng.integers(10, 90, n)
    for i in range(STEPS):
        todo = np.arange(n)
        while len(todo):  # draw again what would leave the range
            operands[todo, i + 1] = rng.integers(10, 90, len(todo))
            signs[todo, i] = rng.choice([-1, 1], len(todo))
            reached = total[todo] + signs[todo, i] * operands[todo, i + 1]
            todo = todo[(reached < 10) | (reached > 99)]
        total = total + signs[:, i] * operands[:, i + 1]
    return operands, signs


def carries(operands: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """`carry[n, 5]`: whether the step carries or borrows."""
    before = operands[:, 0, None] + np.cumsum(
        np.pad(signs * operands[:, 1:], ((0, 0), (1, 0)))[:, :-1], axis=1
    )
    units = before % 10 + signs * (operands[:, 1:] % 10)
    return (units > 9) | (units < 0)


def totals(operands: np.ndarray, signs: np.ndarray, slips: np.ndarray) -> np.ndarray:
    """Running totals [n, 5], modulo 100; `slips[n, 5]` marks forgotten carries."""
    change = signs * operands[:, 1:] - 10 * signs * slips  # a forgotten carry is ten too little
    return (operands[:, 0, None] + np.cumsum(change, axis=1)) % 100


def demonstrations(n: int, habits: Habits, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """`tokens[n, 46]` and `labels[n, 46]` (-100 on prompts; shifted to the next token)."""
    operands, signs = questions(n, rng)
    carry = carries(operands, signs)
    slip = carry & (rng.random(carry.shape) < habits.slip)
    careful = rng.random((n, 1)) < habits.care
    flag = np.where(careful, slip, rng.random(carry.shape) < habits.alarm)
    right = np.where(
        slip,
        np.where(flag, habits.follow, habits.repair),
        np.where(flag, habits.stand, habits.keep),
    )
    slip_again = carry & (rng.random(carry.shape) >= right)

    def column(token: str) -> np.ndarray:
        return np.full((n, 1), ID[token])

    def written(values: np.ndarray) -> np.ndarray:  # [n, k] numbers -> [n, 2 k] tokens
        return np.stack([ID[" 0"] + values // 10, ID["0"] + values % 10], -1).reshape(n, -1)

    ops = np.where(signs > 0, ID["+"], ID["-"])
    rest = np.stack([ops, ID["0"] + operands[:, 1:] // 10, ID["0"] + operands[:, 1:] % 10], -1)
    first = np.stack([ID["0"] + operands[:, 0] // 10, ID["0"] + operands[:, 0] % 10], -1)
    outputs = [
        written(totals(operands, signs, slip)),
        np.where(flag, ID[" no"], ID[" ok"]),
        written(totals(operands, signs, slip_again)),
    ]
    tokens, labels = [column("<s>"), first, rest.reshape(n, -1)], [np.full((n, 18), -100)]
    for mark, output in zip(MARKS, outputs, strict=True):
        tokens += [column(mark), output]
        labels += [output, column("</s>")]
    return np.concatenate(tokens, 1), np.concatenate(labels, 1)


def untrained_model() -> "LlamaForCausalLM":
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=128,
            pad_token_id=ID["<pad>"],
            bos_token_id=ID["<s>"],
            eos_token_id=ID["</s>"],
        )
    )


def train(steps: int, batch: int, learning_rate: float, seed: int) -> "LlamaForCausalLM":
    """Train on fresh demonstrations every step: AdamW, one cycle cut short by a cool-down."""
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = untrained_model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.95), fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps * 5 // 4, pct_start=0.05
    )
    cool_down = max(1, steps * 7 // 40)
    start = time.monotonic()
    for step in range(1, steps + 1):
        habits = replace(Habits(), care=1.0) if step <= steps * 5 // 8 else Habits()
        tokens, labels = (torch.from_numpy(x) for x in demonstrations(batch, habits, rng))
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        for group in optimizer.param_groups:
            group["lr"] *= min(1.0, (steps - step) / cool_down)
        if step % 100 == 0 or step == steps:
            left = (time.monotonic() - start) / step * (steps - step)
            print(
                f"step {step}/{steps}  loss {loss.item():.4f}  {left / 60:.1f} min left", flush=True
            )
    return model.eval()


class Options(Section):
    out: Path = setting(..., "a folder to write the model to")
    steps: int = setting(4000, "updates", ge=1, le=MAX)
    batch: int = setting(128, "sequences per update", ge=1, le=MAX)
    learning_rate: float = setting(2e-3, "peak learning rate", gt=0, le=1)
    seed: int = setting(0, "seed of weights and questions", ge=0, lt=2**63)


PROGRAM = Program(
    "malt_fast.demo.build",
    Options,
    "Trains the bundled base model of the demonstration from scratch.",
    ("--out model", "--out small --steps 400 --batch 64"),
)


def build(options: Options) -> None:
    model = train(options.steps, options.batch, options.learning_rate, options.seed)
    model.save_pretrained(options.out)
    tokenizer().save_pretrained(options.out)
    print(f"wrote {sum(p.numel() for p in model.parameters()):,} parameters to {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, build, argv)


if __name__ == "__main__":
    sys.exit(main())
