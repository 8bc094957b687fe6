"""The base of all specifications, and pydantic's errors rephrased for users.

An error reads `field: value: what is allowed`, and suggests the nearest name for a misspelt one.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tensloradist.errors import SpecError, suggestion

Model = TypeVar("Model", bound=BaseModel)
PositiveInt = Annotated[int, Field(ge=1, strict=True)]


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # wherever pydantic keeps it


class _Explained(ModelMetaclass):
    """Make `AdapterSpec(…)` in Python explain a mistake as commands do. pydantic's own calls bypass this."""

    if not TYPE_CHECKING:  # the fields' types are the constructor's

        def __call__(cls, *args, **fields):
            if args:
                raise TypeError(
                    f"{cls.__name__} takes only named fields, as in {cls.__name__}({next(iter(cls.model_fields))}=…)"
                )
            with _explained(cls):
                return super().__call__(**fields)


class SpecModel(BaseModel, metaclass=_Explained):
    """The base of all specifications: immutable, without unknown keys.

    Raises:
        SpecError: one line for each mistake, `field: value: what is allowed`; a misspelt key suggests the nearest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    if not TYPE_CHECKING:

        def __setattr__(self, name, value):
            raise SpecError(
                f"{type(self).__name__}: {name}: a specification is immutable; make another with {name}={value!r}"
            )

        def __delattr__(self, name):
            raise SpecError(f"{type(self).__name__}: {name}: a specification is immutable; make another without it")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Like pydantic's, but the updated copy is validated like a new specification. Raises SpecError."""
        copied = super().model_copy(deep=deep)
        if not update:
            return copied
        given = {name: getattr(copied, name) for name in type(self).model_fields if name in self.model_fields_set}
        return type(self).model_validate({**given, **update})

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """As pydantic's. Raises SpecError."""
        with _explained(cls):
            return super().model_validate(obj, **options)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's. Raises SpecError."""
        with _explained(cls):
            return super().model_validate_json(json_data, **options)

    @classmethod
    def model_validate_strings(cls, obj: Any, **options: Any) -> Self:
        """As pydantic's. Raises SpecError."""
        with _explained(cls):
            return super().model_validate_strings(obj, **options)


def is_module_name(name: object) -> bool:
    """Whether it is a valid module name, such as my_package.module."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def validate(model: type[Model], data: Any, where: str) -> Model:
    """Validate data as an instance of a pydantic model.

    Args:
        where: the file or command with the data, for the message.

    Raises:
        SpecError: one line for each mistake, `field: value: what is allowed`; a misspelt key suggests the nearest.
    """
    with _explained(model, where):
        return TypeAdapter(model).validate_python(data)


@contextmanager
def _explained(model: type[BaseModel], where: str | None = None) -> Iterator[None]:
    """Raise pydantic's error as a SpecError that starts with the data's origin, or else with the model's name."""
    try:
        yield
    except ValidationError as error:
        raise SpecError(f"{where or model.__name__}: {_explanation(model, error)}") from None


def _explanation(model: type[BaseModel], error: ValidationError) -> str:
    """All mistakes, one per line."""
    problems = [_Problem(model, dict(details)) for details in error.errors(include_url=False)]
    lines = list(dict.fromkeys(problem.explained() for problem in _without_other_branches(problems)))
    return lines[0] if len(lines) == 1 else f"{len(lines)} mistakes\n  " + "\n  ".join(lines)


_WANTED = {
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "mapping_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "a list of at least one",
    "string_type": "a text",
    "int_type": "an integer",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "json_type": "JSON text",
}
# pydantic's names for a union's branch in an error's location, which are not fields.
_BRANCH = re.compile(r"^(constrained-|dict\[|list\[|tuple\[|int$|str$|float$|bool$|function-|literal\[|nullable)")


class _Problem:
    """One of pydantic's errors: the field as a user writes it, and what it requires."""

    def __init__(self, model: type[BaseModel], details: dict[str, Any]) -> None:
        self.kind, self.value, self.location = details["type"], details.get("input"), details["loc"]
        self.owner, self.field = _locate(model, self.location)
        if self.kind == "invalid_key" or self.location[-1:] == ("[key]",):  # of fields, and of other mappings
            above = _locate(model, self.location[: -1 if self.kind == "invalid_key" else -2])[1]
            self.kind, self.field = "key", above or "the whole"
        self.wanted = (
            _WANTED.get(self.kind)
            or _WANTED.get(self.kind.replace("model_attributes", "model"))
            or re.sub(r"^(Value error, |Assertion failed, |Input should be )", "", details["msg"])
        )
        self.literals = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))

    @property
    def rejects_a_branch(self) -> bool:
        """Whether this only means that the value is not of one of a union's types."""
        last = self.location[-1] if self.location else None
        return isinstance(last, str) and bool(_BRANCH.match(last)) and self.kind.endswith("_type")

    def explained(self) -> str:
        known = list(self.owner.model_fields) if self.owner else []
        if self.kind == "key":
            return f"{self.field}: {_short(self.value)} is not a valid key; keys are strings, such as field names"
        if self.kind == "extra_forbidden":
            return f"{self.field}: unknown key.{suggestion(str(self.location[-1]), known)} Known: {', '.join(known)}"
        if self.kind == "missing":
            described = self.owner.model_fields[str(self.location[-1])].description if self.owner else None
            return f"{self.field}: missing; it is required" + (f" ({described})" if described else "")
        if self.kind == "json_invalid":
            return self.wanted.replace("Invalid JSON", "not valid JSON")
        if self.kind in ("value_error", "assertion_error"):
            return _below(self.field, self.wanted)
        if self.kind == "literal_error" and self.literals:
            return (
                f"{self.field}: {self.value!r} is not allowed.{suggestion(str(self.value), self.literals)} Allowed: "
                f"{', '.join(self.literals)}"
            )
        return f"{self.field or 'the whole'}: {_short(self.value)}: must be {self.wanted}"


def _without_other_branches(problems: list[_Problem]) -> list[_Problem]:
    """The errors, without those about a union's other types if the value is of one of its types.

    If it is of none, one error remains, which lists all types.
    """
    kept = [problem for problem in problems if not problem.rejects_a_branch]
    answered = [problem.field for problem in kept]
    # pydantic also counts wrong elements as missing.
    kept = [p for p in kept if p.kind != "too_short" or not any(name.startswith(f"{p.field}.") for name in answered)]
    rejected: dict[str, _Problem] = {}
    for problem in problems:
        if not problem.rejects_a_branch or any(f"{other}.".startswith(f"{problem.field}.") for other in answered):
            continue
        if problem.field in rejected:
            rejected[problem.field].wanted += f" or {problem.wanted}"
        else:
            rejected[problem.field] = problem
    return kept + list(rejected.values())


def _below(field: str, message: str) -> str:
    """The message of a validator, which may start with a field's name, with the field's full name."""
    named = re.match(r"^(\w+(?:\.\w+)*): ", message)
    if named is None:
        return f"{field}: {message}" if field else message
    same = field.rpartition(".")[2] == named.group(1)
    return f"{field.rpartition('.')[0] if same else field}.{message}".lstrip(".")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, str]:
    """The model that the last part of the location belongs to, and the location as a user writes it.

    Names of union branches, which pydantic puts into the location, are omitted.
    """
    annotation: Any = model
    owner: type[BaseModel] | None = None
    names: list[str] = []
    for part in location:
        nested = _models_in(annotation)
        if nested:
            owner = next((m for m in nested if part in m.model_fields), nested[0])
            names.append(str(part))
            field = owner.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
        elif isinstance(part, int):
            names.append(str(part))
            annotation = next(iter(get_args(annotation)), None)
        elif _BRANCH.match(part):
            continue
        else:
            names.append(part)
            annotation = (get_args(annotation) or (None,))[-1]
    return owner, ".".join(names)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for branch in get_args(annotation) for model in _models_in(branch)]
    return []
