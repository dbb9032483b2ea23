"""What the instances of a study or series tell of it together: the latest that has a value wins.

An attribute that is empty or absent in a later instance does not erase it.
"""

from __future__ import annotations

import msgspec

Values = dict[str, str | int | None]

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_EMPTY_ELEMENT = len(b'{"vr":"LO"}')


def merged(found: Values, new: Values) -> Values:
    """The values of a study or series after one more instance."""
    values = {name: value if new.get(name) is None else new[name] for name, value in found.items()}
    values["attributes"] = merged_attributes(
        str(found["attributes"]), str(new.get("attributes") or "{}")
    )
    return values


def merged_attributes(found: str, new: str) -> str:
    """Two DICOM JSON objects (PS3.18 F.2) as one, attribute by attribute as `merged`."""
    if new in {found, "{}"}:
        return found
    attributes = _DECODER.decode(found)
    attributes.update(
        (tag, element)
        for tag, element in _DECODER.decode(new).items()
        if tag not in attributes or len(bytes(element)) > _EMPTY_ELEMENT
    )
    return _ENCODER.encode(dict(sorted(attributes.items()))).decode()
