"""The door for names, numbers and JSON: what breaks a limit is refused here, before any SQL.

No error of this package repeats the value that it refuses, but for a key that an object has twice.
"""

from commandbus.payload.arguments import (
    MAX_COMMAND_TYPE_LENGTH,
    MAX_PAGE,
    MAX_REDRIVE,
    check_aware,
    check_command_type,
    check_count,
    check_domain,
    check_items,
    check_limit,
    check_offset,
    check_one_of,
    check_operator,
    check_queue,
    check_rate,
    check_reason,
    check_reply_queue,
    check_some_reason,
    check_text,
    check_timeout,
    check_uuid,
)
from commandbus.payload.exact import MAX_DIGITS, JsonNumber, write_json
from commandbus.payload.json_text import (
    MAX_DEPTH,
    MAX_PAYLOAD_BYTES,
    decode,
    decode_leniently,
    encode,
    encode_value,
    parse_json,
)
from commandbus.payload.keys import read_key, write_key
from commandbus.payload.texts import (
    MAX_ERROR_LENGTH,
    clean_text,
    counted,
    describe_validation_error,
    in_our_words,
    is_hidden,
)
from commandbus.payload.times import parse_time

__all__ = [
    "MAX_COMMAND_TYPE_LENGTH",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_ERROR_LENGTH",
    "MAX_PAGE",
    "MAX_REDRIVE",
    "MAX_PAYLOAD_BYTES",
    "JsonNumber",
    "check_aware",
    "check_command_type",
    "check_count",
    "check_domain",
    "check_items",
    "check_limit",
    "check_offset",
    "check_one_of",
    "check_operator",
    "check_queue",
    "check_rate",
    "check_reason",
    "check_reply_queue",
    "check_some_reason",
    "check_text",
    "check_timeout",
    "check_uuid",
    "clean_text",
    "counted",
    "decode",
    "decode_leniently",
    "describe_validation_error",
    "encode",
    "encode_value",
    "in_our_words",
    "is_hidden",
    "parse_json",
    "parse_time",
    "read_key",
    "write_json",
    "write_key",
]
