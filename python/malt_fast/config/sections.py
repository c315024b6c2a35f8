"""Building blocks of settings: strict sections, overrides of them, lists without brackets."""

import copy
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

MAX = 2**31 - 1  # for counts without a bound of their own
DEVICE, URL = r"^(auto|cpu|cuda(:\d+)?)$", r"^https?://"
FORMS = {
    DEVICE: "auto, cpu, cuda or cuda:N",
    URL: "an address that begins with http:// or https://",
}
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
S = TypeVar("S", bound="Section")


def split(value: object) -> object:
    """One item, or `a,b`, as a list, so that the command line needs no brackets."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


Names = Annotated[list[str], BeforeValidator(split)]


def setting(default: Any, description: str, **bounds: Any) -> Any:
    """A field of a section; `...` as the default: required."""
    return Field(default=default, description=description, **bounds)


class Section(BaseModel):
    """A group of settings that cannot change later, without unknown keys, NaN and infinities."""

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
    """An override: only the fields that were set are written out."""

    @model_serializer(mode="wrap")
    def _only_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


def partial(section: type[Section], name: str) -> type[Section]:
    """A patch with the fields and bounds of `section`, none of them required."""
    fields: dict[str, Any] = {}
    for key, info in section.model_fields.items():
        optional = copy.copy(info)
        optional.default = None  # never read
        fields[key] = (info.annotation, optional)
    return create_model(name, __base__=Patch, **fields)


def override(section: S, *patches: Section | None) -> S:
    """`section` with the fields that the patches set, later over earlier, and without `roles`."""
    values = section.model_dump(exclude={"roles"})
    for patch in patches:
        if patch is not None:
            values |= patch.model_dump(exclude={"roles"})
    return type(section).model_validate(values)
