"""Who gets in, who stays out, and that a stolen book opens no door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import select

from rallytrace.label import schema, team
from rallytrace.label.book import BookError, LabelBook, NotAllowed, NotFound
from rallytrace.label.team import BadLogin, Throttled, User
from tests.label.conftest import Clock

PASSWORD = "correct horse battery"
Person = Callable[..., User]


@pytest.fixture
def ada(book: LabelBook) -> User:
    """The first admin, made as users do it."""
    token = team.setup_token(book)
    assert token is not None
    return team.set_up(book, token, "Ada", PASSWORD)


ARGON2 = team.PasswordHasher


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 with the least work, but for the test of its strength."""

    class Quick(team.PasswordHasher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(time_cost=1, memory_cost=8, parallelism=1)

    monkeypatch.setattr(team, "PasswordHasher", Quick)
    team._nobody.cache_clear()


def test_the_first_admin_needs_the_token_of_the_first_start(book: LabelBook) -> None:
    assert not team.setup_done(book)
    old, token = team.setup_token(book), team.setup_token(book)
    assert old is not None
    assert token is not None
    for wrong in (old, "guess", ""):
        with pytest.raises(NotFound):
            team.set_up(book, wrong, "Ada", PASSWORD)
    ada = team.set_up(book, token, " Ada ", PASSWORD)
    assert (ada.name, ada.role, ada.active) == ("Ada", "admin", True)
    assert team.setup_done(book)
    assert team.setup_token(book) is None
    with pytest.raises(NotAllowed):
        team.set_up(book, token, "Eve", PASSWORD)


def test_an_invitation_is_for_one_person_for_a_time(book: LabelBook, ada: User, clock: Clock) -> None:
    invite, token = team.create_invite(book, ada, "annotator")
    assert [one.id for one in team.invites(book, ada)] == [invite.id]
    bob = team.accept_invite(book, token, "Bob", PASSWORD)
    assert bob.role == "annotator"
    assert team.invites(book, ada) == []
    with pytest.raises(NotFound, match="used or expired"):
        team.accept_invite(book, token, "Eve", PASSWORD)
    _, late = team.create_invite(book, ada, "reviewer", expires_s=60)
    clock.now += 61
    with pytest.raises(NotFound):
        team.accept_invite(book, late, "Eve", PASSWORD)
    third, revoked = team.create_invite(book, ada, "reviewer")
    team.revoke_invite(book, ada, third.id)
    with pytest.raises(NotFound):
        team.accept_invite(book, revoked, "Eve", PASSWORD)
    with pytest.raises(NotFound):
        team.revoke_invite(book, ada, invite.id)
    for call in (
        lambda: team.create_invite(book, bob, "admin"),
        lambda: team.invites(book, bob),
        lambda: team.revoke_invite(book, bob, 1),
    ):
        with pytest.raises(NotAllowed):
            call()
    with pytest.raises(BookError, match="admin, annotator, reviewer"):
        team.create_invite(book, ada, "root")


def test_two_people_with_one_invitation(book: LabelBook, ada: User) -> None:
    _, token = team.create_invite(book, ada, "annotator")
    got: list[object] = []

    def accept(name: str) -> None:
        try:
            got.append(team.accept_invite(book, token, name, PASSWORD))
        except NotFound as error:
            got.append(error)

    threads = [threading.Thread(target=accept, args=(f"p{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(one).__name__ for one in got) == ["NotFound", "NotFound", "NotFound", "User"]
    assert len(team.users(book)) == 2


@pytest.mark.parametrize("book_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("Bob", "short", "10 to 200"),
        ("Bob", "x" * 201, "10 to 200"),
        ("Bob the Builder", "bob the BUILDER", "must not be the name"),
        ("ada", PASSWORD, "is taken"),
        ("\uff21da", PASSWORD, "is taken"),
        ("", PASSWORD, "1 to 40"),
        ("x" * 4096, PASSWORD, "1 to 40"),
        ("\u202enimda", PASSWORD, "U+202E"),
        ("a\0", PASSWORD, "U+0000"),
    ],
)
def test_names_and_passwords_have_rules(book: LabelBook, ada: User, name: str, password: str, message: str) -> None:
    _, token = team.create_invite(book, ada, "annotator")
    with pytest.raises(BookError) as caught:
        team.accept_invite(book, token, name, password)
    assert message in str(caught.value)
    assert team.accept_invite(book, token, "<b>Bob</b>", PASSWORD).name == "<b>Bob</b>", "the invitation is not used up"


def test_logging_in_and_out(book: LabelBook, ada: User) -> None:
    session = team.log_in(book, " ada", PASSWORD, "10.0.0.1")
    assert session.user == ada
    assert team.session_user(book, session.token) == ada
    assert team.csrf_of(session.token) == session.csrf
    assert team.csrf_of("other") != session.csrf
    assert session.token not in repr(session)
    for wrong in ("", session.csrf, session.token[:-1], "\ud800"):
        assert team.session_user(book, wrong) is None
    team.log_out(book, session.token)
    assert team.session_user(book, session.token) is None
    for name, password in (("ada", "wrong password"), ("nobody", PASSWORD), ("ada", "x" * 10**6), ("\ud800", "\ud800")):
        with pytest.raises(BadLogin, match="name or password is wrong"):
            team.log_in(book, name, password, "10.0.0.1")


def test_sessions_end_by_rest_and_by_age(book: LabelBook, ada: User, clock: Clock) -> None:
    idle = team.open_session(book, ada)
    clock.now += team.SESSION_IDLE_S - 1
    assert team.session_user(book, idle.token) == ada
    clock.now += team.SESSION_IDLE_S - 1
    assert team.session_user(book, idle.token) == ada, "use keeps it alive"
    clock.now += team.SESSION_IDLE_S + 1
    assert team.session_user(book, idle.token) is None
    busy = team.open_session(book, ada)
    start = clock.now
    while clock.now < start + team.SESSION_S - 3600:
        clock.now += 3600
        assert team.session_user(book, busy.token) == ada
    clock.now += 3601
    assert team.session_user(book, busy.token) is None


def test_a_new_password_ends_all_other_sessions(book: LabelBook, ada: User) -> None:
    old = team.open_session(book, ada)
    with pytest.raises(BadLogin):
        team.change_password(book, ada, "not the old one", "another password")
    with pytest.raises(BookError, match="10 to 200"):
        team.change_password(book, ada, PASSWORD, "short")
    new = team.change_password(book, ada, PASSWORD, "another password")
    assert team.session_user(book, old.token) is None
    assert team.session_user(book, new.token) == ada
    assert team.log_in(book, "Ada", "another password", "").user == ada
    with pytest.raises(BadLogin):
        team.log_in(book, "Ada", PASSWORD, "")


def test_who_leaves_is_out_at_once(book: LabelBook, ada: User) -> None:
    _, token = team.create_invite(book, ada, "annotator")
    bob = team.accept_invite(book, token, "Bob", PASSWORD)
    session = team.open_session(book, bob)
    _, secret = team.create_token(book, bob, "script")
    assert team.token_user(book, secret) == bob
    assert not team.change_user(book, ada, bob.id, active=False).active
    assert team.session_user(book, session.token) is None
    assert team.token_user(book, secret) is None
    with pytest.raises(BadLogin):
        team.log_in(book, "Bob", PASSWORD, "")
    team.change_user(book, ada, bob.id, active=True)
    assert team.session_user(book, session.token) is None
    assert team.log_in(book, "Bob", PASSWORD, "").user == bob


def test_there_is_always_an_admin(book: LabelBook, admin: User, person: Person) -> None:
    for change in ({"role": "annotator"}, {"active": False}):
        with pytest.raises(NotAllowed, match="last admin"):
            team.change_user(book, admin, admin.id, **change)  # type: ignore[arg-type]
    bob = person("bob")
    assert team.change_user(book, admin, bob.id, role="admin").role == "admin"
    assert team.change_user(book, admin, admin.id, role="reviewer").role == "reviewer"
    with pytest.raises(NotAllowed, match="only an admin"):
        team.change_user(book, team.users(book)[0], bob.id, role="annotator")
    with pytest.raises(NotFound):
        team.change_user(book, team.users(book)[1], 999, role="admin")


def test_two_admins_cannot_demote_each_other_at_once(book: LabelBook, admin: User, person: Person) -> None:
    for _ in range(3):
        eve = person(f"eve {_}", "admin")
        start = threading.Barrier(2)

        def demote(by: User, whom: User, start: threading.Barrier = start) -> None:
            start.wait()
            with suppress(NotAllowed):
                team.change_user(book, by, whom.id, role="annotator")

        threads = [threading.Thread(target=demote, args=pair) for pair in ((admin, eve), (eve, admin))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        admins = [user for user in team.users(book) if user.role == "admin"]
        assert len(admins) == 1
        with book.write() as connection:
            connection.execute(schema.member.update().values(role="annotator"))
            connection.execute(schema.member.update().where(schema.member.c.id == admin.id).values(role="admin"))


def test_guessing_a_password_becomes_slow(book: LabelBook, ada: User, clock: Clock) -> None:
    waits = []
    for i in range(30):
        try:
            team.log_in(book, "ada", "wrong password", f"10.0.0.{i}")
        except Throttled as error:
            waits.append(error.retry_after_s)
            clock.now += error.retry_after_s
        except BadLogin:
            pass
    assert waits[0] == 1.0
    assert waits == sorted(waits)
    assert waits[3] == 8.0
    assert max(waits) <= team.LONGEST_WAIT_S
    with pytest.raises((Throttled, BadLogin)):
        team.log_in(book, "ada", "wrong password", "10.9.9.9")
    with pytest.raises(Throttled):
        team.log_in(book, "ADA", PASSWORD, "10.9.9.9")
    clock.now += team.LONGEST_WAIT_S
    assert team.log_in(book, "ada", PASSWORD, "10.9.9.9").user.name == "Ada"
    with pytest.raises(BadLogin):  # a success starts the count anew
        team.log_in(book, "ada", "wrong password", "10.9.9.9")


def test_one_address_cannot_try_many_names(book: LabelBook, ada: User) -> None:
    for i in range(team.FREE_FAILURES["address"]):
        with pytest.raises(BadLogin):
            team.log_in(book, f"name {i}", "wrong password", "10.0.0.1")
    with pytest.raises(Throttled, match="try again in 1 s"):
        team.log_in(book, "ada", PASSWORD, "10.0.0.1")
    assert team.log_in(book, "ada", PASSWORD, "10.0.0.2").user.name == "Ada"


def test_many_guesses_at_once_do_not_pass_the_brake(book: LabelBook, ada: User) -> None:
    outcomes = []

    def guess(i: int) -> None:
        try:
            team.log_in(book, "ada", "wrong password", f"10.0.0.{i}")
        except BookError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=guess, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("bad_login") == team.FREE_FAILURES["name"]
    assert outcomes.count("throttled") == 16 - team.FREE_FAILURES["name"]


def test_tokens_for_scripts(book: LabelBook, admin: User, person: Person) -> None:
    bob, eve = person("bob"), person("eve")
    token, secret = team.create_token(book, bob, "nightly import")
    assert [one.name for one in team.tokens(book, bob)] == ["nightly import"]
    assert team.token_user(book, secret) == bob
    assert team.token_user(book, secret + "x") is None
    with pytest.raises(NotFound):
        team.revoke_token(book, eve, token.id)
    team.revoke_token(book, admin, token.id)
    assert team.token_user(book, secret) is None


def test_admins_see_and_revoke_the_tokens_of_all(book: LabelBook, admin: User, person: Person) -> None:
    bob, eve = person("bob"), person("eve")
    made = [team.create_token(book, user, "script")[0] for user in (bob, eve, admin)]
    assert team.tokens(book, admin) == made
    assert team.tokens(book, eve) == [made[1]]
    team.revoke_token(book, admin, made[0].id)
    assert team.tokens(book, bob) == []
    for _ in range(team.MAX_TOKENS - 1):
        team.create_token(book, admin, "script")
    with pytest.raises(BookError, match="delete one first"):
        team.create_token(book, admin, "script")


def test_a_new_password_ends_the_tokens_too(book: LabelBook, ada: User, person: Person) -> None:
    _, secret = team.create_token(book, ada, "script")
    _, of_bob = team.create_token(book, person("bob"), "script")
    team.change_password(book, ada, PASSWORD, "another password")
    assert team.token_user(book, secret) is None
    assert team.tokens(book, person("cy")) == []
    assert team.token_user(book, of_bob) is not None


def test_who_left_comes_back_with_nothing(book: LabelBook, ada: User, person: Person) -> None:
    """No token, and no invitation written to oneself before."""
    eve = person("eve", "admin")
    _, secret = team.create_token(book, eve, "script")
    _, way_back = team.create_invite(book, eve, "admin")
    _, of_ada = team.create_invite(book, ada, "annotator")
    team.change_user(book, ada, eve.id, active=False)
    with pytest.raises(NotFound):
        team.accept_invite(book, way_back, "Eve again", PASSWORD)
    team.change_user(book, ada, eve.id, active=True)
    assert team.token_user(book, secret) is None
    _, way_up = team.create_invite(book, eve, "admin")
    team.change_user(book, ada, eve.id, role="annotator")
    with pytest.raises(NotFound):
        team.accept_invite(book, way_up, "Eve again", PASSWORD)
    assert team.accept_invite(book, of_ada, "Cy", PASSWORD).role == "annotator"


def test_a_lost_sole_admin_is_rescued(book: LabelBook, ada: User, person: Person) -> None:
    session, (_, secret) = team.open_session(book, ada), team.create_token(book, ada, "script")
    with suppress(BookError):
        for _ in range(20):
            team.log_in(book, "ada", "a guess that fails", "10.0.0.1")
    with pytest.raises(NotFound, match="expected one of: Ada"):
        team.reset_password(book, "eve", "another password")
    with pytest.raises(BookError, match="10 to 200"):
        team.reset_password(book, "ada", "short")
    assert team.reset_password(book, " ADA", "another password") == ada
    assert team.session_user(book, session.token) is None
    assert team.token_user(book, secret) is None
    assert team.log_in(book, "Ada", "another password", "10.0.0.2").user == ada, "guesses do not keep her out"
    bob = person("bob")
    team.change_user(book, ada, bob.id, active=False)
    assert team.reset_password(book, "bob", "another password").active is False
    raised = team.reset_password(book, "bob", "another password", admin=True)
    assert (raised.role, raised.active) == ("admin", True)


def test_guesses_of_others_do_not_lock_out_who_is_known_there(book: LabelBook, ada: User, clock: Clock) -> None:
    """Per account and real address: neither a crowd behind one address nor guesses from everywhere shut all out."""

    def guess(name: str, address: str | None) -> None:
        with suppress(BookError):
            team.log_in(book, name, "a guess that fails", address)

    team.log_in(book, "ada", PASSWORD, "10.0.0.1")
    for i in range(40):
        guess(f"name {i}", "10.0.0.1")
        guess("ada", f"10.0.1.{i}")
    with pytest.raises(Throttled):
        team.log_in(book, "ada", PASSWORD, "10.0.0.9")
    assert team.log_in(book, "ada", PASSWORD, "10.0.0.1").user == ada
    for _ in range(10):
        guess("ada", "10.0.0.1")
    with pytest.raises(Throttled):  # somebody sits at her desk
        team.log_in(book, "ada", PASSWORD, "10.0.0.1")
    clock.now += team.USUAL_S
    assert team.log_in(book, "ada", PASSWORD, "10.0.0.1").user == ada
    for i in range(40):  # an address that nobody knows is nobody's: the name alone counts
        guess(f"name {i}", None)
    assert team.log_in(book, "ada", PASSWORD, None).user == ada


def test_a_stolen_book_holds_no_secret(book: LabelBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "PasswordHasher", ARGON2)
    token = team.setup_token(book)
    assert token is not None
    ada = team.set_up(book, token, "Ada", PASSWORD)
    secrets = [
        PASSWORD,
        token,
        team.log_in(book, "ada", PASSWORD, "").token,
        team.create_token(book, ada, "script")[1],
        team.create_invite(book, ada, "admin")[1],
    ]
    with book.read() as connection:
        tables = (schema.member, schema.invite, schema.session, schema.api_token)
        dump = repr([tuple(row) for table in tables for row in connection.execute(select(table))])
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in dump, "the second recommended option of RFC 9106"
    assert not [secret for secret in secrets if secret in dump]
