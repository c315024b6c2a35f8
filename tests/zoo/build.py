"""Builds a checkpoint of the zoo: random weights, configs, tokenizer and template."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.zoo.entries import Entry
from tests.zoo.families import COMMON, FAMILIES
from tests.zoo.templates import TEMPLATES, Template
from tests.zoo.tokenizers import EXTRA_END, make_tokenizer

PADDING = 13  # rows of the embedding that no token has, as in many checkpoints


def build(entry: Entry, folder: Path) -> Path:
    """Write the checkpoint of an entry; the same bytes every time."""
    tokenizer = build_tokenizer(entry, folder)
    torch.manual_seed(sum(entry.name.encode()))
    model = AutoModelForCausalLM.from_config(_config(entry, tokenizer))
    _vary(model, tokenizer, end_tokens(entry))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_ends(entry, folder, tokenizer)
    return folder


def build_tokenizer(entry: Entry, folder: Path) -> Any:
    """Write the tokenizer and the configs only, which suffice to make prompts."""
    template = TEMPLATES[entry.template]
    tokenizer = make_tokenizer(entry.tokenizer, template, turn_end_is_eos=entry.ends == "eos")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    _config(entry, tokenizer).save_pretrained(folder)
    _write_ends(entry, folder, tokenizer)
    return tokenizer


def end_tokens(entry: Entry) -> list[str]:
    """The tokens that end an output, wherever the checkpoint names them."""
    template = TEMPLATES[entry.template]
    ends = [_eos(entry, template), template.turn_end or template.end]
    return [*ends, EXTRA_END, template.end] if entry.ends in ("config", "generation") else ends


def _eos(entry: Entry, template: Template) -> str:
    own = template.turn_end if entry.ends == "eos" else None
    return own or template.end


def _config(entry: Entry, tokenizer: Any) -> Any:
    model_type, own = FAMILIES[entry.family]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: getattr(tokenizer, name) for name in names}
    tokens["vocab_size"] = len(tokenizer) + PADDING
    values = COMMON | own | tokens
    if "text_config" in own:
        values["text_config"] = own["text_config"] | tokens
    return AutoConfig.for_model(model_type, **values)


@torch.no_grad()
def _vary(model: Any, tokenizer: Any, ends: list[str]) -> None:
    """Random norms, and larger head rows for end tokens, so that outputs end often."""
    for name, weight in model.named_parameters():
        if "norm" in name and weight.ndim == 1:
            weight += 0.2 * torch.randn_like(weight)
    head = model.get_output_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(list(dict.fromkeys(ends)))
    head[ids] = 3 * model.config.get_text_config().initializer_range * torch.randn_like(head[ids])
    head[len(tokenizer) :] *= 0.1


def _write_ends(entry: Entry, folder: Path, tokenizer: Any) -> None:
    """Put the end tokens where the entry has them."""
    ids = tokenizer.convert_tokens_to_ids(list(dict.fromkeys(end_tokens(entry))))
    generation = folder / "generation_config.json"
    generation.unlink(missing_ok=True)
    if entry.ends == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": ids}))
    if entry.ends == "generation":
        generation.write_text(json.dumps({"eos_token_id": ids, "do_sample": True, "top_p": 0.9}))
