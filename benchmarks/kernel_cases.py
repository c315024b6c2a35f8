"""The cases that bench_kernels.py measures: shapes by preset, and the seconds for each preset."""

from dataclasses import replace

from kernel_problems import Case

CPU = Case("linear_logprob", 1024, 512, 32768, head="frozen", sweeps=("tokens", "vocabulary"))
CPU_LOGITS = Case("logprob_from_logits", 1024, vocabulary=32768)
CPU_DPO = Case("linear_dpo", 800, 512, 32768, head="frozen", pairs=8, prompt=100)
QWEN = Case("linear_logprob", 8192, 4096, 151936, "bfloat16", "frozen", ("tokens", "vocabulary"))
LLAMA = replace(QWEN, vocabulary=128256, sweeps=("vocabulary",))
QWEN_LOGITS = Case("logprob_from_logits", 8192, vocabulary=151936, dtype="bfloat16")
QWEN_DPO = Case("linear_dpo", 16000, 4096, 151936, "bfloat16", "frozen", pairs=16, prompt=1000)
SMOKE = Case("linear_logprob", 48, 32, 515, head="frozen", sweeps=("tokens", "vocabulary"))
SMOKE_DPO = Case("linear_dpo", 40, 32, 515, head="frozen", pairs=4, prompt=7)


def trained(case: Case) -> Case:
    return replace(case, head="trained", sweeps=())


def sweep(case: Case, tokens: list[int], vocabularies: list[int]) -> list[Case]:
    return [replace(case, rows=n, sweeps=("tokens",)) for n in tokens] + [
        replace(case, vocabulary=v, sweeps=("vocabulary",)) for v in vocabularies
    ]


PRESETS = {  # the cases of targets come first
    "cpu": [
        CPU,
        CPU_LOGITS,
        trained(CPU),
        Case("linear_logprob", 256, 896, 151936, head="frozen"),  # Qwen2.5-0.5B's head
        Case("logprob_from_logits", 1024, vocabulary=151936),
        replace(CPU_LOGITS, dtype="bfloat16"),
        Case("dpo_loss", 16384),
        CPU_DPO,
        trained(CPU_DPO),
        *sweep(CPU, [128, 256, 512, 2048, 4096], [4096, 8192, 16384, 65536, 131072]),
    ],
    "gpu": [
        QWEN,
        trained(QWEN),
        QWEN_LOGITS,
        QWEN_DPO,
        trained(QWEN_DPO),
        LLAMA,
        trained(LLAMA),
        *sweep(QWEN, [512, 1024, 2048, 4096, 16384], [32000, 65536, 262144]),
        replace(QWEN, hidden=896, sweeps=()),  # Qwen2.5-0.5B's head
        replace(QWEN_LOGITS, dtype="float32", rows=4096),
        Case("dpo_loss", 16384),
    ],
    "smoke": [
        SMOKE,
        trained(SMOKE),
        replace(SMOKE, dtype="bfloat16", sweeps=()),
        Case("logprob_from_logits", 24, vocabulary=515),
        Case("dpo_loss", 64),
        SMOKE_DPO,
        trained(SMOKE_DPO),
        *sweep(SMOKE, [16], [257]),
    ],
}
SECONDS = {"cpu": 600.0, "gpu": 100.0, "smoke": 2.0}
