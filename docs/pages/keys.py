"""reference/params.md and reference/release-yaml.md: every key with its type, default and meaning."""

import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.pages.markdown import NOTE, ROOT, document_fields, join_lines, table
from flows.releases.policy import Policy
from tasks.params import Params


def describe_type(kind: object) -> str:
    """A type as the reader of a YAML file would say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "null"
    if origin is typing.Annotated:
        return describe_type(arguments[0]) + describe_bounds(arguments[1:])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(one) for one in arguments)
    if origin is tuple:
        inner = [describe_type(one) for one in arguments if one is not Ellipsis]
        return (
            f"list of {make_plural(enclose(inner[0]))}" if Ellipsis in arguments else f"pair of {make_plural(inner[0])}"
        )
    if origin is dict:
        return f"mapping from {describe_type(arguments[0])} to {enclose(describe_type(arguments[1]))}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[typing.cast(type, kind)]


def enclose(kind: str) -> str:
    """A type within another: in parentheses if it has parts."""
    return f"({kind})" if "," in kind or " or " in kind else kind


def make_plural(kind: str) -> str:
    """`numbers > 0` from `number > 0`."""
    return re.sub(r"^(text|number|whole number|pair)\b", r"\1s", kind)


def describe_field(field: FieldInfo) -> str:
    """The type of a key with the limits of its value."""
    kind, bounds = describe_type(field.annotation), describe_bounds(field.metadata)
    bounds = f",{bounds}" if kind.startswith("list") and bounds else bounds
    return kind.removesuffix(" or null") + bounds + " or null" if kind.endswith(" or null") else kind + bounds


def describe_bounds(metadata: Iterable[object]) -> str:
    """Limits of a number, as ` > 0 and < 1`."""
    found: list[str] = []
    for bound in (one for part in metadata for one in (part.metadata if isinstance(part, FieldInfo) else [part])):
        for kind, sign in ((annotated_types.Gt, ">"), (annotated_types.Ge, "≥"), (annotated_types.Lt, "<"),
                           (annotated_types.Le, "≤")):  # fmt: skip
            if isinstance(bound, kind):
                found.append(f"{sign} {getattr(bound, kind.__name__.lower()):,}")
        if isinstance(bound, annotated_types.MinLen):
            found.append(f"at least {bound.min_length}")
        if isinstance(bound, annotated_types.MaxLen):
            found.append(f"at most {bound.max_length}")
    return f" {' and '.join(found)}" if found else ""


def describe_default(field: FieldInfo) -> str:
    """A default as YAML has it; `required` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = [str(one) for one in value]
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def find_section(kind: object) -> type[BaseModel] | None:
    """The model among the alternatives of a type."""
    candidates = [kind, *typing.get_args(kind)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def find_enum(kind: object) -> type[enum.Enum] | None:
    """The enum among the alternatives of a type, or within a list."""
    candidates = [kind, *typing.get_args(kind)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, enum.Enum)), None)


def list_keys(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every key below a section, with its place, field and meaning."""
    texts = document_fields(model)
    for name, field in model.model_fields.items():
        section, choices = find_section(field.annotation), find_enum(field.annotation)
        meaning = texts.get(name) or join_lines(inspect.getdoc(section or choices) if section or choices else "")
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no text below it; say there what the key means")
        yield f"{place}{name}", field, meaning
        if section is not None:
            of_each = "<name>." if typing.get_origin(field.annotation) is dict else ""
            yield from list_keys(section, f"{place}{name}.{of_each}")


def write_key_rows(keys: Iterable[tuple[str, FieldInfo, str]]) -> str:
    """The table of some keys."""
    return table(
        ("key", "type", "default", "meaning"),
        (
            (f"`{place}`", describe_field(field), describe_default(field), meaning)
            for place, field, meaning in keys
        ),
    )  # fmt: skip


def write_params() -> str:
    """reference/params.md."""
    parts = [
        "# params.yaml\n\n" + NOTE,
        "Every key of `params.yaml`. An unknown key is an error that names the nearest known one; nothing is read that is "
        "not listed here. Each stage depends on `classes` (where it needs them) and on its own section, nothing else.\n\n",
    ]
    texts = document_fields(Params)
    for name, field in Params.model_fields.items():
        section = find_section(field.annotation)
        if section is None:
            parts.append(f"## {name}\n\n" + write_key_rows([(name, field, texts[name])]) + "\n")
            continue
        parts.append(f"## {name}\n\n{join_lines(inspect.getdoc(section))}\n\n")
        parts.append(write_key_rows(list_keys(section, f"{name}.")) + "\n")
    parts.append("## The file of the demo\n\n```yaml\n" + (ROOT / "params.yaml").read_text() + "```\n")
    return "".join(parts)


def write_release_yaml() -> str:
    """reference/release-yaml.md."""
    keys = [key for key in list_keys(Policy) if not key[0].startswith("gates.")]
    return (
        "# release.yaml\n\n"
        + NOTE
        + "Every key of `release.yaml`, which says what may be released and who carries a release where. Limits of gates "
        + "are in [Gates](gates.md). Without the file the defaults hold.\n\n"
        + write_key_rows(keys)
        + "\n"
        + "".join(f"- {line}\n" for line in describe_choices("carry", "git"))
    )


def describe_choices(*keys: str) -> Iterator[str]:
    """What each choice of an enum in release.yaml means, from the comment beside it."""
    for key in keys:
        choices = typing.cast(type[enum.Enum], Policy.model_fields[key].annotation)
        source = inspect.getsource(choices)
        for member in choices:
            found = re.search(rf"^\s+{member.name} = \S+\s+# (.*)$", source, flags=re.M)
            yield f"`{key}: {member.value}`: {found[1] if found else ''}."
