"""Which registered model a command means."""

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.registered import model_of


def test_an_address_is_taken_as_it_is_and_one_way_of_naming_is_asked_for(tmp_path):
    workspace = Workspace.open(tmp_path)
    assert model_of(workspace, "models:/m/1", None) == "models:/m/1"
    assert model_of(workspace, None, None, usual="models:/m@champion") == "models:/m@champion"
    with pytest.raises(ConfigError, match="leave one out"):
        model_of(workspace, "models:/m/1", "phantom-1")
    with pytest.raises(ConfigError, match="--run"):
        model_of(workspace, None, None)
    with pytest.raises(DataError, match="trainings there: none yet"):
        model_of(workspace, None, "phantom-1")
