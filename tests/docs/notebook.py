"""Writes examples/quickstart.ipynb from quickstart.py: `python -m tests.docs.notebook`."""

import json
import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def notebook(script: str) -> str:
    """The notebook, as JSON, of a script whose cells begin with `# %%` or `# %% [markdown]`."""
    doc, *cells = re.split(r"^# %%", script, flags=re.MULTILINE)
    made = [_cell("markdown", doc.strip().strip('"').strip())]
    for cell in cells:
        kind, _, text = cell.partition("\n")
        if kind.strip() == "[markdown]":
            made.append(_cell("markdown", re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)))
        else:
            made.append(_cell("code", text.strip()))
    cells_json = [{**cell, "id": f"cell-{i}"} for i, cell in enumerate(made)]
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    whole = {"cells": cells_json, "metadata": python, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict:
    cell = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


if __name__ == "__main__":
    script = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8")
    (EXAMPLES / "quickstart.ipynb").write_text(notebook(script), encoding="utf-8")
