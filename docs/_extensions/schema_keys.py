"""What the schema's source says of every key: its group, type, default, range and the comment beside it."""

import ast
import inspect
import io
import json
import re
import tokenize
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

from splitcom_dist.config import schema
from splitcom_dist.config.ranges import AT_LEAST, CHOICES
from splitcom_dist.links import LINKS

ANY_LINK = "codec.<link>"


@dataclass(frozen=True)
class Key:
    name: str  # dotted; keys that all links share stand once, below codec.<link>
    type: str
    default: str
    meaning: str
    range: str  # the choices, or the least value; by link where links differ


@dataclass(frozen=True)
class Group:
    name: str
    summary: str
    keys: list[Key]


@cache
def groups() -> tuple[Group, ...]:
    """Every group of the schema that has keys of its own, in its order; the top level's keys come last."""
    found = list(_groups(schema.Config(), "", ""))
    return (*found[1:], found[0])


def _groups(node: Any, prefix: str, comment: str) -> Iterator[Group]:
    """The group of a node and those below it; its field's comment stands where its class says nothing."""
    hints, comments = get_type_hints(type(node)), _comments(type(node))
    keys, below = [], []
    for item in fields(node):
        value, name = getattr(node, item.name), prefix + item.name
        if is_dataclass(value):
            below.append((name, value))
        else:
            keys.append(Key(name, _type(hints[item.name]), _shown(value), comments.get(item.name, ""), _range(name)))
    if keys:
        yield Group(prefix.rstrip("."), _summary(type(node)) or comment, keys)
    links = [name for name, _ in below if name.rpartition(".")[2] in LINKS]
    for name, value in below:
        if name not in links:
            yield from _groups(value, name + ".", comments.get(name.rpartition(".")[2], ""))
        elif name == links[0]:
            yield from _groups(value, ANY_LINK + ".", f"The same keys for each link: {', '.join(LINKS)}.")


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field: the lines above it, or that at its end."""
    source = inspect.getsource(cls)
    ends = {node.lineno: node.target.id for node in ast.parse(source).body[0].body if _is_field(node)}  # type: ignore
    comments: dict[str, str] = {}
    above: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            above.append(token.string.lstrip("# "))
        elif token.type == tokenize.NEWLINE and line in ends:
            comments[ends[line]], above = re.sub(r"\bNone\b", "null", " ".join(above)), []
        elif token.type == tokenize.NEWLINE:
            above = []
    return comments


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _summary(cls: type) -> str:
    text = inspect.getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else text  # dataclasses write their own


def _type(hint: Any) -> str:
    parts = [part for part in get_args(hint) if part is not NoneType]
    if typing.get_origin(hint) is list:
        return f"list of {_type(parts[0])}"
    if typing.get_origin(hint) is dict:
        return f"keys with {_type(parts[1])} values"
    if parts:
        return " or ".join(map(_type, parts)) + " or null"
    return {"str": "text", "bool": "true or false", "int": "integer", "float": "number"}[hint.__name__]


def _shown(value: Any) -> str:
    """As YAML would have it, without the marks around a text."""
    return value if isinstance(value, str) else json.dumps(value)


def _range(name: str) -> str:
    """From what `check_ranges` checks; a key of all links by link, where they differ."""
    names = [name.replace(ANY_LINK, f"codec.{link}") for link in LINKS] if name.startswith(ANY_LINK) else [name]
    ranges = {each: _one_range(each) for each in names}
    if len(set(ranges.values())) == 1:
        return ranges[names[0]]
    return "; ".join(f"{each.split('.')[1]}: {text}" for each, text in ranges.items())


def _one_range(name: str) -> str:
    if name in CHOICES:
        return ", ".join(CHOICES[name])
    return f"at least {AT_LEAST[name]}" if name in AT_LEAST else ""
