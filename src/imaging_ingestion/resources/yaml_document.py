"""YAML as Kubernetes reads it: the JSON types and no others, and nothing that surprises a person.

Duplicate keys, tags, aliases that unfold without end and bottomless nesting are faults. A date is
text, as it is for `kubectl`. What stands in the file is never part of a fault's words: it may be a
secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

#: A document is written by a person; these are far beyond that.
MAX_NODES = 200_000
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its value, and the node that says where everything stands."""

    value: object
    node: yaml.Node

    @property
    def line(self) -> int:
        """The line where it begins, from 1."""
        return int(self.node.start_mark.line) + 1

    def find(self, path: Sequence[str | int]) -> yaml.Node | None:
        """The node at a path; None if the path does not lead to one as it is written."""
        node: yaml.Node | None = self.node
        for part in path:
            node = _child(node, part)
        return node


@dataclass(frozen=True, slots=True)
class Fault:
    """What cannot be read, and where (lines and columns from 1)."""

    what: str
    line: int | None = None
    column: int | None = None


def read_yaml(text: str) -> Iterator[Document | Fault]:
    """The documents of a stream, empty ones left out; a fault of syntax is the last of them."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        yield _fault(error)
        return
    try:
        while (node := _next_node(loader)) is not None:
            if isinstance(node, Fault):
                yield node
                return
            if node.tag != _TAG + "null":
                yield _construct(loader, node)
    finally:
        loader.dispose()


def _next_node(loader: _Loader) -> yaml.Node | Fault | None:
    try:
        return loader.get_node() if loader.check_node() else None
    except yaml.YAMLError as error:
        return _fault(error)
    except RecursionError:
        return Fault("the values are nested too deeply")


def _construct(loader: _Loader, node: yaml.Node) -> Document | Fault:
    try:
        _check_nodes(node)
        return Document(loader.construct_document(node), node)
    except yaml.YAMLError as error:
        return _fault(error)


def _fault(error: yaml.YAMLError) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError):
        what = error.problem or error.context or "it cannot be read"
        if "\\t" in what:
            what = "a tab stands where YAML wants spaces"
        mark = error.problem_mark or error.context_mark
        return Fault(what, mark.line + 1, mark.column + 1) if mark else Fault(what)
    if isinstance(error, yaml.reader.ReaderError):
        return Fault("a character in it is not allowed in YAML")
    return Fault("it cannot be read")


class _Loader(yaml.SafeLoader):
    """Knows the types of JSON."""


def _checked(construct: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
    """A tag may name a type that the value is not of, and a number may be beyond all bounds."""

    def constructed(loader: Any, node: yaml.Node) -> object:
        try:
            return construct(loader, node)
        except (ValueError, IndexError, KeyError, OverflowError):
            raise _refusal(f"the value is no {node.tag.removeprefix(_TAG)}", node) from None

    return constructed


def _unknown_tag(_loader: Any, node: yaml.Node) -> object:
    raise _refusal(f"the tag {node.tag.replace(_TAG, '!!')} is not known here", node)


_Loader.yaml_constructors = {
    **{
        _TAG + kind: _checked(yaml.SafeLoader.yaml_constructors[_TAG + kind])
        for kind in ("null", "bool", "int", "float", "str")
    },
    **{_TAG + kind: yaml.SafeLoader.yaml_constructors[_TAG + kind] for kind in ("seq", "map")},
    None: _unknown_tag,
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found = node.value[part]
        return found if isinstance(found, yaml.Node) else None
    return None


def _check_nodes(root: yaml.Node) -> None:
    """Refuse duplicate keys, and what unfolds into something enormous. Raises ConstructorError."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    entered: set[int] = set()
    todo: list[tuple[yaml.Node, bool]] = [(root, False)]
    while todo:
        node, leaving = todo.pop()
        children = _children(node)
        if leaving:
            # A child without a size is one of the node's own parents: a value inside itself.
            sizes[id(node)] = 1 + sum(sizes.get(id(child), MAX_NODES) for child in children)
            depths[id(node)] = 1 + max((depths.get(id(c), MAX_DEPTH) for c in children), default=0)
            if sizes[id(node)] > MAX_NODES:
                raise _refusal("the document unfolds into too many values", node)
            if depths[id(node)] > MAX_DEPTH:
                raise _refusal("the values are nested too deeply", node)
        elif id(node) not in entered:
            entered.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
            todo.append((node, True))
            todo += [(child, False) for child in children]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal("a key must be text", key)
        if key.value in seen:
            raise _refusal(f"the key {key.value!r} stands there twice", key)
        seen.add(key.value)


def _refusal(what: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)
