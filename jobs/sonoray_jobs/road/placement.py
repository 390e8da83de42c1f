"""Settings that say where work runs and not what comes out: no key of an output holds them."""

TRAINING_PLACEMENT = frozenset(
    {"num_workers", "cpus_per_worker", "data_cpus", "gpus_per_worker", "max_failures"}
)
"""Of section `train`. They may change when a training is resumed: checkpoints fit any number of
workers."""

EVALUATION_PLACEMENT = frozenset(
    {"actors", "actor_cpus", "actor_gpus", "batch_size", "batch_tokens"}
)
"""Of section `evaluate`."""
