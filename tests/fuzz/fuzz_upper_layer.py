"""Coverage-guided fuzzing of an association, from the corpus on.

    make fuzz FUZZ_SECONDS=60

New inputs go to build/fuzz, a copy of the corpus; what makes it fail is written to build/ as
`crash-…`. Keep in the corpus what was found: `test_corpus` replays it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

with atheris.instrument_imports(include=["imaging_ingestion.dimse"]):
    from dimse_drive import drive


def one_input(data: bytes) -> None:
    """What atheris calls."""
    drive(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
