"""The base class of all groups of settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings: frozen, strictly typed, and without unknown keys.

    The docstring below each setting is its reference: what it does, its unit, its special values.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
