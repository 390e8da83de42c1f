import json

from sonoray.ingest.sources.base import Source
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.phantom import PhantomConfig
from sonoray.stages import Stage

CONFIG = PhantomConfig(num_patients=2, studies_per_patient=2, images=(1, 2), image_size=64)


def stage_key(source: Source) -> str:
    return Stage(name="x", config=source.config(), inputs=[source.input_digest()]).key


def test_the_source_yields_the_studies_of_its_config():
    source: Source = PhantomSource(CONFIG)
    assert source.name == "phantom"
    assert source.public
    refs = [study.ref for study in source.iter_studies()]
    assert refs == [f"patient-{p:06d}/study-{s}" for p in (0, 1) for s in (0, 1)]
    assert len(PhantomSource(CONFIG)) == len(refs)


def test_the_config_is_plain_json_and_round_trips():
    values = json.loads(json.dumps(PhantomSource(CONFIG).config()))
    assert PhantomConfig.model_validate(values) == CONFIG


def test_the_stage_key_changes_with_the_config_alone():
    other = CONFIG.model_copy(update={"seed": 1})
    assert stage_key(PhantomSource(CONFIG)) == stage_key(PhantomSource(CONFIG.model_copy()))
    assert stage_key(PhantomSource(CONFIG)) != stage_key(PhantomSource(other))
