"""What MLflow keeps of a road: runs of trainings and evaluations, and the registered models.

- `connection`: where the store is, the first contact, errors in one line.
- `params`: nested configurations as flat parameters, within MLflow's limits.
- `runs`: one run per training whatever restarts, and the results of an evaluation.
- `callback`: the metrics of a training, sent from Ray Train's controller.
- `registry`: exported models by name, version and alias, and the way back to a folder.

`connection.open_store` gives the store that every other function takes first. MLflow takes 2 to 5 s
to import and Ray about as long, so both are imported inside functions and all but `callback` cost
nothing at `sonoray --help`.
"""
