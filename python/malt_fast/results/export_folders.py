"""The folders of an export: data, adapters, merged checkpoints. Each appears whole or not at all.

Functions return the names of the folders they wrote, below `out`, and the problems they met.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from malt_fast.models.adapter_files import no_adapter
from malt_fast.models.loading import load_causal
from malt_fast.models.saving import saving
from malt_fast.models.tokenizer import load_tokenizer
from malt_fast.results.cards import KINDS, Facts, data_card, model_card
from malt_fast.results.export_rows import Size, write_rows
from malt_fast.results.inspect_logs import write_inspect_logs
from malt_fast.results.opened_run import RoleForest, reference_logps
from malt_fast.results.run_contents import read_run
from malt_fast.results.transcripts import open_transcripts, read_answers
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError, Problems, first_line
from malt_fast.utils.files import make_folder, replacing_folder, write_text
from malt_fast.utils.quiet import quiet
from malt_fast.utils.seals import NOTE, seal_of

MARK = "export.json"  # tells an export from a user's own folder
INSPECT = "inspect"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def begin_export(out: Path) -> None:
    """Create or reuse the folder `out`. Raises MaltError unless it is empty or an export."""
    check_out(out)
    make_folder(out)
    if not (out / MARK).is_file():
        unfinished = "all: the export was stopped, give the same command again"
        write_summary(out, {"folders": [], "rows": {}, "not_exported": [unfinished]})


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    write_text(out / MARK, json.dumps(summary, indent=2) + "\n")


def check_out(out: Path) -> None:
    if not (out / MARK).is_file() and out.exists() and not _is_empty(out):
        raise MaltError(f"{out} exists and is no export: give another --out DIR")


def _is_empty(out: Path) -> bool:
    """Whether a folder holds only leftovers of an export that was killed at its start."""
    return out.is_dir() and all(path.name.startswith(f".{MARK}.") for path in out.iterdir())


def export_data(
    run: Path, out: Path, facts: Facts, forests: Sequence[RoleForest]
) -> tuple[dict[str, dict[str, Size]], Problems]:
    """Write the rows of every role that has a forest; the sizes of its files."""
    sizes, problems = {}, list[str]()
    for role in dict.fromkeys(one.role for one in forests):
        own, references = [one for one in forests if one.role == role], []
        for one in own:
            try:
                references.append(reference_logps(run, one))
            except MaltError as error:
                problems.append(f"ref_*_logps of data/{role}/dpo.parquet: {error}")
        with new_folder(out / "data" / role) as folder:
            whole = len(references) == len(own)
            sizes[role] = write_rows(folder, own, references if whole else None)
            write_text(folder / "README.md", data_card(facts, role, sizes[role]))
        empty = [kind for kind in KINDS if kind not in sizes[role]]
        problems += [f"data/{role}/{kind}: the forest holds none" for kind in empty]
    return sizes, problems


def export_adapters(out: Path, facts: Facts) -> list[str]:
    """Copy every adapter and write its card. Raises MaltError for one that changes meanwhile."""
    for role, adapter in facts.adapters.items():
        with new_folder(out / "adapters" / role) as folder:
            for file in (*ADAPTER, NOTE):
                shutil.copyfile(adapter.folder / file, folder / file)
            if seal_of(folder) is None:
                raise MaltError(
                    f"{adapter.folder} was replaced while it was copied: export again when the "
                    "run has ended"
                )
            (folder / NOTE).unlink()
            write_text(folder / "README.md", model_card(facts, role))
    return [f"adapters/{role}" for role in facts.adapters]


def export_merged(out: Path, facts: Facts) -> tuple[list[str], Problems]:
    """Write base and adapter of every role as one checkpoint, with its tokenizer and card."""
    names, problems = [], list[str]()
    copies = {
        role: replace(one, folder=out / "adapters" / role) for role, one in facts.adapters.items()
    }
    facts = replace(facts, adapters=copies)  # a training may be replacing those of the run
    for role in facts.adapters:
        try:
            with quiet():
                parts = merge(facts, role)
                with saving(out), new_folder(out / "merged" / role) as folder:
                    for part in parts:
                        _save(part, folder)
                    write_text(folder / "README.md", model_card(facts, role, merged=True))
            names.append(f"merged/{role}")
        except MaltError as error:
            problems.append(f"merged/{role}: {error}")
    return names, problems


def _save(part: Any, folder: Path) -> None:
    try:
        part.save_pretrained(folder)
    except (ValueError, TypeError, RuntimeError) as error:
        raise MaltError(f"transformers does not save it ({first_line(error)})") from None


def merge(facts: Facts, role: str) -> tuple[Any, Any]:
    """(model, tokenizer), in the precision that the role was trained in. Raises MaltError."""
    import peft
    import torch

    if facts.config is None:  # what an adapter names as its base could be anybody's
        raise MaltError("without the run's settings its base model is not known")
    model, base = facts.config.model, facts.config.base_model(role)
    adapter = str(facts.adapters[role].folder)
    tokenizer = load_tokenizer(base, model.chat_template, model.trust_remote_code)
    causal = load_causal(base, model.trust_remote_code, dtype=getattr(torch, model.dtype))
    if getattr(causal, "is_quantized", False):  # a merge into 4 bits would round the adapter away
        causal = causal.dequantize(getattr(torch, model.dtype))
        causal._weight_conversions = None  # transformers cannot undo those of 4-bit weights
    try:
        merged = peft.PeftModel.from_pretrained(causal, adapter).merge_and_unload()
    except Exception as error:  # PEFT, safetensors and torch raise many kinds
        raise no_adapter(adapter, error) from None
    merged.generation_config = _mended(merged.generation_config)
    return merged, tokenizer


def _mended(generation: Any) -> Any:
    """A generation config that transformers saves: many hub models have one that it does not."""
    from transformers import GenerationConfig

    try:
        generation.validate(strict=True)
    except ValueError:
        tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        kept = {name: getattr(generation, name) for name in tokens}
        return GenerationConfig(do_sample=generation.do_sample, **_sampling(generation), **kept)
    return generation


def _sampling(generation: Any) -> dict[str, Any]:
    """Its sampling parameters if it samples: without, they are what transformers objects to."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: getattr(generation, name) for name in names if generation.do_sample}


def export_inspect(run: Path, out: Path) -> tuple[list[str], Problems]:
    """Write the evaluation as logs of Inspect; nothing where it cannot be read."""
    contents, _ = read_run(run)
    try:
        outputs, unread = read_answers(run, contents.evaluation)
        if unread:
            return [], unread
        view = open_transcripts(run, contents, outputs)
    except MaltError as error:
        return [], [f"{INSPECT}: {error}"]
    with new_folder(out / INSPECT) as folder, quiet():
        write_inspect_logs(folder, contents, view)
    return [INSPECT], []


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which then replaces `path`. Raises KeyboardInterrupt after Ctrl-C."""
    interrupt.check()
    make_folder(path.parent)
    with replacing_folder(path) as folder:
        yield folder
