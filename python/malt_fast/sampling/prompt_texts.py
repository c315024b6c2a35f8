"""The prompts of a run as text, for people to read before a token is sampled."""

from malt_fast.sampling.setup import Setup

EXAMPLE = "How much is 12 + 34?"


def prompt_texts(setup: Setup) -> str:
    """Every role's prompt for the first training question.

    Marks enclose what is put into the wording: ⟪the question⟫ and ⟪the output of a role⟫. The
    heading counts the tokens of each part, in order.
    """
    prompts, task = setup.evaluation_prompts, setup.task
    question = task.train[0].text if task.train else EXAMPLE
    known = len(prompts.encode_question(question))
    shown = []
    for number, name in enumerate(prompts.names, 1):
        text, counts, total = "", list[str](), known
        for part, tokens, source in prompts.parts(number):
            asked = source == "question"
            segment = question if asked else f"output of the {source}"
            text += part + (f"⟪{segment}⟫" if source else "")
            counts += [f"{tokens} fixed"] if tokens else []
            counts += [f"{known} question" if asked else f"the {source}'s output"] * bool(source)
            total += tokens
        shown.append(f"===== {name}: {total:,} tokens ({' + '.join(counts)}) =====\n{text}\n")
    return "\n".join([*shown, *(f"note: {join}\n" for join in prompts.joined())])
