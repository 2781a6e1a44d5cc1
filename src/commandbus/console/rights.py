"""What the console's database role may do: asked first, so that no page offers what the server would refuse."""

from dataclasses import dataclass

from commandbus.console.recent import recent
from commandbus.console.security import known_user
from commandbus.console.state import console
from commandbus.errors import SchemaError

ASKED_EVERY = 60.0  # seconds: roles seldom change
_DECIDING, _SENDING, _PAYLOADS = "sp_operator_retry", "sp_send_commands", "list_troubleshooting"
_MAY_CALL = """
select p.proname::text, pg_catalog.has_function_privilege(p.oid, 'execute')
from pg_catalog.pg_proc p
where p.pronamespace = pg_catalog.to_regnamespace('commandbus') and p.proname = any (%s)
"""


@dataclass(frozen=True, slots=True)
class Rights:
    """Whether the database lets this console decide, send, and see what was sent."""

    decides: bool
    sends: bool
    sees_payloads: bool


def rights() -> Rights:
    """Return what the database lets this console do, as it was up to a minute ago."""
    return recent().ask("rights", ASKED_EVERY, _ask)


def why_no_decision() -> str | None:
    """Return why the one who asks cannot decide, or None for who can."""
    return _why_not("decide", "commandbus_operator", is_granted=rights().decides)


def why_no_sending() -> str | None:
    """Return why the one who asks cannot send, or None for who can."""
    return _why_not("send", "commandbus_app", is_granted=rights().sends)


def _why_not(verb: str, role: str, *, is_granted: bool) -> str | None:
    user = known_user()
    if user is None or not user.is_operator:
        return f"Only operators may {verb}."
    return None if is_granted else f"The console's database role may not {verb}: it needs the rights of {role}."


def _ask() -> Rights:
    with console().pool.connection() as connection:
        rows = connection.execute(_MAY_CALL, [[_DECIDING, _SENDING, _PAYLOADS]]).fetchall()
    if not rows:
        raise SchemaError("the schema is not there: run commandbus migrate")
    may_call = {name for name, is_granted in rows if is_granted}
    return Rights(*(name in may_call for name in (_DECIDING, _SENDING, _PAYLOADS)))
