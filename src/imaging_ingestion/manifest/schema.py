"""The manifest's tables: what is in every space, what happened, and what is still owed.

Times are microseconds since the Unix epoch (UTC) in BIGINT columns: they sort, they compare with
one machine word, and both databases keep them alike. Text that is matched or sorted uses the "C"
collation, so that prefix ranges and orders mean the same on SQLite and PostgreSQL.

An instance is live while `deleted_at` is null. A tombstone (a row with `deleted_at`) stays: for it
the answer is 410 and not 404 (PS3.18 8.5), it carries the version on when the instance comes back,
so that an event id never means two things, and it names the object that is to go. Once a revision
has told of the deletion its metadata is empty. At most one live row exists per
(space, SOP Instance UID); the partial unique index `instance_live_uid` says so.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

#: SQLite only autoincrements INTEGER PRIMARY KEY columns.
Identity = BigInteger().with_variant(Integer(), "sqlite")


def _text() -> TypeEngine[str]:
    """Text compared byte by byte, in both databases."""
    return Text().with_variant(Text(collation="C"), "postgresql")


study = Table(
    "study",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("space", _text(), nullable=False),
    Column("study_instance_uid", _text(), nullable=False),
    # Attributes of table 10.6.3-3, as received (UTF-8), empty and absent alike as NULL.
    Column("study_date", _text()),  # DA, YYYYMMDD
    Column("study_time", _text()),  # TM as received
    Column("accession_number", _text()),
    Column("referring_physician_name", _text()),
    Column("patient_name", _text()),  # "Alphabetic=Ideographic=Phonetic"
    Column("patient_id", _text()),
    Column("issuer_of_patient_id", _text()),
    Column("patient_birth_date", _text()),
    Column("patient_sex", _text()),
    Column("study_id", _text()),
    Column("study_description", _text()),
    Column("timezone_offset_from_utc", _text()),
    # Case-folded alphabetic component group of the two person names, for matching (PS3.4 C.2.2.2).
    Column("patient_name_folded", _text()),
    Column("referring_physician_name_folded", _text()),
    # Every study- and patient-level attribute as one DICOM JSON object (includefield, FHIR).
    Column("attributes", Text, nullable=False, server_default="{}"),
    # Live series and instances. Maintained by record.py in the transaction that changes them.
    Column("number_of_series", Integer, nullable=False, server_default="0"),
    Column("number_of_instances", Integer, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    # Revisions: the number last announced (NULL before the first, which is 0), and when the next
    # is due (NULL when nothing changed since).
    Column("revision", Integer),
    Column("revision_due_at", BigInteger),
    Index("study_uid", "space", "study_instance_uid", unique=True),
    Index("study_by_arrival", "space", "id"),
    Index("study_by_date", "space", "study_date", "id"),
    Index("study_by_patient_id", "space", "patient_id", "id"),
    Index("study_by_accession", "space", "accession_number", "id"),
    Index("study_by_patient_name", "space", "patient_name_folded", "id"),
    # Those whose last change a revision has told of, for retention; writers do not touch it.
    Index(
        "study_settled",
        "space",
        "changed_at",
        "id",
        postgresql_where=text("revision_due_at IS NULL AND number_of_instances > 0"),
        sqlite_where=text("revision_due_at IS NULL AND number_of_instances > 0"),
    ),
    Index(
        "study_revision_due",
        "revision_due_at",
        "id",
        postgresql_where=text("revision_due_at IS NOT NULL"),
        sqlite_where=text("revision_due_at IS NOT NULL"),
    ),
)

series = Table(
    "series",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("study_pk", Identity, ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("space", _text(), nullable=False),
    Column("series_instance_uid", _text(), nullable=False),
    Column("modality", _text()),
    Column("series_number", _text()),  # IS as received: QIDO answers it, FHIR takes it if unsigned
    Column("series_description", _text()),
    Column("performed_procedure_step_start_date", _text()),
    Column("performed_procedure_step_start_time", _text()),
    Column("timezone_offset_from_utc", _text()),
    # Every series-level attribute as one DICOM JSON object, sequences included.
    Column("attributes", Text, nullable=False, server_default="{}"),
    Column("provider", _text(), nullable=False, server_default=""),
    Column("number_of_instances", Integer, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("series_uid", "study_pk", "series_instance_uid", unique=True),
    Index("series_by_uid", "space", "series_instance_uid"),
    Index("series_by_modality", "modality", "study_pk"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("study_pk", Identity, ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("series_pk", Identity, ForeignKey("series.id", ondelete="CASCADE"), nullable=False),
    Column("space", _text(), nullable=False),
    Column("sop_instance_uid", _text(), nullable=False),
    Column("sop_class_uid", _text(), nullable=False),
    Column("instance_number", _text()),  # IS as received
    Column("rows", Integer),
    Column("columns", Integer),
    Column("bits_allocated", SmallInteger),
    Column("number_of_frames", _text()),  # IS as received
    Column("timezone_offset_from_utc", _text()),
    Column("transfer_syntax_uid", _text(), nullable=False),
    Column("provider", _text(), nullable=False, server_default=""),
    Column("object_name", _text(), nullable=False),
    Column("object_size", BigInteger, nullable=False),  # bytes
    Column("sha256", LargeBinary(32), nullable=False),  # of the stored bytes
    # Counts the contents this instance has had; the first is 1.
    Column("version", Integer, nullable=False, server_default="1"),
    Column("stored_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Index(
        "instance_live_uid",
        "space",
        "sop_instance_uid",
        unique=True,
        postgresql_where=text("deleted_at IS NULL"),
        sqlite_where=text("deleted_at IS NULL"),
    ),
    # Where an instance that comes back finds its tombstones.
    Index(
        "instance_tombstone",
        "space",
        "sop_instance_uid",
        postgresql_where=text("deleted_at IS NOT NULL"),
        sqlite_where=text("deleted_at IS NOT NULL"),
    ),
    Index("instance_by_series", "series_pk", "id"),
    Index("instance_by_study", "study_pk", "id"),
)

#: The whole data set but group 0002 and bulk values, as zstd-compressed DICOM JSON (PS3.18 F).
#: Kept apart so that rows of `instance` stay narrow.
instance_metadata = Table(
    "instance_metadata",
    metadata,
    Column(
        "instance_pk",
        Identity,
        ForeignKey("instance.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("json_zstd", LargeBinary, nullable=False),
)

#: The content of an instance that the last revision told of; no row if none has (announcement.py).
announced = Table(
    "announced",
    metadata,
    Column(
        "instance_pk",
        Identity,
        ForeignKey("instance.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("sha256", LargeBinary(32), nullable=False),
)

#: What revision N of a study announced: the data of its StudyRevisionEvent.
revision = Table(
    "revision",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("study_pk", Identity, ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("event_zstd", LargeBinary, nullable=False),  # StudyRevisionEvent as zstd JSON
    Index("revision_number", "study_pk", "number", unique=True),
)

#: The one ordered log. `seq` grows in the order of commits (see changes.py).
change = Table(
    "change",
    metadata,
    Column("seq", Identity, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", _text(), nullable=False),  # events.model.ChangeKind
    Column("space", _text(), nullable=False),
    Column("study_instance_uid", _text()),
    Column("series_instance_uid", _text()),
    Column("sop_instance_uid", _text()),
    Column("provider", _text()),
    Column("version", Integer),  # instance version (stored, replaced) or revision number (revised)
    Column("binding", _text()),  # delivered, failed
    Column("event_id", _text()),
    Column("source", _text()),  # of a published event; with `event_id` its identity (CloudEvents)
    Column("detail", Text),  # JSON: a published event, whole
    Column("traceparent", _text()),
    Index("change_by_study", "study_instance_uid", "seq"),
    Index(
        "change_published",
        "event_id",
        "source",
        unique=True,
        postgresql_where=text("kind = 'published'"),
        sqlite_where=text("kind = 'published'"),
    ),
    sqlite_autoincrement=True,
)

#: How far each binding's fan-out has read the log.
subscription = Table(
    "subscription",
    metadata,
    Column("name", _text(), primary_key=True),
    Column("position", BigInteger, nullable=False),  # last `change.seq` fanned out
    # Who reads the log for it now, where only one may (the outbox), and how long that holds.
    Column("claim", BigInteger),
    Column("claimed_until", BigInteger),
)

#: The delivery ledger: event x binding. See deliveries.py for what a claim is.
delivery = Table(
    "delivery",
    metadata,
    Column("binding", _text(), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # change.seq of the event
    Column("state", _text(), nullable=False),  # pending, delivered, dead
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column(
        "next_at", BigInteger
    ),  # when it is due, or how long its claim holds; NULL unless pending
    Column("claim", BigInteger),  # who tries it now; NULL if nobody does
    # Deliveries of one binding with one key go one after the other; NULL: whenever.
    Column("order_key", _text()),
    Column("event_id", _text(), nullable=False),
    Column("space", _text(), nullable=False),
    Column("study_instance_uid", _text()),
    Column("answer", Text),  # the target's last answer, shortened
    Column("changed_at", BigInteger, nullable=False),
    Index(
        "delivery_due",
        "binding",
        "next_at",
        "seq",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index(
        "delivery_order",
        "binding",
        "order_key",
        "seq",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index("delivery_by_state", "state", "binding", "seq"),
    Index("delivery_by_study", "study_instance_uid", "binding", "seq"),
)

#: How many deliveries each binding has in each state. Maintained in the transactions that change
#: them: whoever watches asks every few seconds, and the ledger only grows.
delivery_count = Table(
    "delivery_count",
    metadata,
    Column("binding", _text(), primary_key=True),
    Column("state", _text(), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

#: Requests for storage commitment (PS3.4 J) that are to be answered by a report, or were. See
#: commitment.py for what a claim is.
commitment = Table(
    "commitment",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("space", _text(), nullable=False),
    Column("transaction_uid", _text(), nullable=False),
    Column("requester", _text(), nullable=False),  # its AE title
    Column("called", _text(), nullable=False),  # our AE title, as it called us
    Column("items_zstd", LargeBinary, nullable=False),  # zstd JSON: [[class UID, instance UID], …]
    Column("number_of_items", Integer, nullable=False),
    Column("state", _text(), nullable=False),  # pending, reported, dead
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger),  # as in `delivery`
    Column("claim", BigInteger),
    Column("requested_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("answer", Text),  # how the last try ended, in words
    # A transaction UID is in use until its report has been taken (PS3.3 C.14.1.1, 0131H).
    Index(
        "commitment_transaction",
        "space",
        "requester",
        "transaction_uid",
        unique=True,
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index(
        "commitment_due",
        "space",
        "next_at",
        "id",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index("commitment_by_change", "space", "state", "changed_at"),
)

#: Objects that nothing refers to any more and that are to go from their spaces. A row is written in
#: the transaction that deletes or replaces, and goes when its object is gone.
object_removal = Table(
    "object_removal",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("space", _text(), nullable=False),
    Column("sop_instance_uid", _text(), nullable=False, server_default=""),  # whose it was
    Column("object_name", _text(), nullable=False),
    Column("next_at", BigInteger, nullable=False),  # when to try, or to try again
    Column("attempts", Integer, nullable=False, server_default="0"),
    Index("object_removal_due", "next_at", "id"),
    Index("object_removal_name", "space", "object_name"),
)

#: What each space holds: live instances and their objects' bytes. Maintained in the transactions
#: that change them, under the log's lock: a quota asks for it often, and nobody may count rows.
space_usage = Table(
    "space_usage",
    metadata,
    Column("space", _text(), primary_key=True),
    Column("instances", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

#: Instances that were kept aside instead of being recorded, and what became of them.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("space", _text(), nullable=False),
    Column("study_instance_uid", _text(), nullable=False),
    Column("series_instance_uid", _text(), nullable=False),
    Column("sop_instance_uid", _text(), nullable=False),
    Column("reason", _text(), nullable=False),  # events.stored.QuarantineReason
    Column("detail", Text, nullable=False),  # JSON: the attributes that differ, both values
    Column("object_name", _text(), nullable=False),
    Column("object_size", BigInteger, nullable=False),  # bytes
    Column("sha256", LargeBinary(32), nullable=False),
    Column("provider", _text(), nullable=False),
    Column("stored", LargeBinary, nullable=False),  # the StoredInstance, MessagePack; b"" when over
    Column("held_at", BigInteger, nullable=False),
    Column("resolved_at", BigInteger),  # NULL while it waits
    Column("resolution", _text()),  # accepted, discarded
    Index(
        "quarantine_waiting",
        "space",
        "id",
        postgresql_where=text("resolved_at IS NULL"),
        sqlite_where=text("resolved_at IS NULL"),
    ),
    # Identical bytes that come again while they wait are the same case.
    Index(
        "quarantine_content",
        "space",
        "sop_instance_uid",
        "sha256",
        unique=True,
        postgresql_where=text("resolved_at IS NULL"),
        sqlite_where=text("resolved_at IS NULL"),
    ),
)
