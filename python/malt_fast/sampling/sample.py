"""Samples a forest, with every output in the store as it comes, and none sampled twice."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cache
from tempfile import TemporaryFile

import numpy as np

from malt_fast._core.forest import Forest
from malt_fast.config.schema import Config
from malt_fast.engines import Completion, Engine, Policy
from malt_fast.engines.stored import StoredEngine
from malt_fast.forest.build import UNASKED, build_forest
from malt_fast.models.identity import adapter_identity, content, model_identity
from malt_fast.sampling.engine_choice import open_engine
from malt_fast.sampling.expand import Slot, Wave, grow
from malt_fast.sampling.setup import Setup
from malt_fast.store.store import Ints, Samples, Store
from malt_fast.tasks.task import Question
from malt_fast.utils import interrupt
from malt_fast.utils.errors import MaltError

# Called with what was settled since the last call: completions, and all nodes that failed.
OnDone = Callable[[list[Completion], list[int], Engine], None]
# The nodes to sample next, ascending, from the forest as it stands; none: that is all.
NextWave = Callable[[Forest], Ints]


def sample(
    setup: Setup,
    samples: Samples,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    evaluating: bool = False,
    on_done: OnDone | None = None,
    next_wave: NextWave | None = None,
) -> tuple[Forest, Ints, dict[str, float]]:
    """Sample a shape under every question; outputs that the store holds are not sampled again.

    next_wave: chooses what of the shape is sampled, as it goes; else all of it is.

    Returns the forest, the store's row of every node (-1: none), and the engine's figures. However
    it is stopped, the same call goes on from the outputs that are in the store. Raises MaltError if
    the engine cannot go on, KeyboardInterrupt if the user asked for a stop.
    """
    params, store = setup.params(evaluating=evaluating), samples.store
    prompts = setup.evaluation_prompts
    policies = {slot.policy: slot.role for slot in shape}
    parents = [slot.parent for slot in shape]

    def forest_so_far() -> Forest:
        forest = build_forest(parents, len(questions), rows, store)
        if forest is None:
            raise MaltError(
                f"{store.folder} does not give back what was written to it: check the disk"
            )
        return forest

    with row_map(store, len(questions) * (1 + len(shape))) as rows:
        engine = StoredEngine(
            store,
            samples.others,
            lambda: open_engine(setup, policies, params),
            identify(setup.config),
            setup.prompts.fingerprint,
            rows,
        )
        try:
            with closing(engine):
                for wave in waves(rows, forest_so_far, next_wave):
                    for settled in grow(questions, shape, prompts, params, engine, seed, wave):
                        if any(settled) and on_done is not None:
                            on_done(*settled, engine)
                        interrupt.check()
                    store.commit_all()
                figures = engine.figures()
        except MaltError:
            interrupt.check()  # engines in other processes hear of it first
            raise
        finally:
            store.commit_all()
        return forest_so_far(), np.array(rows), figures


def waves(
    rows: Ints, forest_so_far: Callable[[], Forest], next_wave: NextWave | None
) -> Iterator[Wave | None]:
    """What to sample: everything (None), or wave after wave, marked in `rows` as it is asked."""
    if next_wave is None:
        yield None
        return
    rows[:] = UNASKED
    while len(nodes := next_wave(forest := forest_so_far())):
        rows[nodes] = -1
        yield Wave(nodes, forest)


@contextmanager
def row_map(store: Store, nodes: int) -> Iterator[Ints]:
    """int64[nodes] of -1, mapped from an unnamed file in the store's folder to save memory."""
    with TemporaryFile(dir=store.folder) as file:
        try:  # a full disk is an error here, not a signal at the first write
            os.posix_fallocate(file.fileno(), 0, 8 * max(nodes, 1))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(store.folder)) from None
        rows = np.memmap(file, np.int64, "w+", shape=(max(nodes, 1),))[:nodes]
        rows[:] = -1
        yield rows


def identify(config: Config) -> Callable[[Policy], str]:
    """A text for each policy that identifies its weights; recordings count as weights."""
    if config.engine.name == "replay":
        assert config.engine.path is not None
        recorded = f"recorded {content(config.engine.path)}"
        return lambda policy: recorded
    dtype = config.model.dtype
    return cache(
        lambda policy: (
            f"{model_identity(policy.base)} {dtype} {adapter_identity(policy.adapter)}".strip()
        )
    )


def fingerprint(
    setup: Setup,
    questions: Sequence[Question],
    shape: Sequence[Slot],
    seed: str,
    *,
    evaluating: bool = False,
    chosen_by: str = "",
) -> str:
    """Hash of everything the sampled tokens depend on. chosen_by: identifies `next_wave`."""
    weights = identify(setup.config)
    prompts = setup.evaluation_prompts if evaluating else setup.prompts
    parts = [
        chosen_by,
        prompts.as_json(),
        setup.prompts.fingerprint,
        seed,
        [(question.id, question.text) for question in questions],
        [(s.parent, s.role, s.path, s.reads, weights(s.policy)) for s in shape],
        [asdict(p) for p in setup.params(evaluating=evaluating)],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
