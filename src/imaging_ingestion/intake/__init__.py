"""The one way in: whichever door an instance comes by, it is scanned, checked, put, announced."""

from imaging_ingestion.intake.identity import Identity
from imaging_ingestion.intake.reception import Intake, IntakeSettings, Received, Reception
from imaging_ingestion.intake.refusal import IntakeRefused

__all__ = [
    "Identity",
    "Intake",
    "IntakeRefused",
    "IntakeSettings",
    "Received",
    "Reception",
]
