"""The real vLLM, on its CPU build, against transformers and PEFT. Run by `make test-vllm`."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from threading import Thread

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from malt_fast._core.forest import DONE
from malt_fast.config.schema import EngineConfig
from malt_fast.engines import (
    Completion,
    Engine,
    Policy,
    Request,
    SamplingParams,
)
from malt_fast.models.adapter_files import content_name
from malt_fast.utils.errors import MaltError
from tests import small_run
from tests.adapters import make_adapter
from tests.small_run import load_forest
from tests.tiny import tiny_llama

pytestmark = pytest.mark.vllm

END = 2
CONTEXT = 256


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("base"), max_position_embeddings=CONTEXT))


@pytest.fixture(scope="module")
def adapters(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three, of ranks 4, 8 and 4, on different layers."""
    parts = [("all-linear", 4), (["q_proj", "down_proj"], 8), (["v_proj"], 4)]
    return [
        make_adapter(base, tmp_path_factory.mktemp(f"a{i}"), i, targets=targets, r=r)
        for i, (targets, r) in enumerate(parts)
    ]


@pytest.fixture(scope="module")
def policies(base: str, adapters: list[str]) -> list[Policy]:
    return [Policy(base), *(Policy(base, adapter) for adapter in adapters)]


# ---- what is refused ----


def make(policies: list[Policy], **options):
    from malt_fast.engines.vllm import VLLMEngine

    probes = {policy: np.arange(3, 40, dtype=np.int32) for policy in policies}
    options = {"max_model_len": 64} | options
    VLLMEngine(policies, dtype="float32", probes=probes, **options).close()


def test_a_probe_that_does_not_fit_proves_nothing(base, adapters):
    with pytest.raises(MaltError, match=r"cannot sample from .*37 tokens, and 15 fit"):
        make([Policy(base, adapters[0])], max_model_len=16)


def test_an_adapter_without_effect_is_noticed(base, adapters, tmp_path, monkeypatch):
    """As when vLLM ignores the layers that it tunes: here its weights are zero."""
    from malt_fast.engines import vllm

    fresh = make_adapter(base, tmp_path / "fresh", -1)
    make([Policy(base, fresh)])  # an untrained one has a right to do nothing
    monkeypatch.setattr(vllm, "is_untrained", lambda adapter: False)
    with pytest.raises(MaltError, match="fresh' changes nothing in vLLM"):
        make([Policy(base, fresh)])


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    other = tiny_llama(tmp_path / "other", seed=1)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 192}))
    for weights in other.glob("*.safetensors"):
        weights.unlink()
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig.from_pretrained(other)).save_pretrained(other)
    adapter = make_adapter(str(other), tmp_path / "adapter", 0)
    with pytest.raises(MaltError, match=r"cannot put the adapter .*adapter' on .*give the base"):
        make([Policy(base, adapter)])


def test_a_model_that_vllm_refuses_is_told_in_a_sentence(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tiny_llama(tmp_path / "model")
    config = LlamaConfig.from_pretrained(folder, hidden_act="tanh")
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(MaltError, match=r"vLLM refuses .*Unsupported activation") as caught:
        make([Policy(str(folder))])
    assert "\n" not in str(caught.value)


def test_settings_are_vllms_own(base):
    from malt_fast.engines.vllm import check_settings

    check_settings({"gpu_memory_utilization": 0.5, "quantization": "fp8", "dtype": "float32"})
    with pytest.raises(MaltError, match="did you mean 'tensor_parallel_size'"):
        check_settings({"tensor_paralel_size": 2})
    with pytest.raises(MaltError, match=r"engine\.vllm\.enable_lora is set by malt-fast"):
        check_settings({"enable_lora": True})
    with pytest.raises(MaltError, match=r"lower engine\.vllm\.max_num_seqs"):
        make([Policy(base)], settings={"num_gpu_blocks_override": 1})


def test_names_of_adapters_change_with_their_weights(base, adapters, tmp_path):
    again = make_adapter(base, tmp_path / "a0", 0)
    other = make_adapter(base, tmp_path / "a1", 5)
    tail = [content_name(a).rpartition("-")[2] for a in (adapters[0], again, other)]
    assert tail[0] == tail[1] != tail[2]


def test_an_engine_whose_process_is_killed_is_noticed(base, tmp_path):
    """As on a GPU, where vLLM has a process of its own; a fresh one, for what vLLM sets once."""
    code = f"""
import os, signal
import numpy as np
from malt_fast.engines import Policy, Request, SamplingParams
from malt_fast.engines.vllm import VLLMEngine
from malt_fast.utils.errors import MaltError

if __name__ == "__main__":
    policy = Policy("{base}")
    engine = VLLMEngine([policy], dtype="float32", max_model_len=64)
    ask = lambda i: [Request(i, "q", (0,), policy, np.ones(3, np.int32), SamplingParams(), 0)]
    engine.submit(ask(0))
    while engine.pending:
        done = engine.poll()
    assert len(done[0].tokens) == 16
    (process,) = engine.processes
    engine.submit(ask(1))
    os.kill(process.pid, signal.SIGKILL)
    try:
        while engine.pending:
            engine.poll()
    except MaltError as error:
        print("told:", error)
"""
    (tmp_path / "program.py").write_text(code)
    env = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert "told: vLLM stopped" in done.stdout, done.stderr[-2000:]


# ---- the whole program ----


def test_a_whole_run_on_vllm(data, model, tmp_path, capsys):
    assert small_run.run(data, model, tmp_path / "run", "--engine.name", "vllm") == 0
    shown = capsys.readouterr().out
    assert "engine: vllm (as engine.name says)" in shown and "prefix cache hits" in shown
    forest = load_forest(tmp_path / "run")
    assert (forest.state == DONE).all()
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["systems"][0]["n"] > 0
    make([Policy(str(model), str(tmp_path / "run/adapters/refiner/final"))])  # serves, has effect


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--engine.vllm.max_model_len", "99999"], "is more than"),
        (["--engine.vllm.max_num_seq", "9"], "did you mean 'max_num_seqs'?"),
        (["--model.roles.verifier", "MODEL"], "vLLM holds one base model"),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(data, model, tmp_path, capsys, more, says):
    tiny_llama(tmp_path / "MODEL", chat_template=True)
    more = [str(tmp_path / word) if word == "MODEL" else word for word in more]
    capsys.readouterr()  # transformers' progress bars
    assert small_run.run(data, model, tmp_path / "run", "--engine.name", "vllm", *more) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


# ---- what it samples ----


@pytest.fixture(scope="module")
def engine(policies: list[Policy]):
    """A process holds one, so those of the tests above are closed by now."""
    from malt_fast.engines.vllm import VLLMEngine

    probes = {policy: np.arange(3, 40, dtype=np.int32) for policy in policies}
    engine = VLLMEngine(policies, dtype="float32", max_model_len=200, probes=probes)
    yield engine
    engine.close()


def asks(
    policies: list[Policy], n: int, temperature: float, longest: int = 60, seed: int = 0
) -> list[Request]:
    rng = np.random.default_rng(seed)
    params = SamplingParams(temperature=temperature, max_tokens=12, stop_token_ids=(END,))
    return [
        Request(
            id=i,
            question=str(i),
            path=(i,),
            policy=policies[i % len(policies)],
            prompt=rng.integers(3, 259, rng.integers(1, longest + 1)).astype(np.int32),
            params=params,
            seed=2**63 + 7919 * i,  # all 64 bits
            priority=i,
        )
        for i in range(n)
    ]


def run(engine: Engine, requests: list[Request]) -> dict[int, Completion]:
    engine.submit(requests)
    done: dict[int, Completion] = {}
    while engine.pending:
        done |= {completion.id: completion for completion in engine.poll()}
    assert len(done) == len(requests)
    return done


def test_greedy_outputs_are_those_of_transformers_and_peft(engine, base, policies):
    """Base and three adapters mixed in one batch; tokens, and log-probs of every token."""
    from peft import PeftModel

    requests = asks(policies, 24, temperature=0)
    done = run(engine, requests)
    for k, policy in enumerate(policies):
        model = AutoModelForCausalLM.from_pretrained(base)
        if policy.adapter is not None:
            model = PeftModel.from_pretrained(model, policy.adapter)
        for request in requests[k :: len(policies)]:
            out = done[request.id]
            ids = torch.tensor([[*request.prompt.tolist(), *out.tokens.tolist()]])
            with torch.no_grad():
                logp = model.eval()(input_ids=ids).logits[0].log_softmax(-1)
            logp = logp[len(request.prompt) - 1 : -1]
            assert out.tokens.tolist() == logp.argmax(-1).tolist()
            expected = logp.gather(1, torch.tensor(out.tokens, dtype=torch.int64)[:, None])[:, 0]
            np.testing.assert_allclose(out.logprobs, expected.numpy(), atol=2e-4)
            stopped = out.tokens[-1] == END
            assert out.finish_reason == ("stop" if stopped else "length")
            assert stopped or len(out.tokens) == 12


def test_seeds_give_the_same_outputs_in_any_order(engine, policies):
    requests = asks(policies, 40, temperature=1)
    first = run(engine, requests)
    random.Random(0).shuffle(requests)
    engine.submit(requests[:7])
    again = {c.id: c for c in engine.poll()}  # the rest joins a running batch
    engine.submit(requests[7:])
    while engine.pending:
        again |= {c.id: c for c in engine.poll()}
    assert all(first[i].tokens.tolist() == again[i].tokens.tolist() for i in first)
    other = run(engine, [replace(request, seed=request.seed + 1) for request in requests])
    assert any(first[i].tokens.tolist() != other[i].tokens.tolist() for i in first)
    assert len({out.tokens.tobytes() for out in first.values()}) > 30


def test_siblings_find_their_prompt_in_the_cache(engine, policies):
    (request,) = asks(policies[:1], 1, temperature=1, seed=9)
    prompt = np.arange(3, 133, dtype=np.int32)
    run(engine, [replace(request, prompt=prompt)])
    engine.prompt_tokens = engine.cached_tokens = 0
    siblings = [replace(request, id=i, prompt=prompt, seed=i) for i in range(3)]
    run(engine, siblings)
    assert engine.figures()["prefix_cache_hits"] >= 0.9  # whole blocks of 32 of 130


def test_what_does_not_fit_is_answered_with_its_reason(engine, policies):
    (request,) = asks(policies[:1], 1, temperature=1)
    long = replace(request, id=5, prompt=np.full(300, 7, np.int32))
    done = run(engine, [long, request])
    assert done[5].finish_reason == "error" and "199" in done[5].error
    assert done[0].finish_reason in ("stop", "length")


def test_a_process_holds_one_engine(engine, policies):
    with pytest.raises(MaltError, match="holds a vLLM engine already"):
        make(policies)


def test_two_replicas_answer_as_one(engine, base, policies):
    from malt_fast.engines.ray import RayEngine
    from malt_fast.engines.spec import EngineSpec

    spec = EngineSpec("vllm", EngineConfig(), "float32", "cpu", tuple(policies), max_model_len=200)
    requests = asks(policies, 40, temperature=1)
    ours = run(engine, requests)
    two = RayEngine(spec, 2)
    theirs = run(two, requests)
    assert set(two.figures()) == {"prefix_cache_hits"}
    two.close()
    assert all(ours[i].tokens.tolist() == theirs[i].tokens.tolist() for i in ours)


# ---- vLLM's own server ----


@pytest.fixture(scope="module")
def server(base: str) -> Iterator[str]:
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "200", "--block-size", "32"]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    command += ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "3"]
    env = os.environ | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines: deque[bytes] = deque(maxlen=30)
    Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.HTTPError:
            assert process.poll() is None, b"".join(lines).decode()
            time.sleep(0.5)
    yield f"{url}/v1"
    process.terminate()
    process.wait(30)


def test_a_server_of_vllm_gives_what_the_engine_gives(server, engine, base, policies):
    """The bare base, then adapters that it is asked to load (on a CPU it must not mix them)."""
    from malt_fast.engines.openai import OpenAIEngine, check_server

    settings = EngineConfig(name="openai", base_url=server, concurrency=8)
    check_server(settings, base)
    for some in (policies[:1], policies[1:]):
        requests = asks(some, 18, temperature=1)
        ours = run(engine, requests)
        client = OpenAIEngine(settings, some)
        theirs = run(client, requests)
        client.close()
        for i, out in ours.items():
            assert theirs[i].tokens.tolist() == out.tokens.tolist()
            assert theirs[i].finish_reason == out.finish_reason
            np.testing.assert_allclose(theirs[i].logprobs, out.logprobs, atol=1e-3)
