"""What counts as another patient, and what is the same one written in another way."""

from __future__ import annotations

import pytest

from imaging_ingestion.manifest.patient_conflict import contradictions


@pytest.mark.parametrize(
    ("column", "there", "came", "is_same"),
    [
        ("patient_id", "A1", "A1 ", True),
        ("patient_id", "A1", "a1", False),
        ("patient_id", "A1", None, True),
        ("patient_id", None, "A1", True),
        ("patient_id", "A1", "A2", False),
        ("issuer_of_patient_id", "X", "Y", False),
        ("patient_name", "Doe^Jane", "DOE^JANE^^^", True),
        ("patient_name", "Doe^Jane  Ann", " doe^Jane Ann", True),
        ("patient_name", "Doe^Jane", "Doe^Jane^M", False),
        ("patient_name", "Doe^Jane", "Doe Jane", False),
        ("patient_name", "Yamada^Tarou=山田^太郎", "YAMADA^TAROU", True),
        ("patient_name", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^花子", False),
        ("patient_birth_date", "19700101", "19700102", False),
        ("patient_sex", "F", "f ", True),
        ("patient_sex", "F", "M", False),
        ("study_description", "one", "another", True),
    ],
)
def test_values_contradict_each_other_if_they_mean_something_else(
    column: str, there: str | None, came: str | None, is_same: bool
) -> None:
    expected = {} if is_same else {column: (there, came)}
    assert contradictions({column: there}, {column: came}) == expected
