"""What a running service is told as models come, go and change places; the replicas are noted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llava_ultra.testing import tiny_artifact, tiny_config
from sonoray.errors import ConfigError, ServingError
from sonoray.tracking.registry import manifest_digest
from sonoray.workspace import Workspace
from sonoray_jobs.service.roster import Found, RosterKeeper, read_adapters
from sonoray_serve.settings import AppArgs, ServeConfig

NAME = "llava-ultra"


class Replicas:
    """Takes rosters and golden questions."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.fails = False

    def deploy(self, args: AppArgs) -> None:
        models = [model.digest for model in args.roster.models]
        self.told.append({"models": set(models), "names": args.roster.names})

    def golden(self, found: Found) -> None:
        assert found.digest in self.told[-1]["models"]  # the replicas have it already
        assert found.digest not in self.told[-1]["names"].values()
        self.asked.append(found.digest)
        if self.fails:
            raise ServingError("it answers otherwise")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second", "breast")):
        tiny_artifact(root / name, seed=seed)
    dora = tiny_config()
    dora = dora.model_copy(update={"lora": dora.lora.model_copy(update={"variant": "dora"})})
    tiny_artifact(root / "dora", config=dora)
    shutil.copytree(root / "breast", root / "spoiled")
    adapter = root / "spoiled" / "adapter.safetensors"
    data = bytearray(adapter.read_bytes())
    data[-1] ^= 1
    adapter.write_bytes(data)
    shutil.copytree(root / "breast", root / "foreign")
    manifest = root / "foreign" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["digests"]["clip"] = "0" * 64
    manifest.write_text(json.dumps(values))
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


class Service:
    """A keeper with its link, its file and its clock."""

    def __init__(self, root: Path, folders: dict[str, Path], replicas: Replicas) -> None:
        self.link, self.file, self.now = root / "current", root / "adapters.toml", 0.0
        self.folders, self.digests = folders, {n: manifest_digest(p) for n, p in folders.items()}
        self.link.symlink_to(folders["first"])
        self.file.write_text("")
        args = AppArgs(
            model=str(folders["first"]),
            model_name=NAME,
            model_digest=self.digests["first"],
            insecure_local=True,
            config=ServeConfig(max_models=2),
        )
        self.keeper = RosterKeeper(
            args,
            workspace=Workspace.open(root),
            model=str(self.link),
            adapters=self.file,
            deploy=replicas.deploy,
            golden=replicas.golden,
            clock=lambda: self.now,
        )

    def move(self, name: str) -> None:
        self.link.unlink()
        self.link.symlink_to(self.folders[name])

    def name(self, **adapters: str) -> None:
        lines = [f'{key} = "{self.folders[name]}"\n' for key, name in adapters.items()]
        self.file.write_text("".join(lines))


@pytest.fixture
def service(tmp_path: Path, folders: dict[str, Path], replicas: Replicas) -> Service:
    return Service(tmp_path, folders, replicas)


def test_nothing_named_anew_changes_nothing(service: Service, replicas: Replicas):
    service.keeper.look()
    service.keeper.look()
    assert replicas.told == []


def test_an_adapter_comes_and_goes(service: Service, replicas: Replicas):
    digests = service.digests
    service.name(breast="breast")
    service.keeper.look()
    service.keeper.look()
    both = {NAME: digests["first"], f"{NAME}:breast": digests["breast"]}
    assert replicas.told == [
        {"models": set(both.values()), "names": {NAME: digests["first"]}},
        {"models": set(both.values()), "names": both},
    ]
    assert replicas.asked == [digests["breast"]]
    service.name()
    service.keeper.look()
    alone = {NAME: digests["first"]}
    assert replicas.told[2:] == [{"models": set(both.values()), "names": alone}]
    service.now = 1_000.0  # no request may still have it
    service.keeper.look()
    assert replicas.told[3:] == [{"models": {digests["first"]}, "names": alone}]


def test_a_name_moves_once_its_new_model_has_answered(service: Service, replicas: Replicas):
    digests = service.digests
    service.move("second")
    service.keeper.look()
    both = {digests["first"], digests["second"]}
    assert replicas.told == [
        {"models": both, "names": {NAME: digests["first"]}},
        {"models": both, "names": {NAME: digests["second"]}},
    ]
    service.move("first")  # back, before the first one has left
    service.keeper.look()
    assert replicas.told[-1] == {"models": both, "names": {NAME: digests["first"]}}


def test_a_model_that_fails_the_golden_questions_never_gets_the_name(
    service: Service, replicas: Replicas, caplog: pytest.LogCaptureFixture
):
    replicas.fails = True
    service.move("second")
    for _ in range(3):
        service.keeper.look()
    first = {NAME: service.digests["first"]}
    assert [told["names"] for told in replicas.told] == [first, first]
    assert replicas.told[-1]["models"] == set(first.values())
    assert caplog.text.count("it answers otherwise") == 1
    replicas.fails = False
    service.move("breast")
    service.keeper.look()
    assert replicas.told[-1]["names"] == {NAME: service.digests["breast"]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dora", "cannot share a batch"),
        ("spoiled", "adapter.safetensors"),
        ("foreign", "another clip than the first one"),
        ("nowhere", "no readable manifest.json"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line_and_changes_nothing(
    service: Service,
    replicas: Replicas,
    caplog: pytest.LogCaptureFixture,
    name: str,
    said: str,
):
    service.folders = {**service.folders, "nowhere": Path("nowhere")}
    service.name(breast=name)
    service.keeper.look()
    service.keeper.look()
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert said in record.getMessage()
    assert replicas.told == []


def test_more_models_than_there_is_room_for_are_refused(
    service: Service, replicas: Replicas, caplog: pytest.LogCaptureFixture
):
    service.name(breast="breast", other="second")
    service.keeper.look()
    assert "3 models are named, and serve.max_models = 2" in caplog.text
    assert replicas.told == []


@pytest.mark.parametrize("text", ["breast", "breast = 3", '"a:b" = "models:/x/1"'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "adapters.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="breast = "):
        read_adapters(path)


def test_the_name_of_a_models_student_is_no_adapters(tmp_path: Path):
    path = tmp_path / "adapters.toml"
    path.write_text('student = "models:/x/1"')
    with pytest.raises(ConfigError, match="give the model another one"):
        read_adapters(path)
