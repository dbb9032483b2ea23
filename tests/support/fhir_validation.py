"""Judges of FHIR resources that are not ours: PyPI's `fhir.resources`, and npm's `fhir`.

Each overlooks what the other sees; and both let pass what FHIR's JSON format forbids, so that is
looked at here. The npm package is installed by `make test`, or here by the first test that needs
it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

FOLDER = Path(__file__).resolve().parent / "fhir-validator"
INSTALL_TIMEOUT = 300  # seconds
ANSWER_TIMEOUT = 30  # seconds for the validator to end

Resource = dict[str, Any]


class FhirValidator:
    """Both judges; one node process for as many resources as are asked about."""

    def __init__(self) -> None:
        _install()
        self._process = subprocess.Popen(
            [_program("node"), "validate.mjs"],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def complaints(self, resource: Resource) -> list[str]:
        """Everything that is wrong with a resource; empty if it is valid."""
        return [
            *_forbidden(resource, resource["resourceType"]),
            *_by_python(resource),
            *self._by_node(resource),
        ]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(ANSWER_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _by_node(self, resource: Resource) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(resource) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"validate.mjs ended with {self._process.wait(ANSWER_TIMEOUT)}")
        return [f"npm fhir: {complaint}" for complaint in json.loads(answer)]


@pytest.fixture(scope="session")
def fhir_validator() -> Iterator[FhirValidator]:
    """The judges; the test fails if node and npm are not there."""
    validator = FhirValidator()
    yield validator
    validator.close()


def _by_python(resource: Resource) -> list[str]:
    # R4B is the only R4 that fhir.resources has; these resources are the same in both.
    kind = resource["resourceType"]
    module = importlib.import_module(f"fhir.resources.R4B.{kind.lower()}")
    try:
        getattr(module, kind).model_validate(resource)
    except ValidationError as error:
        return [f"fhir.resources: {e['loc']}: {e['msg']}" for e in error.errors()]
    return []


def _forbidden(value: Any, path: str, contained: frozenset[str] = frozenset()) -> Iterator[str]:
    """What FHIR's JSON never has (R4 2.6.2), and references to what is not contained."""
    if value is None or value in ("", [], {}):
        yield f"{path} is empty"
    if isinstance(value, str) and value != value.strip():
        yield f"{path} has blanks at its ends"
    if isinstance(value, dict):
        if "resourceType" in value and not contained:
            inside = value.get("contained", [])
            contained = frozenset(f"#{resource['id']}" for resource in inside)
            referred = json.dumps({k: v for k, v in value.items() if k != "contained"})
            yield from (
                f"{path}: {name} is contained but not referred to (dom-3)"
                for name in contained
                if f'"{name}"' not in referred
            )
        reference = value.get("reference")
        if isinstance(reference, str) and reference.startswith("#") and reference not in contained:
            yield f"{path}: {reference} is not contained"
        for key, item in value.items():
            yield from _forbidden(item, f"{path}.{key}", contained)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _forbidden(item, f"{path}[{number}]", contained)


def _install() -> None:
    """Install the npm package of package.json, once, however many test processes ask for it."""
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]["fhir"]
    name = hashlib.sha256(str(FOLDER).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"imaging-ingestion-fhir-validator-{name}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if _installed() == wanted:
            return
        subprocess.run(
            [
                _program("npm"),
                "install",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(FOLDER),
            ],
            check=True,
            timeout=INSTALL_TIMEOUT,
            capture_output=True,
        )
        if _installed() != wanted:
            pytest.fail(f"npm did not install fhir {wanted} into {FOLDER}/node_modules")


def _installed() -> str | None:
    try:
        package = (FOLDER / "node_modules" / "fhir" / "package.json").read_text()
    except FileNotFoundError:
        return None
    version: str = json.loads(package)["version"]
    return version


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not on the PATH: install Node.js 20 or later with npm (Debian: apt-get "
            "install nodejs npm); the FHIR resources are judged by the npm package `fhir` too"
        )
    return found
