"""Who may do what: members, invitations, passwords, sessions, API tokens and the brake on guessing.

Secrets are 256 random bits; the book keeps their SHA-256 alone, so that a stolen book opens no session. Passwords
are kept as argon2id hashes (RFC 9106). No function here knows HTTP: the web app carries the secrets.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from rallytrace.label.book import BookError, LabelBook, NotAllowed, NotFound, as_row, bounded_text, inserted
from rallytrace.label.schema import api_token, invite, member, session, throttle

ROLES = ("admin", "annotator", "reviewer")
PASSWORD_LENGTHS = (10, 200)
SESSION_S = 7 * 86_400.0  # however busy
SESSION_IDLE_S = 12 * 3600.0
SEEN_EVERY_S = 60.0  # a session's last use is written at most this often
INVITE_S = 7 * 86_400.0
FREE_FAILURES = {"name": 5, "address": 20, "pair": 5}  # before a login has to wait
LONGEST_WAIT_S = 900.0
FORGET_FAILURES_S = 86_400.0
USUAL_S = 30 * 86_400.0  # that an address is known as one of a member's
MAX_TOKENS = 50  # API tokens per member, open invitations


class Throttled(BookError):
    """Too many failed logins; try again after `retry_after_s`."""

    code = "throttled"

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"too many failed logins; try again in {retry_after_s:.0f} s")


class BadLogin(BookError):
    """Name or password is wrong; which one is not said."""

    code = "bad_login"


@dataclass(frozen=True, slots=True)
class User:
    """A member of the team."""

    id: int
    name: str
    role: str
    active: bool

    @property
    def reviews(self) -> bool:
        """Whether the role sees and judges the work of others."""
        return self.role in ("admin", "reviewer")

    def must_review(self) -> None:
        """Raises NotAllowed."""
        if not self.reviews:
            raise NotAllowed("only a reviewer or an admin may do this")

    def must_administer(self) -> None:
        """Raises NotAllowed."""
        if self.role != "admin":
            raise NotAllowed("only an admin may do this")


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """A login: `token` goes into the cookie, `csrf` into the page. Neither can be read again from the book."""

    user: User
    token: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation that was not used."""

    id: int
    role: str
    created_by: int | None
    created: float
    expires: float


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token for scripts, without its secret."""

    id: int
    user_id: int
    name: str
    created: float


def setup_token(book: LabelBook) -> str | None:
    """A new token for the first admin, which ends those given before; None where the team has a member."""
    with book.write() as connection:
        if connection.scalar(select(func.count()).select_from(member)):
            return None
        connection.execute(delete(invite).where(invite.c.created_by.is_(None)))
        return _new_invite(book, connection, "admin", None, INVITE_S)[1]


def set_up(book: LabelBook, token: str, name: str, password: str) -> User:
    """The first admin. Raises BookError for a wrong token, name or password, NotAllowed where there is a member."""
    if setup_done(book):
        raise NotAllowed("this project has an admin already; ask for an invitation")
    return accept_invite(book, token, name, password)


def setup_done(book: LabelBook) -> bool:
    """Whether the team has a member."""
    with book.read() as connection:
        return bool(connection.scalar(select(func.count()).select_from(member)))


def create_invite(book: LabelBook, by: User, role: str, expires_s: float = INVITE_S) -> tuple[Invite, str]:
    """An invitation, and its token that a single person can use before it expires. Admins only."""
    by.must_administer()
    _check_role(role)
    with book.write() as connection:
        if len(connection.execute(_open_invites(book)).all()) >= MAX_TOKENS:
            raise BookError(f"{MAX_TOKENS} invitations are open; revoke one first")
        return _new_invite(book, connection, role, by.id, expires_s)


def _new_invite(
    book: LabelBook, connection: Connection, role: str, by: int | None, expires_s: float
) -> tuple[Invite, str]:
    token, now = secrets.token_urlsafe(32), book.clock()
    values = {"role": role, "created_by": by, "created": now, "expires": now + expires_s}
    found = inserted(connection, invite, values | {"token_hash": _digest(token)})
    return Invite(found, **values), token  # type: ignore[arg-type]


def _open_invites(book: LabelBook) -> Any:
    return select(invite).where(invite.c.used_by.is_(None), invite.c.expires > book.clock()).order_by(invite.c.id)


def invites(book: LabelBook, by: User) -> list[Invite]:
    """Those that can still be used. Admins only."""
    by.must_administer()
    return book.rows(Invite, _open_invites(book))


def revoke_invite(book: LabelBook, by: User, invite_id: int) -> None:
    """Admins only. Raises NotFound for one that is not there or was used."""
    by.must_administer()
    with book.write() as connection:
        gone = connection.execute(delete(invite).where(invite.c.id == invite_id, invite.c.used_by.is_(None)))
    if not gone.rowcount:
        raise NotFound(f"there is no open invitation {invite_id}")


def accept_invite(book: LabelBook, token: str, name: str, password: str) -> User:
    """The new member. Raises NotFound for a token that is wrong, used or expired, BookError for name and password."""
    name, key = _check_name(name)
    mine = (invite.c.token_hash == _digest(token), invite.c.used_by.is_(None), invite.c.expires > book.clock())
    with book.read() as connection:  # a stranger costs no argon2
        if connection.scalar(select(invite.c.id).where(*mine)) is None:
            raise NotFound("this invitation is unknown, used or expired; ask for a new one")
    hashed = _hash(_check_password(password, key))
    try:
        with book.write() as connection:
            found = connection.execute(select(invite).where(*mine).with_for_update()).mappings().first()
            if found is None or (found["created_by"] is None and connection.scalar(select(member.c.id).limit(1))):
                raise NotFound("this invitation is unknown, used or expired; ask for a new one")
            values = {"name": name, "name_key": key, "role": found["role"], "active": True}
            user_id = inserted(connection, member, values | {"password_hash": hashed, "created": book.clock()})
            connection.execute(update(invite).where(invite.c.id == found["id"]).values(used_by=user_id))
    except IntegrityError as error:
        raise BookError(f"the name {name!r} is taken; choose another") from error
    return User(user_id, name, found["role"], True)


def users(book: LabelBook) -> list[User]:
    """All members, also those who left, by id."""
    return book.rows(User, select(member).order_by(member.c.id))


def _user(connection: Connection, user_id: int) -> User:
    row = connection.execute(select(member).where(member.c.id == user_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no user {user_id}")
    return as_row(User, row)


def change_user(
    book: LabelBook, by: User, user_id: int, *, role: str | None = None, active: bool | None = None
) -> User:
    """Another role, or leave and return. Admins only.

    Who leaves is logged out everywhere, with all API tokens; who is no admin any more, has invited nobody.

    Raises NotAllowed where the team would be left without an active admin.
    """
    by.must_administer()
    values: dict[str, Any] = {} if active is None else {"active": active}
    if role is not None:
        values["role"] = _check_role(role)
    with book.write() as connection:
        # All admins are locked, so that two of them cannot demote each other at the same moment.
        admins = select(member.c.id).where(member.c.role == "admin", member.c.active).order_by(member.c.id)
        others = set(connection.scalars(admins.with_for_update())) - {user_id}
        was = _user(connection, user_id)
        stays = values.get("role", was.role) == "admin" and values.get("active", was.active)
        if not others and was.role == "admin" and was.active and not stays:
            raise NotAllowed(f"{was.name} is the last admin; make another admin first")
        if values:
            connection.execute(update(member).where(member.c.id == user_id).values(values))
        if active is False:
            _shut_out(connection, user_id)
        if not stays:
            connection.execute(delete(invite).where(invite.c.created_by == user_id, invite.c.used_by.is_(None)))
        return _user(connection, user_id)


def _shut_out(connection: Connection, user_id: int) -> None:
    """Nothing that was given to the user opens a door from now on."""
    for table in (session, api_token):
        connection.execute(delete(table).where(table.c.user_id == user_id))


def log_in(book: LabelBook, name: str, password: str, address: str | None) -> Session:
    """A new session. `address` is where the caller comes from, None where that is not known.

    Failures count for the name and for the address. Who logged in from this address lately is not held up by those of
    others: theirs count apart. Raises BadLogin or Throttled.
    """
    key = _name_key(name[:200])
    account, where, pair = _counted(key, address)
    with book.read() as connection:
        row = connection.execute(select(member).where(member.c.name_key == key)).mappings().first()
        usual = connection.scalar(select(throttle.c.key).where(throttle.c.key == f"usual-{pair}"))
    counted = [account, where]
    if address is None:
        counted = [account]
    elif usual:
        counted = [pair]
    _brake(book, counted)
    # An unknown name takes as long as a wrong password.
    hashed = row["password_hash"] if row is not None else _nobody()
    if not _verify(hashed, password) or row is None or not row["active"]:
        raise BadLogin("name or password is wrong")
    fresh = _hash(password) if PasswordHasher().check_needs_rehash(hashed) else hashed
    now = book.clock()
    with book.write() as connection:
        connection.execute(delete(throttle).where(throttle.c.key.in_([counted[0], f"usual-{pair}"])))
        # Own success takes back own attempt, not those of others behind the address.
        mine = throttle.c.key == where
        if where in counted:
            fewer = {"failures": throttle.c.failures - 1, "blocked_until": 0.0}
            connection.execute(update(throttle).where(mine).values(fewer))
        if address is not None:
            _insert_missing(connection, f"usual-{pair}", now + USUAL_S - FORGET_FAILURES_S)
        if fresh != hashed:
            connection.execute(update(member).where(member.c.id == row["id"]).values(password_hash=fresh))
    return open_session(book, as_row(User, row))


def _counted(name_key: str, address: str | None) -> tuple[str, str, str]:
    """Under which keys attempts are counted: of the name, of the address, of the two together."""
    name = _digest(name_key)[:32]
    place = _digest(address or "")[:32]
    return f"name:{name}", f"address:{place}", f"pair:{name}@{place}"


def _brake(book: LabelBook, keys: list[str]) -> None:
    """Counts an attempt as failed before it is made, so that many at once do not get through. Raises Throttled."""
    now = book.clock()
    with book.write() as connection:
        connection.execute(delete(throttle).where(throttle.c.last < now - FORGET_FAILURES_S))
        for key in keys:  # a row that is surely there can be locked
            if connection.scalar(select(throttle.c.key).where(throttle.c.key == key)) is None:
                _insert_missing(connection, key, now)
        locked = select(throttle).where(throttle.c.key.in_(keys)).order_by(throttle.c.key).with_for_update()
        rows = connection.execute(locked).mappings().all()
        wait_s = max(row["blocked_until"] - now for row in rows)
        if wait_s > 0:
            raise Throttled(wait_s)
        for row in rows:
            failures = row["failures"] + 1
            beyond = failures - FREE_FAILURES[row["key"].partition(":")[0]]
            until = now + min(LONGEST_WAIT_S, 2.0 ** min(beyond, 30)) if beyond >= 0 else 0.0
            values = {"failures": failures, "blocked_until": until, "last": now}
            connection.execute(update(throttle).where(throttle.c.key == row["key"]).values(values))


def _insert_missing(connection: Connection, key: str, last: float) -> None:
    try:
        with connection.begin_nested():
            connection.execute(insert(throttle).values(key=key, failures=0, blocked_until=0.0, last=last))
    except IntegrityError:
        pass  # another attempt came first


def open_session(book: LabelBook, user: User) -> Session:
    """A session without a password: after set-up, an accepted invitation or a changed password."""
    token, now = secrets.token_urlsafe(32), book.clock()
    with book.write() as connection:
        ended = (session.c.created < now - SESSION_S) | (session.c.last_seen < now - SESSION_IDLE_S)
        connection.execute(delete(session).where(ended))
        values = {"token_hash": _digest(token), "user_id": user.id, "created": now, "last_seen": now}
        connection.execute(insert(session).values(values))
    return Session(user, token, csrf_of(token))


def csrf_of(session_token: str) -> str:
    """What a page must send back beside the cookie; it follows from the cookie's token, which no page can read."""
    return hashlib.sha256(b"rallytrace csrf " + session_token.encode(errors="replace")).hexdigest()


def session_user(book: LabelBook, token: str) -> User | None:
    """Whose session `token` is; None where it is unknown, has ended, or the member left."""
    now = book.clock()
    key = session.c.token_hash == _digest(token)
    alive = (session.c.created > now - SESSION_S, session.c.last_seen > now - SESSION_IDLE_S)
    query = select(member, session.c.last_seen).join(session).where(key, *alive, member.c.active)
    with book.read() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        return None
    if row["last_seen"] < now - SEEN_EVERY_S:
        used = update(session).where(key).values(last_seen=now)
        book.write_if_free(lambda connection: connection.execute(used))  # reading goes on where nothing can be written
    return as_row(User, row)


def log_out(book: LabelBook, token: str) -> None:
    """Ends the session of `token`, if there is one."""
    with book.write() as connection:
        connection.execute(delete(session).where(session.c.token_hash == _digest(token)))


def change_password(book: LabelBook, user: User, old: str, new: str, address: str | None = None) -> Session:
    """A new session; all others of the user end, and all API tokens. Raises BadLogin for a wrong `old`, Throttled,
    BookError for `new`.
    """
    log_out(book, log_in(book, user.name, old, address).token)  # guessing is braked as at a login
    hashed = _hash(_check_password(new, _name_key(user.name)))
    with book.write() as connection:
        connection.execute(update(member).where(member.c.id == user.id).values(password_hash=hashed))
        _shut_out(connection, user.id)
    return open_session(book, user)


def reset_password(book: LabelBook, name: str, new: str, *, admin: bool = False) -> User:
    """A new password for the member `name`, by whoever owns the book; `admin` makes them an active admin, too.

    Sessions and API tokens of theirs end, and they may try to log in at once. Raises NotFound, BookError for `new`.
    """
    key = _name_key(name)
    hashed = _hash(_check_password(new, key))
    values = {"password_hash": hashed} | ({"role": "admin", "active": True} if admin else {})
    with book.write() as connection:
        found = connection.scalar(select(member.c.id).where(member.c.name_key == key))
        if found is None:
            names = ", ".join(connection.scalars(select(member.c.name).order_by(member.c.id).limit(20))) or "nobody yet"
            raise NotFound(f"there is no member {name[:80]!r}, expected one of: {names}")
        connection.execute(update(member).where(member.c.id == found).values(values))
        connection.execute(delete(throttle).where(throttle.c.key.contains(_digest(key)[:32])))
        _shut_out(connection, found)
        return _user(connection, found)


def create_token(book: LabelBook, user: User, name: str) -> tuple[ApiToken, str]:
    """A token for scripts with the rights of `user`, and its secret, shown this once."""
    name = bounded_text(name, "the name of the token", 100)
    with book.read() as connection:
        mine = select(func.count()).select_from(api_token).where(api_token.c.user_id == user.id)
        have = connection.scalar(mine) or 0
    if have >= MAX_TOKENS:
        raise BookError(f"{user.name} has {MAX_TOKENS} tokens; delete one first")
    secret = "rt_" + secrets.token_urlsafe(32)
    values = {"user_id": user.id, "name": name, "created": book.clock()}
    with book.write() as connection:
        found = inserted(connection, api_token, values | {"token_hash": _digest(secret)})
    return ApiToken(found, **values), secret  # type: ignore[arg-type]


def tokens(book: LabelBook, user: User) -> list[ApiToken]:
    """Those of `user`; an admin sees everybody's."""
    query = select(api_token).order_by(api_token.c.id)
    return book.rows(ApiToken, query if user.role == "admin" else query.where(api_token.c.user_id == user.id))


def revoke_token(book: LabelBook, user: User, token_id: int) -> None:
    """One's own; an admin's reach is everyone's. Raises NotFound."""
    mine = api_token.c.user_id == user.id if user.role != "admin" else api_token.c.id == token_id
    with book.write() as connection:
        gone = connection.execute(delete(api_token).where(api_token.c.id == token_id, mine))
    if not gone.rowcount:
        raise NotFound(f"there is no token {token_id}")


def token_user(book: LabelBook, secret: str) -> User | None:
    """Whose API token `secret` is; None where it is unknown or revoked, or the member left."""
    query = select(member).join(api_token).where(api_token.c.token_hash == _digest(secret), member.c.active)
    return next(iter(book.rows(User, query)), None)


def _check_role(role: str) -> str:
    if role not in ROLES:
        raise BookError(f"a role is one of {', '.join(ROLES)}, got {str(role)[:40]!r}")
    return role


def _name_key(name: str) -> str:
    """Names that look alike to a reader are one name. A text that no database holds is the key of nobody."""
    name = name.encode(errors="replace").decode().replace("\0", "?")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _check_name(name: str) -> tuple[str, str]:
    name = bounded_text(name, "the name", 40)
    return name, _name_key(name)


def _check_password(password: str, name_key: str) -> str:
    least, most = PASSWORD_LENGTHS
    if not isinstance(password, str) or not least <= len(password) <= most:
        raise BookError(f"the password must have {least} to {most} characters")
    if _name_key(password) == name_key:
        raise BookError("the password must not be the name")
    return password


def _bytes(password: str) -> bytes:
    return unicodedata.normalize("NFKC", password).encode(errors="replace")


def _hash(password: str) -> str:
    return PasswordHasher().hash(_bytes(password))


def _verify(hashed: str, password: str) -> bool:
    try:
        return len(password) <= PASSWORD_LENGTHS[1] and PasswordHasher().verify(hashed, _bytes(password))
    except (Argon2Error, InvalidHashError):
        return False


@cache
def _nobody() -> str:
    """The hash of a password that nobody has."""
    return _hash(secrets.token_urlsafe(32))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
