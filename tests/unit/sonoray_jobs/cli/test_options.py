from sonoray import workspace
from sonoray_jobs.cli import options


def test_the_command_line_and_python_open_the_same_workspace():
    assert options.DEFAULT_WORKSPACE == workspace.DEFAULT_WORKSPACE
