"""One validated, documented config for every program.

Values come, later over earlier, from: the fields below, the task's `defaults:` (tasks/<name>.yaml),
`--config FILE.yaml`, and `--section.field value` on the command line. A mistake is one `MaltError`
that names the key, the value and the bound.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from malt_fast.config.sections import (
    Names,
    Patch,
    Section,
    override,
    partial,
    split,
)
from malt_fast.config.yaml_files import read_yaml as read_yaml
from malt_fast.config.yaml_files import typed
from malt_fast.utils.errors import MaltError

PACKAGE = Path(__file__).parents[1]
MAX = 2**31 - 1  # for counts that have no bound of their own
Folders = Annotated[list[Path], BeforeValidator(split)]
Branching = Annotated[list[Annotated[int, Field(ge=1, le=1000)]], BeforeValidator(split)]


class Sampling(Section):
    temperature: float = Field(default=0.3, ge=0, le=10, description="0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus share")
    top_k: int = Field(
        default=0, ge=0, le=MAX, description="keep the k likeliest tokens; 0 keeps all"
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="keep tokens above this share of the likeliest"
    )
    max_tokens: int = Field(default=1024, ge=1, le=MAX, description="longest output, in tokens")


class Stage(Section):
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="peak learning rate")
    num_train_epochs: float = Field(default=1, gt=0, le=1000, description="passes over the data")
    max_steps: int = Field(
        default=-1, ge=-1, le=MAX, description="stop after this many updates; -1 goes by epochs"
    )
    per_device_train_batch_size: int = Field(
        default=8,
        ge=1,
        le=MAX,
        description="examples or pairs of a step, and of a forward pass if rows",
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=MAX, description="steps per update"
    )
    warmup_steps: float = Field(
        default=0, ge=0, le=MAX, description="updates of warm-up; below 1 a share of all"
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ] = Field(default="linear", description="learning-rate schedule")
    weight_decay: float = Field(default=0, ge=0, le=1, description="AdamW weight decay")
    max_grad_norm: float = Field(
        default=1.0, ge=0, le=1e6, description="gradient clipping; 0 is none"
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        le=MAX,
        description="longest sequence, longer ones are refused; unset: the context",
    )
    logging_steps: int = Field(default=10, ge=1, le=MAX, description="updates between log lines")
    save_steps: int = Field(default=500, ge=1, le=MAX, description="updates between checkpoints")
    bf16: bool = Field(default=False, description="train under bfloat16 autocast")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations to save memory"
    )


class DPOStage(Stage):
    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="peak learning rate")
    beta: float = Field(
        default=0.2, gt=0, le=100, description="strength of the pull to the reference"
    )
    loss_type: Literal["sigmoid", "ipo", "hinge"] = Field(
        default="sigmoid", description="preference loss"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of flipped preferences"
    )
    rpo_alpha: float | None = Field(
        default=None, ge=0, le=1e3, description="weight of an NLL term on the chosen"
    )


if TYPE_CHECKING:  # partial() makes them, which a type checker cannot follow
    SamplingPatch = Patch
    StagePatch = Patch
    DPOStagePatch = Patch
else:
    SamplingPatch = partial(Sampling, "SamplingPatch")
    StagePatch = partial(Stage, "StagePatch")
    DPOStagePatch = partial(DPOStage, "DPOStagePatch")


class TaskConfig(Section):
    name: Literal["arithmetic", "gsm8k", "math", "csqa", "jsonl"] = Field(
        default="arithmetic", description="questions, their wording and their grader"
    )
    path: str | None = Field(
        default=None,
        description="training questions: a JSONL file, for math also a folder, or a hub id",
    )
    test_path: str | None = Field(
        default=None, description="held-out questions; without it a part is held out"
    )
    limit: int | None = Field(
        default=None, ge=1, le=MAX, description="use this many training questions"
    )
    test_limit: int | None = Field(
        default=None, ge=1, le=MAX, description="use this many held-out questions"
    )
    subset_seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="draw what the limits allow; unset takes the first questions",
    )
    decontaminate: bool = Field(
        default=True, description="leave out training questions that copy held-out ones"
    )
    grader: str | None = Field(
        default=None,
        description="how answers are compared: number, math, choice, exact, or package.module:"
        "function of your own; jsonl needs it",
    )
    min_score: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="a custom grader's score from which an output counts as right",
    )
    prompts: Path | None = Field(
        default=None, description="YAML file of prompts per role, over the task's own"
    )
    id_column: str | None = Field(
        default=None, description="column holding a question's id (else numbered)"
    )
    question_column: str = Field(default="question", description="column holding the question")
    answer_column: str = Field(default="answer", description="column holding the gold answer")


class ModelConfig(Section):
    name_or_path: str = Field(
        default="meta-llama/Llama-3.1-8B-Instruct",
        description="base model: hub id, directory, or `bundled` for the tiny one in the package",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="precision of the base weights"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    chat_template: Path | None = Field(
        default=None, description="Jinja file for a model that has no template"
    )
    trust_remote_code: bool = Field(
        default=False, description="run code that comes with the model; read it first"
    )
    roles: dict[str, str] = Field(
        default={}, description="another base model for a role: --model.roles.ROLE NAME"
    )


class EngineConfig(Section):
    name: Literal["auto", "hf", "vllm", "openai", "replay"] = Field(
        default="auto",
        description="what samples: transformers (hf), vLLM, a server, recordings; auto is vllm "
        "where it and a GPU are there, else hf",
    )
    batch_size: int = Field(
        default=256, ge=1, le=65536, description="hf: sequences sampled together"
    )
    vllm: Annotated[dict[str, Any], BeforeValidator(typed)] = Field(
        default={},
        description="vllm: its own engine arguments, --engine.vllm.gpu_memory_utilization 0.8",
    )
    replicas: int = Field(
        default=1, ge=1, le=4096, description="hf, vllm: engines side by side, with Ray"
    )
    ray_address: str | None = Field(
        default=None,
        description="Ray cluster; unset: RAY_ADDRESS, one started here, or this machine",
    )
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="openai: the server, http://localhost:8000/v1; OPENAI_API_KEY is its key",
    )
    concurrency: int = Field(
        default=256, ge=1, le=4096, description="openai: requests under way at once"
    )
    timeout: float = Field(
        default=600, gt=0, le=86400, description="openai: seconds to wait for an answer"
    )
    max_retries: int = Field(
        default=6, ge=0, le=100, description="openai: times a request is sent again"
    )
    path: Path | None = Field(default=None, description="replay: JSONL of recorded outputs")


class SamplingConfig(Sampling):
    roles: dict[str, SamplingPatch] = Field(
        default={},
        description="any of the above for one role: --sampling.roles.ROLE.temperature 0.5",
    )

    def for_role(self, role: str) -> Sampling:
        return Sampling.model_validate(
            override(self, self.roles.get(role)).model_dump(exclude={"roles"})
        )


class EvalSampling(SamplingPatch):
    roles: dict[str, SamplingPatch] = Field(default={}, description="overrides for one role")


class TreeConfig(Section):
    branching: Branching = Field(
        default=[3, 3, 3], description="children per node at each level of the chain"
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="an output is positive above this value"
    )
    inclusive: bool = Field(default=False, description="positive at the threshold too")
    mean: Literal["children", "leaves"] = Field(
        default="children", description="value: mean over children or leaves"
    )
    pooling: Literal["global", "local"] = Field(
        default="global", description="average children's values, or their labels (local majority)"
    )


class PreferencesConfig(Section):
    sft_source: Literal["paired", "all"] = Field(
        default="paired",
        description="SFT on positives with a negative sibling, or on all positives",
    )
    policy: Literal["all", "one", "best_worst"] = Field(
        default="all",
        description="pairs of a sibling block: all crossings, one at random, best against worst",
    )
    max_per_question: int | None = Field(
        default=None, ge=1, le=MAX, description="most pairs of a question"
    )
    min_margin: float = Field(
        default=0.0, ge=0, le=1, description="least difference of value in a pair"
    )
    dedup: bool = Field(
        default=False, description="token-identical siblings count as one candidate"
    )
    max_examples: int | None = Field(
        default=None, ge=1, le=MAX, description="most SFT examples of a role"
    )
    max_pairs: int | None = Field(
        default=None, ge=1, le=MAX, description="most DPO pairs of a role"
    )


class LoraConfig(Section):
    r: int = Field(default=32, ge=1, le=512, description="rank")
    lora_alpha: float = Field(
        default=32, gt=0, le=4096, description="scale: updates are multiplied by lora_alpha / r"
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapter")
    target_modules: str | list[str] = Field(
        default="all-linear", description="module names, or all-linear for all but the head"
    )
    use_rslora: bool = Field(default=False, description="scale by lora_alpha / sqrt(r)")


class StageConfig(Stage):
    roles: dict[str, StagePatch] = Field(
        default={},
        description="any of the above for one role: --train.sft.roles.ROLE.learning_rate 1e-4",
    )

    def for_role(self, role: str) -> Self:
        """These settings with the role's overrides applied."""
        return override(self, self.roles.get(role))


class DPOStageConfig(DPOStage):
    roles: dict[str, DPOStagePatch] = Field(
        default={},
        description="any of the above for one role: --train.dpo.roles.ROLE.beta 0.1",
    )

    def for_role(self, role: str) -> Self:
        """These settings with the role's overrides applied."""
        return override(self, self.roles.get(role))


class TrainConfig(Section):
    dpo_roles: Annotated[list[str] | None, BeforeValidator(split)] = Field(
        default=None, description="roles that get DPO after SFT; unset is all but the first"
    )
    reference: Literal["sft", "base"] = Field(
        default="sft", description="DPO reference: the role's SFT adapter or the base"
    )
    regenerate: Literal["none", "sequential"] = Field(
        default="none", description="sequential: resample below a role once it is trained"
    )
    rounds: int = Field(default=1, ge=1, le=100, description="rounds of sampling and training")
    packing: Literal["trees", "rows"] = Field(
        default="trees", description="trees: shared prefixes once; rows: a padded row a completion"
    )
    pack_tokens: int = Field(
        default=16384, ge=1, le=MAX, description="trees: most tokens in one forward pass"
    )
    load_in_4bit: bool = Field(
        default=False, description="QLoRA: base weights in 4 bits while training (bitsandbytes)"
    )
    side_by_side: bool = Field(
        default=False, description="train roles at once, a GPU or a share of the CPU each (ray)"
    )
    sft: StageConfig = Field(default=StageConfig())
    dpo: DPOStageConfig = Field(default=DPOStageConfig())


class EvaluateConfig(Section):
    suite: Literal["standard", "paper"] = Field(
        default="standard",
        description="paper: every table of the paper, curves over calls, files for LaTeX too",
    )
    calls: int = Field(
        default=27, ge=1, le=256, description="paper: calls a question that curves go up to"
    )
    votes: int = Field(default=3, ge=1, le=1000, description="passes in a majority vote")
    limit: int | None = Field(
        default=None, ge=1, le=MAX, description="evaluate on this many held-out questions"
    )
    tie_break: Literal["first", "random"] = Field(
        default="first", description="vote ties: first seen, or seeded random"
    )
    bootstrap: int = Field(
        default=10_000, ge=100, le=10_000_000, description="bootstrap resamples of the intervals"
    )
    sampling: EvalSampling = Field(default=EvalSampling())


class StoreConfig(Section):
    batch: int = Field(
        default=4096, ge=1, le=1 << 16, description="outputs after which they are written to disk"
    )
    interval: float = Field(
        default=1.0, ge=0, le=3600, description="seconds after which they are, however few"
    )
    segment_mb: int = Field(
        default=256, ge=1, le=1 << 16, description="size of a file of samples, in MiB"
    )


class ServeConfig(Section):
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="address to listen at; one that others reach needs MALT_FAST_API_KEY, a token",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="its port; 0 takes a free one")
    max_waiting: int = Field(
        default=256, ge=1, le=1_000_000, description="questions under way; more get status 429"
    )
    max_question: int = Field(
        default=4096, ge=1, le=MAX, description="longest question taken, in tokens"
    )


class Config(Section):
    run: Path | None = Field(default=None, description="run directory; train makes one if unset")
    reuse: Folders = Field(
        default=[], description="other runs, whose samples are taken instead of sampling again"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides every random choice")
    chain: Names = Field(
        default=["generator", "verifier", "refiner"],
        min_length=1,
        max_length=16,
        description="the roles, in order",
    )
    report_to: Names = Field(
        default=[],
        description="loggers beside TensorBoard: wandb, mlflow, trackio; all: those installed",
    )
    task: TaskConfig = Field(default=TaskConfig())
    model: ModelConfig = Field(default=ModelConfig())
    engine: EngineConfig = Field(default=EngineConfig())
    sampling: SamplingConfig = Field(default=SamplingConfig())
    tree: TreeConfig = Field(default=TreeConfig())
    preferences: PreferencesConfig = Field(default=PreferencesConfig())
    lora: LoraConfig = Field(default=LoraConfig())
    train: TrainConfig = Field(default=TrainConfig())
    evaluate: EvaluateConfig = Field(default=EvaluateConfig())
    store: StoreConfig = Field(default=StoreConfig())
    serve: ServeConfig = Field(default=ServeConfig())

    @property
    def dpo_roles(self) -> list[str]:
        """Roles that get DPO after SFT, in chain order."""
        chosen = self.train.dpo_roles
        return self.chain[1:] if chosen is None else [role for role in self.chain if role in chosen]

    def base_model(self, role: str | None = None) -> str:
        """Hub id or directory of the base model, of one role where it has its own."""
        return resolve_model(self.model.roles.get(role or "", self.model.name_or_path))

    def sampling_for(self, role: str, *, evaluating: bool = False) -> Sampling:
        """Sampling settings of a role; in evaluation, `evaluate.sampling` goes over `sampling`."""
        sampling = self.sampling.for_role(role)
        if not evaluating:
            return sampling
        patch = self.evaluate.sampling
        return override(sampling, patch, patch.roles.get(role))


def resolve_model(name: str) -> str:
    """`bundled` as the directory of the model in this package; any other name as it is."""
    if name != "bundled":
        return name
    folder = PACKAGE / "demo" / "model"
    if not (folder / "config.json").is_file():
        raise MaltError(
            f"the bundled model is missing from {folder}: "
            "reinstall malt-fast, or name another by --model.name_or_path"
        )
    return str(folder)


# ---- loading ----
