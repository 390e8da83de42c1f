"""Writing a bank as the TOML that `llava_ultra.recognition.bank_file` reads."""

import json

from llava_ultra.recognition.bank import ClassBank


def to_toml(bank: ClassBank) -> str:
    """A bank as `load_bank` reads it; JSON's strings and lists are TOML's too."""

    def line(name: str, value: object) -> str:
        return f"{name} = {json.dumps(value, ensure_ascii=False)}"

    values = bank.model_dump(mode="json", exclude={"name"})
    lines = [line(name, value) for name, value in values.items() if name != "classes" and value]
    for each in values["classes"]:
        lines += ["", "[[classes]]"]
        lines += [line(name, value) for name, value in each.items() if value]
    return "\n".join(lines) + "\n"
