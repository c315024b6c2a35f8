"""Two servers of the chain on one base model: ours on the vLLM engine, and vLLM's own.

Nothing ends an output before its last token, so that an answer is the same work for both: three
requests to the model, each with TOKENS tokens to sample. vLLM's server is asked as a client asks it
that knows the chain: for one role after the other, with prompts as token ids, which hold the tokens
that it answered with.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from http_load import read_answer
from serving_rivals import serve_pipeline

from malt_fast.config.load import make_config, with_task_defaults
from malt_fast.engines.vllm import CPU
from malt_fast.sampling.prepare import load_setup
from malt_fast.sampling.setup import Setup
from malt_fast.serving.pipeline import Pipeline
from malt_fast.tasks.prompts import Prompts

TOKENS = 32  # of every output
CONTEXT = 1024  # tokens, of both
TEMPERATURE, DTYPE = 0.3, "bfloat16"
VLLM_ENV = {  # what our engine sets for itself, too
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def chain_setup(model: Path) -> Setup:
    """The roles as a bare base model, in one pass, on vLLM."""
    values = {
        "task": {"name": "gsm8k", "path": "not-read.jsonl"},
        "model": {"name_or_path": str(model), "dtype": DTYPE},
        "engine": {"name": "vllm", "vllm": {"max_model_len": CONTEXT}},
        "sampling": {"max_tokens": TOKENS, "temperature": TEMPERATURE},
        "evaluate": {"votes": 1, "sampling": {"temperature": TEMPERATURE}},
        "serve": {"max_question": 256},
    }
    setup = load_setup(make_config(with_task_defaults(values)), questions=False)
    setup.prompts.end_ids = ()
    return setup


def serve_chain(model: Path, port: "Queue[int]") -> None:
    """Our server."""
    setup = chain_setup(model)
    serve_pipeline(Pipeline.of(setup, setup.base()), port)


@contextmanager
def vllm_server(model: Path) -> Iterator[int]:
    """vLLM's server, with the settings that our engine gives vLLM: its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", DTYPE, "--max-model-len", str(CONTEXT), "--disable-log-stats"]
    assert CPU == {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
    command += ["--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "8192", "--disable-uvicorn-access-log"]
    process = subprocess.Popen(command, env=os.environ | VLLM_ENV)
    try:
        while not _answers(port):
            assert process.poll() is None, "vLLM's server did not start"
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.HTTPError:
        return False


def run_chain(
    port: int, prompts: Prompts, questions: Sequence[str], clients: int
) -> tuple[int, float]:
    """Let so many clients answer all questions by vLLM's server: tokens sampled, and seconds."""
    begin = time.perf_counter()
    tokens = asyncio.run(_run(port, prompts, iter(questions), clients))
    return tokens, time.perf_counter() - begin


async def _run(port: int, prompts: Prompts, questions: Iterator[str], clients: int) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_client(port, prompts, questions)) for _ in range(clients)]
    return sum(task.result() for task in tasks)


async def _client(port: int, prompts: Prompts, questions: Iterator[str]) -> int:
    """Answers one question after the other; returns how many tokens were sampled."""
    sampled = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    for question in questions:
        text, segments = prompts.encode_question(question), []
        for level in range(1, len(prompts.chain) + 1):
            writer.write(completion(prompts.build(level, text, segments), seed=level))
            status, body, _ = await read_answer(reader)
            assert status == "200", body
            output = json.loads(body)["choices"][0]["token_ids"]
            segments.append(np.array(output, np.int32))
            sampled += len(output)
    writer.close()
    return sampled


def completion(prompt: Any, seed: int) -> bytes:
    """A request to vLLM's server."""
    asked = {
        "model": "base",
        "prompt": prompt.tolist(),
        "max_tokens": TOKENS,
        "temperature": TEMPERATURE,
        "seed": seed,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    body = json.dumps(asked).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
