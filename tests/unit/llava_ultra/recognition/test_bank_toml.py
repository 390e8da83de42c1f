from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.bank_file import load_bank
from llava_ultra.recognition.bank_toml import to_toml


def test_a_bank_is_the_same_after_it_was_written_as_toml(tmp_path):
    quoted = load_bank("chest-en").model_dump()
    quoted["classes"][0]["descriptions"] = ('"quoted" \\ back', "两\n行")
    bank = ClassBank.model_validate({**quoted, "name": "mine"})
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(bank), encoding="utf-8")
    assert load_bank(str(path)) == bank
