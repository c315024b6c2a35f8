"""All settings: one validated, documented config for every program.

Values come from, later over earlier: the fields below, the task's `defaults:` (tasks/NAME.yaml),
`--config FILE.yaml`, and `--section.field value` on the command line. A mistake is one `MaltError`
that names the key, the value and the bound.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from malt_fast.config.sections import (
    DEVICE,
    MAX,
    URL,
    Names,
    Patch,
    Section,
    override,
    partial,
    setting,
    split,
)
from malt_fast.config.stages import DPOStageConfig, StageConfig
from malt_fast.config.yaml_files import typed
from malt_fast.utils.errors import MaltError

PACKAGE = Path(__file__).parents[1]
Folders = Annotated[list[Path], BeforeValidator(split)]
Branching = Annotated[list[Annotated[int, Field(ge=1, le=1000)]], BeforeValidator(split)]


class Sampling(Section):
    temperature: float = setting(0.3, "sampling temperature; 0 is greedy", ge=0, le=10)
    top_p: float = setting(1.0, "nucleus sampling: probability mass to keep", gt=0, le=1)
    top_k: int = setting(0, "keep the k likeliest tokens; 0 keeps all", ge=0, le=MAX)
    min_p: float = setting(
        0.0, "keep tokens with this share of the highest probability", ge=0, le=1
    )
    max_tokens: int = setting(1024, "length limit of an output, in tokens", ge=1, le=MAX)


if TYPE_CHECKING:  # a type checker cannot follow partial()
    SamplingPatch = Patch
else:
    SamplingPatch = partial(Sampling, "SamplingPatch")


class TaskConfig(Section):
    name: Literal["arithmetic", "gsm8k", "math", "csqa", "jsonl"] = setting(
        "arithmetic", "the questions, with their prompts and grader"
    )
    path: str | None = setting(
        None,
        "training questions: a file of JSON Lines, JSON, CSV, TSV or Parquet, or a data set of the "
        "hub as OWNER/NAME; for math also a folder",
    )
    test_path: str | None = setting(
        None,
        "held-out questions; unset: a split of the hub's data set, the test file that gsm8k, math "
        "or csqa has beside its training file, or else a tenth of the questions",
    )
    subset: str | None = setting(
        None, "hub: configuration of the data set; unset: the one that holds all rows"
    )
    split: str = setting("train", "hub: split with the training questions")
    test_split: str | None = setting(
        None, "hub: split with the held-out questions; unset: test, or else validation"
    )
    limit: int | None = setting(None, "use this many training questions", ge=1, le=MAX)
    test_limit: int | None = setting(None, "use this many held-out questions", ge=1, le=MAX)
    subset_seed: int | None = setting(
        None, "seed to draw the limited questions at random; unset: the first ones", ge=0, lt=2**63
    )
    decontaminate: bool = setting(True, "leave out training questions that copy held-out ones")
    grader: str | None = setting(
        None,
        "how answers are compared: number, math, choice, exact, or a function of your own as "
        "package.module:function; required for jsonl",
    )
    grading: Literal["lenient", "strict"] = setting(
        "lenient",
        "which answers count: lenient, also those without a marker, or strict, only those behind "
        "one, as in `#### 5`; no difference for exact and for a function of your own",
    )
    min_score: float = setting(
        0.5, "score of a custom grader from which an output is correct", ge=0, le=1
    )
    grader_workers: int = setting(1, "calls of a custom grader at once, in threads", ge=1, le=1024)
    grader_retries: int = setting(
        3, "retries of a call of a custom grader that fails", ge=0, le=100
    )
    grader_timeout: float = setting(
        60, "seconds that a call of a custom grader may take", gt=0, le=86400
    )
    prompts: Path | None = setting(None, "YAML file of prompts per role, over those of the task")
    id_column: str | None = setting(None, "column with the id of a question; unset: numbers")
    question_column: str = setting("question", "column with the question")
    answer_column: str = setting("answer", "column with the gold answer")

    @property
    def strict(self) -> bool:
        """Whether an answer counts only behind a marker."""
        return self.grading == "strict"


class ModelConfig(Section):
    name_or_path: str = setting(
        "meta-llama/Llama-3.1-8B-Instruct",
        "base model: a hub id, a directory, a GGUF file, or `bundled` for the tiny model in the "
        "package",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "precision of the base weights"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", pattern=DEVICE)
    chat_template: Path | None = setting(None, "Jinja file for a model without a chat template")
    template_arguments: Annotated[dict[str, Any], BeforeValidator(typed)] = setting(
        {},
        "variables of the chat template, as in --model.template_arguments.enable_thinking false",
    )
    pass_thinking: Names = setting(
        [], "roles whose thoughts later roles read, too; of the others they read the answer alone"
    )
    trust_remote_code: bool = setting(False, "run code that comes with the model; read it first")
    roles: dict[str, str] = setting({}, "base model of one role: --model.roles.ROLE NAME")


class EngineConfig(Section):
    name: Literal["auto", "hf", "vllm", "openai", "replay"] = setting(
        "auto",
        "what samples: transformers (hf), vLLM, a server or recordings; auto is vllm where vLLM "
        "and a GPU are present, else hf",
    )
    batch_size: int = setting(256, "hf: sequences sampled together", ge=1, le=65536)
    vllm: Annotated[dict[str, Any], BeforeValidator(typed)] = setting(
        {}, "vllm: its engine arguments, as in --engine.vllm.gpu_memory_utilization 0.8"
    )
    replicas: int = setting(1, "hf, vllm: number of engines side by side, with Ray", ge=1, le=4096)
    ray_address: str | None = setting(
        None, "Ray cluster; unset: RAY_ADDRESS, a cluster started here, or this machine"
    )
    base_url: str | None = setting(
        None,
        "openai: the server, as in http://localhost:8000/v1; OPENAI_API_KEY holds its key",
        pattern=URL,
    )
    concurrency: int = setting(256, "openai: requests in flight at once", ge=1, le=4096)
    timeout: float = setting(600, "openai: seconds to wait for a response", gt=0, le=86400)
    max_retries: int = setting(6, "openai: retries of a request", ge=0, le=100)
    path: Path | None = setting(None, "replay: JSONL file of recorded outputs")


class SamplingConfig(Sampling):
    roles: dict[str, SamplingPatch] = setting(
        {}, "settings of one role: --sampling.roles.ROLE.temperature 0.5"
    )

    def for_role(self, role: str) -> Sampling:
        """These settings with the overrides of the role applied."""
        return Sampling.model_validate(
            override(self, self.roles.get(role)).model_dump(exclude={"roles"})
        )


class EvalSampling(SamplingPatch):
    roles: dict[str, SamplingPatch] = setting(
        {}, "settings of one role: --evaluate.sampling.roles.ROLE.temperature 0"
    )


class TreeConfig(Section):
    branching: Branching = setting([3, 3, 3], "outputs per node, for each level of the chain")
    allocation: Literal["full", "adaptive"] = setting(
        "full",
        "full: every node gets all of its outputs; adaptive: trees begin narrow and grow where "
        "more outputs make most pairs",
    )
    max_outputs: int | None = setting(
        None,
        "most outputs of a forest; unset: all of full trees, or if adaptive half of them",
        ge=1,
        le=MAX,
    )
    max_tokens: int | None = setting(None, "most tokens sampled for a forest", ge=1, le=2**53)
    threshold: float = setting(0.5, "an output is positive if its value is above this", ge=0, le=1)
    inclusive: bool = setting(False, "an output is positive at the threshold too")
    mean: Literal["children", "leaves"] = setting(
        "children", "value of a node: the mean over its children or over its leaves"
    )
    pooling: Literal["global", "local"] = setting(
        "global", "average the values of children, or their labels (local majority)"
    )


class PreferencesConfig(Section):
    sft_source: Literal["paired", "all"] = setting(
        "paired", "SFT on positives with a negative sibling, or on all positives"
    )
    policy: Literal["all", "one", "best_worst"] = setting(
        "all",
        "pairs among siblings: all of positives and negatives, one at random, best against worst",
    )
    max_per_question: int | None = setting(None, "most pairs per question", ge=1, le=MAX)
    min_margin: float = setting(0.0, "least difference in value within a pair", ge=0, le=1)
    dedup: bool = setting(
        False, "count outputs with identical tokens after identical prompts as one, cousins too"
    )
    max_examples: int | None = setting(None, "most SFT examples per role", ge=1, le=MAX)
    max_pairs: int | None = setting(None, "most DPO pairs per role", ge=1, le=MAX)


class LoraConfig(Section):
    r: int = setting(32, "rank", ge=1, le=512)
    lora_alpha: float = setting(
        32.0, "scale: updates are multiplied by lora_alpha / r", gt=0, le=4096
    )
    lora_dropout: float = setting(0.0, "dropout before the adapter", ge=0, lt=1)
    target_modules: str | list[str] = setting(
        "all-linear", "names of modules, or all-linear for all linear layers but the head"
    )
    use_rslora: bool = setting(False, "scale by lora_alpha / sqrt(r)")


class TrainConfig(Section):
    dpo_roles: Annotated[list[str] | None, BeforeValidator(split)] = setting(
        None, "roles trained by DPO after SFT; unset: all but the first"
    )
    reference: Literal["sft", "base"] = setting(
        "sft", "DPO reference: the SFT adapter of the role, or the base model"
    )
    regenerate: Literal["none", "sequential"] = setting(
        "none", "sequential: sample anew below each role once it is trained"
    )
    warm_start: Path | None = setting(
        None, "JSONL file of demonstrations by role, for SFT before anything is sampled"
    )
    rounds: int = setting(1, "rounds of sampling and training", ge=1, le=100)
    packing: Literal["trees", "rows"] = setting(
        "trees", "trees: each shared prefix once; rows: one padded row per completion"
    )
    pack_tokens: int = setting(16384, "trees: most tokens per forward pass", ge=1, le=MAX)
    load_in_4bit: bool = setting(
        False, "QLoRA: base weights in 4 bits while training (bitsandbytes)"
    )
    use_liger_kernel: bool = setting(
        False, "on a GPU: norms, rotary embeddings and MLPs as fused kernels (liger-kernel)"
    )
    side_by_side: bool = setting(
        False, "train all roles at once, each on a GPU or a share of the CPU (ray)"
    )
    sft: StageConfig = StageConfig()
    dpo: DPOStageConfig = DPOStageConfig()


class EvaluateConfig(Section):
    suite: Literal["standard", "paper"] = setting(
        "standard", "paper: also every table of the paper, curves over calls, and LaTeX files"
    )
    calls: int = setting(27, "paper: most calls per question in the curves", ge=1, le=256)
    votes: int = setting(3, "passes in a majority vote", ge=1, le=1000)
    limit: int | None = setting(None, "use this many held-out questions", ge=1, le=MAX)
    tie_break: Literal["first", "random"] = setting(
        "first", "how ties between votes are broken: first seen, or seeded random"
    )
    bootstrap: int = setting(10_000, "bootstrap resamples for the intervals", ge=100, le=10_000_000)
    sampling: EvalSampling = EvalSampling()


class StoreConfig(Section):
    batch: int = setting(4096, "write to disk after this many outputs", ge=1, le=1 << 16)
    interval: float = setting(
        1.0, "write to disk after this many seconds, even if there are few outputs", ge=0, le=3600
    )
    segment_mb: int = setting(256, "size of a file of samples, in MiB", ge=1, le=1 << 16)


class ServeConfig(Section):
    host: str = setting(
        "127.0.0.1",
        "address to listen at; one that others can reach needs a token in MALT_FAST_API_KEY",
        min_length=1,
    )
    port: int = setting(8000, "port to listen at; 0: a free one", ge=0, le=65535)
    max_waiting: int = setting(
        256, "most questions in progress; more get status 429", ge=1, le=1_000_000
    )
    max_question: int = setting(4096, "longest question, in tokens", ge=1, le=MAX)
    grace: float = setting(
        25.0, "seconds to finish questions in progress when the server stops", ge=0, le=3600
    )


class Config(Section):
    run: Path | None = setting(None, "run directory; unset: a new one in runs/")
    reuse: Folders = setting([], "other runs, whose samples are reused instead of sampling again")
    seed: int = setting(0, "seed of every random choice", ge=0, lt=2**63)
    chain: Names = setting(
        ["generator", "verifier", "refiner"], "the roles, in order", min_length=1, max_length=16
    )
    report_to: Names = setting(
        [], "loggers besides TensorBoard: wandb, mlflow, trackio, or all installed ones by `all`"
    )
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    tree: TreeConfig = TreeConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    store: StoreConfig = StoreConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def dpo_roles(self) -> list[str]:
        """Roles that get DPO after SFT, in chain order."""
        chosen = self.train.dpo_roles
        return self.chain[1:] if chosen is None else [role for role in self.chain if role in chosen]

    def learns(self, role: str) -> tuple[bool, bool]:
        """Whether a role learns from sibling pairs, and whether from labelled outputs (KTO)."""
        loss, preferring = self.train.dpo.for_role(role), role in self.dpo_roles
        return preferring and loss.on_pairs is not None, preferring and loss.on_labels

    def base_model(self, role: str | None = None) -> str:
        """Hub id or directory of the base model; of one role if it has a model of its own."""
        return resolve_model(self.model.roles.get(role or "", self.model.name_or_path))

    def sampling_for(self, role: str, *, evaluating: bool = False) -> Sampling:
        """Sampling settings of a role; when evaluating, `evaluate.sampling` overrides them."""
        sampling = self.sampling.for_role(role)
        if not evaluating:
            return sampling
        patch = self.evaluate.sampling
        return override(sampling, patch, patch.roles.get(role))


def resolve_model(name: str) -> str:
    """The directory of the `bundled` model or of a GGUF file's checkpoint; other names as they are.

    Raises MaltError for a GGUF file that cannot be read.
    """
    if name.lower().endswith(".gguf"):
        from malt_fast.models.gguf import checkpoint_of

        return str(checkpoint_of(Path(name)))
    if name != "bundled":
        return name
    folder = PACKAGE / "demo" / "model"
    if not (folder / "config.json").is_file():
        raise MaltError(
            f"the bundled model is missing from {folder}: "
            "reinstall malt-fast, or name another by --model.name_or_path"
        )
    return str(folder)
