"""MALT in five minutes: sample trees, see what they say, train three roles, measure them.

The bundled world is a tiny model that adds and subtracts with bad habits: it forgets carries, and
checks carelessly. On two CPU cores this takes a minute or two. With QUESTIONS=20 in the environment
it takes seconds, and shows only that it runs.
"""

# %%
import os

import malt_fast.api as mf

questions = int(os.environ.get("QUESTIONS", "200"))

# %% [markdown]
# Settings are named as on the command line; `malt-fast train --help all` lists them.

# %%
setup = mf.prepare("arithmetic", {"task.limit": questions, "task.test_limit": questions})
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
    trained.append(mf.RoleTrainer(data, f"runs/quickstart/{role}").train())
print(data.to_dataset("dpo")[0])

# %% [markdown]
# Every system answers the same held-out questions with the same random numbers.

# %%
print(mf.evaluate(setup, trained))

# %%
with mf.answering(setup, trained) as pipeline:
    print(pipeline.answer(setup.task.test[0].text))
