-- commandbus: tables of the end-to-end tests and the demo application. Optional: the library never needs them.
--
-- e2e.test_command says how the handler of one test command shall behave, and what came of it.
-- e2e.config       holds the demo's settings, one JSON object per subject.

create schema if not exists e2e;


-- Tables

create table e2e.test_command (
    id           serial      not null,
    command_id   uuid        not null,
    payload      jsonb       not null default '{}',
    behavior     jsonb       not null,
    created_at   timestamptz default now(),
    processed_at timestamptz,
    attempts     integer     default 0,
    result       jsonb,
    constraint test_command_pk primary key (id),
    constraint test_command_command_id_uq unique (command_id),  -- its index serves the lookup by command_id
    constraint test_command_payload_ck check (jsonb_typeof(payload) = 'object'),
    constraint test_command_behavior_ck check (jsonb_typeof(behavior) = 'object'),
    constraint test_command_attempts_ck check (attempts >= 0)
);
comment on table e2e.test_command is 'How the handler of one test command shall behave, and what came of it.';

-- The demo lists the newest test commands first.
create index test_command_created_at_ix on e2e.test_command (created_at);

create table e2e.config (
    key        text        not null,
    value      jsonb       not null,
    updated_at timestamptz not null default now(),
    constraint config_pk primary key (key),
    constraint config_value_ck check (jsonb_typeof(value) = 'object')
);
comment on table e2e.config is 'Settings of the demo application: one JSON object per subject.';


-- Defaults; visibility_timeout and poll_interval are in seconds.

insert into e2e.config (key, value) values
    ('worker', '{"visibility_timeout": 30, "concurrency": 4, "poll_interval": 1.0, "batch_size": 10}'),
    ('retry', '{"max_attempts": 3, "base_delay_ms": 1000, "max_delay_ms": 60000, "backoff_multiplier": 2.0}');
