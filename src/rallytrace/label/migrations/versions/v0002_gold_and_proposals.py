"""Hidden gold sequences (a task may be a test whose truth is another, approved task) and a network's proposals."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"

TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL", "ref": "INTEGER"},
    "postgresql": {"id": "BIGSERIAL PRIMARY KEY", "ref": "BIGINT"},
}


def upgrade() -> None:
    """Tasks of older books are no tests."""
    steps = Path(__file__).with_suffix(".sql").read_text().partition("\n")[2]
    for statement in steps.format(**TYPES[op.get_bind().dialect.name]).split(";"):
        op.execute(statement)
