import pytest

from llava_ultra.config import LoraSettings
from llava_ultra.language.decoder import save_language
from llava_ultra.model import trainable_parameters
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.testing import tiny_config, tiny_language, tiny_model
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.saving.saver import WEIGHTS, checkpoint_files
from sonoray_jobs.training.train_checks import check_model

RANK_4 = LoraSettings(rank=4, alpha=8)
ANSWER = AnswerObjective()


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A decoder of two layers, as `bootstrap` leaves it."""
    folder = tmp_path_factory.mktemp("language")
    save_language(tiny_language(tiny_config()), folder)
    return folder


@pytest.fixture
def work(tmp_path):
    """The working folder of a training with adapters of rank 4, broken off at its second step."""
    begin(tmp_path, tiny_config())
    return tmp_path


def begin(folder, config):
    learned = trainable_parameters(tiny_model(config, tiny_language(config)))
    weights = {name: tensor.detach() for name, tensor in learned.items()}
    moments = {
        f"{name}|{kind}": tensor.clone()
        for name, tensor in weights.items()
        for kind in ("exp_avg", "exp_avg_sq")
    }
    position = Position(stage=1, epochs=1, steps=2, digests={})
    CheckpointStore(str(folder)).write(position, checkpoint_files(weights, moments))


def road(*objectives, lora=RANK_4, **train):
    model = tiny_config().model_copy(update={"objectives": objectives or (ANSWER,), "lora": lora})
    return RoadConfig(model=model, train=TrainConfig(**train))


@pytest.mark.parametrize("objective", [RecognitionObjective(), LaverObjective()])
def test_weights_that_are_spread_over_workers_are_refused(objective, language, tmp_path):
    with pytest.raises(ConfigError, match=r"which train\.zero_stage 3 spreads; set it to 2"):
        check_model(road(ANSWER, objective, zero_stage=3), language, tmp_path)
    check_model(road(ANSWER, objective, zero_stage=2), language, tmp_path)
    check_model(road(zero_stage=3), language, tmp_path)


def test_a_stage_without_anything_to_learn_from_is_refused(language, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.stages 'align' has lora = false.*\(laver\)"):
        check_model(road(LaverObjective()), language, tmp_path)
    check_model(road(LaverObjective(), ANSWER), language, tmp_path)


@pytest.mark.parametrize("layer", [0, 3, -3])
@pytest.mark.parametrize("kind", [RecognitionObjective, LaverObjective])
def test_a_layer_that_the_decoder_lacks_is_refused(kind, layer, language, tmp_path):
    with pytest.raises(ConfigError, match=f"layer {layer} is none of this decoder's 2 layers"):
        check_model(road(ANSWER, kind(layer=layer)), language, tmp_path)
    for there in (1, 2, -1, -2):
        check_model(road(ANSWER, kind(layer=there)), language, tmp_path)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ("c_attn",)}, r"\['c_attn'\] match nothing; .* are down_proj, gate"),
        ({"target_modules": ("embed_tokens",)}, "embed_tokens', which is no linear layer"),
        ({"exclude_modules": ("lm_head",)}, r"\['lm_head'\] spare no layer"),
    ],
)
def test_adapters_that_the_decoder_cannot_have_are_refused(lora, message, language, tmp_path):
    with pytest.raises(ConfigError, match=rf"^model\.lora: .*{message}"):
        check_model(road(lora=LoraSettings(**lora)), language, tmp_path)
    check_model(road(lora=LoraSettings(target_modules=("q_proj",))), language, tmp_path)


def test_a_resume_whose_changed_settings_do_not_fit_its_checkpoint_is_refused(language, work):
    resume = {"resume": "phantom-1", "allow_changed": ("model.lora.rank", "train.seed")}
    rank_8 = LoraSettings(rank=8, alpha=8)
    told = (
        r"train\.resume 'phantom-1' cannot go on with what --allow-changed model\.lora\.rank "
        r"--allow-changed train\.seed lets in: checkpoint .* has a tensor '.*lora_A.*' of shape"
    )
    with pytest.raises(ConfigError, match=told):
        check_model(road(lora=rank_8, **resume), language, work)
    check_model(road(**resume), language, work)
    more = LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "v_proj"))
    fewer = work / "fewer"
    config = tiny_config().model_copy(
        update={"lora": LoraSettings(rank=4, alpha=8, target_modules=("q_proj",))}
    )
    begin(fewer, config)
    with pytest.raises(ConfigError, match=r"no state of the optimiser for '.*v_proj.*lora_A"):
        check_model(road(lora=more, **resume), language, fewer)
    (weights,) = work.glob(f"*/{WEIGHTS}")
    weights.write_bytes(weights.read_bytes()[:-1])  # refused, and said, by the workers
    check_model(road(lora=rank_8, **resume), language, work)
    assert weights.is_file()
