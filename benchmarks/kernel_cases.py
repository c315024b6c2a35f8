"""The cases that bench_kernels.py measures: shapes by preset, and the seconds for each preset."""

from dataclasses import replace

from kernel_problems import Case

CPU = Case("linear_logprob", 1024, 512, 32768, head="frozen", sweeps=("tokens", "vocabulary"))
CPU_LOGITS = Case("logprob_from_logits", 1024, vocabulary=32768)
CPU_LOSS = Case("dpo_loss", 16384)
CPU_DPO = Case("linear_dpo", 800, 512, 32768, head="frozen", pairs=8, prompt=100)
QWEN = Case("linear_logprob", 8192, 4096, 151936, "bfloat16", "frozen", ("tokens", "vocabulary"))
LLAMA = replace(QWEN, vocabulary=128256, sweeps=("vocabulary",))
QWEN_LOGITS = Case("logprob_from_logits", 8192, vocabulary=151936, dtype="bfloat16")
QWEN_DPO = Case("linear_dpo", 16000, 4096, 151936, "bfloat16", "frozen", pairs=16, prompt=1000)
WIDTHS = [512, 896, 2048, 8192]  # 896: Qwen2.5-0.5B
SMOKE = Case("linear_logprob", 48, 32, 515, head="frozen", sweeps=("tokens", "vocabulary"))
SMOKE_DPO = Case("linear_dpo", 40, 32, 515, head="frozen", pairs=4, prompt=7)


def trained(case: Case) -> Case:
    return replace(case, head="trained", sweeps=())


def in_bfloat16(case: Case) -> Case:
    return replace(case, dtype="bfloat16", sweeps=())


def sweep(case: Case, tokens: list[int], vocabularies: list[int], widths: list[int]) -> list[Case]:
    """The case with other numbers of rows, vocabularies and widths of hidden."""
    return [
        *(replace(case, rows=n, sweeps=("tokens",)) for n in tokens),
        *(replace(case, vocabulary=v, sweeps=("vocabulary",)) for v in vocabularies),
        *(replace(case, hidden=h, sweeps=()) for h in widths),
    ]


PRESETS = {  # the cases of targets come first
    "cpu": [
        CPU,
        CPU_LOGITS,
        trained(CPU),
        Case("linear_logprob", 256, 896, 151936, head="frozen"),  # Qwen2.5-0.5B's head
        Case("logprob_from_logits", 1024, vocabulary=151936),
        CPU_LOSS,
        CPU_DPO,
        trained(CPU_DPO),
        in_bfloat16(CPU),
        in_bfloat16(trained(CPU)),
        in_bfloat16(CPU_LOGITS),
        *sweep(CPU, [64, 128, 256, 512, 2048, 4096], [8192, 16384, 65536, 131072, 262144], [2048]),
        *sweep(replace(CPU, rows=256), [], [], [4096, 8192]),
    ],
    "gpu": [
        QWEN,
        trained(QWEN),
        QWEN_LOGITS,
        QWEN_DPO,
        trained(QWEN_DPO),
        LLAMA,
        trained(LLAMA),
        *sweep(QWEN, [64, 512, 1024, 2048, 4096, 16384], [8192, 32000, 65536, 262144], WIDTHS),
        replace(QWEN_LOGITS, dtype="float32", rows=4096),
        Case("dpo_loss", 16384),
    ],
    "smoke": [
        SMOKE,
        trained(SMOKE),
        in_bfloat16(SMOKE),
        Case("logprob_from_logits", 24, vocabulary=515),
        Case("dpo_loss", 64),
        SMOKE_DPO,
        trained(SMOKE_DPO),
        *sweep(SMOKE, [16], [257], [40]),
    ],
}
SECONDS = {"cpu": 600.0, "gpu": 100.0, "smoke": 2.0}
