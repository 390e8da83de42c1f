"""Names planted in a private data set; neither features, runs, answers nor logs may hold them."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from sonoray.ingest.run import ingest
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.study.identifiers import Identifiers
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KEY = "02" * 32
"""It gives every split a patient; under a random one none of the twelve may be for the test."""
CANARIES = ("Qxvorbantel", "钱三丰", "PX4821", "ACC7731906", "13912345678", "2031-05-17")
JOBS = (bootstrap.run, embed.run, train.run, evaluate.run)


class PrivatePhantom(PhantomSource):
    """The phantom as a hospital would have it: names in texts and references."""

    def iter_studies(self):
        """Yield every study with canaries in it."""
        for raw in super().iter_studies():
            yield dataclasses.replace(
                raw,
                ref=f"Qxvorbantel 2031-05-17 {raw.ref}",
                patient_ref=f"PX4821{raw.patient_ref}",
                identifiers=Identifiers(names=("Qxvorbantel=钱^三丰",), numbers=("ACC7731906",)),
                study_date="20310517",
                turns=tuple(
                    dataclasses.replace(turn, question=f"钱三丰 13912345678 {turn.question}")
                    for turn in raw.turns
                ),
                images=tuple(
                    dataclasses.replace(image, ref=f"Qxvorbantel/{image.ref}")
                    for image in raw.images
                ),
            )


def find_leaks(folder: Path):
    """By file: the canaries in its name, its bytes and, of tables, its rows."""
    leaks = {}
    for file in filter(Path.is_file, folder.rglob("*")):
        content = str(file.relative_to(folder)).encode() + file.read_bytes()
        if file.suffix == ".parquet":
            content += str(pq.read_table(file).to_pylist()).encode()
        encodings = ("utf-8", "utf-16-le", "gb18030", "unicode_escape")
        found = {word for word in CANARIES for each in encodings if word.encode(each) in content}
        if found:
            leaks[str(file)] = found
    return leaks


def test_nothing_that_identifies_reaches_features_runs_or_logs(
    ray_local, tiny_road, tmp_path, capfd
):
    workspace = Workspace.open(tmp_path / "ws")
    key = workspace.root / "identity.key"
    key.write_text(KEY, encoding="ascii")
    key.chmod(0o600)
    source = PrivatePhantom(tiny_road.phantom, name="kidney", public=False)
    ingest(source, workspace, tiny_road.ingest)
    common = {"workspace": workspace, "road": tiny_road, "dataset": "kidney"}
    said = [line for job in JOBS for line in job(**common).lines()]
    logs = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    assert (workspace.root / "mlflow.db").exists()
    assert list(logs.rglob("*.log"))
    assert find_leaks(workspace.root) == {}
    assert find_leaks(logs) == {}
    printed = "".join([*said, *capfd.readouterr()])
    assert "accuracy" in printed
    assert not [word for word in CANARIES if word in printed]

    (tmp_path / "leak").mkdir()
    (tmp_path / "leak" / "a.log").write_text("study of 钱三丰")
    assert len(find_leaks(tmp_path / "leak")) == 1
