"""People of a study: the patient's name, and the physicians and operators as references."""

from __future__ import annotations

from collections.abc import Iterable

from imaging_ingestion.bindings.fhir.attributes import Attributes, PersonName, components
from imaging_ingestion.bindings.fhir.codes import PARTICIPATION_TYPE, Element, coding

_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"


def human_names(name: PersonName) -> list[Element]:
    """A name in each of the writings it has, the alphabetic first."""
    names = []
    writings = (
        (PersonName(alphabetic=name.alphabetic), name.alphabetic, None),
        (PersonName(ideographic=name.ideographic), name.ideographic, "IDE"),
        (PersonName(phonetic=name.phonetic), name.phonetic, "SYL"),
    )
    for one, group, representation in writings:
        if group is None:
            continue
        family, given, middle, prefix, suffix = components(group)
        extension = {"url": _REPRESENTATION, "valueCode": representation}
        names.append(
            {
                "extension": [extension] if representation else None,
                "text": one.display(),
                "family": family,
                "given": [given, middle],
                "prefix": [prefix],
                "suffix": [suffix],
            }
        )
    return names


def practitioners(attributes: Attributes, names_tag: str, identification_tag: str) -> list[Element]:
    """The people of a name attribute and its identification sequence, as logical references.

    The two go together only if they have as many values (PS3.3 C.7.2.1, C.7.3.1).
    """
    names = attributes.names(names_tag)
    items = attributes.items(identification_tag)
    if not names:
        return _present(_practitioner(None, item) for item in items)
    paired = items if len(items) == len(names) else [None] * len(names)
    return _present(_practitioner(n, i) for n, i in zip(names, paired, strict=True))


def performers(attributes: Attributes) -> list[Element]:
    """Who performed a series: the performing physicians, and the operators."""
    physicians = practitioners(attributes, "00081050", "00081052")
    operators = practitioners(attributes, "00081070", "00081072")
    return [
        *(_performer("PRF", "performer", actor) for actor in physicians),
        *(_performer("SPRF", "secondary performer", actor) for actor in operators),
    ]


def _performer(code: str, display: str, actor: Element) -> Element:
    function = {"system": PARTICIPATION_TYPE, "code": code, "display": display}
    return {"function": {"coding": [function]}, "actor": actor}


def _practitioner(name: PersonName | None, item: Attributes | None) -> Element | None:
    """A person; None if there is neither a name nor an identifier (PS3.3 table 10-1)."""
    code = next(iter(item.items("00401101")), None) if item is not None else None
    coded = coding(code) if code is not None else None
    display = name.display() if name is not None else code and code.text("00080104")
    identifier = None
    if coded is not None and item is not None:
        identifier = {
            "system": coded["system"],
            "value": coded["code"],
            "assigner": {"display": item.text("00080080")},  # Institution Name
        }
    if not display and identifier is None:
        return None
    return {"type": "Practitioner", "identifier": identifier, "display": display}


def _present(references: Iterable[Element | None]) -> list[Element]:
    return [reference for reference in references if reference is not None]
