"""The base of every configuration model: frozen pydantic, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
