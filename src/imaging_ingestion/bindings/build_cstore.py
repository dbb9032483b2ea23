"""Builds a C-STORE binding from its plan; a site without one imports none of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.tls import TlsFiles, client_context, tls_settings
from imaging_ingestion.bindings.association_pool import AssociationPool, StoreTarget
from imaging_ingestion.bindings.cstore import CStoreBinding, CStoreTarget
from imaging_ingestion.events.broker import Handler
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.resources.plan import CStorePlan
from imaging_ingestion.storage.space import Space
from imaging_ingestion.transcoding.transcoder import Transcoder

#: An archive that has received an instance of gigabytes has to put it somewhere.
_RESPONSE: Final = 180.0  # seconds


def build_cstore(
    plan: CStorePlan, database: Database, spaces: Mapping[str, Space]
) -> tuple[CStoreTarget, Handler]:
    """The target, to be closed at the end, and the handler. Raises ValueError for bad TLS keys."""
    tls = tls_settings({key: value.get_secret_value() for key, value in plan.tls.items()})
    if tls is not None:
        client_context(tls)  # what is wrong with its files is to be told now
    target = StoreTarget(
        plan.host,
        plan.port,
        plan.ae_title,
        plan.calling_ae_title,
        ConnectSettings(
            tls=None if tls is None else TlsFiles(tls, is_server=False),
            limits=AssociationLimits(response=_RESPONSE),
        ),
    )
    transcoder = Transcoder()
    pool = AssociationPool(target, transcoder, size=plan.concurrency)
    kept = CStoreTarget(pool, transcoder)
    return kept, CStoreBinding(kept, database, spaces).deliver
