"""Hidden tests within the work of a job, and how far the labels of others were shown to whom."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

TYPES = {
    "sqlite": {"ref": "INTEGER", "true": "1", "false": "0"},
    "postgresql": {"ref": "BIGINT", "true": "TRUE", "false": "FALSE"},
}


def upgrade() -> None:
    """Tests of older books lie on top of the work."""
    types = TYPES[op.get_bind().dialect.name]
    steps = Path(__file__).with_suffix(".sql").read_text().partition("\n")[2]
    for statement in steps.format(**types).split(";"):
        op.execute(statement)
