"""The one way in: whichever door an instance comes by, it is scanned, checked, put, announced."""

from imaging_ingestion.intake.description import Describer
from imaging_ingestion.intake.found import Fault, FoundError, found_instance
from imaging_ingestion.intake.identity import Identity
from imaging_ingestion.intake.reception import Intake, IntakeSettings, Received, Reception
from imaging_ingestion.intake.refusal import IntakeRefused

__all__ = [
    "Describer",
    "Fault",
    "FoundError",
    "Identity",
    "Intake",
    "IntakeRefused",
    "IntakeSettings",
    "Received",
    "Reception",
    "found_instance",
]
