"""The JSON API of the demo, and its OpenAPI document: both are made from the same list of operations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID  # noqa: TC003  (kept beside the operations that it describes)

from flask import Blueprint, Response, abort, jsonify, request
from pydantic.json_schema import models_json_schema

from commandbus import InvalidArgumentError
from commandbus.console.records import shown
from tests.e2e.app import schemas
from tests.e2e.app.config import RetryConfig, WorkerConfig
from tests.e2e.app.parts import parts
from tests.e2e.app.schemas import RefusedError, adapter, read, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.typing import ResponseReturnValue

T = TypeVar("T")

PREFIX = "/api/e2e"
_REF = "#/components/schemas/{model}"

api = Blueprint("e2e_api", __name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    Attributes:
        method: such as GET.
        rule: Flask's form of its path, below `PREFIX`.
        summary: what it does.
        answer: the record that it gives, or None for no content.
        status: of that answer.
        body: the record that it takes as JSON, or None.
        query: the record that it takes as query string, or None.
        refusals: further statuses, with an `Error`.
    """

    method: str
    rule: str
    summary: str
    answer: type[Any] | None
    status: int = 200
    body: type[Any] | None = None
    query: type[Any] | None = None
    refusals: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """The path as OpenAPI writes it."""
        return PREFIX + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.rule)


OPERATIONS: list[Operation] = []


def operation(
    method: str, rule: str, answer: type[Any] | None, **more: Any
) -> Callable[[Callable[..., Any]], Callable[..., ResponseReturnValue]]:
    """Return a decorator that makes a function an operation; it is given what the path, body and query say."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., ResponseReturnValue]:
        one = Operation(method, rule, (fn.__doc__ or "").strip(), answer, **more)
        OPERATIONS.append(one)

        @wraps(fn)
        def view(**arguments: Any) -> ResponseReturnValue:
            if one.query is not None:
                arguments["query"] = read(one.query, request.args.to_dict())
            if one.body is not None:
                arguments["body"] = read_json(one.body, request.get_data())
            found = fn(**arguments)
            if one.answer is None:
                return Response(status=one.status)
            return Response(adapter(one.answer).dump_json(found), one.status, mimetype="application/json")

        api.add_url_rule(PREFIX + rule, endpoint=fn.__name__, view_func=view, methods=[method])
        return view

    return decorate


@api.errorhandler(RefusedError)
def _on_refusal(error: RefusedError) -> ResponseReturnValue:
    return jsonify(errors=error.errors), 422


@api.errorhandler(InvalidArgumentError)
def _on_bus_refusal(error: InvalidArgumentError) -> ResponseReturnValue:
    field = "payload" if error.field == "data" else error.field
    return jsonify(errors={field: error.problem}), 422


@operation("GET", "/test-commands", schemas.TestCommandPage, query=schemas.TestCommandQuery)
def list_test_commands(query: schemas.TestCommandQuery) -> schemas.TestCommandPage:
    """List test commands, newest first."""
    found = parts().commands.find(query)
    return found.model_copy(update={"test_commands": [_seen(one) for one in found.test_commands]})


@operation("POST", "/test-commands", schemas.TestCommandOut, status=201, body=schemas.NewTestCommand)
def create_test_command(body: schemas.NewTestCommand) -> schemas.TestCommandOut:
    """Send a test command."""
    return _seen(_here(parts().commands.get(parts().create(body))))


@operation("DELETE", "/test-commands", schemas.Deleted)
def delete_finished_test_commands() -> schemas.Deleted:
    """Delete all test commands that have ended."""
    return schemas.Deleted(deleted=parts().commands.delete_finished())


@operation("GET", "/test-commands/<uuid:command_id>", schemas.TestCommandOut, refusals=(404,))
def get_test_command(command_id: UUID) -> schemas.TestCommandOut:
    """Return a test command."""
    return _seen(_here(parts().commands.get(command_id)))


@operation(
    "PATCH",
    "/test-commands/<uuid:command_id>",
    schemas.TestCommandOut,
    body=schemas.TestCommandChange,
    refusals=(404, 409),
)
def change_test_command(command_id: UUID, body: schemas.TestCommandChange) -> schemas.TestCommandOut:
    """Change how a test command behaves from its next attempt on."""
    return _seen(_here(parts().commands.change(command_id, body)))


@operation("DELETE", "/test-commands/<uuid:command_id>", None, status=204, refusals=(404, 409))
def delete_test_command(command_id: UUID) -> None:
    """Delete a test command that has ended."""
    if not parts().commands.delete(command_id):
        abort(404)


@operation("GET", "/runs", schemas.RunList)
def list_runs() -> schemas.RunList:
    """List the runs since the application started, newest first."""
    return schemas.RunList(runs=parts().runs.latest())


@operation("POST", "/runs", schemas.RunProgress, status=202, body=schemas.NewRun)
def start_run(body: schemas.NewRun) -> schemas.RunProgress:
    """Begin to send many test commands."""
    return parts().runs.start(body)


@operation("GET", "/runs/<uuid:run_id>", schemas.RunProgress, refusals=(404,))
def get_run(run_id: UUID) -> schemas.RunProgress:
    """Return how far a run is."""
    return _here(parts().runs.get(run_id))


@operation("GET", "/config/worker", WorkerConfig)
def get_worker_config() -> WorkerConfig:
    """Return the worker's settings."""
    return parts().store.get(WorkerConfig)


@operation("PUT", "/config/worker", WorkerConfig, body=WorkerConfig)
def put_worker_config(body: WorkerConfig) -> WorkerConfig:
    """Store the worker's settings; what is left out gets its default."""
    parts().store.set(body)
    return body


@operation("GET", "/config/retry", RetryConfig)
def get_retry_config() -> RetryConfig:
    """Return the retry settings."""
    return parts().store.get(RetryConfig)


@operation("PUT", "/config/retry", RetryConfig, body=RetryConfig)
def put_retry_config(body: RetryConfig) -> RetryConfig:
    """Store the retry settings; what is left out gets its default."""
    parts().store.set(body)
    return body


@api.get("/api/openapi.json")
def openapi() -> ResponseReturnValue:
    """Return the OpenAPI document."""
    return jsonify(document())


def document() -> dict[str, Any]:
    """Return the OpenAPI document of all operations."""
    taken = {(kind, "validation") for one in OPERATIONS for kind in (one.body, one.query) if kind is not None}
    given = {(one.answer, "serialization") for one in OPERATIONS if one.answer is not None}
    given |= {(schemas.Error, "serialization"), (schemas.Errors, "serialization")}
    every = sorted(taken | given, key=lambda pair: (pair[0].__name__, pair[1]))
    refs, definitions = models_json_schema(every, ref_template=_REF)  # type: ignore[arg-type]  # (modes are literals)
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _describe(one, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "commandbus: E2E demo",
            "version": "1",
            "description": "What changes anything needs the session's cookie and its token in X-CSRF-Token, which"
            " every page has in its meta element csrf-token.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _describe(one: Operation, refs: Any) -> dict[str, Any]:
    """Return one operation as OpenAPI writes it."""

    def content(kind: type[Any], mode: str = "serialization") -> dict[str, Any]:
        return {"application/json": {"schema": refs[kind, mode]}}

    answer: dict[str, Any] = {"description": "Done."}
    if one.answer is not None:
        answer["content"] = content(one.answer)
    responses = {str(one.status): answer}
    statuses = {*one.refusals, *(() if one.method == "GET" else (403,))}
    responses |= {
        str(status): {"description": "Refused.", "content": content(schemas.Error)} for status in sorted(statuses)
    }
    if one.body or one.query:
        responses["422"] = {"description": "A limit is broken.", "content": content(schemas.Errors)}
    found: dict[str, Any] = {
        "operationId": _name(one),
        "summary": one.summary,
        "parameters": [*_path_parameters(one), *_query_parameters(one)],
        "responses": responses,
    }
    if one.body is not None:
        found["requestBody"] = {"required": True, "content": content(one.body, "validation")}
    return found


def _name(one: Operation) -> str:
    return f"{one.method.lower()}{one.path.removeprefix(PREFIX).title()}".translate(dict.fromkeys(map(ord, "/-{}_")))


def _path_parameters(one: Operation) -> list[dict[str, Any]]:
    schema = {"type": "string", "format": "uuid"}
    names = re.findall(r"{(\w+)}", one.path)
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _query_parameters(one: Operation) -> list[dict[str, Any]]:
    if one.query is None:
        return []
    schema = adapter(one.query).json_schema(ref_template=_REF)
    return [{"name": name, "in": "query", "schema": value} for name, value in schema["properties"].items()]


def _seen(one: schemas.TestCommandOut) -> schemas.TestCommandOut:
    """Return a test command as the one who asks may see it: its payload stands for business data."""
    return one.model_copy(update={"payload": shown(one.payload)})


def _here(found: T | None) -> T:
    if found is None:
        abort(404)
    return found
