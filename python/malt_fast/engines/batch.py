"""Rows that are decoded together, and their key-value cache.

Each row has a slot. Its tokens are left-aligned in `text`, so a token's column is its position, no
row is padded in front, and a new row can take the slot of a finished one at any time:

    column    0  1  2  3  4  5  6  7
    slot 0    p  p  p  o  o             length 4: keys of columns 0-3 are cached, column 4 is next
    slot 1    p  p  p  p  p  p  o       length 6
    slot 2    .  .  .                   idle: free for a new row

All tokens of a prompt but its last are prefilled: on a CPU as tries, in which what prompts share is
run once (tries.py), else once for all rows with that prompt. From then on every row is treated
alike: run the token at `length`, sample the one after it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from malt_fast.engines import Completion, Request
from malt_fast.engines.cache import Plan, SlotCache, TriePlan, grown
from malt_fast.engines.decode_attention import NO_MASK, Reads, mask_of
from malt_fast.engines.sampler import draw, filtered, logprobs_of, uniforms
from malt_fast.engines.tries import Trie, in_both, share, tries
from malt_fast.engines.weights import Weights, reads_tries
from malt_fast.models.tree_attention import make_tree

PREFILL_TOKENS = 8192  # in one forward pass; bounds the memory of its activations


class Head(NamedTuple):
    """A prompt without its last token, and the slots that hold its keys from column 0 on."""

    adapter: str | None  # of the weights
    tokens: np.ndarray
    slots: list[int]


class Batch:
    """Up to `size` rows that one model decodes in step."""

    def __init__(self, weights: Weights, size: int) -> None:
        model = weights.model
        self.weights, self.model, self.size, self.context = weights, model, size, weights.context
        self.requests: list[Request | None] = []  # by slot; None = idle
        self.running = 0  # slots that are not idle
        self.held: dict[int, Head] = {}  # by slot: whose keys are in it
        self.lead, self.shared = share({}, size)  # by slot; see Reads
        self.cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self.begin, self.length, self.limit = np.zeros((3, size), np.int64)  # limit: end column
        device = model.device
        self.text = torch.zeros(size, 1, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(size, 1, dtype=torch.float32, device=device)
        self.seeds, self.top_k = torch.zeros(2, size, dtype=torch.int64, device=device)
        self.temperature, self.top_p, self.min_p = torch.zeros(3, size, device=device)
        self.stops = torch.full((size, 1), -1, dtype=torch.int64, device=device)
        self.filters = np.zeros(size, bool)  # whether a row draws under top_k, top_p or min_p

    @property
    def free(self) -> int:
        """How many rows `admit` can take."""
        return self.size - self.running

    # --- rows come -----------------------------------------------------------------------------

    def admit(self, requests: Sequence[Request]) -> int:
        """Give each request a slot and prefill its prompt: at most `free`, each under `context`.

        Returns the number of tokens that were prefilled.
        """
        idle = [slot for slot, request in enumerate(self.requests) if request is None]
        slots = [*idle, *range(len(self.requests), self.size)][: len(requests)]
        self.requests += [None] * (max(slots) + 1 - len(self.requests))
        self.running += len(requests)
        for slot, request in zip(slots, requests, strict=True):
            self.requests[slot] = request
            self.begin[slot] = len(request.prompt)
            self.length[slot] = len(request.prompt) - 1
            room = self.context - len(request.prompt)
            self.limit[slot] = len(request.prompt) + min(request.params.max_tokens, room)
        self._load(slots, requests)
        rows = list(zip(slots, requests, strict=True))
        if reads_tries(self.model, int(self.length[slots].max())):
            prefilled = self._prefill_tries(rows)
        else:
            members: dict[str | None, list[tuple[int, Request]]] = {}
            for slot, request in rows:
                members.setdefault(request.policy.adapter, []).append((slot, request))
            prefilled = sum(self._prefill(adapter, some) for adapter, some in members.items())
        self._share()
        return prefilled

    def _load(self, slots: Sequence[int], requests: Sequence[Request]) -> None:
        """Copy prompts and sampling parameters to the device."""
        device = self.text.device
        at = torch.tensor(slots, device=device)
        prompts = _stack([request.prompt for request in requests], fill=0)
        self._widen(prompts.shape[1] + 1)
        self.text[at, : prompts.shape[1]] = torch.from_numpy(prompts).to(device)
        params = [request.params for request in requests]
        stops = torch.from_numpy(_stack([p.stop_token_ids for p in params], fill=-1)).to(device)
        if stops.shape[1] > self.stops.shape[1]:
            wider = torch.full((self.size, stops.shape[1]), -1, device=device)
            wider[:, : self.stops.shape[1]] = self.stops
            self.stops = wider
        self.stops[at] = -1
        self.stops[at, : stops.shape[1]] = stops
        seeds = np.array([request.seed for request in requests], np.uint64).view(np.int64)
        self.seeds[at] = torch.from_numpy(seeds).to(device)
        self.top_k[at] = torch.tensor([p.top_k for p in params], device=device)
        self.temperature[at] = torch.tensor([float(p.temperature) for p in params], device=device)
        self.top_p[at] = torch.tensor([float(p.top_p) for p in params], device=device)
        self.min_p[at] = torch.tensor([float(p.min_p) for p in params], device=device)
        self.filters[slots] = [
            np.float32(p.temperature) > 0 and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0)
            for p in params
        ]

    def _widen(self, columns: int) -> None:
        self.text = grown(self.text, 0, columns, dim=1)
        self.logprobs = grown(self.logprobs, 0, columns, dim=1)

    def _prefill_tries(self, rows: Sequence[tuple[int, Request]]) -> int:
        """Run all but the last token of every prompt; returns how many tokens that took."""
        heads: dict[tuple[str | None, bytes], Head] = {}
        for slot, request in rows:
            if len(request.prompt) > 1:
                key = request.policy.adapter, request.prompt.tobytes()
                heads.setdefault(key, Head(key[0], request.prompt[:-1], [])).slots.append(slot)
            else:
                self.held.pop(slot, None)
        if not heads:
            return 0
        found = list(heads.values())
        number = {adapter: i for i, adapter in enumerate({head.adapter for head in found})}
        groups = [number[head.adapter] for head in found]
        parts = tries([head.tokens for head in found], groups, PREFILL_TOKENS)
        return sum(self._prefill_trie([found[i] for i in trie.prompts], trie) for trie in parts)

    def _prefill_trie(self, heads: Sequence[Head], trie: Trie) -> int:
        """One forward pass over a trie of `heads`; returns how many tokens it ran.

        What a slot holds of a prompt already is copied from there.
        """
        slots = [slot for head in heads for slot in head.slots]
        paths = [
            p
            for path, head in zip(trie.paths, heads, strict=True)
            for p in [path] * len(head.slots)
        ]
        source = torch.from_numpy(_stack(paths, fill=0))
        at = self._slots_with(heads, trie)
        new, known = np.flatnonzero(at < 0), np.flatnonzero(at >= 0)
        self.cache.plan = TriePlan(
            torch.tensor(slots),
            source,
            len(self.requests),
            source.shape[1] + 1,
            new=torch.from_numpy(new),
            known=torch.from_numpy(np.stack([known, at[known], trie.positions[known]])),
        )
        ids, positions = torch.from_numpy(np.stack([trie.tokens, trie.positions])[:, None, new])
        owner = np.empty(len(trie.tokens), object)
        for head, path in zip(heads, trie.paths, strict=True):
            owner[path] = head.adapter
        self.weights.answer(owner[new].tolist())
        tree = make_tree(trie.end, source.shape[1], "cpu")
        self._forward(ids, positions, NO_MASK, tree=tree, tree_rows=self.cache.plan.new)
        for head in heads:
            self.held.update(dict.fromkeys(head.slots, head))
        return len(new)

    def _slots_with(self, heads: Sequence[Head], trie: Trie) -> np.ndarray:
        """int64[N]: for each row of a trie a slot that holds its key, or -1."""
        at = np.full(len(trie.tokens), -1)
        held = {slot: head[:2] for slot, head in self.held.items()}
        found = in_both([head[:2] for head in heads], held)
        for path, (slot, length) in zip(trie.paths, found, strict=True):
            at[path[:length]] = slot
        if (at >= 0).all():
            at[-1] = -1  # a forward pass needs a token
        return at

    def _prefill(self, adapter: str | None, rows: Sequence[tuple[int, Request]]) -> int:
        """The same without tries, for rows of one adapter: equal prompts are run once."""
        owners: dict[bytes, list[int]] = {}
        heads: list[np.ndarray] = []
        for slot, request in sorted(rows, key=_prompt_length):
            self.held.pop(slot, None)
            if len(request.prompt) > 1:
                key = request.prompt.tobytes()
                if key not in owners:
                    heads.append(request.prompt[:-1])
                owners.setdefault(key, []).append(slot)
        groups = list(owners.values())
        for some in _chunks([len(head) for head in heads]):
            self.weights.answer([adapter] * (len(groups[some]) * len(heads[some][-1])))
            self._prefill_some(groups[some], heads[some])
        return sum(map(len, heads))

    def _prefill_some(self, owners: list[list[int]], heads: list[np.ndarray]) -> None:
        """One forward pass over heads[i], whose keys go to the slots owners[i].

        Padding is on the right, where causal attention does not see it; its keys are overwritten
        before a row reaches them.
        """
        device = self.text.device
        ids = torch.from_numpy(_stack(heads, fill=0)).to(device)
        slots = torch.tensor([slot for group in owners for slot in group], device=device)
        source = torch.tensor([i for i, group in enumerate(owners) for _ in group], device=device)
        self.cache.plan = Plan(slots, None, source, len(self.requests), ids.shape[1] + 1)
        positions = torch.arange(ids.shape[1], device=device)[None]
        self._forward(ids, positions, None)

    # --- rows run ------------------------------------------------------------------------------

    def step(self) -> list[Completion]:
        """Sample one token for every row; returns the rows that are finished now."""
        n = len(self.requests)
        device = self.text.device
        width = int(self.length[:n].max()) + 1
        self._widen(width + 1)
        length = torch.from_numpy(self.length[:n].copy()).to(device)
        begin = torch.from_numpy(self.begin[:n].copy()).to(device)
        slots = torch.arange(n, device=device)
        self.cache.plan = Plan(slots, length, None, n, width)
        if reads_tries(self.model, 0):
            mask, reads = NO_MASK, {"reads": self._reads()}
        else:
            mask, reads = mask_of(length, width, self.model.dtype), {}
        tokens_in = self.text[slots, length]
        self.weights.answer([r.policy.adapter if r else None for r in self.requests])
        ids, positions = tokens_in[:, None], length[:, None]
        logits = self._forward(ids, positions, mask, **reads)
        tokens, logprobs = self._sample(logits, length + 1 - begin)
        self.text[slots, length + 1] = tokens
        self.logprobs[slots, length + 1] = logprobs
        stopped = (tokens[:, None] == self.stops[:n]).any(-1).cpu().numpy()
        return self._advance(stopped)

    def _reads(self) -> Reads:
        """What the rows attend to; idle ones to nothing."""
        n = len(self.requests)
        busy = [request is not None for request in self.requests]
        end = np.where(busy, self.length[:n] + 1, 0).astype(np.int32)
        return Reads(end, self.lead[:n], np.minimum(self.shared[:n], end))

    def _share(self) -> None:
        """Choose whose keys the rows read, whenever `held` or the rows have changed."""
        rows = [slot for slot, request in enumerate(self.requests) if request is not None]
        heads = {slot: self.held[slot] for slot in rows if slot in self.held}
        held = {slot: (head.adapter, head.tokens) for slot, head in heads.items()}
        self.lead, self.shared = share(held, self.size)

    def _forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None, **attention: Any
    ) -> Tensor:
        """Logits [n, V] after the last of ids [n, T]. attention: passed on to every layer's."""
        return self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **attention,
        ).logits[:, -1]

    def _sample(self, logits: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int64[n] and their log-probs float32[n], before any filter; logits [n, V]."""
        n = len(logits)
        temperature, uniform = self.temperature[:n], uniforms(self.seeds[:n], steps)
        tokens, logprobs = draw(logits, temperature, uniform)
        if self.filters[:n].any():
            rows = torch.from_numpy(np.flatnonzero(self.filters[:n])).to(logits.device)
            raw = logits[rows].float()
            filters = self.top_k[rows], self.top_p[rows], self.min_p[rows]
            scaled = filtered(raw / temperature[rows, None], *filters)
            tokens[rows], _ = draw(scaled, torch.ones_like(scaled[:, 0]), uniform[rows])
            logprobs[rows] = logprobs_of(raw, tokens[rows])
        return tokens, logprobs

    # --- rows go -------------------------------------------------------------------------------

    def _advance(self, stopped: np.ndarray) -> list[Completion]:
        """Advance every row, and take out those that stopped or reached their limit."""
        n = len(self.requests)
        busy = np.array([request is not None for request in self.requests])
        self.length[:n] += busy
        ended = busy & (stopped | (self.length[:n] + 1 >= self.limit[:n]))
        slots = np.flatnonzero(ended)
        if not len(slots):
            return []
        at = torch.from_numpy(slots).to(self.text.device)
        text = self.text[at].to("cpu", torch.int32).numpy()
        logprobs = self.logprobs[at].cpu().numpy()
        done = []
        for i, slot in enumerate(slots):
            request = self.requests[slot]
            assert request is not None
            output = slice(self.begin[slot], self.length[slot] + 1)
            done.append(
                _completion(request.id, text[i, output], logprobs[i, output], stopped[slot])
            )
            self.requests[slot] = None
        self.length[slots] = self.begin[slots]  # idle rows write there, behind what is held
        self.running -= len(slots)
        return done

    def compact(self) -> None:
        """Move the last rows into idle slots, so that no slot is idle."""
        n = self.running
        holes = [slot for slot in range(n) if self.requests[slot] is None]
        rows = [s for s in range(n, len(self.requests)) if self.requests[s] is not None]
        if holes:
            target, source = torch.tensor([holes, rows], device=self.text.device)
            for layer in self.cache.layers:
                layer.move(source, target)
            tensors = (self.text, self.logprobs, self.stops, self.seeds)
            for x in (*tensors, self.top_k, self.temperature, self.top_p, self.min_p):
                x[target] = x[source]
            for y in (self.begin, self.length, self.limit, self.filters):
                y[holes] = y[rows]
            for hole, row in zip(holes, rows, strict=True):
                self.requests[hole] = self.requests[row]
                self.held.pop(hole, None)  # whose keys are overwritten
                if row in self.held:
                    self.held[hole] = self.held[row]
        del self.requests[n:]
        self._share()


def _completion(id: int, tokens: np.ndarray, logprobs: np.ndarray, stopped: bool) -> Completion:
    if np.isnan(logprobs).any():
        return Completion.failed(id, "the model's logits are not numbers: try another model.dtype")
    return Completion(id, tokens.copy(), logprobs.copy(), "stop" if stopped else "length")


def _prompt_length(item: tuple[int, Request]) -> int:
    return len(item[1].prompt)


def _stack(rows: Sequence[Any], fill: int) -> np.ndarray:
    """int64[n, longest]: the rows left-aligned, `fill` after them."""
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), fill, np.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out


def _chunks(lengths: Sequence[int]) -> list[slice]:
    """Cut ascending lengths into runs of at most PREFILL_TOKENS tokens, padding counted."""
    cuts = [0]
    for i, length in enumerate(lengths):
        if (i + 1 - cuts[-1]) * length > PREFILL_TOKENS and i > cuts[-1]:
            cuts.append(i)
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(lengths)], strict=True) if b > a]
