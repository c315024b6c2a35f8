"""What settings are made of: strict sections, overrides of them, lists without brackets."""

import copy
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

UNWRITABLE = re.compile("[\0\ud800-\udfff]")
S = TypeVar("S", bound="Section")


def split(value: object) -> object:
    """A lone item or `a,b` stands for a list, so that the command line needs no brackets."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


Names = Annotated[list[str], BeforeValidator(split)]


class Section(BaseModel):
    """A group of settings: unknown keys, NaN and infinities are refused, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_written(cls, value: object) -> object:
        """Neither files nor their names can hold NUL or half a Unicode character."""
        if isinstance(value, Path):  # which a setting may take as text
            value = str(value)
        group = [*value, *value.values()] if isinstance(value, dict) else value
        for text in group if isinstance(group, list) else [group]:
            if isinstance(text, str | Path) and UNWRITABLE.search(str(text)):
                raise PydanticCustomError("unwritable", "text without NUL, in UTF-8")
        return value


class Patch(Section):
    """An override: only what was set is written out, and read back."""

    @model_serializer(mode="wrap")
    def _only_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


def partial(section: type[Section], name: str) -> type[Section]:
    """`section` with no field required: the shape of a per-role override, same bounds."""
    fields: dict[str, Any] = {}
    for key, info in section.model_fields.items():
        optional = copy.copy(info)
        optional.default = None  # never read; null is a value, where the field has that
        fields[key] = (info.annotation, optional)
    return create_model(name, __base__=Patch, **fields)


def override(section: S, *patches: Section | None) -> S:
    """`section` with what the patches set, later over earlier; its own roles are dropped."""
    values = section.model_dump(exclude={"roles"})
    for patch in patches:
        if patch is not None:
            values |= patch.model_dump(exclude={"roles"})
    return type(section).model_validate(values)
