"""`commandbus send` and `commandbus call`: one command, or a file of them."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, BinaryIO
from uuid import UUID, uuid4

import typer
from rich.progress import Progress

from commandbus.cli.lines import Checked, Defaults, check_lines, good_requests, open_twice
from commandbus.cli.options import AsJson, DatabaseUrl, Domain, examples, open_pool, read_data
from commandbus.cli.output import counted, note, notes, print_json
from commandbus.cli.problem import BAD_INPUT, Problem, describe
from commandbus.errors import CommandBusError, DatabaseUnavailableError, ReplyTimeoutError
from commandbus.models import CommandMetadata, CommandStatus, SendRequest
from commandbus.payload import check_count, check_domain, check_reply_queue
from commandbus.retry import MAX_ATTEMPTS
from commandbus.sync.bus import MAX_SET, CommandBus
from commandbus.sync.pool import CommandBusPool

SEND_EXAMPLES = examples(
    "send payments DebitAccount '{\"amount\": 250}'",
    "send payments DebitAccount - --id 6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11 --idempotent < data.json",
    "send payments --file commands.jsonl --idempotent",
)
CALL_EXAMPLES = examples("call payments DebitAccount '{\"amount\": 250}' --timeout 10")

Type = Annotated[str, typer.Argument(help="The command type.", metavar="TYPE")]
Data = Annotated[str, typer.Argument(help="The data, a JSON object; - reads stdin.", metavar="DATA")]
MaxAttempts = Annotated[int | None, typer.Option(help="Attempts before an operator is asked.", metavar="N")]


def send(
    domain: Domain,
    command_type: Annotated[
        str | None, typer.Argument(help="The command type, unless there is a file.", metavar="TYPE")
    ] = None,
    data: Annotated[
        str | None, typer.Argument(help="The data, a JSON object; - reads stdin.", metavar="DATA|-")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="One JSON object per line; - reads stdin.", metavar="PATH")
    ] = None,
    command_id: Annotated[UUID | None, typer.Option("--id", help="The command's id.", metavar="UUID")] = None,
    correlation_id: Annotated[UUID | None, typer.Option(help="Joins a conversation.", metavar="UUID")] = None,
    reply_to: Annotated[str | None, typer.Option(help="Reply queue <domain>__replies.", metavar="QUEUE")] = None,
    max_attempts: MaxAttempts = None,
    batch_id: Annotated[UUID | None, typer.Option(help="A batch to join.", metavar="UUID")] = None,
    idempotent: Annotated[
        bool, typer.Option("--idempotent", help="A command that was sent before counts as sent.")
    ] = False,
    chunk: Annotated[int, typer.Option(help="With --file: commands per transaction.", metavar="N")] = 1_000,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="With --file: send the good lines.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Send a command, or a file of them.

    Each line of a file is {"command_type": ..., "data": {...}}, with command_id, correlation_id, reply_to and
    max_attempts if you like. All lines are checked first: when one is bad, nothing is sent, unless --skip-bad.
    Exit code 2 when there were bad lines. Give lines a command_id, and --idempotent makes it safe to run again.
    """
    if file is None:
        if command_type is None:
            raise Problem("say what to send: TYPE and DATA, or --file", BAD_INPUT)
        request = SendRequest(
            check_domain(domain),
            command_type,
            command_id or uuid4(),
            {} if data is None else read_data(data),
            correlation_id,
            reply_to,
            max_attempts,
            batch_id,
        )
        _send_one(request, idempotent, database_url, as_json)
        return
    if command_type or command_id or correlation_id:
        raise Problem("TYPE, DATA, --id and --correlation-id are not for files: each line has its own", BAD_INPUT)
    check_count(chunk, "chunk", 1, MAX_SET)
    with open_pool(database_url) as pool, open_twice(file) as lines:
        defaults = Defaults(
            check_domain(domain),
            pool.settings.max_payload_bytes,
            None if reply_to is None else check_reply_queue(reply_to),
            None if max_attempts is None else check_count(max_attempts, "max_attempts", 1, MAX_ATTEMPTS),
            batch_id,
        )
        checked = check_lines(lines, defaults)
        _report_bad(checked, skip_bad, as_json)
        sent = _send_lines(pool, lines, defaults, checked.good, chunk, idempotent)
    if as_json:
        print_json({"domain": domain, "sent": sent, "bad_lines": checked.bad})
    else:
        typer.echo(f"{counted(sent, 'command')} sent")
    if checked.bad:
        raise typer.Exit(BAD_INPUT)


def call(
    domain: Domain,
    command_type: Type,
    data: Data = "{}",
    timeout: Annotated[float, typer.Option(help="For the reply, up to 86,400.", metavar="SECONDS")] = 30.0,
    max_attempts: MaxAttempts = None,
    database_url: DatabaseUrl = None,
    _as_json: AsJson = False,
) -> None:
    """Send a command, wait for its reply, and print what its handler returned, as JSON."""
    value = read_data(data)
    command_id = uuid4()
    with open_pool(database_url) as pool:
        bus = CommandBus(pool)
        try:
            result = bus.call(
                domain, command_type, value, timeout=timeout, max_attempts=max_attempts, command_id=command_id
            )
        except ReplyTimeoutError as error:
            raise _unanswered(error, bus.get_command(domain, command_id)) from None
        except (KeyboardInterrupt, DatabaseUnavailableError):
            note(f'the command may be under way: "commandbus status {domain} {command_id}"')
            raise
    print_json(result)


def _unanswered(error: ReplyTimeoutError, command: CommandMetadata | None) -> Exception:
    """Return why there is no reply: for a command that waits for an operator, what failed and how to go on."""
    if command is None or command.status is not CommandStatus.IN_TROUBLESHOOTING_QUEUE:
        return error
    names = f"{command.domain} {command.command_id}"
    return Problem(
        f"command {command.command_id} waits for an operator: {command.last_error_type} {command.last_error_code}:"
        f' {command.last_error_msg}; look with "commandbus tsq show {names}", then "commandbus tsq retry {names}",'
        f" or tsq cancel, or tsq complete",
        command_id=str(command.command_id),
        status=command.status,
        error_type=command.last_error_type,
        error_code=command.last_error_code,
        error_message=command.last_error_msg,
    )


def _send_one(request: SendRequest, idempotent: bool, database_url: str | None, as_json: bool) -> None:
    with open_pool(database_url) as pool:
        sent = CommandBus(pool).send(
            request.domain,
            request.command_type,
            request.command_id,
            request.data,
            request.correlation_id,
            request.reply_to,
            request.max_attempts,
            request.batch_id,
            idempotent=idempotent,
        )
    if as_json:
        print_json(sent)
    else:
        typer.echo(sent.command_id)


def _report_bad(checked: Checked, skip_bad: bool, as_json: bool) -> None:
    """Name the bad lines; end here unless they are to be skipped."""
    if not as_json:
        for bad in checked.bad:
            note(f"line {bad.line}: {bad.reason}")
    if checked.bad and not skip_bad:
        raise Problem(
            f"{len(checked.bad):,} of {len(checked.bad) + checked.good:,} lines are bad: nothing was sent",
            BAD_INPUT,
            bad_lines=checked.bad,
        )


def _send_lines(
    pool: CommandBusPool, lines: BinaryIO, defaults: Defaults, total: int, chunk: int, idempotent: bool
) -> int:
    """Send the good lines in sets; return how many were sent."""
    bus = CommandBus(pool)
    sent = last_line = 0
    with Progress(console=notes(), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("sending", total=total)
        for numbered in _chunks(good_requests(lines, defaults), chunk):
            try:
                bus.send_batch([request for _, request in numbered], chunk_size=chunk, idempotent=idempotent)
            except CommandBusError as error:
                where = f"lines up to {last_line} were sent ({counted(sent, 'command')}), the next set was not"
                raise Problem(f"{where}: {error}", sent=sent, last_line=last_line, cause=describe(error)) from None
            except KeyboardInterrupt:
                done = f"lines up to {last_line} were sent ({counted(sent, 'command')})"
                note(f"{done}, and perhaps the next {len(numbered):,}")
                raise
            sent += len(numbered)
            last_line = numbered[-1][0]
            progress.update(task, completed=sent)
    return sent


def _chunks(requests: Iterator[tuple[int, SendRequest]], size: int) -> Iterator[list[tuple[int, SendRequest]]]:
    while found := list(islice(requests, size)):
        yield found
