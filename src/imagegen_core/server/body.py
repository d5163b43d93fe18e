"""JSON bodies as the clients of other servers send them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator


class Body(BaseModel):
    """A body in which a null counts as a field that is left out, as in A1111's and OpenAI's APIs."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        return given
