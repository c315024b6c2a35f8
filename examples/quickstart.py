"""MALT in five minutes: sample trees, look at them, train three roles, evaluate them.

The bundled model is tiny and adds and subtracts with bad habits: it forgets carries and checks
carelessly. On two CPU cores this takes a minute or two. With QUESTIONS=20 in the environment it
takes seconds, but then shows only that everything runs.
"""

# %%
import os

import malt_fast.api as mf

questions = int(os.environ.get("QUESTIONS", "200"))

# %% [markdown]
# Settings have the same names as on the command line; `malt-fast train --help all` lists them.

# %%
setup = mf.prepare("arithmetic", {"task.limit": questions, "task.test_limit": questions})
print(setup.task.train[0])

# %% [markdown]
# Three drafts per question, three critiques per draft, three answers per critique: 27 leaves. The
# value of a leaf is 1 if it is right, else 0; the value of any other output is the mean of its
# children's values.

# %%
forest = mf.expand(setup)
forest.grade()
values = mf.credit(forest)
print(forest)
print(forest.show(0, values))

# %% [markdown]
# The same trees as a table, for pandas, polars or Arrow.

# %%
table = forest.to_pandas(values)
print(table.groupby("role", sort=False)[["value", "tokens"]].mean())

# %% [markdown]
# A role learns from its outputs of high value (SFT) and from sibling pairs (DPO).

# %%
trained = []
for role in setup.config.chain:
    data = mf.preferences(forest, values, role)
    print(data)
    trained.append(mf.RoleTrainer(data, f"runs/quickstart/{role}").train())
print(data.to_dataset("dpo")[0])

# %% [markdown]
# All systems answer the same held-out questions with the same random numbers.

# %%
print(mf.evaluate(setup, trained))

# %%
with mf.answering(setup, trained) as pipeline:
    print(pipeline.answer(setup.task.test[0].text))
