"""Functions and operators that raise, where a role that may create in schema public could put them."""

from __future__ import annotations

import psycopg

# What PGMQ, our functions and the pool call, as a role that may create in public could write it.
HOSTILE = {
    "make_interval(secs integer)": "interval",
    "make_interval(secs double precision)": "interval",
    "lower(text)": "text",
    "now()": "timestamptz",
    "clock_timestamp()": "timestamptz",
    "format(text, variadic text[])": "text",
    "format(text, text)": "text",
    "jsonb_build_object(text, uuid)": "jsonb",
    "to_regclass(text)": "regclass",
    "nextval(regclass)": "bigint",
    "pg_notify(text, text)": "void",
    "cardinality(uuid[])": "int",
    "set_config(text, text, boolean)": "text",
    "current_setting(text)": "text",
    "pg_is_in_recovery()": "boolean",
    "version()": "text",
}
OPERATORS = {"=": "text, text", "->>": "jsonb, text", "||": "text, text", "<=": "timestamptz, timestamptz"}
BODY = "language plpgsql as $$ begin raise exception 'hijacked'; end $$"


def set_traps(database_url: str) -> None:
    """Fill schema public of a database; nothing happens when it was done before."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        if connection.execute("select from pg_proc where proname = 'seize'").fetchone() is not None:
            return
        for signature, result in HOSTILE.items():
            connection.execute(f"create function public.{signature} returns {result} {BODY}".encode())
        connection.execute(
            f"create function public.seize(uuid[], uuid) returns uuid[] {BODY};"
            "create aggregate public.array_agg(uuid) (sfunc = public.seize, stype = uuid[])".encode()
        )
        for number, (name, operands) in enumerate(OPERATORS.items()):
            left, right = operands.split(", ")
            connection.execute(
                f"create function public.seize_{number}({operands}) returns boolean {BODY};"
                f"create operator public.{name} (leftarg = {left}, rightarg = {right},"
                f" function = public.seize_{number})".encode()
            )
