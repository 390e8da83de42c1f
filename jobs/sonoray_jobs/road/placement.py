"""Settings that say where work runs and not what comes out: no key of an output holds them."""

TRAINING_PLACEMENT = frozenset(
    {
        "num_workers",
        "min_workers",
        "collective_timeout_s",
        "deterministic",
        "cpus_per_worker",
        "data_cpus",
        "gpus_per_worker",
        "max_failures",
        "save_every",
        "keep_checkpoints",
        "allow_changed",
    }
)
"""Of section `train`. They may change when a training is resumed: checkpoints fit any number of
workers."""

EVALUATION_PLACEMENT = frozenset(
    {"actors", "actor_cpus", "actor_gpus", "batch_size", "batch_tokens"}
)
"""Of section `evaluate`."""
