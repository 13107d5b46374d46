"""The tables of the label book. `migrations/` makes them in a database; a test holds the two together.

Times are seconds since the epoch. Texts are bounded where they enter, in Python. Ids of SQLite are its row ids.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ForeignKey, Index, MetaData, Table, UniqueConstraint
from sqlalchemy.types import BigInteger, Boolean, Double, Integer, LargeBinary, Text

metadata = MetaData()
_ID = BigInteger().with_variant(Integer(), "sqlite")
_KINDS = {"text": Text, "int": Integer, "big": BigInteger, "real": Double, "bool": Boolean, "bytes": LargeBinary}


def _columns(names: str) -> list[Column[Any]]:
    """Of `name:kind` words; a kind that ends in ? may be NULL."""
    found: list[Column[Any]] = []
    for word in names.split():
        name, kind = word.split(":")
        found.append(Column(name, _KINDS[kind.rstrip("?")], nullable=kind.endswith("?")))
    return found


def _id(name: str = "id") -> Column[int]:
    return Column(name, _ID, primary_key=True)


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _to(target: str, name: str, **options: Any) -> Column[Any]:
    return Column(name, _ID, ForeignKey(f"{target}.id"), nullable=options.pop("nullable", False), **options)


def _table(name: str, *parts: Any, **options: Any) -> Table:
    return Table(name, metadata, *parts, **options)


def _unique(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, unique=True)


_MEMBER = "name:text role:text active:bool password_hash:text created:real"
member = _table("member", _id(), _unique("name_key"), *_columns(_MEMBER))

_INVITER = _to("member", "created_by", nullable=True)  # NULL: the setup token
_INVITE = [*_columns("role:text created:real expires:real"), _INVITER, _to("member", "used_by", nullable=True)]
invite = _table("invite", _id(), _unique("token_hash"), *_INVITE)

_OWNER = ("member", "user_id")
session = _table(
    "session", _key("token_hash", Text), _to(*_OWNER, index=True), *_columns("created:real last_seen:real")
)
api_token = _table(
    "api_token", _id(), _unique("token_hash"), _to(*_OWNER, index=True), *_columns("name:text created:real")
)
throttle = _table("throttle", _key("key", Text), *_columns("failures:int blocked_until:real last:real"))

# pts: zlib of float64 seconds, little-endian
_VIDEO = "name:text state:text error:text progress:real sha256:text? w:int? h:int? n_frames:int? rate:text? pts:bytes?"
video = _table("video", _id(), _unique("path"), *_columns(_VIDEO))
sequence = _table("sequence", _id(), _to("video", "video_id", index=True), *_columns("start:int stop:int"))

_JOB = "name:text instructions:text kind:text replicas:int gold_fraction:real sequence_length:int created:real"
job = _table("job", _id(), *_columns(_JOB), _to("member", "created_by"))

_TASK = "replica:int state:text lease_until:real? accepted_at:real? submitted_at:real? comment:text"
task = _table(
    "task",
    _id(),
    _to("job", "job_id"),
    _to("sequence", "sequence_id"),
    _to("member", "assignee", nullable=True),
    *_columns(_TASK),
    _to("task", "gold_of", nullable=True),  # the approved task whose labels are the truth of this hidden test
    Column("work", Boolean, nullable=False),  # false: a test on top of the job's own frames, exported nowhere
    UniqueConstraint("job_id", "sequence_id", "replica"),
    Index("task_state", "state", "id"),
    Index("task_assignee", "assignee"),
)
participation = _table(  # its key is the rule that nobody works on two replicas of one sequence
    "participation",
    _to("job", "job_id", primary_key=True),
    _to("sequence", "sequence_id", primary_key=True),
    _to("member", "user_id", primary_key=True),
    _to("task", "task_id", index=True),
    *_columns("declined:bool active_s:real last_active:real"),
)
_REVIEW = _columns("verdict:text comment:text frames:text created:real")  # frames: JSON list
review = _table("review", _id(), _to("task", "task_id", index=True), _to("member", "reviewer"), *_REVIEW)

# What an event sets and the current state shows.
_LABEL = (
    "visibility:int? x:real? y:real? event:text blur_l:real? blur_theta:real? source:text score:real? "
    "client_id:text client_seq:big"
)
annotation_event = _table(  # append-only: triggers refuse UPDATE and DELETE
    "annotation_event",
    _id("seq"),
    _unique("uuid"),
    _to("task", "task_id"),
    *_columns(f"frame:int object:text op:text {_LABEL} client_ts:real? base_rev:big outcome:text server_ts:real"),
    _to("member", "user_id"),
    Index("annotation_event_frame", "task_id", "frame", "object"),
    sqlite_autoincrement=True,
)
label = _table(  # the last applied event of each frame and object; visibility NULL: cleared
    "label",
    _to("task", "task_id", primary_key=True),
    _key("frame", Integer),
    _key("object", Text),
    Column("rev", _ID, ForeignKey("annotation_event.seq"), nullable=False),
    *_columns(_LABEL),
    _to("member", "user_id"),
    Index("label_rev", "task_id", "rev"),
)
# The newest revision up to which a member was shown all that others said of a task.
_SHOWN = [_to("task", "task_id", primary_key=True), _to("member", "user_id", primary_key=True)]
seen = _table("seen", *_SHOWN, Column("rev", _ID, nullable=False))
_ONCE = UniqueConstraint("job_id", "version")
_CONSENSUS = [_to("job", "job_id"), *_columns("version:int created:real"), _to("member", "created_by")]
consensus = _table("consensus", _id(), *_CONSENSUS, _ONCE)
consensus_label = _table(
    "consensus_label",
    _to("consensus", "consensus_id", primary_key=True),
    _to("sequence", "sequence_id", primary_key=True),
    _key("frame", Integer),
    # visibility NULL: to be adjudicated
    *_columns("visibility:int? x:real? y:real? event:text n:int spread_px:real? method:text"),
)
_RUN = "model:text state:text progress:real error:text created:real"
proposal_run = _table("proposal_run", _id(), _to("video", "video_id", index=True), *_columns(_RUN))
_AT = [_to("proposal_run", "run_id", primary_key=True), _key("frame", Integer)]
proposal = _table("proposal", *_AT, *_columns("x:real? y:real? score:real"))
