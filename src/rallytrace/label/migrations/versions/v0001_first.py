"""The first schema: team, videos, jobs, append-only events, their current state, versioned consensus."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

LABEL = """visibility INTEGER, x {real}, y {real}, event TEXT NOT NULL, blur_l {real}, blur_theta {real},
    source TEXT NOT NULL, score {real}, user_id {ref} NOT NULL REFERENCES member (id), client_id TEXT NOT NULL,
    client_seq BIGINT NOT NULL"""
TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL", "ref": "INTEGER", "blob": "BLOB"},
    "postgresql": {"id": "BIGSERIAL PRIMARY KEY", "ref": "BIGINT", "blob": "BYTEA"},
}
SQLITE_GUARD = """CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}
    BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"""
POSTGRESQL_FUNCTION = """CREATE FUNCTION rallytrace_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"""
POSTGRESQL_GUARD = """CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION rallytrace_append_only()"""


def upgrade() -> None:
    """Makes the tables, and the triggers that keep what was said."""
    dialect = op.get_bind().dialect.name
    types = TYPES[dialect] | {"real": "DOUBLE PRECISION"}
    tables = Path(__file__).with_suffix(".sql").read_text().partition("\n")[2]
    for statement in tables.replace("{label}", LABEL).format(**types).split(";"):
        op.execute(statement)
    if dialect == "postgresql":
        op.execute(POSTGRESQL_FUNCTION)
    guard, actions = (
        (POSTGRESQL_GUARD, ["update", "delete", "truncate"])
        if dialect == "postgresql"
        else (SQLITE_GUARD, ["update", "delete"])
    )
    for table in ("annotation_event", "consensus", "consensus_label"):
        for action in actions:
            op.execute(guard.format(table=table, action=action))
