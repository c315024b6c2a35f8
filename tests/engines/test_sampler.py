"""The draw of tokens in C++ against plain torch and against exact distribution functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_fast import _core
from malt_fast.engines import sampler
from malt_fast.engines.sampler import draw, draw_in_torch
from tests.volume import volume

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAST = 1 - 2.0**-53  # the largest float64 below 1


def make(n, v, seed=0, spread=3.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, v, generator=g) * spread).to(dtype)
    logits[torch.rand(n, v, generator=g) < 0.1] = -torch.inf
    logits[:, -1] = logits[:, -1].clamp(min=-9)  # a row has a finite logit
    return logits, torch.rand(n, dtype=torch.float64, generator=g)


def boundaries(logits, temperature, tokens):
    """float64 [2, n]: the part of the distribution that belongs to the tokens."""
    p = (logits.double() / temperature.double()[:, None]).softmax(-1)
    end = p.cumsum(-1).gather(1, tokens[:, None])[:, 0]
    return torch.stack([end - p.gather(1, tokens[:, None])[:, 0], end])


@settings(max_examples=volume(200), deadline=None)
@given(
    n=st.integers(0, 9),
    v=st.sampled_from([1, 2, 7, 16, 63, 64, 65, 255, 256, 257, 1000, 1025, 70000]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    degree=st.sampled_from([0.0, 1.0, 0.3, 2.5, "rows"]),
    spread=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_tokens_and_log_probs_are_those_of_torch(n, v, seed, dtype, degree, spread):
    logits, uniform = make(n, v, seed, spread, dtype)
    temperature = torch.arange(n) % 4 / 2 if degree == "rows" else torch.full((n,), degree)
    tokens, logprobs = draw(logits, temperature, uniform)
    expected, _ = draw_in_torch(logits, temperature, uniform)
    truth = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, truth.float(), rtol=1e-6, atol=1e-5)
    odd = tokens != expected
    assert not odd[temperature == 0].any()
    begin, end = boundaries(logits[odd], temperature[odd], tokens[odd])
    near = torch.minimum((uniform[odd] - begin).abs(), (uniform[odd] - end).abs())
    assert (near < 3e-6).all()


@pytest.mark.parametrize("simd", _core.kernels.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_inverts_the_distribution_function(simd, dtype):
    logits, uniform = make(64, 2100, dtype=dtype)
    temperature = torch.linspace(0.2, 2.2, 64)
    bits = logits if dtype == torch.float32 else logits.view(torch.uint16)
    name = str(dtype).removeprefix("torch.")
    arrays = (bits.numpy(), name, temperature.numpy(), uniform.numpy())
    tokens, _ = map(torch.from_numpy, _core.kernels.draw_rows(*arrays, simd=simd))
    begin, end = boundaries(logits, temperature, tokens)
    assert (begin < uniform + 1e-6).all() and (uniform < end + 1e-6).all()


@pytest.mark.parametrize("at", [0, 250, 255, 256, 500, 99_996])
def test_equal_weights_are_cut_exactly(at):
    """Four tokens of 100,000 have weight, a quarter each: sums are exact, so boundaries are."""
    logits = torch.full((9, 100_000), -torch.inf)
    logits[:, at : at + 4] = 12.5
    quarters = [0, 0.25 - 2**-54, 0.25, 0.5 - 2**-54, 0.5, 0.75 - 2**-53, 0.75, 0.9, LAST]
    tokens, logprobs = draw(
        logits, torch.full((9,), 0.7), torch.tensor(quarters, dtype=torch.float64)
    )
    assert (tokens - at).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert torch.allclose(logprobs, torch.tensor(-math.log(4)))


def test_counts_are_exact_over_a_grid_of_draws():
    weights = torch.tensor([3.0, 0, 1, 8, 0, 4])
    n = 1600  # midpoints of equal steps: a token of weight w gets n w / 16 of them
    uniform = (torch.arange(n).double() + 0.5) / n
    tokens, logprobs = draw(weights.log().expand(n, -1), torch.ones(n), uniform)
    assert tokens.bincount().tolist() == (weights * n / 16).tolist()
    assert (tokens.diff() >= 0).all()
    torch.testing.assert_close(logprobs, (weights / 16).log()[tokens])


@pytest.mark.parametrize("one", [draw, draw_in_torch])
def test_an_excluded_token_is_never_taken(one):
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5, 1 - 2.0**-52], dtype=torch.float64)
    assert one(logits, torch.ones(3), u)[0].tolist() == [1, 3, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [3, 300, 5000])
def test_the_last_draw_has_weight(dtype, v):
    logits, _ = make(50, v, seed=v, spread=30, dtype=dtype)
    logits[:, v // 2 + 1 :] = -torch.inf
    logits[:, v // 2] = 0
    for u in (0.0, LAST):
        tokens, logprobs = draw(
            logits, torch.full((50,), 0.1), torch.full((50,), u, dtype=torch.float64)
        )
        assert logprobs.isfinite().all() and (tokens <= v // 2).all()


@pytest.mark.parametrize("one", [draw, draw_in_torch])
def test_temperature_0_takes_the_first_of_the_largest(one):
    logits = torch.randint(-9, 3, (40, 3000), generator=torch.Generator().manual_seed(1)).float()
    tokens, _ = one(logits, torch.zeros(40), torch.full((40,), 0.9, dtype=torch.float64))
    assert tokens.tolist() == logits.numpy().argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-20, 1e-3])
def test_the_smallest_temperatures_are_greedy(temperature):
    logits, uniform = make(20, 3000)
    tokens, _ = draw(logits, torch.full((20,), temperature), uniform)
    assert torch.equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("one", [draw, draw_in_torch])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_said_so_and_harms_no_other_row(one, temperature, dtype):
    logits, uniform = make(6, 700, dtype=dtype)
    degree = torch.full((6,), temperature)
    good = one(logits, degree, uniform)
    logits[1, 650], logits[2], logits[3, 5], logits[4] = math.nan, math.nan, math.inf, -math.inf
    tokens, logprobs = one(logits, degree, uniform)
    assert logprobs[[1, 2, 4]].isnan().all()
    assert not logprobs[3].isfinite()
    assert ((tokens >= 0) & (tokens < 700)).all()
    for now, before in zip((tokens, logprobs), good, strict=True):
        assert torch.equal(now[[0, 5]], before[[0, 5]])


def test_a_row_is_drawn_the_same_in_any_company():
    logits, uniform = make(40, 5000)
    temperature = torch.rand(40)
    together = draw(logits, temperature, uniform)
    strided = draw(torch.stack([logits, logits], 1)[:, 1], temperature, uniform)
    assert all(map(torch.equal, together, strided))
    for i in range(40):
        alone = draw(logits[i : i + 1], temperature[i : i + 1], uniform[i : i + 1])
        assert [x.item() for x in alone] == [x[i].item() for x in together]


def test_a_huge_vocabulary():
    v = 3_000_001
    logits = torch.zeros(1, v)
    for u in (0.0, 0.123456, 0.5, LAST):
        tokens, logprobs = draw(logits, torch.ones(1), torch.tensor([u], dtype=torch.float64))
        assert tokens.item() == int(u * v)
        assert logprobs.item() == pytest.approx(-math.log(v), abs=1e-5)


def test_other_devices_use_torch(monkeypatch):
    meta = (torch.empty(2, 5, device="meta"), torch.ones(2, device="meta"))
    asked = []
    monkeypatch.setattr(sampler, "draw_in_torch", lambda *args: asked.append(args))
    draw(*meta, torch.ones(2, device="meta"))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": np.zeros(4, np.float32)}, "tile must be"),
        ({"tile": np.zeros((2, 3), np.float64)}, "tile must be of float32"),
        ({"tile": np.zeros((3, 2), np.float32).T}, "tile must be .* contiguous rows"),
        ({"tile": np.zeros((2, 0), np.float32)}, "tile must be of one column or more"),
        ({"type": "bfloat16"}, "tile must be of uint16"),
        ({"type": "float8"}, "type must be one of"),
        ({"temperature": np.ones(3, np.float32)}, "temperature must be a contiguous array of 2"),
        ({"temperature": np.ones(2)}, "temperature must be a contiguous array of 2"),
        ({"temperature": np.array([1, -1], np.float32)}, "temperature must be 0 or more"),
        ({"temperature": np.array([1, np.nan], np.float32)}, "temperature must be 0 or more"),
        ({"temperature": np.array([1, np.inf], np.float32)}, "temperature must be .* finite"),
        ({"uniform": np.zeros(2, np.float32)}, "uniform must be a contiguous array of 2"),
        ({"uniform": np.array([0, 1.0])}, r"uniform must be in \[0, 1\)"),
        ({"uniform": np.array([0, np.nan])}, r"uniform must be in \[0, 1\)"),
        ({"simd": "mmx"}, "simd 'mmx' cannot run"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    good = {
        "tile": np.zeros((2, 3), np.float32),
        "type": "float32",
        "temperature": np.ones(2, np.float32),
        "uniform": np.zeros(2),
    }
    _core.kernels.draw_rows(**good)
    with pytest.raises(ValueError, match=message):
        _core.kernels.draw_rows(**{**good, **changes})
