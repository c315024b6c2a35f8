"""What settings are called in the programs that users come from, and what to write here."""

HABITS = {
    "output_dir": "run",
    "out_dir": "run",
    "resume_from_checkpoint": "run",
    "resume": "run",
    "run_name": "run",
    "logging_dir": "run",
    "wandb": "report_to",
    "overwrite_output_dir": "overwrite",
    "dry_run": "plan",
    "config_file": "config",
    "model": "model.name_or_path",
    "model_id": "model.name_or_path",
    "tokenizer": "model.name_or_path",
    "torch_dtype": "model.dtype",
    "task": "task.name",
    "tasks": "task.name",
    "dataset": "task.path",
    "dataset_name": "task.path",
    "train_file": "task.path",
    "dataset_config": "task.subset",
    "dataset_config_name": "task.subset",
    "dataset_train_split": "task.split",
    "dataset_test_split": "task.test_split",
    "reward_funcs": "task.grader",
    "max_samples": "task.limit",
    "max_train_samples": "task.limit",
    "eval_dataset": "task.test_path",
    "engine": "engine.name",
    "backend": "engine.name",
    "tensor_parallel_size": "engine.vllm.tensor_parallel_size",
    "gpu_memory_utilization": "engine.vllm.gpu_memory_utilization",
    "max_model_len": "engine.vllm.max_model_len",
    "max_num_seqs": "engine.vllm.max_num_seqs",
    "num_generations": "tree.branching",
    "n": "tree.branching",
    "max_new_tokens": "sampling.max_tokens",
    "max_completion_length": "sampling.max_tokens",
    "lr": "train.sft.learning_rate",
    "epochs": "train.sft.num_train_epochs",
    "batch_size": "train.sft.per_device_train_batch_size",
    "max_seq_length": "train.sft.max_length",
    "ref_model": "train.reference",
    "lora_r": "lora.r",
    "lora_target_modules": "lora.target_modules",
    "num_processes": "engine.replicas",
    "num_gpus": "engine.replicas",
    "gpus": "engine.replicas",
    "hub_model_id": "push_to_hub",  # of export
}

NO_EVAL = "no validation loss is computed during training; a finished run is evaluated"
EXPORT = "`python -m malt_fast.export RUN --push_to_hub NAME` uploads what a finished run trained"
TOKEN = "settings are written down, so set HF_TOKEN in the environment instead"
REVISION = (
    "download the revision by `hf download REPO --revision REV --local-dir DIR` and give "
    "--model.name_or_path DIR"
)
# Where a name alone does not do; by the last part of a setting's name.
INSTEAD = {
    "deepspeed": "DeepSpeed is not supported; FSDP2 shards a model, by the commands in "
    "docs/cluster.md",
    "use_vllm": "write `--engine.name vllm`",
    "revision": REVISION,
    "model_revision": REVISION,
    "attn_implementation": "attention is chosen by packing and device, so leave it out",
    "quantization": "`--train.load_in_4bit true` trains on a base model in 4 bits",
    "use_peft": "roles are always trained as LoRA adapters, so leave it out",
    "modules_to_save": "only LoRA layers are trained; --lora.target_modules names them",
    "lora_modules_to_save": "only LoRA layers are trained; --lora.target_modules names them",
    "use_dora": "DoRA is not supported; --lora.use_rslora scales by the square root of the rank",
    "optim": "AdamW is the only optimiser, so leave it out",
    "fp16": "there is no training in fp16; write `--train.sft.bf16 true --train.dpo.bf16 true`",
    "warmup_ratio": "`--train.sft.warmup_steps 0.1` is a share of all updates, as any number below "
    "1; the same for --train.dpo.warmup_steps",
    "gradient_checkpointing": "write auto or full, as in `--train.sft.gradient_checkpointing full "
    "--train.dpo.gradient_checkpointing full`",
    "save_total_limit": "only the newest checkpoint of a stage is kept, so leave it out",
    "eval_steps": NO_EVAL,
    "eval_strategy": NO_EVAL,
    "do_eval": NO_EVAL,
    "per_device_eval_batch_size": NO_EVAL,
    "load_best_model_at_end": NO_EVAL,
    "token": TOKEN,
    "hf_token": TOKEN,
    "push_to_hub": EXPORT,
    "hub_model_id": EXPORT,
}
