"""Answer a question with the trained roles of a run, and print every turn.

python examples/answer.py runs/gsm8k "How many ...?"
"""

import sys

import malt_fast.api as mf


def main(run: str, question: str) -> None:
    with mf.Pipeline.load(run, {"evaluate.votes": 3}) as pipeline:
        answer = pipeline.answer(question)
    print(answer)  # every role's output in every pass, and the vote


if __name__ == "__main__":
    main(*sys.argv[1:])
