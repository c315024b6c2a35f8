"""Other ways to sample on a CPU, behind the interface of engines (bench_real.py).

Generate      transformers' `generate`: a batch of prompts of about equal length at a time
Continuous    transformers' continuous batching: paged cache, requests join at any time
LlamaCpp      llama.cpp by llama-cpp-python: a sequence a slot; siblings share their prompt's cells

Each samples at the temperature of its requests, from its own random numbers, to their max_tokens.
"""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from malt_fast.engines import Completion, Request


def completion(request: Request, tokens: Sequence[int]) -> Completion:
    own = np.array(tokens[: request.params.max_tokens], np.int32)
    return Completion(request.id, own, np.zeros(len(own), np.float32), "length")


class Rival(ABC):
    """Requests wait in one list; `poll` works on some of them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.wants = 2 * slots
        self.waiting: list[Request] = []
        self.pending = 0

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.pending += len(requests)

    def poll(self) -> list[Completion]:
        done = self.work()
        self.pending -= len(done)
        return done

    @abstractmethod
    def work(self) -> list[Completion]:
        """Wait or work a little; what finished."""

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.waiting.clear()


def load(base: str, dtype: str) -> Any:
    chosen = getattr(torch, dtype)
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=chosen).eval()


class Generate(Rival):
    """The longest prompts that wait, in one call; outputs are cut to what was asked for."""

    def __init__(self, base: str, dtype: str, slots: int) -> None:
        super().__init__(slots)
        self.model = load(base, dtype)

    def work(self) -> list[Completion]:
        self.waiting.sort(key=lambda request: len(request.prompt))
        some, self.waiting = self.waiting[-self.slots :], self.waiting[: -self.slots]
        width = max(len(request.prompt) for request in some)
        ids, mask = torch.zeros(2, len(some), width, dtype=torch.int64)
        for row, request in enumerate(some):
            ids[row, width - len(request.prompt) :] = torch.from_numpy(request.prompt)
            mask[row, width - len(request.prompt) :] = 1
        tokens = max(request.params.max_tokens for request in some)
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=some[0].params.temperature,
                top_k=0,
                top_p=1.0,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )[:, width:]
        return [completion(r, row.tolist()) for r, row in zip(some, out, strict=True)]


class Continuous(Rival):
    """Its thread spins while it has no work, so it runs only while requests are pending."""

    def __init__(self, base: str, dtype: str, slots: int) -> None:
        super().__init__(slots)
        self.asked: dict[str, Request] = {}
        self.settings = transformers.GenerationConfig(
            do_sample=True, temperature=0.7, top_k=0, eos_token_id=-1, pad_token_id=0
        )
        self.model = load(base, dtype)
        self.manager = self.model.init_continuous_batching(self.settings)

    def work(self) -> list[Completion]:
        if not self.manager.is_running():  # the model keeps the manager, but not its attention
            self.manager = self.model.init_continuous_batching(self.settings)
            self.manager.start()
        for request in self.waiting:
            name = str(request.id)
            self.asked[name] = request
            tokens = request.params.max_tokens
            self.manager.add_request(request.prompt.tolist(), name, max_new_tokens=tokens)
        self.waiting = []
        result = self.manager.get_result(timeout=1)
        if result is None and not self.manager.is_running():
            raise RuntimeError("its thread has ended")
        if result is not None and result.error:
            raise RuntimeError(result.error)
        done = [result] if result is not None and result.is_finished() else []
        found = [completion(self.asked.pop(r.request_id), r.generated_tokens) for r in done]
        if not self.asked:
            self.manager.stop(block=True, keep_for_next_session=True)
        return found

    def close(self) -> None:
        if self.manager.is_running():
            self.manager.stop(block=True)


class LlamaCpp(Rival):
    """path: a GGUF file, quantised or not."""

    def __init__(self, path: Path, slots: int, threads: int, cells: int) -> None:
        import llama_cpp

        super().__init__(slots)
        self.lib = llama_cpp
        self.running: dict[int, tuple[Request, list[int], int]] = {}  # slot: tokens, next position
        self.random = np.random.default_rng(0)
        self.quiet = llama_cpp.llama_log_callback(lambda *message: None)  # held: C calls it
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = cells, 2048, 512
        settings.n_seq_max, settings.kv_unified = slots, True
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.memory = llama_cpp.llama_get_memory(self.context)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Run rows of (token, position, slot, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, slot, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = slot, wanted
        if code := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode: {code}")

    def admit(self) -> None:
        """Fill free slots; what equal prompts share is run once and its cells are shared."""
        self.waiting.sort(key=lambda request: (request.priority, request.prompt.tobytes()))
        free = [slot for slot in range(self.slots) if slot not in self.running]
        source, last = -1, b""
        for slot, request in zip(free, self.waiting, strict=False):
            prompt = request.prompt.tolist()
            if request.prompt.tobytes() == last:
                self.lib.llama_memory_seq_cp(self.memory, source, slot, -1, -1)
            else:
                rows = [(token, i, slot, False) for i, token in enumerate(prompt[:-1])]
                for begin in range(0, len(rows), 2048):
                    self.decode(rows[begin : begin + 2048])
                source, last = slot, request.prompt.tobytes()
            self.running[slot] = request, prompt[-1:], len(prompt) - 1
        self.waiting = self.waiting[len(free) :]

    def work(self) -> list[Completion]:
        self.admit()
        slots = list(self.running)
        self.decode([(self.running[s][1][-1], self.running[s][2], s, True) for s in slots])
        found = ctypes.cast(self.lib.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        logits = np.ctypeslib.as_array(found, (len(slots), self.vocabulary))
        sampled = self.sample(logits, [self.running[s][0].params.temperature for s in slots])
        done = []
        for slot, token in zip(slots, sampled.tolist(), strict=True):
            request, tokens, position = self.running[slot]
            tokens.append(token)
            self.running[slot] = request, tokens, position + 1
            if len(tokens) > request.params.max_tokens:
                done.append(completion(request, tokens[1:]))
                self.lib.llama_memory_seq_rm(self.memory, slot, -1, -1)
                del self.running[slot]
        return done

    def sample(self, logits: np.ndarray, temperature: Sequence[float]) -> np.ndarray:
        rows = torch.from_numpy(logits) / torch.tensor(temperature)[:, None]
        return torch.multinomial(rows.softmax(-1), 1)[:, 0].numpy()

    def close(self) -> None:
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)
