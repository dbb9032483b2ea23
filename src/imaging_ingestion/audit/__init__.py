"""A space and its manifest held side by side: what differs, repairing it, and rebuilding."""

from imaging_ingestion.audit.check import Check
from imaging_ingestion.audit.finding import Finding, FindingKind
from imaging_ingestion.audit.rebuild import Rebuild, Rebuilt
from imaging_ingestion.audit.repair import Repair

__all__ = ["Check", "Finding", "FindingKind", "Rebuild", "Rebuilt", "Repair"]
