"""The manifest's first tables.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Text that is matched or sorted: compared byte by byte in both databases.
MATCHED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make every table. What they mean is told in `manifest.schema`."""
    op.create_table(
        "study",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("study_instance_uid", MATCHED, nullable=False),
        sa.Column("study_date", MATCHED),
        sa.Column("study_time", MATCHED),
        sa.Column("accession_number", MATCHED),
        sa.Column("referring_physician_name", MATCHED),
        sa.Column("patient_name", MATCHED),
        sa.Column("patient_id", MATCHED),
        sa.Column("issuer_of_patient_id", MATCHED),
        sa.Column("patient_birth_date", MATCHED),
        sa.Column("patient_sex", MATCHED),
        sa.Column("study_id", MATCHED),
        sa.Column("study_description", MATCHED),
        sa.Column("timezone_offset_from_utc", MATCHED),
        sa.Column("patient_name_folded", MATCHED),
        sa.Column("referring_physician_name_folded", MATCHED),
        sa.Column("attributes", sa.Text(), server_default="{}", nullable=False),
        sa.Column("number_of_series", sa.Integer(), server_default="0", nullable=False),
        sa.Column("number_of_instances", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer()),
        sa.Column("revision_due_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("study_pkey")),
    )
    op.create_index("study_by_accession", "study", ["space", "accession_number", "id"])
    op.create_index("study_by_arrival", "study", ["space", "id"])
    op.create_index("study_by_date", "study", ["space", "study_date", "id"])
    op.create_index("study_by_patient_id", "study", ["space", "patient_id", "id"])
    op.create_index("study_by_patient_name", "study", ["space", "patient_name_folded", "id"])
    op.create_index(
        "study_revision_due",
        "study",
        ["revision_due_at", "id"],
        postgresql_where=sa.text("revision_due_at IS NOT NULL"),
        sqlite_where=sa.text("revision_due_at IS NOT NULL"),
    )
    op.create_index("study_uid", "study", ["space", "study_instance_uid"], unique=True)

    op.create_table(
        "series",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("study_pk", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("series_instance_uid", MATCHED, nullable=False),
        sa.Column("modality", MATCHED),
        sa.Column("series_number", MATCHED),
        sa.Column("series_description", MATCHED),
        sa.Column("performed_procedure_step_start_date", MATCHED),
        sa.Column("performed_procedure_step_start_time", MATCHED),
        sa.Column("timezone_offset_from_utc", MATCHED),
        sa.Column("attributes", sa.Text(), server_default="{}", nullable=False),
        sa.Column("provider", MATCHED, server_default="", nullable=False),
        sa.Column("number_of_instances", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_pk"], ["study.id"], name=op.f("series_study_pk_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("series_pkey")),
    )
    op.create_index("series_by_modality", "series", ["modality", "study_pk"])
    op.create_index("series_by_uid", "series", ["space", "series_instance_uid"])
    op.create_index("series_uid", "series", ["study_pk", "series_instance_uid"], unique=True)

    op.create_table(
        "instance",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("study_pk", IDENTITY, nullable=False),
        sa.Column("series_pk", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("sop_instance_uid", MATCHED, nullable=False),
        sa.Column("sop_class_uid", MATCHED, nullable=False),
        sa.Column("instance_number", MATCHED),
        sa.Column("rows", sa.Integer()),
        sa.Column("columns", sa.Integer()),
        sa.Column("bits_allocated", sa.SmallInteger()),
        sa.Column("number_of_frames", MATCHED),
        sa.Column("timezone_offset_from_utc", MATCHED),
        sa.Column("transfer_syntax_uid", MATCHED, nullable=False),
        sa.Column("provider", MATCHED, server_default="", nullable=False),
        sa.Column("object_name", MATCHED, nullable=False),
        sa.Column("object_size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("announced_sha256", sa.LargeBinary(length=32)),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["study_pk"], ["study.id"], name=op.f("instance_study_pk_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["series_pk"], ["series.id"], name=op.f("instance_series_pk_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("instance_pkey")),
    )
    op.create_index("instance_by_series", "instance", ["series_pk", "id"])
    op.create_index("instance_by_study", "instance", ["study_pk", "id"])
    op.create_index(
        "instance_live_uid",
        "instance",
        ["space", "sop_instance_uid"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
        sqlite_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "instance_tombstone",
        "instance",
        ["space", "sop_instance_uid"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )

    op.create_table(
        "instance_metadata",
        sa.Column("instance_pk", IDENTITY, autoincrement=False, nullable=False),
        sa.Column("json_zstd", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_pk"],
            ["instance.id"],
            name=op.f("instance_metadata_instance_pk_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_pk", name=op.f("instance_metadata_pkey")),
    )

    op.create_table(
        "revision",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("study_pk", IDENTITY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event_zstd", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_pk"], ["study.id"], name=op.f("revision_study_pk_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("revision_pkey")),
    )
    op.create_index("revision_number", "revision", ["study_pk", "number"], unique=True)

    op.create_table(
        "change",
        sa.Column("seq", IDENTITY, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", MATCHED, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("study_instance_uid", MATCHED),
        sa.Column("series_instance_uid", MATCHED),
        sa.Column("sop_instance_uid", MATCHED),
        sa.Column("provider", MATCHED),
        sa.Column("version", sa.Integer()),
        sa.Column("binding", MATCHED),
        sa.Column("event_id", MATCHED),
        sa.Column("source", MATCHED),
        sa.Column("detail", sa.Text()),
        sa.Column("traceparent", MATCHED),
        sa.PrimaryKeyConstraint("seq", name=op.f("change_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index("change_by_study", "change", ["study_instance_uid", "seq"])
    op.create_index(
        "change_published",
        "change",
        ["event_id", "source"],
        unique=True,
        postgresql_where=sa.text("kind = 'published'"),
        sqlite_where=sa.text("kind = 'published'"),
    )

    op.create_table(
        "subscription",
        sa.Column("name", MATCHED, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("subscription_pkey")),
    )

    op.create_table(
        "delivery",
        sa.Column("binding", MATCHED, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", MATCHED, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.BigInteger()),
        sa.Column("claim", sa.BigInteger()),
        sa.Column("order_key", MATCHED),
        sa.Column("event_id", MATCHED, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("study_instance_uid", MATCHED),
        sa.Column("answer", sa.Text()),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("binding", "seq", name=op.f("delivery_pkey")),
    )
    op.create_index("delivery_by_state", "delivery", ["state", "binding", "seq"])
    op.create_index("delivery_by_study", "delivery", ["study_instance_uid", "binding", "seq"])
    op.create_index(
        "delivery_due",
        "delivery",
        ["binding", "next_at", "seq"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "delivery_order",
        "delivery",
        ["binding", "order_key", "seq"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )

    op.create_table(
        "delivery_count",
        sa.Column("binding", MATCHED, nullable=False),
        sa.Column("state", MATCHED, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("binding", "state", name=op.f("delivery_count_pkey")),
    )
