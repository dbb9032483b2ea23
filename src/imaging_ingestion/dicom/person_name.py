"""How person names (VR PN) are compared: without regard to case and width (PS3.4 C.2.2.2.1)."""

from __future__ import annotations

import unicodedata


def fold_name(pn: str) -> str:
    """The form of a person name that matching compares, for stored values and query keys alike.

    It is the alphabetic component group (the text before the first "=", PS3.5 6.2.1), case-folded
    and in Unicode's compatibility form, with the blanks around each component and the empty
    components at the end left out: "Yamada^Tarou^^=山田^太郎" gives "yamada^tarou".
    """
    group = unicodedata.normalize("NFKC", pn.partition("=")[0]).casefold()
    # Case folding may leave the compatibility form (U+0390, say), so it is made once more.
    components = unicodedata.normalize("NFKC", group).split("^")
    return "^".join(component.strip() for component in components).rstrip("^")
