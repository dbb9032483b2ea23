"""Which attribute says something of the patient or study, which of the series (PS3.3 annex A.1.4).

The attributes of these modules are the same in every instance of a study or series, so the manifest
keeps them there once, and a search at that level can match and return them. Every other attribute,
private ones included, belongs to the instance.

The modules of table A.1-1 are told apart by their information entity: Patient, Clinical Trial
Subject, General Study, Patient Study and Clinical Trial Study are of the study; General Series,
Clinical Trial Series, General Equipment, Frame of Reference and the series modules of single
modalities are of the series. SOP Common and Specific Character Set are of the instance.
"""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """What a search finds, from the whole to the part (PS3.18 10.6.1.1)."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


# Where an attribute is used in modules of several levels, the highest wins: Timezone Offset From
# UTC (0008,0201) apart, which SOP Common lets differ from instance to instance.

#: Attributes of the patient alone; 0xGGGGEEEE.
PATIENT_TAGS: frozenset[int] = frozenset(
    {
        0x00080061,  # Modalities in Study (never stored, computed)
        0x00081120,  # Referenced Patient Sequence
        0x00100010,  # Patient's Name
        0x00100020,  # Patient ID
        0x00100021,  # Issuer of Patient ID
        0x00100022,  # Type of Patient ID
        0x00100024,  # Issuer of Patient ID Qualifiers Sequence
        0x00100026,  # Source Patient Group Identification Sequence
        0x00100027,  # Group of Patients Identification Sequence
        0x00100030,  # Patient's Birth Date
        0x00100032,  # Patient's Birth Time
        0x00100033,  # Patient's Birth Date in Alternative Calendar
        0x00100034,  # Patient's Death Date in Alternative Calendar
        0x00100035,  # Patient's Alternative Calendar
        0x00100040,  # Patient's Sex
        0x00100200,  # Quality Control Subject
        0x00100212,  # Strain Description
        0x00100213,  # Strain Nomenclature
        0x00100214,  # Strain Stock Number
        0x00100215,  # Strain Source Registry Code Sequence
        0x00100216,  # Strain Stock Sequence
        0x00100217,  # Strain Source
        0x00100218,  # Strain Additional Information
        0x00100219,  # Strain Code Sequence
        0x00100221,  # Genetic Modifications Sequence
        0x00101001,  # Other Patient Names
        0x00101002,  # Other Patient IDs Sequence
        0x00101005,  # Patient's Birth Name
        0x00101060,  # Patient's Mother's Birth Name
        0x00101100,  # Referenced Patient Photo Sequence
        0x00102160,  # Ethnic Group
        0x00102161,  # Ethnic Group Code Sequence
        0x00102201,  # Patient Species Description
        0x00102202,  # Patient Species Code Sequence
        0x00102292,  # Patient Breed Description
        0x00102293,  # Patient Breed Code Sequence
        0x00102294,  # Breed Registration Sequence
        0x00102297,  # Responsible Person
        0x00102298,  # Responsible Person Role
        0x00102299,  # Responsible Organization
        0x00104000,  # Patient Comments
        0x00120062,  # Patient Identity Removed
        0x00120063,  # De-identification Method
        0x00120064,  # De-identification Method Code Sequence
        0x00120010,  # Clinical Trial Sponsor Name
        0x00120020,  # Clinical Trial Protocol ID
        0x00120021,  # Clinical Trial Protocol Name
        0x00120022,  # Issuer of Clinical Trial Protocol ID
        0x00120023,  # Other Clinical Trial Protocol IDs Sequence
        0x00120030,  # Clinical Trial Site ID
        0x00120031,  # Clinical Trial Site Name
        0x00120032,  # Issuer of Clinical Trial Site ID
        0x00120040,  # Clinical Trial Subject ID
        0x00120041,  # Issuer of Clinical Trial Subject ID
        0x00120042,  # Clinical Trial Subject Reading ID
        0x00120043,  # Issuer of Clinical Trial Subject Reading ID
        0x00120081,  # Clinical Trial Protocol Ethics Committee Name
        0x00120082,  # Clinical Trial Protocol Ethics Committee Approval Number
    }
)

_STUDY_TAGS = frozenset(
    {
        0x00080020,  # Study Date
        0x00080030,  # Study Time
        0x00080050,  # Accession Number
        0x00080051,  # Issuer of Accession Number Sequence
        0x00080062,  # SOP Classes in Study (never stored)
        0x00080063,  # Anatomic Regions in Study Code Sequence (never stored)
        0x00080090,  # Referring Physician's Name
        0x00080092,  # Referring Physician's Address
        0x00080094,  # Referring Physician's Telephone Numbers
        0x00080096,  # Referring Physician Identification Sequence
        0x0008009C,  # Consulting Physician's Name
        0x0008009D,  # Consulting Physician Identification Sequence
        0x00081030,  # Study Description
        0x00081032,  # Procedure Code Sequence
        0x00081048,  # Physician(s) of Record
        0x00081049,  # Physician(s) of Record Identification Sequence
        0x00081060,  # Name of Physician(s) Reading Study
        0x00081062,  # Physician(s) Reading Study Identification Sequence
        0x00081080,  # Admitting Diagnoses Description
        0x00081084,  # Admitting Diagnoses Code Sequence
        0x00081110,  # Referenced Study Sequence
        0x0020000D,  # Study Instance UID
        0x00200010,  # Study ID
        0x00201206,  # Number of Study Related Series (never stored, counted)
        0x00201208,  # Number of Study Related Instances (never stored, counted)
        0x00321032,  # Requesting Physician
        0x00321031,  # Requesting Physician Identification Sequence
        0x00321033,  # Requesting Service
        0x00321034,  # Requesting Service Code Sequence
        0x00321060,  # Requested Procedure Description
        0x00321064,  # Requested Procedure Code Sequence
        0x00401001,  # Requested Procedure ID
        0x00401002,  # Reason for the Requested Procedure
        0x00401012,  # Reason for Performed Procedure Code Sequence
        0x0040100A,  # Reason for Requested Procedure Code Sequence
        0x00101010,  # Patient's Age
        0x00101020,  # Patient's Size
        0x00101021,  # Patient's Size Code Sequence
        0x00101022,  # Patient's Body Mass Index
        0x00101023,  # Measured AP Dimension
        0x00101024,  # Measured Lateral Dimension
        0x00101030,  # Patient's Weight
        0x00102000,  # Medical Alerts
        0x00102110,  # Allergies
        0x00102180,  # Occupation
        0x001021A0,  # Smoking Status
        0x001021B0,  # Additional Patient History
        0x001021C0,  # Pregnancy Status
        0x001021D0,  # Last Menstrual Date
        0x00102203,  # Patient's Sex Neutered
        0x00100041,  # Gender Identity Sequence
        0x00100043,  # Sex Parameters for Clinical Use Category Sequence
        0x00100011,  # Person Names to Use Sequence
        0x00100014,  # Third Person Pronouns Sequence
        0x00380010,  # Admission ID
        0x00380014,  # Issuer of Admission ID Sequence
        0x00380060,  # Service Episode ID
        0x00380062,  # Service Episode Description
        0x00380064,  # Issuer of Service Episode ID Sequence
        0x00380500,  # Patient State
        0x00120050,  # Clinical Trial Time Point ID
        0x00120051,  # Clinical Trial Time Point Description
        0x00120052,  # Longitudinal Temporal Offset from Event
        0x00120053,  # Longitudinal Temporal Event Type
        0x00120054,  # Clinical Trial Time Point Type Code Sequence
        0x00120055,  # Issuer of Clinical Trial Time Point ID
        0x00120083,  # Consent for Clinical Trial Use Sequence
    }
)

#: Attributes of the patient and study; 0xGGGGEEEE.
PATIENT_STUDY_TAGS: frozenset[int] = PATIENT_TAGS | _STUDY_TAGS

#: Attributes of the series, its equipment and the performed procedure step; 0xGGGGEEEE.
SERIES_TAGS: frozenset[int] = frozenset(
    {
        0x00080021,  # Series Date
        0x00080031,  # Series Time
        0x00080060,  # Modality
        0x00080068,  # Presentation Intent Type
        0x00080070,  # Manufacturer
        0x00080080,  # Institution Name
        0x00080081,  # Institution Address
        0x00080082,  # Institution Code Sequence
        0x00081010,  # Station Name
        0x0008103E,  # Series Description
        0x0008103F,  # Series Description Code Sequence
        0x00081040,  # Institutional Department Name
        0x00081041,  # Institutional Department Type Code Sequence
        0x00081050,  # Performing Physician's Name
        0x00081052,  # Performing Physician Identification Sequence
        0x00081070,  # Operators' Name
        0x00081072,  # Operator Identification Sequence
        0x00081090,  # Manufacturer's Model Name
        0x00081111,  # Referenced Performed Procedure Step Sequence
        0x00081250,  # Related Series Sequence
        0x00102210,  # Anatomical Orientation Type
        0x00120060,  # Clinical Trial Coordinating Center Name
        0x00120071,  # Clinical Trial Series ID
        0x00120072,  # Clinical Trial Series Description
        0x00120073,  # Issuer of Clinical Trial Series ID
        0x00180015,  # Body Part Examined
        0x00181000,  # Device Serial Number
        0x00181002,  # Device UID
        0x00181008,  # Gantry ID
        0x00181020,  # Software Versions
        0x0018100A,  # UDI Sequence
        0x0018100B,  # Manufacturer's Device Class UID
        0x00181030,  # Protocol Name
        0x00181050,  # Spatial Resolution
        0x00181200,  # Date of Last Calibration
        0x00181201,  # Time of Last Calibration
        0x00181204,  # Date of Manufacture
        0x00181205,  # Date of Installation
        0x00185100,  # Patient Position
        0x0020000E,  # Series Instance UID
        0x00200011,  # Series Number
        0x00200052,  # Frame of Reference UID
        0x00200060,  # Laterality
        0x00201040,  # Position Reference Indicator
        0x00201209,  # Number of Series Related Instances (never stored, counted)
        0x00280108,  # Smallest Pixel Value in Series
        0x00280109,  # Largest Pixel Value in Series
        0x00400244,  # Performed Procedure Step Start Date
        0x00400245,  # Performed Procedure Step Start Time
        0x00400250,  # Performed Procedure Step End Date
        0x00400251,  # Performed Procedure Step End Time
        0x00400253,  # Performed Procedure Step ID
        0x00400254,  # Performed Procedure Step Description
        0x00400260,  # Performed Protocol Code Sequence
        0x00400275,  # Request Attributes Sequence
        0x00400280,  # Comments on the Performed Procedure Step
    }
)


def level_of(tag: int) -> Level:
    """The level whose search can match and return the attribute `tag` (0xGGGGEEEE)."""
    if tag in PATIENT_STUDY_TAGS:
        return Level.STUDY
    return Level.SERIES if tag in SERIES_TAGS else Level.INSTANCE
