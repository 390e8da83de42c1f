from dataclasses import fields

import pytest

from sonoray.ingest.source_options import SourceOptions, locate
from sonoray.known_sources import KNOWN_SOURCES, how_to_ingest


@pytest.mark.parametrize("name", KNOWN_SOURCES)
def test_the_command_of_a_source_is_one_that_ingest_takes(name):
    known = KNOWN_SOURCES[name]
    command = how_to_ingest(name).split()
    assert command[:3] == ["sonoray", "ingest", name]
    place = command[3] if len(command) == 4 else None
    required = {option for option in ("path", "url") if option in known.takes}
    assert set(locate(name, place)) == required
    assert known.takes <= {field.name for field in fields(SourceOptions)}


def test_another_name_is_given_to_a_source_that_takes_one():
    assert how_to_ingest("kidney") == "sonoray ingest SOURCE PATH --name kidney"
