"""Which storage SOP classes and transfer syntaxes a service takes: the files of DIMSE_CONFIG_PATH.

As in Alvearie: IMAGE_CUIDS lists SOP classes, IMAGE_TSUIDS transfer syntaxes, one a line, as
`Name:UID`. A line may also be a UID alone, or the standard's name; what follows `#` is a comment.
A file that is missing restricts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imaging_ingestion.dicom.dictionary import storage_sop_classes as named_sop_classes
from imaging_ingestion.dicom.dictionary import transfer_syntaxes as named_transfer_syntaxes
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dimse.acceptor import ContextPolicy, UnknownStorage
from imaging_ingestion.dimse.sop_class import storage_sop_classes, storage_transfer_syntaxes

SOP_CLASS_FILE: Final = "IMAGE_CUIDS"
TRANSFER_SYNTAX_FILE: Final = "IMAGE_TSUIDS"


class ConfigFileError(ValueError):
    """A file cannot be used; the message names file and line, and says why."""


@dataclass(frozen=True, slots=True)
class StorageContexts:
    """What may be stored.

    `sop_classes`: only these; None: every one of the standard, and `unknown` others.
    `transfer_syntaxes`, the most wanted first: what comes in another is not taken.
    """

    sop_classes: frozenset[str] | None = None
    transfer_syntaxes: tuple[str, ...] = storage_transfer_syntaxes()
    unknown: UnknownStorage = UnknownStorage.PRIVATE

    @property
    def unknown_storage(self) -> UnknownStorage:
        """What the acceptor does with SOP classes that are not named."""
        return self.unknown if self.sop_classes is None else UnknownStorage.REFUSE

    def policy(self, *, requestor_may_be_scp: bool = False) -> ContextPolicy:
        """How each is accepted. `requestor_may_be_scp`: C-GET needs it."""
        return ContextPolicy(self.transfer_syntaxes, requestor_may_be_scp=requestor_may_be_scp)

    def contexts(self, *, requestor_may_be_scp: bool = False) -> dict[str, ContextPolicy]:
        """The policy by SOP class."""
        policy = self.policy(requestor_may_be_scp=requestor_may_be_scp)
        names = storage_sop_classes() if self.sop_classes is None else self.sop_classes
        return dict.fromkeys(names, policy)


def read_storage_contexts(folder: Path) -> StorageContexts:
    """What the files in a folder allow. Raises ConfigFileError, OSError.

    The order of transfer syntaxes is ours (see `storage_transfer_syntaxes`), whatever the file's.
    """
    sop_classes = _read(folder / SOP_CLASS_FILE, named_sop_classes())
    listed = _read(folder / TRANSFER_SYNTAX_FILE, named_transfer_syntaxes())
    syntaxes = storage_transfer_syntaxes()
    if listed is not None:
        known = [uid for uid in syntaxes if uid in set(listed)]
        syntaxes = tuple(dict.fromkeys([*known, *listed]))
    return StorageContexts(None if sop_classes is None else frozenset(sop_classes), syntaxes)


def read_uids(lines: Iterable[str], names: Mapping[str, str], source: str) -> list[str]:
    """The UIDs of a list. `names`: UID to name. Raises ConfigFileError."""
    by_name = {_plain(name): uid for uid, name in names.items()}
    found: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        last = text.rsplit(":", 1)[-1].strip()
        uid = last if is_uid(last) else by_name.get(_plain(text))
        if uid is None:
            raise ConfigFileError(f"{source}, line {number}: {text!r} is no UID and no known name")
        found.append(uid)
    return list(dict.fromkeys(found))


def _read(file: Path, names: Mapping[str, str]) -> list[str] | None:
    """The UIDs of a file; None if it is not there."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{file}: it is no text in UTF-8") from error
    uids = read_uids(text.splitlines(), names, str(file))
    if not uids:
        raise ConfigFileError(f"{file}: it lists nothing, so nothing could be stored")
    return uids


def _plain(name: str) -> str:
    """A name without what its ways of writing differ in."""
    return "".join(c for c in name.lower() if c.isalnum())
