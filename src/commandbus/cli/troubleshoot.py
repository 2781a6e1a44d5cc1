"""`commandbus tsq …`: commands that wait for an operator, and what the operator decides."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

import typer

from commandbus.cli.load import load_registry
from commandbus.cli.options import (
    AnyDomain,
    AsJson,
    CommandId,
    DatabaseUrl,
    Domain,
    Limit,
    Offset,
    Operator,
    Reason,
    Registry,
    examples,
    known_domain,
    login,
    open_pool,
    read_data,
)
from commandbus.cli.output import counted, note, note_more, print_facts, print_json, print_rows, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.errors import CommandNotFoundError, InvalidOperationError
from commandbus.models import CommandStatus, Verdict
from commandbus.payload import check_reason, parse_json
from commandbus.sync.bus import CommandBus
from commandbus.sync.repositories import PostgresPayloadArchive
from commandbus.sync.troubleshooting import TroubleshootingQueue

app = typer.Typer(help="The troubleshooting queue.", no_args_is_help=True, rich_markup_mode=None)

CommandType = Annotated[str | None, typer.Option("--type", help="Only of this command type.", metavar="TYPE")]
CommandIds = Annotated[list[UUID] | None, typer.Argument(help="The commands' ids.", metavar="COMMAND_ID")]
All = Annotated[bool, typer.Option("--all", help="All that wait in the domain, or those of --type.")]
Group = Annotated[
    UUID | None, typer.Option("--group", help='All of a group of failures, see "tsq groups".', metavar="KEY")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_SET = 1_000
_COLUMNS = ("domain", "command_id", "command_type", "attempts", "last_error_code", "last_error_msg", "updated_at")
_GROUP_COLUMNS = (
    "domain",
    "command_type",
    "error_code",
    "error_text",
    "waiting",
    "first_seen",
    "last_seen",
    "failure_key",
)
_ID = "6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11"

_Decision = Callable[[TroubleshootingQueue, Sequence[UUID], str | None], list[Verdict]]


@app.command("list", epilog=examples("tsq list", "tsq list payments --type DebitAccount --payload"))
def list_(
    domain: AnyDomain = None,
    command_type: CommandType = None,
    limit: Limit = 50,
    offset: Offset = 0,
    payload: Annotated[bool, typer.Option("--payload", help="Also the data that were sent.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the commands that wait, longest waiting first."""
    with open_pool(database_url) as pool:
        chosen = None if domain is None else known_domain(pool, domain)
        tsq = TroubleshootingQueue(pool)
        if chosen is None:
            items = tsq.list_all_troubleshooting(command_type, limit, offset, with_payload=payload, exact=True)
        else:
            items = tsq.list_troubleshooting(chosen, command_type, limit, offset, with_payload=payload, exact=True)
    rows = [row_of(item, without=() if payload else ("payload",)) for item in items]
    note_more(rows, limit, "--limit and --offset")
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, (*_COLUMNS, "payload") if payload else _COLUMNS)


@app.command(epilog=examples("tsq count", "tsq count payments --type DebitAccount"))
def count(
    domain: AnyDomain = None,
    command_type: CommandType = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Count the commands that wait."""
    with open_pool(database_url) as pool:
        chosen = None if domain is None else known_domain(pool, domain)
        waiting = TroubleshootingQueue(pool).count_troubleshooting(chosen, command_type)
    if as_json:
        print_json({"waiting": waiting})
    else:
        typer.echo(waiting)


@app.command(epilog=examples(f"tsq show payments {_ID}"))
def show(domain: Domain, command_id: CommandId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show a command that waits, with the data that were sent."""
    with open_pool(database_url) as pool:
        command = CommandBus(pool).get_command(domain, command_id)
        message = PostgresPayloadArchive(pool).get(domain, command_id, exact=True)
    if command is None:
        raise CommandNotFoundError(domain, command_id)
    if command.status is not CommandStatus.IN_TROUBLESHOOTING_QUEUE:
        raise InvalidOperationError(f"command {command_id} is {command.status}: it does not wait for an operator")
    row = row_of(command) | {"payload": message.get("data") if isinstance(message, dict) else message}
    if as_json:
        print_json(row)
    else:
        print_facts(row)


@app.command(epilog=examples("tsq groups", "tsq groups payments --json"))
def groups(
    domain: AnyDomain = None, limit: Limit = 100, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """List the commands that wait by what their failures look like, the largest group first."""
    with open_pool(database_url) as pool:
        chosen = None if domain is None else known_domain(pool, domain)
        found = TroubleshootingQueue(pool).list_failure_groups(chosen, limit)
    note_more(found, limit)
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(group) for group in found], _GROUP_COLUMNS)


@app.command(epilog=examples(f"tsq edit payments {_ID} '{{\"amount\": 25}}' --reason 'typing error'"))
def edit(
    domain: Domain,
    command_id: CommandId,
    data: Annotated[
        str, typer.Argument(help="The JSON object to take the place of what was sent; - for stdin.", metavar="JSON")
    ],
    reason: Reason = None,
    target: Registry = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Queue a command again with other data; the audit keeps both versions."""
    value = read_data(data)
    registry = None if target is None else load_registry(target, domain)
    with open_pool(database_url) as pool:
        msg_id = TroubleshootingQueue(pool).edit_and_retry(
            domain, command_id, value, operator or login(), reason=reason, registry=registry
        )
    if as_json:
        print_json({"domain": domain, "command_id": command_id, "msg_id": msg_id})
    else:
        typer.echo(f"{command_id} queued again, with other data")


@app.command(epilog=examples(f"tsq retry payments {_ID}", "tsq retry payments --all --type DebitAccount --yes"))
def retry(
    domain: Domain,
    command_ids: CommandIds = None,
    reason: Reason = None,
    all_: All = False,
    command_type: CommandType = None,
    group: Group = None,
    yes: Yes = False,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Queue commands again, with all their attempts before them. Exit code 1 when one was refused."""

    def decide(tsq: TroubleshootingQueue, ids: Sequence[UUID], who: str | None) -> list[Verdict]:
        return tsq.retry_many(domain, ids, who, reason=reason)

    chosen = _Choice(domain, command_ids, all_, command_type, group, yes)
    _decide("retried", "Retry", decide, chosen, operator, database_url, as_json)


@app.command(epilog=examples(f'tsq cancel payments {_ID} --reason "account closed"'))
def cancel(
    domain: Domain,
    command_ids: CommandIds = None,
    reason: Annotated[str, typer.Option(help="Why; the sender is told.", metavar="TEXT", callback=check_reason)] = ...,  # type: ignore[assignment]  # typer: required
    all_: All = False,
    command_type: CommandType = None,
    group: Group = None,
    yes: Yes = False,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give commands up; who waits for a reply is told. Exit code 1 when one was refused."""

    def decide(tsq: TroubleshootingQueue, ids: Sequence[UUID], who: str | None) -> list[Verdict]:
        return tsq.cancel_many(domain, ids, reason, who)

    chosen = _Choice(domain, command_ids, all_, command_type, group, yes)
    _decide("canceled", "Cancel", decide, chosen, operator, database_url, as_json)


@app.command(epilog=examples(f"tsq complete payments {_ID} --result '{{\"paid\": true}}'"))
def complete(
    domain: Domain,
    command_ids: CommandIds = None,
    result_data: Annotated[str | None, typer.Option("--result", help="Result for the reply.", metavar="JSON")] = None,
    reason: Reason = None,
    all_: All = False,
    command_type: CommandType = None,
    group: Group = None,
    yes: Yes = False,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Complete commands whose work was done by hand. Exit code 1 when one was refused."""
    value: Any = None if result_data is None else parse_json(result_data, "result_data")

    def decide(tsq: TroubleshootingQueue, ids: Sequence[UUID], who: str | None) -> list[Verdict]:
        return tsq.complete_many(domain, ids, value, who, reason=reason)

    chosen = _Choice(domain, command_ids, all_, command_type, group, yes)
    _decide("completed", "Complete", decide, chosen, operator, database_url, as_json)


class _Choice:
    """Which commands a decision is about.

    Raises:
        Problem: neither ids nor ``--all`` were given, or both.
    """

    def __init__(
        self,
        domain: str,
        ids: Sequence[UUID] | None,
        all_: bool,
        command_type: str | None,
        group: UUID | None,
        yes: bool,
    ) -> None:
        if bool(ids) + all_ + (group is not None) != 1:
            raise Problem("say which commands: their ids, --group, or --all", BAD_INPUT)
        if command_type and not all_:
            raise Problem("--type is for --all: the ids or the group say which commands", BAD_INPUT)
        self.domain = domain
        self._ids = list(dict.fromkeys(ids or ()))
        self._command_type = command_type
        self._group = group
        self._yes = yes

    def ids(self, tsq: TroubleshootingQueue, verb: str) -> list[UUID]:
        """Return the ids; for ``--all`` and ``--group`` those that wait now, once the user agrees."""
        if self._ids:
            return self._ids
        if not self._yes and not sys.stdin.isatty():
            raise Problem(f"{'--group' if self._group else '--all'} needs --yes where nobody can be asked", BAD_INPUT)
        found = tsq.list_command_ids(self.domain, self._command_type, failure_key=self._group)
        if self._group and not found:
            raise Problem(f"no commands of group {self._group} wait in {self.domain}")
        if found and not self._yes:
            kind = f"group {self._group}" if self._group else self._command_type or "all types"
            if not typer.confirm(f"{verb} {counted(len(found), 'command')} of {self.domain} ({kind})?", err=True):
                raise Problem("nothing was done")
        return found


def _decide(
    done: str,
    verb: str,
    decide: _Decision,
    choice: _Choice,
    operator: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Apply a decision in sets and report on each command."""
    verdicts: list[Verdict] = []
    with open_pool(database_url) as pool:
        tsq = TroubleshootingQueue(pool)
        ids = choice.ids(tsq, verb)
        for start in range(0, len(ids), _SET):
            found = decide(tsq, ids[start : start + _SET], operator or login())
            verdicts += found
            if not as_json:
                _print_verdicts(done, found)
    refused = [{"command_id": v.command_id, "reason": v.refusal} for v in verdicts if v.refusal]
    if as_json:
        accepted = [v.command_id for v in verdicts if not v.refusal]
        print_json({"domain": choice.domain, done: accepted, "refused": refused})
    else:
        note(f"{len(verdicts) - len(refused):,} {done}, {len(refused):,} refused")
    if refused:
        raise typer.Exit(1)


def _print_verdicts(done: str, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        typer.echo(f"{verdict.command_id} {f'refused: {verdict.refusal}' if verdict.refusal else done}")


@app.command("park-lost", epilog=examples("tsq park-lost payments", "tsq park-lost payments --older-than 60"))
def park_lost(
    domain: Domain,
    older_than: Annotated[
        float, typer.Option(help="Only commands sent before so many seconds.", metavar="SECONDS")
    ] = 3_600.0,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let commands wait here whose message is gone: the queue was purged, or dropped and made again."""
    with open_pool(database_url) as pool:
        found = TroubleshootingQueue(pool).park_lost(domain, older_than)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{counted(len(found), 'command')} parked for an operator")
