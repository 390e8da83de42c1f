"""Training studies by their vectors, and the reports of those that look most alike.

Each study is shown to the service once, for its vector (`/v1/embeddings`); the stage is kept by the
digest of the model. The search is exact: one product with all vectors, 0.06 s for
100,000 of width 192 on a busy core, which is little beside a call. A vector database (Lance) would
bring 225 MB into every environment and image for it, and an index to keep.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.choosing.held_out import HoldOut, is_held_out
from sonoray.study.contract import Study, Task, iter_studies
from sonoray_jobs.service.sent_pictures import pictures_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sonoray.workspace import Workspace
    from sonoray_jobs.evaluation.roles.calls import Endpoint

_FILE = "memory.parquet"
_CODE = ("sonoray_jobs.evaluation.roles.memory",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """N training studies."""

    patients: "npt.NDArray[np.str_]"
    """(N,)."""
    reports: tuple[str, ...]
    vectors: "npt.NDArray[np.float32]"
    """(N, D), each of length 1."""

    def alike(self, vector: Sequence[float], patient_key: str, most: int) -> list[str]:
        """Reports of the studies that look most alike, the nearest first; none of the patient's.

        Args:
            vector: (D,) of length 1.
            patient_key: who is asked about.
            most: how many.
        """
        import numpy as np

        near = self.vectors @ np.asarray(vector, np.float32)
        near[self.patients == patient_key] = -np.inf
        most = min(most, int(np.isfinite(near).sum()))
        if not most:
            return []
        best = np.argpartition(-near, most - 1)[:most]
        return [self.reports[each] for each in best[np.argsort(-near[best], kind="stable")]]


def make_memory(
    workspace: "Workspace", dataset: str, endpoint: "Endpoint", hold_out: HoldOut, most: int
) -> tuple[Memory, StageOutput]:
    """Have the service look at training studies with reports; what it saw before is kept.

    Args:
        workspace: has the dataset.
        dataset: its name.
        endpoint: the served model.
        hold_out: classes that no role shall see.
        most: studies, the first of them.

    Raises:
        DataError: no training study has images and a report.
        ServingError: the service cannot be reached, refuses or gives no vector.
    """
    output = workspace.dataset(dataset)
    made = run_stage(
        Stage(
            name=f"memory-{dataset}",
            config={"most": most, "hold_out": {key: list(hold_out[key]) for key in hold_out}},
            inputs=[output.key, endpoint.model.digest],
            code=_CODE,
        ),
        workspace.stages,
        lambda folder: _look(folder, output.path, endpoint, hold_out, most),
    )
    return _read(made.path / _FILE), made


def _reported(dataset: Path, hold_out: HoldOut) -> Iterator[tuple[Study, str]]:
    for study in iter_studies(dataset, split="train"):
        text = next((turn.answer for turn in study.turns if turn.task is Task.REPORT), "")
        if text and not is_held_out(study, hold_out):
            yield study, text


def _look(
    folder: Path, dataset: Path, endpoint: "Endpoint", hold_out: HoldOut, most: int
) -> Mapping[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.cluster.progress import progress

    found = list(islice(_reported(dataset, hold_out), most))
    if not found:
        raise DataError(
            f"no training study of {dataset.name!r} has images and a report, which the assistant "
            "searches; ingest reports, or leave it out: --role general-practitioner --role "
            "radiologist --role specialist"
        )
    rows, width = [], 0
    for study, text in progress(found, "look at training studies"):
        vector, _ = endpoint.vector(pictures_of(dataset, study))
        width = len(vector)
        rows.append({"patient_key": study.patient_key, "report": text, "vector": vector})
    vector_type = pa.list_(pa.float32(), width)
    texts = [(name, pa.string()) for name in ("patient_key", "report")]
    schema = pa.schema([*texts, ("vector", vector_type)])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / _FILE)
    return {"num_studies": len(rows), "width": width}


def _read(path: Path) -> Memory:
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    column = table.column("vector").combine_chunks()
    return Memory(
        patients=np.array(table.column("patient_key").to_pylist(), np.str_),
        reports=tuple(table.column("report").to_pylist()),
        vectors=np.asarray(column.values).reshape(len(column), -1),
    )
