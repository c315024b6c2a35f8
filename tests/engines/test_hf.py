"""The embedded engine against transformers' generate, PEFT and a plain-Python sampler."""

import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config

from malt_fast.engines import (
    Completion,
    Policy,
    Request,
    SamplingParams,
    hf,
)
from malt_fast.engines.hf import HFEngine
from malt_fast.engines.sampler import filtered, uniforms
from malt_fast.utils.errors import MaltError
from tests.adapters import make_adapter
from tests.tiny import tiny_llama
from tests.volume import volume

END = 2  # </s> of the tiny tokenizer
VOCABULARY = 259
CONTEXT = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("base"), max_position_embeddings=CONTEXT))


@pytest.fixture(scope="module")
def model(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two LoRA adapters far from zero, on different layers."""
    return [
        make_adapter(base, tmp_path_factory.mktemp(f"adapter{i}"), i, targets=targets)
        for i, targets in enumerate(["all-linear", ["q_proj", "down_proj"]])
    ]


def request(id: int, policy: Policy | str, prompt, seed: int | None = None, **params) -> Request:
    policy = Policy(policy) if isinstance(policy, str) else policy
    params = {"max_tokens": 8, "stop_token_ids": (END,), **params}
    prompt = np.asarray(prompt, np.int32)
    seed = id * 7919 if seed is None else seed
    return Request(id, str(id), (id,), policy, prompt, SamplingParams(**params), seed)


def run(engine: HFEngine, requests: list[Request]) -> dict[int, Completion]:
    engine.submit(requests)
    done: dict[int, Completion] = {}
    while engine.pending:
        done |= {completion.id: completion for completion in engine.poll()}
    assert len(done) == len(requests)
    return done


def prompts(n: int, seed: int = 0, longest: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY, rng.integers(1, longest + 1)) for _ in range(n)]


def logprobs_after(model, prompt, tokens) -> np.ndarray:
    """float32[T, V] log-softmax from one plain forward pass over prompt and tokens."""
    ids = torch.tensor([[*map(int, prompt), *map(int, tokens)]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).numpy()


def own_logprobs(model, prompt, tokens) -> np.ndarray:
    """float32[T]: of the tokens themselves."""
    return logprobs_after(model, prompt, tokens)[np.arange(len(tokens)), tokens]


def check_against_peft(asked: list[Request], done: dict[int, Completion], tolerance: float) -> None:
    """Log-probs are those of plain forward passes of the base under the request's adapter."""
    from peft import PeftModel

    for policy in {r.policy for r in asked}:
        tuned = AutoModelForCausalLM.from_pretrained(policy.base)
        if policy.adapter:
            tuned = PeftModel.from_pretrained(tuned, policy.adapter).eval()
        for r in (r for r in asked if r.policy == policy):
            want = own_logprobs(tuned, r.prompt, done[r.id].tokens)
            np.testing.assert_allclose(done[r.id].logprobs, want, atol=tolerance)


def texts(done: dict[int, Completion]) -> dict[int, list[int]]:
    return {id: completion.tokens.tolist() for id, completion in done.items()}


# --- greedy and log-probs ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_greedy_is_generate(base, model, batch_size):
    asked = [request(i, base, p, temperature=0, max_tokens=12) for i, p in enumerate(prompts(9))]
    done = run(HFEngine(batch_size=batch_size), asked)
    for r in asked:
        ids = torch.from_numpy(r.prompt)[None].long()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=END,
            pad_token_id=0,
        )
        assert done[r.id].tokens.tolist() == out[0, len(r.prompt) :].tolist()


def test_logprobs_are_those_of_a_plain_forward_whatever_the_filters(base, model):
    asked = [
        request(i, base, p, temperature=0.5, top_k=20, top_p=0.9) for i, p in enumerate(prompts(12))
    ]
    done = run(HFEngine(batch_size=5), asked)
    for r in asked:
        tokens = done[r.id].tokens
        want = logprobs_after(model, r.prompt, tokens)[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(done[r.id].logprobs, want, atol=2e-5)
        assert done[r.id].tokens.dtype == np.int32
        assert done[r.id].logprobs.dtype == np.float32


# --- what a row gets depends on its request alone ------------------------------------------------


def test_batch_size_order_and_company_change_nothing(base):
    asked = [
        request(
            i,
            base,
            p,
            max_tokens=1 + i % 9,
            temperature=[1.0, 0.0, 2.0][i % 3],
            top_k=[0, 5][i % 2],
        )
        for i, p in enumerate(prompts(30))
    ]
    alone = texts(run(HFEngine(batch_size=1), asked))
    assert texts(run(HFEngine(batch_size=64), asked)) == alone
    assert texts(run(HFEngine(batch_size=7), asked[::-1])) == alone
    assert texts(run(HFEngine(batch_size=64), asked[::5])) == {i: alone[i] for i in range(0, 30, 5)}
    plain = [r for r in asked if r.params.top_k == 0]  # a batch without any filter
    assert texts(run(HFEngine(batch_size=64), plain)) == {r.id: alone[r.id] for r in plain}


def test_siblings_share_a_prompt_and_differ_by_seed(base):
    some = prompts(4, longest=20)
    asked = [request(10 * i + k, base, p) for i, p in enumerate(some) for k in range(6)]
    engine = HFEngine(batch_size=32)
    together = texts(run(engine, asked))
    assert engine.figures()["prefix_cache_hits"] == pytest.approx(1 - distinct(some) / total(asked))
    assert together == texts(run(HFEngine(batch_size=1), asked))
    assert len({tuple(together[10 + k]) for k in range(6)}) > 1
    same = run(HFEngine(), [request(k, base, some[0], seed=5) for k in range(3)])
    assert len({tuple(c.tokens) for c in same.values()}) == 1


def distinct(prompts) -> int:
    """Prefixes of prompts, without the whole ones: what has to be prefilled."""
    return len({tuple(p[:n].tolist()) for p in prompts for n in range(1, len(p))})


def total(requests: list[Request]) -> int:
    return sum(len(r.prompt) - 1 for r in requests)


def family(n: int, seed: int) -> list[np.ndarray]:
    """Prompts of two roles: a head, one of three questions, one of two drafts, an end."""
    rng = np.random.default_rng(seed)
    parts = [[rng.integers(3, VOCABULARY, 7) for _ in range(k)] for k in (2, 3, 2)]
    ends = [rng.integers(3, VOCABULARY, rng.integers(0, 4)) for _ in range(n)]
    return [
        np.concatenate([*(part[i % len(part)] for part in parts), end])
        for i, end in enumerate(ends)
    ]


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize(("batch_size", "hits"), [(1, 0.2), (5, 0.5), (64, 0.7)])
def test_shared_beginnings_are_run_once_and_change_nothing(
    base, adapters, monkeypatch, batch_size, hits, mix
):
    policies = [Policy(base), *(Policy(base, folder) for folder in adapters)]
    asked = [
        request(i, policies[i // 40], p, max_tokens=1 + i % 5)
        for i, p in enumerate(family(40, seed=1) * 3)
    ]
    asked += [request(200 + i, base, [9], max_tokens=6) for i in range(3)]  # nothing to prefill
    asked += [request(300 + i, base, p) for i, p in enumerate(family(40, seed=1))]
    engine = HFEngine(batch_size=batch_size)
    engine._weights(base).mixable[None] = mix
    shared = run(engine, asked)
    assert engine.figures()["prefix_cache_hits"] > hits
    monkeypatch.setattr("malt_fast.engines.batch.reads_tries", lambda model, depth: False)
    engine = HFEngine(batch_size=batch_size)
    engine._weights(base).mixable[None] = mix
    plain = run(engine, asked)
    assert texts(shared) == texts(plain)
    for i, completion in shared.items():
        np.testing.assert_allclose(completion.logprobs, plain[i].logprobs, atol=2e-5)


def test_a_moved_row_takes_the_keys_of_its_slot_with_it(base, model):
    """What a slot held before is gone, even where the new row has no keys that others may copy."""
    first, long = prompts(2, seed=5, longest=20)
    prompt = np.concatenate([first, long])
    engine = HFEngine(batch_size=2)
    engine.submit([request(1, base, prompt, max_tokens=3, stop_token_ids=())])
    engine.poll()
    engine.submit([request(0, base, [7], max_tokens=20, stop_token_ids=())])  # moves when 1 ends
    while not any(one.id == 1 for one in engine.poll()):
        pass
    for _ in range(3):
        engine.poll()
    engine.submit([request(2, base, np.append(prompt, 9), temperature=0)])
    done: dict[int, Completion] = {}
    while engine.pending:
        done |= {one.id: one for one in engine.poll()}
    np.testing.assert_allclose(
        done[2].logprobs, own_logprobs(model, np.append(prompt, 9), done[2].tokens), atol=5e-5
    )


def test_submit_while_polling(base):
    asked = [request(i, base, p, max_tokens=1 + i % 7) for i, p in enumerate(prompts(40, seed=3))]
    engine, rest, done = HFEngine(batch_size=6), asked[8:], {}
    engine.submit(asked[:8])
    while engine.pending:
        for completion in engine.poll():
            done[completion.id] = completion
            engine.submit([rest.pop()] if rest else [])
    assert texts(done) == texts(run(HFEngine(batch_size=64), asked))


def test_prefill_in_chunks(base, monkeypatch):
    asked = [request(i, base, p) for i, p in enumerate(prompts(12, seed=5))]
    whole = texts(run(HFEngine(), asked))
    monkeypatch.setattr("malt_fast.engines.batch.PREFILL_TOKENS", 40)
    assert texts(run(HFEngine(), asked)) == whole


# --- the distribution ----------------------------------------------------------------------------


def allowed(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float):
    """Plain Python: probabilities after temperature, min_p, top_k, top_p, as vLLM defines them."""
    weights = [math.exp((x - max(logits)) / temperature) for x in map(float, logits)]
    total = sum(weights)
    probs = {token: w / total for token, w in enumerate(weights)}
    likeliest = max(probs.values())
    probs = {t: p for t, p in probs.items() if p >= min_p * likeliest}
    ranked = sorted(probs.items(), key=lambda item: -item[1])
    if top_k:
        ranked = ranked[:top_k]
    mass = sum(p for _, p in ranked)
    kept, before = [], 0.0
    for token, p in ranked:
        if top_p < 1 and before >= top_p * mass:
            break
        kept.append((token, p))
        before += p
    return {token: p / before for token, p in kept}


FILTERS = [
    {"temperature": 1.0},
    {"temperature": 0.4},
    {"temperature": 1.5, "top_k": 7},
    {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 1.0, "min_p": 0.5},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.8, "min_p": 0.1},
]


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_first_token_follows_the_filtered_softmax(base, model, params):
    prompt, n = prompts(1, seed=2)[0], 4000
    filters = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, **params}
    want = allowed(logprobs_after(model, prompt, [0])[0], **filters)
    asked = [request(i, base, prompt, seed=i, max_tokens=1, **params) for i in range(n)]
    count = Counter(int(c.tokens[0]) for c in run(HFEngine(batch_size=2000), asked).values())
    assert set(count) <= set(want)
    chi2 = sum((count[t] - n * p) ** 2 / (n * p) for t, p in want.items())
    df = len(want) - 1
    assert abs(chi2 - df) < 5 * math.sqrt(2 * df) + 5


@settings(max_examples=volume(60), deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    st.integers(0, 14),
    st.sampled_from([0.05, 0.31, 0.5, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.013, 0.21, 1.0]),
    st.sampled_from([0.3, 1.0, 2.1]),
)
def test_filters_keep_what_plain_python_keeps(logits, top_k, top_p, min_p, temperature):
    x = torch.tensor([logits, logits], dtype=torch.float32) / 4 / temperature
    rows = filtered(
        x, *(torch.tensor([v, off]) for v, off in [(top_k, 0), (top_p, 1.0), (min_p, 0.0)])
    )
    want = allowed(np.array(logits) / 4, temperature, top_k, top_p, min_p)
    assert set(torch.isfinite(rows[0]).nonzero()[:, 0].tolist()) == set(want)
    assert torch.equal(rows[1], x[1])  # a row without filters beside one with


def splitmix64(seed: int, step: int) -> int:
    mask = 2**64 - 1
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniforms_are_splitmix64(seed, step):
    seeds = torch.from_numpy(np.array([seed], np.uint64).view(np.int64))
    got = uniforms(seeds, torch.tensor([step])).item()
    assert got == (splitmix64(seed, step) >> 12) / 2**52
    assert 0 <= got < 1


def test_known_splitmix64_value():
    assert splitmix64(0, 0) == 0xE220A8397B1DCDAF


# --- ends ----------------------------------------------------------------------------------------


def test_end_token_is_part_of_the_output_and_length_ends_it(base):
    some = prompts(20, seed=4)
    free = run(HFEngine(), [request(i, base, p, stop_token_ids=()) for i, p in enumerate(some)])
    assert all(c.finish_reason == "length" and len(c.tokens) == 8 for c in free.values())
    asked = []
    for i, p in enumerate(some):  # stop at what will be sampled at step i % 8
        stops = (int(free[i].tokens[i % 8]), VOCABULARY + 1)[: 1 + i % 2]
        asked.append(request(i, base, p, stop_token_ids=stops))
    for i, c in run(HFEngine(), asked).items():
        stop = asked[i].params.stop_token_ids[0]
        first = free[i].tokens.tolist().index(stop)
        assert c.tokens.tolist() == free[i].tokens.tolist()[: first + 1]
        assert c.finish_reason == "stop"


def test_an_output_ends_at_the_context(base):
    done = run(
        HFEngine(),
        [
            request(i, base, np.arange(3, 3 + n), max_tokens=100, stop_token_ids=())
            for i, n in enumerate([CONTEXT - 1, CONTEXT - 2, CONTEXT, 10])
        ],
    )
    assert [len(done[i].tokens) for i in range(4)] == [1, 2, 0, CONTEXT - 10]
    assert [done[i].finish_reason for i in range(4)] == ["length", "length", "error", "length"]
    assert str(CONTEXT) in done[2].error and base in done[2].error


@pytest.mark.parametrize(
    ("prompt", "params", "word"),
    [
        ([], {}, "empty"),
        ([5, VOCABULARY], {}, "vocabulary"),
        ([5], {"max_tokens": 0}, "max_tokens"),
    ],
)
def test_impossible_requests_are_answered_with_an_error(base, prompt, params, word):
    done = run(HFEngine(), [request(0, base, prompt, **params), request(1, base, [5, 6])])
    assert done[0].finish_reason == "error" and word in done[0].error
    assert done[1].finish_reason != "error"


def test_nothing_to_do():
    engine = HFEngine()
    engine.submit([])
    assert engine.pending == 0
    assert engine.poll() == []
    engine.close()


def test_missing_model_and_adapter(base, tmp_path):
    for policy in (Policy(str(tmp_path / "none")), Policy(base, str(tmp_path))):
        engine = HFEngine()
        engine.submit([request(0, policy, [5])])
        with pytest.raises(MaltError, match=str(tmp_path)):
            engine.poll()


# --- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "mix", "long"),
    [("float32", False, 32), ("float32", True, 0), ("float32", True, 999), ("bfloat16", True, 32)],
)
def test_mixed_adapters_are_each_pefts_own(base, adapters, monkeypatch, dtype, mix, long):
    monkeypatch.setattr("malt_fast.engines.mixed.RUN", long)
    policies = [Policy(base), *(Policy(base, folder) for folder in adapters)]
    asked = [request(i, policies[i % 3], p) for i, p in enumerate(prompts(24, seed=6))]
    engine = HFEngine(dtype=dtype, batch_size=3)
    weights, passes = engine._weights(base), []
    weights.mixable[None] = mix
    answer = weights.answer
    weights.answer = lambda rows: passes.append(len(set(rows))) or answer(rows)
    done = run(engine, asked[:12]) | run(engine, asked[12:])
    assert max(passes) == (3 if mix else 1)  # adapters of one pass
    check_against_peft(asked, done, 5e-5 if dtype == "float32" else 0.1)


def test_switching_leaves_the_base_as_it_was(base, adapters, model):
    engine = HFEngine()
    for adapter in (*adapters, None, adapters[0], None):
        run(engine, [request(0, Policy(base, adapter), [5, 6, 7])])
    now = {
        k.replace(".base_layer", ""): v for k, v in engine.weights[base].model.state_dict().items()
    }
    assert all(torch.equal(now[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("first", [0, 1])
def test_an_adapter_that_cannot_be_mixed_runs_alone(base, adapters, tmp_path, first):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path)
    policies = [Policy(base), Policy(base, str(tmp_path)), Policy(base, adapters[0])]
    asked = [request(i, policies[i % 3], p) for i, p in enumerate(prompts(18, seed=8))]
    engine = HFEngine(batch_size=4)
    engine._weights(base).mixable[None] = True
    done = run(engine, asked[first::2]) | run(engine, asked[1 - first :: 2])
    check_against_peft(asked, done, 5e-5)


def test_two_bases(base, tmp_path):
    other = str(tiny_llama(tmp_path, seed=1))
    asked = [request(i, (base, other)[i % 2], p) for i, p in enumerate(prompts(10))]
    mixed = texts(run(HFEngine(batch_size=2), asked))
    for name in (base, other):
        alone = run(HFEngine(), [r for r in asked if r.policy.base == name])
        assert texts(alone).items() <= mixed.items()


# --- memory --------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch(base, monkeypatch, caplog):
    from malt_fast.engines.batch import Batch

    asked = [request(i, base, p) for i, p in enumerate(prompts(30))]
    want = texts(run(HFEngine(batch_size=32), asked))
    original = Batch._forward

    def scarce(self, ids, *others, **attention):
        if len(ids) > 9:
            raise torch.OutOfMemoryError("no room")
        return original(self, ids, *others, **attention)

    monkeypatch.setattr(Batch, "_forward", scarce)
    engine = HFEngine(batch_size=32)
    with caplog.at_level(logging.WARNING):
        assert texts(run(engine, asked)) == want
    assert engine.batch_size == 8
    assert [r.message for r in caplog.records if "out of memory" in r.message][-1].endswith("8")


def test_no_memory_at_all_is_an_error_completion(base, monkeypatch):
    from malt_fast.engines.batch import Batch

    def none(*args, **attention):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Batch, "_forward", none)
    done = run(HFEngine(batch_size=2), [request(i, base, [5, 6]) for i in range(3)])
    assert all(c.finish_reason == "error" and "memory" in c.error for c in done.values())


def test_weights_that_do_not_fit_are_one_sentence(base, tmp_path, monkeypatch):
    other, load = str(tiny_llama(tmp_path, seed=1)), hf.Weights

    def scarce(name, *rest):
        if name == other:
            raise torch.OutOfMemoryError("no room")
        return load(name, *rest)

    monkeypatch.setattr(hf, "Weights", scarce)
    engine = HFEngine(batch_size=2)
    engine.submit([request(i, base, [5, 6]) for i in range(3)])
    assert not engine.poll() and engine.batch is not None
    engine.submit([request(3, other, [5, 6])])
    with pytest.raises(MaltError, match=r"does not fit into the memory of cpu beside '.*no room"):
        while engine.pending:
            engine.poll()
    assert engine.batch_size == 2


def test_logits_that_are_not_numbers_are_an_error(base, tmp_path):
    broken = AutoModelForCausalLM.from_pretrained(base)
    torch.nn.init.constant_(broken.lm_head.weight, math.nan)
    broken.save_pretrained(tmp_path)
    done = run(HFEngine(), [request(0, str(tmp_path), [5, 6])])
    assert done[0].finish_reason == "error" and "not numbers" in done[0].error


def test_a_cap_on_attention_scores_is_kept(tmp_path):
    config = Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, attn_logit_softcapping=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    capped = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in capped.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            torch.nn.init.normal_(weight, std=1.0)
    capped.save_pretrained(tmp_path)
    policy, prompt = Policy(str(tmp_path)), prompts(1)[0] % 50
    done = run(HFEngine(batch_size=4), [request(0, policy, prompt, temperature=0)])[0]
    expected = logprobs_after(capped, prompt, done.tokens)
    np.testing.assert_allclose(
        done.logprobs, expected[np.arange(len(done.tokens)), done.tokens], atol=1e-4
    )
