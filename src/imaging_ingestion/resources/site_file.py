"""Reading site files: YAML documents, each a resource, every mistake told with its place.

All problems of all files are collected before anything is said: a person mends them at once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from imaging_ingestion.resources.fields import EXPECTED
from imaging_ingestion.resources.models import KINDS, Resource
from imaging_ingestion.resources.yaml_document import Document, Fault, read_yaml

#: A site file is written by a person; this is far beyond that.
MAX_BYTES = 1 << 20
_SHOWN = 60  # characters of a wrong value
_DATA = frozenset({"data", "stringData", "binaryData"})

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

    def find(self, kind: type[R], name: str) -> tuple[R, str] | None:
        """The resource of that kind and name, and its place."""
        return next((found for found in self.of(kind) if found[0].name == name), None)


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
                continue
            seen[key] = found.place
            declared.append(found)
    if problems:
        raise SiteError(problems)
    return Site(tuple(declared))


def read_documents(text: str, file: str, problems: list[str]) -> Iterator[Declared]:
    """The resources of one file's text; what is wrong is added to `problems`."""
    for number, found in enumerate(read_yaml(text), 1):
        place = f"{file}, document {number}"
        if isinstance(found, Fault):
            where = f", line {found.line}, column {found.column}" if found.line else ""
            problems.append(f"{place}{where}: {found.what}")
            continue
        declared = _resource(found, place, problems)
        if declared is not None:
            yield declared


def _read(file: Path) -> str:
    """The text of a file. Raises OSError."""
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(None, f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(None, f"not UTF-8 (byte {error.start + 1})") from error


def _resource(document: Document, place: str, problems: list[str]) -> Declared | None:
    value = document.value
    if not isinstance(value, dict):
        problems.append(
            f"{place}, line {document.line}: a resource was expected: "
            "a mapping with apiVersion, kind, metadata"
        )
        return None
    kind = value.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        found = "is missing" if kind is None else f"{str(kind)[:_SHOWN]!r} is not known"
        line = (document.find(["kind"]) or document.node).start_mark.line + 1
        problems.append(f"{place}, line {line}: kind: {found}{_meant(str(kind), list(KINDS))}")
        return None
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    place += f" ({kind} {_printable(str(name)) if name is not None else 'without a name'})"
    try:
        return Declared(model.model_validate(without_nulls(value)), place)
    except ValidationError as error:
        problems.extend(f"{place}{problem}" for problem in _explain(error, document, model))
        return None


def without_nulls(value: Any) -> Any:
    """A resource without what is null: `stowService:` alone says nothing, as to Kubernetes.

    The values of ConfigMaps and Secrets stay: a null there is one that was forgotten.
    """
    if isinstance(value, dict):
        return {
            key: inner if key in _DATA else without_nulls(inner)
            for key, inner in value.items()
            if inner is not None
        }
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _explain(error: ValidationError, document: Document, model: type[Resource]) -> Iterator[str]:
    """Each mistake as line, field, what was expected, what was found; never a Secret's values."""
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        path = tuple(problem["loc"])
        node = document.find(path)
        line = (node or document.find(path[:-1]) or document.node).start_mark.line + 1
        found.append((line, f", line {line}: {_dotted(path)}: {_wrong(problem, node, model)}"))
    yield from (sentence for _, sentence in sorted(found, key=lambda each: each[0]))


def _dotted(path: Sequence[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    dotted = "".join(part for part in parts if part != ".[key]").lstrip(".")
    return _printable(dotted) or "the resource"


def _printable(text: str) -> str:
    """A text of a file inside a sentence: short, and on one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:_SHOWN]


def _wrong(problem: ErrorDetails, node: yaml.Node | None, model: type[Resource]) -> str:
    kind, path = problem["type"], problem["loc"]
    if kind == "extra_forbidden":
        return f"unknown field{_meant(str(path[-1]), _fields_at(model, path[:-1]))}"
    if kind == "missing":
        return "is missing"
    if path[-1:] == ("[key]",):
        return EXPECTED["invalid_key"]
    context = problem.get("ctx", {})
    match kind:
        case "literal_error":
            expected = f"{context['expected']} was expected"
        case "greater_than_equal":
            expected = f"{context['ge']} or more was expected"
        case "less_than_equal":
            expected = f"{context['le']} or less was expected"
        case _:
            expected = EXPECTED.get(context.get("pattern", kind), problem["msg"])
    if model.values_are_secret and path[0] in _DATA:
        return expected
    return expected + _found(node)


def _found(node: yaml.Node | None) -> str:
    if isinstance(node, yaml.ScalarNode):
        text = node.value[:_SHOWN]
        if node.style or not text.isprintable():
            return f"; found {json.dumps(text, ensure_ascii=False)}"
        return f"; found {text or 'nothing'}"
    if isinstance(node, yaml.MappingNode):
        return "; found a mapping"
    return "; found a list" if isinstance(node, yaml.SequenceNode) else ""


def _fields_at(model: type[Any], path: Sequence[str | int]) -> list[str]:
    """The field names that a model has at a path."""
    found: Any = model
    for part in path:
        if isinstance(part, int):  # an item of a list
            found = next(iter(get_args(found)), None)
        else:
            field_info = getattr(found, "model_fields", {}).get(part)
            found = None if field_info is None else field_info.annotation
    return list(getattr(found, "model_fields", {}))


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected one of: {', '.join(sorted(known))}" if known else ""
