"""MALT in five minutes: sample trees, see what they say, train three roles, measure them.

The bundled world is a tiny model that adds and subtracts with bad habits: it forgets carries, and
checks carelessly. On two CPU cores this takes about a minute. With `python examples/quickstart.py
--limit 20` it takes seconds, and shows nothing but that it runs.
"""

# %%
import argparse

import malt_fast.api as mf

parser = argparse.ArgumentParser()
parser.add_argument("--limit", type=int, default=200, help="questions to train on")
parser.add_argument("--out", default="out/quickstart", help="where adapters go")
args, _ = parser.parse_known_args()

# %% [markdown]
# Settings are named as on the command line; `malt-fast train --help all` lists them.

# %%
setup = mf.prepare("arithmetic", {"task.limit": args.limit, "task.test_limit": args.limit})
print(setup.task.train[0])

# %% [markdown]
# Three drafts a question, three critiques a draft, three answers a critique: 27 leaves. The value
# of a leaf is whether it is right, that of any other output the mean of what came of it.

# %%
forest = mf.expand(setup)
forest.grade()
values = mf.credit(forest)
print(forest)
print(forest.show(0, values))

# %% [markdown]
# The same as a table, for pandas, polars or arrow.

# %%
table = forest.to_pandas(values)
print(table.groupby("role", sort=False)[["value", "tokens"]].mean())

# %% [markdown]
# A role learns from its outputs of high value, and from siblings of which one is better.

# %%
trained = []
for role in setup.config.chain:
    data = mf.preferences(forest, values, role)
    print(data)
    trained.append(mf.RoleTrainer(data, f"{args.out}/{role}").train())
print(data.to_dataset("dpo")[0])

# %% [markdown]
# Every system answers the same held-out questions with the same random numbers.

# %%
print(mf.evaluate(setup, trained))

# %%
with mf.answering(setup, trained) as pipeline:
    print(pipeline.answer(setup.task.test[0].text))
