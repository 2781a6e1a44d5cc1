"""`commandbus redrive …`: waiting commands, queued again at a chosen rate."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated
from uuid import UUID

import typer

from commandbus.cli.options import (
    AnyDomain,
    AsJson,
    DatabaseUrl,
    Domain,
    Limit,
    Operator,
    Reason,
    examples,
    known_domain,
    login,
    open_pool,
)
from commandbus.cli.output import counted, note, note_more, print_facts, print_json, print_rows, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.errors import InvalidArgumentError, InvalidOperationError
from commandbus.models import Redrive, RedriveStatus
from commandbus.payload import MAX_REDRIVE, check_uuid
from commandbus.sync.redrives import Redrives

app = typer.Typer(help="Waiting commands, queued again at a chosen rate.", no_args_is_help=True, rich_markup_mode=None)

RedriveId = Annotated[UUID, typer.Argument(help="The redrive's id.", metavar="REDRIVE_ID")]
_ID = "0b8e2c4e-5f0f-4d5b-8a34-3c8a0e0f7d21"
_COLUMNS = (
    "redrive_id",
    "domain",
    "status",
    "rate",
    "total_count",
    "sent_count",
    "refused_count",
    "failed_count",
    "operator",
    "created_at",
)
_Control = Callable[[UUID, str | None, str | None], RedriveStatus]


@app.command(
    epilog=examples(
        "redrive start payments --rate 20 --group KEY --stop-after 10 --reason 'fixed'",
        "redrive start payments --rate 5 --id - < ids.txt",
    )
)
def start(
    domain: Domain,
    rate: Annotated[float, typer.Option(help="Commands per second, 0.001 to 10,000.", metavar="N")],
    group: Annotated[
        UUID | None, typer.Option(help='Only this group of failures, see "tsq groups".', metavar="KEY")
    ] = None,
    command_ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only this command; may be repeated. - reads ids from stdin.", metavar="COMMAND_ID"),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(help="Stop when so many wait for an operator again, as seen once a second.", metavar="N"),
    ] = None,
    limit: Annotated[int, typer.Option(help=f"Most commands, 1 to {MAX_REDRIVE:,}.", metavar="N")] = MAX_REDRIVE,
    chosen_id: Annotated[
        UUID | None,
        typer.Option("--redrive-id", help="One of yours, by which it is started once, however often.", metavar="UUID"),
    ] = None,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Select what waits in a domain now; its workers queue it again, longest waiting first."""
    if command_ids and group is not None:
        raise Problem("--id and --group exclude each other", BAD_INPUT)
    chosen = list(_read_ids(command_ids)) if command_ids else None
    differs: dict[str, str] = {}
    with open_pool(database_url) as pool:
        redrives = Redrives(pool)
        try:
            redrive_id = redrives.start(
                domain,
                rate=rate,
                command_ids=chosen,
                failure_key=group,
                stop_after=stop_after,
                operator=operator or login(),
                reason=reason,
                limit=limit,
                redrive_id=chosen_id,
            )
        except InvalidOperationError:
            found = None if chosen_id is None else redrives.get(chosen_id)
            if found is None:
                raise
            redrive_id, is_new = found.redrive.redrive_id, False
            if found.redrive.domain != domain:
                raise Problem(f"redrive {redrive_id} belongs to domain {found.redrive.domain}") from None
            differs = _compare(found.redrive, rate, stop_after, limit, chosen)
            stays = f" and stays as it is: {', '.join(differs.values())}" if differs else ""
            note(f"redrive {redrive_id} was started before{stays}")
        else:
            is_new = True
            _tell(redrives, domain, redrive_id, chosen)
    if as_json:
        print_json({"redrive_id": redrive_id, "started": is_new, "differs": list(differs)})
    else:
        typer.echo(redrive_id)


def _compare(
    found: Redrive, rate: float, stop_after: int | None, limit: int, command_ids: Sequence[UUID] | None
) -> dict[str, str]:
    """Return the options that a redrive was certainly not started with, each with a text about it.

    Its group and its ids are not known any more, only that there were no more commands than these.
    """
    differs = {}
    if found.rate != rate:
        differs["--rate"] = f"--rate is {found.rate:.15g}, not {rate:.15g}"
    if found.stop_after != stop_after:
        differs["--stop-after"] = f"--stop-after is {found.stop_after or 'none'}, not {stop_after or 'none'}"
    most = {"--limit": limit} | ({} if command_ids is None else {"--id": len(command_ids)})
    for option, count in most.items():
        if found.total_count > count:
            differs[option] = f"it has {counted(found.total_count, 'command')}, more than {option} gives"
    return differs


def _tell(redrives: Redrives, domain: str, redrive_id: UUID, command_ids: Sequence[UUID] | None) -> None:
    """Say what is surprising about a redrive that has just begun."""
    others = {one.redrive_id: one for one in redrives.list(domain) if one.finished_at is None}
    mine = others.pop(redrive_id, None)
    if mine is not None and command_ids is not None and mine.total_count < len(command_ids):
        note(f"{len(command_ids) - mine.total_count:,} of the ids do not wait in {domain}, or are too many")
    for other in others.values():
        note(f"redrive {other.redrive_id} of {domain} is {other.status} too: their rates add up")


def _read_ids(given: Sequence[str]) -> Iterator[UUID]:
    """Yield the ids that were given, each once; "-" stands for the words of stdin.

    Raises:
        InvalidArgumentError: one is no id, or stdin has none.
    """
    words = [
        word
        for one in given
        for word in (sys.stdin.buffer.read().decode(errors="replace").split() if one == "-" else [one])
    ]
    if not words:
        raise InvalidArgumentError("command_ids", "stdin is empty: give one id per line")
    yield from dict.fromkeys(check_uuid(word, "command_ids") for word in words)


@app.command("list", epilog=examples("redrive list", "redrive list payments --json"))
def list_(
    domain: AnyDomain = None, limit: Limit = 50, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """List redrives, newest first."""
    with open_pool(database_url) as pool:
        found = Redrives(pool).list(None if domain is None else known_domain(pool, domain), limit)
    note_more(found, limit)
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found], _COLUMNS)


@app.command(epilog=examples(f"redrive show {_ID}"))
def show(redrive_id: RedriveId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show a redrive, and what has become of its commands."""
    with open_pool(database_url) as pool:
        progress = Redrives(pool).get(redrive_id)
    if progress is None:
        raise InvalidOperationError(f"redrive {redrive_id} not found")
    row = row_of(progress.redrive) | row_of(progress, without=("redrive",))
    if as_json:
        print_json(row)
    else:
        print_facts(row)


@app.command(epilog=examples(f"redrive pause {_ID}"))
def pause(
    redrive_id: RedriveId,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Queue no more for now."""
    _control(lambda redrives: redrives.pause, redrive_id, reason, operator, database_url, as_json)


@app.command(epilog=examples(f"redrive resume {_ID}"))
def resume(
    redrive_id: RedriveId,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused redrive."""
    _control(lambda redrives: redrives.resume, redrive_id, reason, operator, database_url, as_json)


@app.command(epilog=examples(f"redrive stop {_ID}"))
def stop(
    redrive_id: RedriveId,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a redrive for good; what it has queued stays queued."""
    _control(lambda redrives: redrives.stop, redrive_id, reason, operator, database_url, as_json)


def _control(
    choose: Callable[[Redrives], _Control],
    redrive_id: UUID,
    reason: str | None,
    operator: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    with open_pool(database_url) as pool:
        status = choose(Redrives(pool))(redrive_id, operator or login(), reason)
    if as_json:
        print_json({"redrive_id": redrive_id, "status": status})
    else:
        typer.echo(f"{redrive_id} {status}")
