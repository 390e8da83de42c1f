"""When a training is saved, by whom, and where its checkpoints lie until it is finished."""
