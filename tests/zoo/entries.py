"""The zoo's list: one checkpoint a line, every kind of tokenizer and template at least twice."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """A checkpoint, as keys of FAMILIES, MAKERS and TEMPLATES."""

    name: str
    family: str
    tokenizer: str
    template: str
    ends: Literal["eos", "added", "config", "generation"]  # where the end of a turn is named
    fast: bool = False  # whether the fast suite checks its weights, too


ZOO = (
    Entry("llama-3", "Llama", "bytes, Llama 3", "llama3", "generation", fast=True),
    Entry("llama-2", "Llama", "SentencePiece, Llama 2", "mistral", "eos"),
    Entry("qwen2", "Qwen2", "bytes, Qwen2", "chatml", "generation"),
    Entry("qwen2-chatml-base", "Qwen2", "bytes, Qwen2", "chatml", "added"),
    Entry("qwen3", "Qwen3", "bytes, Qwen2", "thinking", "eos", fast=True),
    Entry("qwen3-tiktoken", "Qwen3", "bytes, tiktoken", "thinking", "config"),
    Entry("qwen3-moe", "Qwen3-MoE", "bytes, Qwen2", "chatml", "config"),
    Entry("qwen3-moe-base", "Qwen3-MoE", "bytes, tiktoken", "none, no begin", "eos"),
    Entry("mistral", "Mistral, window", "Metaspace, first", "mistral", "eos", fast=True),
    Entry("mistral-chatml", "Mistral, window", "SentencePiece, Llama 2", "chatml", "added"),
    Entry("gemma-2", "Gemma 2", "SentencePiece, Gemma", "gemma", "generation"),
    Entry("gemma-2-base", "Gemma 2", "Metaspace, never", "none", "eos"),
    Entry("gemma-3", "Gemma 3", "SentencePiece, Gemma", "gemma", "config", fast=True),
    Entry("gemma-3-unigram", "Gemma 3", "unigram, no prefix", "gemma", "added"),
    Entry("gemma-3-images", "Gemma 3, images", "SentencePiece, Gemma", "gemma", "generation"),
    Entry("gemma-3-images-2", "Gemma 3, images", "Metaspace, never", "llama3", "eos"),
    Entry("phi-3", "Phi-3, longrope", "Metaspace, first", "drops system", "added"),
    Entry("phi-4-mini", "Phi-3, longrope", "bytes, tiktoken", "drops system", "generation"),
    Entry("pythia", "GPT-NeoX", "bytes, GPT-2", "none, no begin", "eos", fast=True),
    Entry("gpt-neox-chat", "GPT-NeoX", "bytes, GPT-2", "drops system", "added"),
    Entry("olmo-2", "OLMo2", "bytes, GPT-2", "llama3", "config"),
    Entry("olmo-2-prefix", "OLMo2", "unigram, prefix", "chatml", "eos"),
    Entry("granite", "Granite, scaled", "bytes, GPT-2", "chatml", "eos"),
    Entry("granite-base", "Granite, scaled", "unigram, no prefix", "none", "eos"),
    Entry("smollm3", "SmolLM3", "bytes, Llama 3", "thinking", "generation"),
    Entry("smollm3-always", "SmolLM3", "Metaspace, always", "thinking", "added"),
    Entry("command-r", "Cohere, scaled", "bytes, GPT-2", "llama3", "eos"),
    Entry("cohere-base", "Cohere, scaled", "unigram, prefix", "none", "eos"),
    Entry("gpt-oss", "gpt-oss", "bytes, tiktoken", "llama3", "generation"),
    Entry("deepseek-v3", "DeepSeek-V3", "bytes, Llama 3", "mistral", "eos"),
    Entry("glm-4", "GLM-4", "bytes, tiktoken", "chatml", "config"),
    Entry("gemma-4", "Gemma 4", "SentencePiece, Gemma", "gemma", "config"),
    Entry("seed-oss", "Seed-OSS, dropout", "bytes, Qwen2", "thinking", "generation"),
    Entry("opt", "OPT, dropout", "bytes, GPT-2", "none", "eos"),
    Entry("phi-3.5-moe", "PhiMoE", "Metaspace, first", "drops system", "added"),
    Entry("gpt-2", "GPT-2", "bytes, GPT-2", "none, no begin", "eos"),
    Entry("bloom", "Bloom, alibi", "Metaspace, always", "none", "eos"),
    Entry("qwen3-next", "Qwen3-Next, linear", "bytes, Qwen2", "thinking", "eos"),
    Entry("mamba", "Mamba", "bytes, GPT-2", "none, no begin", "eos"),
)
