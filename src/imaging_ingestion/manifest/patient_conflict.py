"""Whether an instance is of the same patient as its study says.

Values contradict each other if both are there and mean something else. What is only written in
another way does not: padding, the case of a name and of the sex, empty components at a name's end,
one blank or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from imaging_ingestion.dicom.person_name import fold_name
from imaging_ingestion.manifest.merge import Values


def contradictions(there: Values, came: Values) -> dict[str, tuple[str, str]]:
    """The columns in which an instance contradicts its study: what is there, and what came."""
    return {
        name: (str(there[name]), str(came[name]))
        for name, same in _SAME.items()
        if there.get(name)
        and came.get(name)
        and there[name] != came[name]  # nearly always equal
        and not same(str(there[name]), str(came[name]))
    }


def _same_text(one: str, other: str) -> bool:
    return _words(one) == _words(other)


def _same_code(one: str, other: str) -> bool:
    return _words(one).upper() == _words(other).upper()


def _same_name(one: str, other: str) -> bool:
    """By component group (PS3.5 6.2.1.1): alphabetic, ideographic, phonetic, where both have it."""
    groups = zip(one.split("="), other.split("="), strict=False)
    return all(a == b for a, b in ((_folded(x), _folded(y)) for x, y in groups) if a and b)


def _folded(group: str) -> str:
    return "^".join(_words(component) for component in fold_name(group).split("^"))


def _words(text: str) -> str:
    return " ".join(text.split())


_SAME: Final[dict[str, Callable[[str, str], bool]]] = {
    "patient_id": _same_text,
    "issuer_of_patient_id": _same_text,
    "patient_name": _same_name,
    "patient_birth_date": _same_text,
    "patient_sex": _same_code,
}
#: The columns of a study that say who its patient is.
PATIENT_COLUMNS: Final = tuple(_SAME)
