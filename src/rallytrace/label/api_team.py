"""Routes of the team: set-up, login, invitations, members, API tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from rallytrace.label import team
from rallytrace.label.api_common import COOKIE, Admin, Body, Id, Me, Name, Secret, Ws, caller, named, workspace
from rallytrace.label.book import WrongState

router = APIRouter(prefix="/api", tags=["team"])
Role = Literal["admin", "annotator", "reviewer"]
_hashing = threading.Semaphore(2)  # each takes 64 MiB for a moment


class Login(Body):
    """Who wants in."""

    name: Name
    password: Secret


class Entry(Login):
    """A new member with the token of an invitation, or of the set-up."""

    token: Secret


class Passwords(Body):
    """A change of password."""

    old: Secret
    new: Secret


class InviteBody(Body):
    """The role of who will come."""

    role: Role


class UserChange(Body):
    """What of a member changes."""

    role: Role | None = None
    active: bool | None = None


class TokenBody(Body):
    """The name of a new API token."""

    name: Name


@contextmanager
def _slowly() -> Iterator[None]:
    """Passwords are hashed by two at a time, so that a crowd of logins does not fill the memory."""
    if not _hashing.acquire(timeout=20):
        raise WrongState("too many logins at this moment; try again")
    try:
        yield
    finally:
        _hashing.release()


def _logged_in(request: Request, response: Response, session: team.Session) -> dict[str, Any]:
    response.set_cookie(
        COOKIE,
        session.token,
        max_age=int(team.SESSION_S),
        httponly=True,
        samesite="strict",
        secure=workspace(request).secure,
        path="/",
    )
    return {"user": asdict(session.user), "csrf": session.csrf, "setup_needed": False}


@router.get("/me")
def me(request: Request, user: Me) -> dict[str, Any]:
    """Who is logged in."""
    csrf = team.csrf_of(request.cookies.get(COOKIE, ""))
    return {"user": asdict(user), "csrf": csrf, "setup_needed": False}


@router.post("/setup")
def set_up(body: Entry, ws: Ws, request: Request, response: Response) -> dict[str, Any]:
    """The first admin, with the token that the server printed."""
    with _slowly():
        user = team.set_up(ws.book, body.token, body.name, body.password)
    return _logged_in(request, response, team.open_session(ws.book, user))


@router.post("/login")
def log_in(body: Login, ws: Ws, request: Request, response: Response) -> dict[str, Any]:
    """A session by name and password."""
    with _slowly():
        session = team.log_in(ws.book, body.name, body.password, caller(request))
    return _logged_in(request, response, session)


@router.post("/logout")
def log_out(ws: Ws, user: Me, request: Request, response: Response) -> dict[str, bool]:
    """Ends the session of the cookie."""
    team.log_out(ws.book, request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=workspace(request).secure)
    return {"ok": True}


@router.post("/password")
def change_password(body: Passwords, ws: Ws, user: Me, request: Request, response: Response) -> dict[str, Any]:
    """Ends all sessions of the user but the new one, and all API tokens."""
    with _slowly():
        session = team.change_password(ws.book, user, body.old, body.new, caller(request))
    return _logged_in(request, response, session)


@router.get("/invites")
def invites(ws: Ws, user: Admin) -> list[dict[str, Any]]:
    """Those that can still be used."""
    now = ws.book.clock()
    return [asdict(invite) | {"expires_s": invite.expires - now} for invite in team.invites(ws.book, user)]


@router.post("/invites")
def invite(body: InviteBody, ws: Ws, user: Admin) -> dict[str, Any]:
    """A link for one person; its token is shown this once."""
    made, token = team.create_invite(ws.book, user, body.role)
    expires_s = made.expires - ws.book.clock()
    return asdict(made) | {"url": f"/#/invite/{token}", "token": token, "expires_s": expires_s}


@router.delete("/invites/{invite_id}")
def revoke_invite(invite_id: Id, ws: Ws, user: Admin) -> dict[str, bool]:
    """The link is then worth nothing."""
    team.revoke_invite(ws.book, user, invite_id)
    return {"ok": True}


@router.post("/invites/accept")
def accept(body: Entry, ws: Ws, request: Request, response: Response) -> dict[str, Any]:
    """A new member, logged in."""
    with _slowly():
        user = team.accept_invite(ws.book, body.token, body.name, body.password)
    return _logged_in(request, response, team.open_session(ws.book, user))


@router.get("/users")
def users(ws: Ws, user: Me) -> list[dict[str, Any]]:
    """All members; annotators see themselves."""
    return [asdict(each) for each in team.users(ws.book) if user.reviews or each.id == user.id]


@router.patch("/users/{user_id}")
def change_user(user_id: Id, body: UserChange, ws: Ws, user: Admin) -> dict[str, Any]:
    """Another role, or leave and return."""
    return asdict(team.change_user(ws.book, user, user_id, role=body.role, active=body.active))


@router.get("/tokens")
def tokens(ws: Ws, user: Me) -> list[dict[str, Any]]:
    """One's own, without their secrets; an admin sees everybody's."""
    names = named(ws.book)
    return [asdict(token) | {"user": names[token.user_id]} for token in team.tokens(ws.book, user)]


@router.post("/tokens")
def create_token(body: TokenBody, ws: Ws, user: Me) -> dict[str, Any]:
    """A token for scripts, shown this once."""
    made, secret = team.create_token(ws.book, user, body.name)
    return asdict(made) | {"user": user.name, "token": secret}


@router.delete("/tokens/{token_id}")
def revoke_token(token_id: Id, ws: Ws, user: Me) -> dict[str, bool]:
    """The token is then worth nothing. One's own; an admin may revoke everybody's."""
    team.revoke_token(ws.book, user, token_id)
    return {"ok": True}
