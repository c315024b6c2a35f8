"""What an installed wheel must do at least; cibuildwheel runs this as a script."""

from pathlib import Path

from malt_fast.kernels import dpo_loss

import malt_fast
from malt_fast._core.forest import Forest, credit


def main() -> None:
    forest = Forest()
    question = forest.add_questions(1)
    first = int(forest.reserve([question], [2])[0])
    forest.complete([first, first + 1], [1, 2], [0, 1, 2], [0, 0])
    forest.set_outcomes([first, first + 1], [1, 0])
    assert credit(forest).value.tolist() == [0.5, 1, 0]
    assert callable(dpo_loss)
    package = Path(malt_fast.__file__).parent
    for name in (
        "py.typed",
        "demo/model/model.safetensors",
        "tasks/gsm8k.yaml",
        "results/vendor/uPlot.min.css",
    ):
        assert (package / name).is_file(), name


if __name__ == "__main__":
    main()
