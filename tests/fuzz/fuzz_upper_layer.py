"""Coverage-guided fuzzing of an association, from the corpus on.

    pip install atheris
    python tests/fuzz/fuzz_upper_layer.py -max_total_time=60 tests/fuzz/corpus

New inputs are added to the corpus folder given; what makes it fail is written as `crash-…`. Give a
copy of the folder to search widely, and keep here what was found: `test_corpus` replays it.
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
