"""The file beside a training's checkpoints that names its MLflow run; local or remote.

A training is its Ray Train storage path and name, so the run's id is kept there
(`<storage_path>/<name>/mlflow_run_id`) and shares the fate of the checkpoints: copied with them,
deleted with them.
"""

import uuid
from contextlib import suppress
from pathlib import Path

RUN_ID_FILE = "mlflow_run_id"


class RunIdFile:
    """Reads and writes the file."""

    def __init__(self, storage_path: str | Path, name: str) -> None:
        from pyarrow.fs import FileSystem

        self._filesystem, root = FileSystem.from_uri(str(storage_path))
        self._folder = f"{root.rstrip('/')}/{name}"
        self.path = f"{self._folder}/{RUN_ID_FILE}"

    def read(self) -> str | None:
        """Return the run's id, None where the training never ran."""
        try:
            with self._filesystem.open_input_stream(self.path) as stream:
                text: str = stream.read().decode()
        except FileNotFoundError:
            return None
        return text.strip() or None

    def write(self, run_id: str) -> None:
        """Record the run's id, all or nothing."""
        partial = f"{self.path}.{uuid.uuid4().hex[:8]}.partial"
        self._filesystem.create_dir(self._folder, recursive=True)
        with self._filesystem.open_output_stream(partial) as stream:
            stream.write(run_id.encode())
        self._filesystem.move(partial, self.path)

    def remove(self) -> None:
        """Forget the run."""
        with suppress(FileNotFoundError):
            self._filesystem.delete_file(self.path)
