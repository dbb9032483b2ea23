"""docs/configuration.md is what the models say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_configuration_reference_is_what_the_models_say() -> None:
    made = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/make_configuration_reference.py")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert (REPOSITORY / "docs/configuration.md").read_text() == made, "run `make docs`"
