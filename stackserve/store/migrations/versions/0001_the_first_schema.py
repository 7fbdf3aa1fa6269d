"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "model_version_sets",
        sa.Column("latest_version", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version_sets")),
    )
    with op.batch_alter_table("model_version_sets", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_model_version_sets_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_model_version_sets_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_model_version_sets_time_created"), ["time_created"], unique=False
        )

    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
    )
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_projects_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_projects_time_created"), ["time_created"], unique=False
        )

    op.create_table(
        "retry_tokens",
        sa.Column("token", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_retry_tokens")),
    )
    with op.batch_alter_table("retry_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_retry_tokens_time_created"), ["time_created"], unique=False
        )

    op.create_table(
        "version_histories",
        sa.Column("latest_group_id", sa.String(length=255), nullable=True),
        sa.Column("latest_version", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_histories")),
    )
    with op.batch_alter_table("version_histories", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_version_histories_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_version_histories_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_version_histories_time_created"), ["time_created"], unique=False
        )

    op.create_table(
        "work_requests",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("operation_type", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("resource_id", sa.String(length=255), nullable=False),
        sa.Column("entity_type", sa.String(length=255), nullable=False),
        sa.Column("action_type", sa.String(length=255), nullable=False),
        sa.Column("percent_complete", sa.Double(), nullable=False),
        sa.Column("time_accepted", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_started", sa.DateTime(timezone=True), nullable=True),
        sa.Column("time_finished", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_requests")),
    )
    with op.batch_alter_table("work_requests", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_work_requests_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_work_requests_resource_id"), ["resource_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_work_requests_time_accepted"), ["time_accepted"], unique=False
        )

    op.create_table(
        "groups",
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("base_model_id", sa.String(length=255), nullable=True),
        sa.Column("custom_metadata", sa.JSON(), nullable=False),
        sa.Column("history_id", sa.String(length=255), nullable=True),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("version_label", sa.String(length=255), nullable=True),
        sa.Column("create_type", sa.String(length=255), nullable=False),
        sa.Column("source_group_id", sa.String(length=255), nullable=True),
        sa.Column("artifact_digest", sa.String(length=64), nullable=True),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_digest"], ["artifacts.digest"], name=op.f("fk_groups_artifact_digest")
        ),
        sa.ForeignKeyConstraint(
            ["history_id"], ["version_histories.id"], name=op.f("fk_groups_history_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint(
            "history_id", "version_id", name=op.f("uq_groups_history_id_version_id")
        ),
    )
    with op.batch_alter_table("groups", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_groups_base_model_id"), ["base_model_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_groups_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_groups_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_groups_time_created"), ["time_created"], unique=False)

    op.create_table(
        "models",
        sa.Column("artifact_digest", sa.String(length=64), nullable=True),
        sa.Column("custom_metadata", sa.JSON(), nullable=False),
        sa.Column("defined_metadata", sa.JSON(), nullable=False),
        sa.Column("version_set_id", sa.String(length=255), nullable=True),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("version_label", sa.String(length=255), nullable=True),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_digest"], ["artifacts.digest"], name=op.f("fk_models_artifact_digest")
        ),
        sa.ForeignKeyConstraint(
            ["version_set_id"], ["model_version_sets.id"], name=op.f("fk_models_version_set_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_models_artifact_digest"), ["artifact_digest"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_models_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_models_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_models_time_created"), ["time_created"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_models_version_set_id"), ["version_set_id"], unique=False
        )

    op.create_table(
        "work_request_lines",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("work_request_id", sa.String(length=255), nullable=False),
        sa.Column("code", sa.String(length=255), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["work_request_id"],
            ["work_requests.id"],
            name=op.f("fk_work_request_lines_work_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_work_request_lines")),
    )
    with op.batch_alter_table("work_request_lines", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_work_request_lines_work_request_id"), ["work_request_id"], unique=False
        )

    op.create_table(
        "deployments",
        sa.Column("gateway", sa.String(length=255), nullable=False),
        sa.Column("url", sa.String(length=255), nullable=False),
        sa.Column("configuration", sa.JSON(), nullable=False),
        sa.Column("wanted_state", sa.String(length=255), nullable=False),
        sa.Column("wanted_group_id", sa.String(length=255), nullable=False),
        sa.Column("update_type", sa.String(length=255), nullable=True),
        sa.Column("group_id", sa.String(length=255), nullable=True),
        sa.Column("served_configuration", sa.JSON(), nullable=True),
        sa.Column("previous_group_id", sa.String(length=255), nullable=True),
        sa.Column("work_request_id", sa.String(length=255), nullable=True),
        sa.Column("model_states", sa.JSON(), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("compartment_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("lifecycle_state", sa.String(length=255), nullable=False),
        sa.Column("lifecycle_details", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=255), nullable=False),
        sa.Column("time_created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("freeform_tags", sa.JSON(), nullable=False),
        sa.Column("defined_tags", sa.JSON(), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_deployments_group_id")),
        sa.ForeignKeyConstraint(
            ["previous_group_id"], ["groups.id"], name=op.f("fk_deployments_previous_group_id")
        ),
        sa.ForeignKeyConstraint(
            ["wanted_group_id"], ["groups.id"], name=op.f("fk_deployments_wanted_group_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_deployments_compartment_id"), ["compartment_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_deployments_gateway"), ["gateway"], unique=False)
        batch_op.create_index(batch_op.f("ix_deployments_group_id"), ["group_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_deployments_project_id"), ["project_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_deployments_time_created"), ["time_created"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_deployments_wanted_group_id"), ["wanted_group_id"], unique=False
        )

    op.create_table(
        "group_members",
        sa.Column("group_id", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("inference_key", sa.String(length=255), nullable=True),
        sa.Column("model_id", sa.String(length=255), nullable=False),
        sa.Column("unused", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_group_members_group_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_group_members_model_id")
        ),
        sa.PrimaryKeyConstraint("group_id", "position", name=op.f("pk_group_members")),
        sa.UniqueConstraint(
            "group_id", "inference_key", name=op.f("uq_group_members_group_id_inference_key")
        ),
    )
    with op.batch_alter_table("group_members", schema=None) as batch_op:
        batch_op.create_index("ix_group_members_model_id", ["model_id"], unique=False)
