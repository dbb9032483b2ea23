"""Reading site files: YAML documents, each a resource, every mistake told with its place.

All problems of all files are collected before anything is said, so that a person mends them at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from imaging_ingestion.resources.models import KINDS, Resource

#: A site file is written by a person; these are far beyond that.
MAX_BYTES = 4 << 20
MAX_NODES = 200_000

R = TypeVar("R", bound=Resource)


class SiteError(ValueError):
    """The site cannot be read or run; `problems` are sentences, each with file and place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource and where it stands."""

    resource: Resource
    place: str  # "site.yaml, document 2 (DicomStudyBinding fhir)"


@dataclass(frozen=True, slots=True)
class Site:
    """What is declared, in the order it was."""

    declared: Sequence[Declared] = field(default_factory=tuple)

    def of(self, kind: type[R]) -> list[tuple[R, str]]:
        """The resources of one kind with their places."""
        return [(d.resource, d.place) for d in self.declared if isinstance(d.resource, kind)]

    def find(self, kind: type[R], name: str) -> R | None:
        """The resource of that kind and name."""
        return next((r for r, _ in self.of(kind) if r.name == name), None)


def read_site(files: Sequence[Path]) -> Site:
    """Read site files. Raises SiteError."""
    problems: list[str] = []
    declared: list[Declared] = []
    seen: dict[tuple[str, str], str] = {}
    for file in files:
        try:
            text = _read(file)
        except OSError as error:
            problems.append(f"{file}: cannot be read: {error.strerror or error}")
            continue
        for found in read_documents(text, str(file), problems):
            key = (found.resource.kind, found.resource.name)
            if key in seen:
                problems.append(f"{found.place}: declared already in {seen[key]}")
            seen[key] = found.place
            declared.append(found)
    if problems:
        raise SiteError(problems)
    return Site(tuple(declared))


def read_documents(text: str, file: str, problems: list[str]) -> Iterator[Declared]:
    """The resources of one file's text; what is wrong is added to `problems`."""
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        problems.append(f"{file}{where}: no YAML: {what}")
        return
    number = 0
    for node in nodes:
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
            continue
        number += 1
        place = f"{file}, document {number} (line {node.start_mark.line + 1})"
        found = _document(node, place, problems)
        if found is not None:
            yield found


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(None, f"larger than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8", "replace")


def _document(node: yaml.Node, place: str, problems: list[str]) -> Declared | None:
    try:
        _check_nodes(node)
        value = yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problems.append(f"{place}{line}: {getattr(error, 'problem', None) or error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{place}: a resource (a mapping with apiVersion, kind, …) was expected")
        return None
    kind = value.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None or not isinstance(kind, str):
        problems.append(f"{place}: kind: {kind!r} is not known{_meant(str(kind), list(KINDS))}")
        return None
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    place = f"{place.rpartition(' (')[0]} ({kind} {name or 'without a name'})"
    try:
        return Declared(model.model_validate(value), place)
    except ValidationError as error:
        problems.extend(f"{place}: {problem}" for problem in _explain(error, model, kind))
        return None


def _explain(error: ValidationError, model: type[Resource], kind: str) -> Iterator[str]:
    """Each mistake as field, what was found, what was expected; never a Secret's values."""
    for problem in error.errors(include_url=False):
        location = [
            part for part in problem["loc"] if part != "function-before[_seconds(), timedelta]"
        ]
        path = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, location[:-1])
            yield f"{path}: unknown field{_meant(str(location[-1]), known)}"
        elif problem["type"] == "missing":
            yield f"{path}: is missing"
        elif kind == "Secret":
            yield f"{path}: {problem['msg']}"
        else:
            yield f"{path}: {problem['msg']}; found {problem['input']!r:.80}"


def _fields_at(model: type[Any], path: Sequence[str | int]) -> list[str]:
    """The field names that a model has at a path."""
    for part in path:
        field_info = getattr(model, "model_fields", {}).get(part)
        if field_info is None or not hasattr(field_info.annotation, "model_fields"):
            return []
        model = field_info.annotation
    return list(getattr(model, "model_fields", {}))


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected one of: {', '.join(sorted(known))}" if known else ""


def _check_nodes(root: yaml.Node) -> None:
    """Refuse duplicate keys, and aliases that unfold into something enormous."""
    sizes: dict[int, int] = {}
    todo: list[tuple[yaml.Node, bool]] = [(root, False)]
    while todo:
        node, entered = todo.pop()
        children = _children(node)
        if entered:
            sizes[id(node)] = 1 + sum(sizes.get(id(child), MAX_NODES) for child in children)
            if sizes[id(node)] > MAX_NODES:
                raise yaml.constructor.ConstructorError(
                    None, None, "the document unfolds into too many values", node.start_mark
                )
        elif id(node) not in sizes:
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
            todo.append((node, True))
            todo += [(child, False) for child in children]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if key.value in seen and isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} stands there twice", key.start_mark
            )
        if isinstance(key, yaml.ScalarNode):
            seen.add(key.value)
