"""`commandbus doctor`: is this database fit, and is it healthy?"""

from collections.abc import Iterator
from typing import Annotated

import psycopg
import typer

from commandbus.cli.options import AsJson, DatabaseUrl, examples, resolve_url
from commandbus.cli.output import print_json, print_rows
from commandbus.cli.problem import describe
from commandbus.cli.variables import check_settings
from commandbus.cli.work import worker_settings
from commandbus.doctor import Check, Plan, Status, examine
from commandbus.doctor.check import problem
from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.payload import check_count
from commandbus.sync.pool import CommandBusPool
from commandbus.worker.limits import check_concurrency

EXAMPLES = examples("doctor", "doctor --processes 8 --concurrency 20", "doctor --json")


def doctor(
    processes: Annotated[
        int | None, typer.Option(help="Worker processes, of all machines: are there connections for them?", metavar="N")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Of each process.", metavar="N")] = 10,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Examine a database: server, schema, rights, connections, LISTEN, vacuum, and commands that will never run.

    Exit code 1 when there is a problem; a warning is none.
    """
    url = resolve_url(database_url)
    checks = list(_examine(url, _plan(url, processes, concurrency)))
    is_fine = all(check.status is not Status.PROBLEM for check in checks)
    if as_json:
        print_json({"ok": is_fine, "checks": checks})
    else:
        print_rows([{"": c.status, "what": c.name, "found": _sentence(c)} for c in checks])
    if not is_fine:
        raise typer.Exit(1)


def _sentence(check: Check) -> str:
    return check.found if check.run is None else f"{check.found}; to do: {check.run}"


def _plan(url: str, processes: int | None, concurrency: int) -> Plan | None:
    if processes is None:
        return None
    check_count(processes, "processes", 1, 10_000)
    settings = worker_settings(url, check_concurrency(concurrency))
    can_listen = not settings.pgbouncer or bool(settings.listen_database_url)
    return Plan(processes, settings.pool_max_size, settings.notify and can_listen)


def _examine(url: str, plan: Plan | None) -> Iterator[Check]:
    check_settings()
    try:
        with CommandBusPool(database_url=url, pool_min_size=0, pool_max_size=2) as pool:
            yield from examine(pool, url, plan)
    except InvalidArgumentError:
        raise
    except (CommandBusError, psycopg.Error) as error:
        yield problem("database", str(describe(error)["message"]), None)  # the sentence says what to run
