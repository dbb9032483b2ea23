"""SOP classes and transfer syntaxes against other people's tables."""

from __future__ import annotations

import pynetdicom.sop_class
import pytest
from pydicom.uid import AllTransferSyntaxes

from imaging_ingestion.dicom.dictionary import storage_sop_classes as named_storage
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_lossy,
)
from imaging_ingestion.dimse import sop_class
from imaging_ingestion.dimse.sop_class import (
    NON_PATIENT_OBJECT_CLASSES,
    is_private,
    is_storage,
    storage_sop_classes,
    storage_transfer_syntaxes,
)

# C7: retired classes that old scanners still send.
RETIRED = [
    "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame Image Storage
    "1.2.840.10008.5.1.4.1.1.5",  # Nuclear Medicine Image Storage
    "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage
    "1.2.840.10008.5.1.4.1.1.8",  # Standalone Overlay Storage
    "1.2.840.10008.5.1.4.1.1.9",  # Standalone Curve Storage
    "1.2.840.10008.5.1.4.1.1.12.3",  # X-Ray Angiographic Bi-Plane Image Storage
    "1.2.840.10008.5.1.4.1.1.88.1",  # Text SR Storage - Trial
    "1.2.840.10008.5.1.1.29",  # Hardcopy Grayscale Image Storage
]


# C7
def test_every_storage_class_that_pynetdicom_knows_is_storage() -> None:
    theirs = {str(uid) for uid in pynetdicom.sop_class._STORAGE_CLASSES.values()}
    assert len(theirs) > 150
    assert theirs <= storage_sop_classes()


# C7
@pytest.mark.parametrize("uid", RETIRED)
def test_retired_storage_classes_are_storage(uid: str) -> None:
    assert is_storage(uid)


def test_what_only_sounds_like_storage_is_not() -> None:
    theirs = {str(uid) for uid in pynetdicom.sop_class._NON_PATIENT_OBJECT_CLASSES.values()}
    assert theirs == NON_PATIENT_OBJECT_CLASSES
    assert set(named_storage()) >= NON_PATIENT_OBJECT_CLASSES
    for uid in (*theirs, "1.2.840.10008.1.3.10", sop_class.STORAGE_COMMITMENT_PUSH_MODEL):
        assert not is_storage(uid)


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("VERIFICATION", "Verification"),
        ("STORAGE_COMMITMENT_PUSH_MODEL", "StorageCommitmentPushModel"),
        ("STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE", "StorageCommitmentPushModelInstance"),
        ("PATIENT_ROOT_FIND", "PatientRootQueryRetrieveInformationModelFind"),
        ("PATIENT_ROOT_MOVE", "PatientRootQueryRetrieveInformationModelMove"),
        ("PATIENT_ROOT_GET", "PatientRootQueryRetrieveInformationModelGet"),
        ("STUDY_ROOT_FIND", "StudyRootQueryRetrieveInformationModelFind"),
        ("STUDY_ROOT_MOVE", "StudyRootQueryRetrieveInformationModelMove"),
        ("STUDY_ROOT_GET", "StudyRootQueryRetrieveInformationModelGet"),
    ],
)
def test_named_classes_are_those_of_the_standard(name: str, keyword: str) -> None:
    assert getattr(sop_class, name) == str(getattr(pynetdicom.sop_class, keyword))


# C7, C8
def test_every_transfer_syntax_of_a_stored_instance_is_taken_the_lossy_ones_last() -> None:
    syntaxes = storage_transfer_syntaxes()
    assert len(set(syntaxes)) == len(syntaxes)
    not_on_associations = {
        "1.2.840.10008.1.2.6.1",
        "1.2.840.10008.1.2.7.1",
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
    }
    assert {str(uid) for uid in AllTransferSyntaxes} - not_on_associations <= set(syntaxes)
    assert not not_on_associations & set(syntaxes)
    assert syntaxes[0] == EXPLICIT_VR_LITTLE_ENDIAN
    lossy = [is_lossy(uid) for uid in syntaxes]
    assert lossy == sorted(lossy)
    position = syntaxes.index(IMPLICIT_VR_LITTLE_ENDIAN)
    assert syntaxes.index("1.2.840.10008.1.2.4.70") < position
    assert syntaxes.index("1.2.840.10008.1.2.4.110") < position
    assert position < syntaxes.index("1.2.840.10008.1.2.4.50")


# A13
def test_a_uid_outside_the_standards_root_is_private() -> None:
    assert is_private("1.2.826.0.1.3680043.9.9")
    assert is_private("1.2.840.100081.1")
    assert not is_private("1.2.840.10008.5.1.4.1.1.2")
