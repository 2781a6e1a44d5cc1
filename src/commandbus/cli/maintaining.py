"""`commandbus maintain`: the audit's partitions made ahead, old things removed."""

from typing import Annotated

import typer
from rich.progress import Progress

from commandbus.cli.options import AsJson, DatabaseUrl, examples, open_pool
from commandbus.cli.output import notes, print_facts, print_json, row_of
from commandbus.models import MaintenanceReport
from commandbus.payload import check_count
from commandbus.settings import MAX_DAYS
from commandbus.sync.maintenance import STEP, Maintenance

EXAMPLES = examples(
    "maintain", "maintain --keep-commands 90 --dry-run", "maintain --keep-commands 90 --keep-audit 400 --keep-replies 7"
)


def _keep(what: str) -> object:
    def check(option: typer.CallbackParam, days: int | None) -> int | None:
        return None if days is None else check_count(days, str(option.name), 1, MAX_DAYS)

    return typer.Option(help=f"Days to keep {what}, 1 to {MAX_DAYS:,}.", metavar="DAYS", callback=check)


def maintain(
    keep_commands: Annotated[int | None, _keep("ended commands and batches")] = None,
    keep_audit: Annotated[int | None, _keep("the audit, by whole months")] = None,
    keep_payloads: Annotated[int | None, _keep("payloads of ended commands of the TSQ")] = None,
    keep_archives: Annotated[int | None, _keep("messages in PGMQ's archives")] = None,
    keep_replies: Annotated[int | None, _keep("replies that nobody takes")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make the audit's next partitions, and remove what is older than you say.

    What no option and no variable names is kept for ever: COMMANDBUS_KEEP_COMMANDS_DAYS, and so on with AUDIT,
    PAYLOADS, ARCHIVES, REPLIES. What waits, runs or is with an operator is never removed; its audit goes with its
    month. Workers do the same about every hour. Exit code 1 when another session was in the way. --dry-run does and
    undoes the first step of each kind, which is up to 10,000 rows.
    """
    given = {
        "keep_commands_days": keep_commands,
        "keep_audit_days": keep_audit,
        "keep_payloads_days": keep_payloads,
        "keep_archives_days": keep_archives,
        "keep_replies_days": keep_replies,
    }
    with open_pool(database_url) as pool:
        settings = pool.settings.replace(**{name: days for name, days in given.items() if days is not None})
        console = notes()
        with Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as progress:
            task = progress.add_task("maintaining", total=None)

            def advance(kind: str, rows: int) -> None:
                progress.update(task, description=f"removing {kind}", advance=rows)

            report = Maintenance(pool, settings).run(advance, dry_run=dry_run)
    if as_json:
        print_json(row_of(report))
    else:
        _show(report, dry_run)
    if not report.is_complete:
        raise typer.Exit(1)


def _show(report: MaintenanceReport, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    print_facts(
        {
            f"partitions {would}made": ", ".join(report.partitions_made) or "none",
            f"partitions {would}dropped": ", ".join(report.partitions_dropped) or "none",
            **{f"rows of {kind} {would}removed": _number(rows, dry_run) for kind, rows in report.deleted.items()},
        }
    )
    if not report.is_complete:
        typer.echo("another session is in the way at this moment: run it again later for the rest")


def _number(rows: int, dry_run: bool) -> str:
    return f"{rows:,} or more" if dry_run and rows >= STEP else f"{rows:,}"
