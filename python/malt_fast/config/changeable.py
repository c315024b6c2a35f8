"""Which settings of a run may change later, by the beginnings of their names."""

EVALUATION_SETTINGS = (
    *("evaluate.", "engine.", "model.device"),
    *("task.test_path", "task.test_split", "task.test_limit"),
    "task.grader_",
)
SERVING_SETTINGS = ("serve.", "evaluate.", "engine.", "model.device", "sampling.max_tokens")
# What roles were trained with does not depend on these.
IRRELEVANT = (*EVALUATION_SETTINGS, "serve.", "store.", "report_to", "reuse")
# Going on with other values of these, beginnings and ends, replaces nothing that was trained.
HARMLESS = (
    *("evaluate.", "engine.", "serve.", "store.", "report_to", "reuse", "model.device"),
    *("model.trust_remote_code", "train.rounds", "train.packing", "train.pack_tokens"),
    *("train.side_by_side", "train.use_liger_kernel", "task.grader_"),
)
HARMLESS_ENDS = (".logging_steps", ".save_steps", ".gradient_checkpointing")
# What is learnt before anything is sampled does not depend on these.
AFTER_WARM_START = ("tree.", "preferences.", "sampling.", "train.dpo.", "train.reference")
# What samples are of.
QUESTIONS = ("task.name", "task.path", "task.subset", "task.split", "model.", "chain")
