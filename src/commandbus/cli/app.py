"""All commands in one tree, and the one place where errors become sentences and exit codes."""

import os
import sys
from typing import Annotated, NoReturn, cast

import psycopg
import typer

import commandbus
from commandbus import _interrupt
from commandbus.cli import (
    batches,
    consoling,
    database,
    demonstration,
    doctor,
    inspection,
    maintaining,
    migrations,
    operating,
    queues,
    redrives,
    schema,
    sending,
    troubleshoot,
    work,
)
from commandbus.cli.logs import LogFormat, LogLevel, configure_logging
from commandbus.cli.options import examples
from commandbus.cli.output import error_json, note, open_closed_streams, wants_json
from commandbus.cli.problem import BAD_INPUT, Problem, describe
from commandbus.cli.spelling import name_as_typed
from commandbus.cli.variables import misspelt_settings
from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.payload import in_our_words

# The parser's errors. Typer gives a public name only to this child of them, and its parents moved between releases.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])

app = typer.Typer(
    help="A reliable command bus on PostgreSQL and PGMQ.",
    epilog=examples("demo", "db start", "migrate", "worker app.handlers:registry --domain payments"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(database.app, name="db")
app.add_typer(migrations.app, name="migrate")
app.command(epilog=schema.VERIFY_EXAMPLES)(schema.verify)
app.command(epilog=schema.GRANT_EXAMPLES)(schema.grant)
app.add_typer(queues.app, name="queue")
app.command(epilog=sending.SEND_EXAMPLES)(sending.send)
app.command(epilog=sending.CALL_EXAMPLES)(sending.call)
app.command(epilog=inspection.STATUS_EXAMPLES)(inspection.status)
app.command(epilog=inspection.MESSAGE_EXAMPLES)(inspection.message)
app.command(epilog=inspection.AUDIT_EXAMPLES)(inspection.audit)
app.add_typer(batches.app, name="batch")
app.command(epilog=operating.FIND_EXAMPLES)(operating.find)
app.add_typer(troubleshoot.app, name="tsq")
app.add_typer(redrives.app, name="redrive")
app.command(epilog=operating.OVERVIEW_EXAMPLES)(operating.overview)
app.command(epilog=operating.THROUGHPUT_EXAMPLES)(operating.throughput)
app.command(epilog=operating.WORKERS_EXAMPLES)(operating.workers)
app.command(epilog=operating.LEASES_EXAMPLES)(operating.leases)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=maintaining.EXAMPLES)(maintaining.maintain)
app.command(epilog=work.EXAMPLES)(work.worker)
app.command(epilog=consoling.EXAMPLES)(consoling.console)
app.command(epilog=demonstration.EXAMPLES)(demonstration.demo)
name_as_typed(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"commandbus {commandbus.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    configure_logging(LogLevel.ERROR, LogFormat.TEXT)
    if context.invoked_subcommand != "worker":  # which writes it to its log
        for variable, meant in misspelt_settings(os.environ).items():
            note(f"{variable} is no setting and is ignored: did you mean {meant}?")


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    as_json = wants_json()
    open_closed_streams()
    try:
        _interrupt.raise_again()
        code = app(prog_name="commandbus", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        error.message = in_our_words(error.message)
        if not as_json:
            error.show()
            sys.exit(BAD_INPUT)
        _fail({"type": "UsageError", "message": error.format_message()}, BAD_INPUT, as_json)
    except Problem as problem:
        _fail({"type": "Problem", "message": str(problem)} | problem.facts, problem.exit_code, as_json)
    except InvalidArgumentError as error:
        _fail(describe(error) | {"field": error.field}, BAD_INPUT, as_json)
    except (CommandBusError, psycopg.Error) as error:
        _fail(describe(error), 1, as_json)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(_interrupt.INTERRUPTED)
    except BrokenPipeError:  # as in "commandbus tsq list | head"
        sys.stderr.close()  # or the interpreter complains about stdout
        sys.exit(1)
    except OSError as error:  # without a name, it is the output, as in "> /dev/full"; what was to be done is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter tries again at its end
        what = error.filename or "the output cannot be written"
        _fail({"type": type(error).__name__, "message": f"{what}: {error.strerror}"}, 1, as_json)
    finally:
        _interrupt.end_quietly()  # the interpreter's own end takes a moment too
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: dict[str, object], code: int, as_json: bool) -> NoReturn:
    if as_json:
        sys.stderr.write(error_json(error) + "\n")
    else:
        note(f"commandbus: {error['message']}")
    sys.exit(code)
