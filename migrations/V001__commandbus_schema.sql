-- commandbus: the schema of a reliable command bus on PostgreSQL and PGMQ.
--
-- A command is one row in commandbus.command and, while somebody should work on it, one message in the PGMQ queue
-- <domain>__commands. sp_send_commands writes both. sp_receive_commands leases a set of messages and starts their
-- commands. sp_settle_commands ends attempts: done, failed for good, to be retried, or parked in the troubleshooting
-- queue (TSQ) for an operator, who ends the wait with sp_operator_retry, _cancel or _complete. Every transition is a
-- row in commandbus.audit. Commands sent as a batch are counted in commandbus.batch.
--
-- A lease is the pair (msg_id, read_ct) that PGMQ gave with a delivery. Whoever ends an attempt must name it, and the
-- queue row is deleted only where it still matches: that one row is the fence for everything written after it.
--
-- Locks are always taken in this order: queue row, command row (by id), batch row (by id).
--
-- Errors: CB001 duplicate command, CB002 command not found, CB003 stale lease, CB004 batch not found,
--         CB005 queue not found, CB006 invalid operation, CB007 invalid argument.
--
-- Plans: a small array is joined to a table that may be large. "command_id = any (array[x])" and "domain || ''" leave
-- the planner one way only, a lookup per element in the order of the array; plain equality lets it walk the whole
-- index, which a plan made while the table was small would still do when it is large.
--
-- Functions whose name starts with an underscore are for the others in this file only.

-- PGMQ comes from the extension where the server offers it. Elsewhere its SQL must have been installed before.
do $$
begin
    if to_regtype('pgmq.message_record') is null then
        if not exists (select from pg_catalog.pg_available_extensions where name = 'pgmq') then
            raise exception 'PGMQ is missing: install the extension, or run "commandbus migrate", which brings its SQL';
        end if;
        create extension pgmq;
    end if;
    if not exists (
        select from pg_catalog.pg_attribute
        where attrelid = to_regclass('pgmq.message_record') and attname = 'last_read_at'
    ) then
        raise exception 'PGMQ is too old: 1.10 or newer is needed';
    end if;
end $$;

create schema if not exists commandbus;
revoke all on schema commandbus from public;


-- Tables

create table commandbus.batch (
    domain                   text        not null,
    batch_id                 uuid        not null,
    name                     text,
    custom_data              jsonb,
    status                   text        not null default 'PENDING',
    total_count              int         not null default 0,
    completed_count          int         not null default 0,
    failed_count             int         not null default 0,
    canceled_count           int         not null default 0,
    in_troubleshooting_count int         not null default 0,
    created_at               timestamptz not null default now(),
    started_at               timestamptz,
    completed_at             timestamptz,
    completion_queue         text,       -- a reply queue that is told when the batch is complete
    constraint batch_pk primary key (domain, batch_id),
    constraint batch_status_ck check (status in ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'COMPLETED_WITH_FAILURES')),
    constraint batch_counts_ck check (
        least(total_count, completed_count, failed_count, canceled_count, in_troubleshooting_count) >= 0
        and completed_count + failed_count + canceled_count + in_troubleshooting_count <= total_count
    ),
    constraint batch_completed_ck check (
        (completed_at is not null) = (status in ('COMPLETED', 'COMPLETED_WITH_FAILURES'))
    )
) with (fillfactor = 50);

-- list_batches: newest first.
create index batch_created_idx on commandbus.batch (domain, created_at);

-- The statuses a command can have. Those from FAILED on are final. The column is text; its check is a cast to this
-- type, because PostgreSQL parses the stored text of every check anew in each single-row insert, and a cast is short.
create type commandbus.command_status as enum (
    'PENDING', 'IN_PROGRESS', 'IN_TROUBLESHOOTING_QUEUE', 'FAILED', 'CANCELED', 'COMPLETED'
);

-- Half of every page stays free, and no index covers a column that a healthy life changes: both updates of a command
-- (started, completed) then stay within their page and touch no index.
create table commandbus.command (
    domain           text        not null,
    queue_name       text        not null,
    msg_id           bigint,
    command_id       uuid        not null,
    command_type     text        not null,
    status           text        not null,
    attempts         int         not null default 0,
    max_attempts     int         not null,
    lease_expires_at timestamptz,
    last_error_type  text,
    last_error_code  text,
    last_error_msg   text,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    reply_queue      text        not null default '',
    correlation_id   uuid,
    batch_id         uuid,
    read_ct          int,        -- with msg_id: the lease of the last delivery
    attention_at     timestamptz, -- since when it is in the TSQ, failed or canceled
    finished_at      timestamptz,
    failure_key      uuid,       -- while it is in the TSQ: of the group of failures that look the same
    constraint command_pk primary key (command_id, domain),
    constraint command_batch_fk foreign key (domain, batch_id) references commandbus.batch (domain, batch_id),
    constraint command_state_ck check (
        (finished_at is not null) = (status::commandbus.command_status >= 'FAILED') and attempts <= max_attempts
    )
) with (fillfactor = 50);

-- query_commands for a conversation; a command without one has its own id here.
create index command_correlation_idx on commandbus.command (correlation_id) where correlation_id <> command_id;
-- query_commands: newest first.
create index command_created_idx on commandbus.command (created_at);
-- list_batch_commands.
create index command_batch_idx on commandbus.command (domain, batch_id) where batch_id is not null;
-- _find_troubled: what waits for an operator, and what failed or was canceled, newest first. No other index has
-- its order.
create index command_troubled_idx on commandbus.command (
    domain, ((failure_key is null)::int), (created_at at time zone 'UTC')) where attention_at is not null;
-- list_waiting: longest waiting first, however many failed and were canceled before.
create index command_waiting_idx on commandbus.command (domain, attention_at) where failure_key is not null;
-- list_failure_groups, and the commands of one.
create index command_failure_idx on commandbus.command (domain, failure_key, attention_at)
    where failure_key is not null;

-- What happened, one row per event; command_id is the batch's id in BATCH_* events. No payload is ever in it, but for
-- what operators wrote: both versions of an edit, and the result of work that was done by hand.
--
-- One partition per month (UTC), made ahead by sp_make_partitions, emptied and dropped by sp_drop_partitions. What no
-- month takes goes into audit_default, so that a send never fails for want of a partition.
create sequence commandbus.audit_audit_id_seq;
create table commandbus.audit (
    audit_id   bigint      not null default nextval('commandbus.audit_audit_id_seq'),
    ts         timestamptz not null default clock_timestamp(),
    command_id uuid        not null,
    msg_id     bigint,
    attempt    int,
    domain     text        not null,
    event_type text        not null,
    details    jsonb,
    constraint audit_pk primary key (command_id, audit_id, ts) -- get_audit_trail; the only entry that each row has
) partition by range (ts);
alter sequence commandbus.audit_audit_id_seq owned by commandbus.audit.audit_id;
create table commandbus.audit_default partition of commandbus.audit default;

-- query_audit, a span of time, and which blocks of it may hold a kind of event. Rows arrive in time's order, so a
-- summary per 128 kB will do.
create index audit_ts_idx on commandbus.audit
    using brin (ts, event_type text_bloom_ops (n_distinct_per_range = 16))
    with (pages_per_range = 16, autosummarize = on);
-- query_audit, the events of a rare domain: which blocks may hold one.
create index audit_domain_idx on commandbus.audit using brin (domain text_bloom_ops)
    with (pages_per_range = 16, autosummarize = on);
-- query_audit, the events of a rare kind: which is every kind that is not part of a healthy life.
create index audit_event_idx on commandbus.audit (event_type, ts)
    where event_type not in ('SENT', 'RECEIVED', 'COMPLETED');

-- The messages of commands that wait in the TSQ, so that a retry never depends on PGMQ's archive.
create table commandbus.payload_archive (
    domain      text        not null,
    command_id  uuid        not null,
    msg_id      bigint,
    message     jsonb       not null,
    archived_at timestamptz not null default now(),
    constraint payload_archive_pk primary key (command_id, domain)
);

-- sp_prune_payloads: the oldest.
create index payload_archive_time_idx on commandbus.payload_archive (archived_at);

-- Commands that wait for their next attempt. They live outside the queue because pgmq.read walks past every message
-- that is not visible yet.
create table commandbus.scheduled (
    domain     text        not null,
    command_id uuid        not null,
    due_at     timestamptz not null,
    message    jsonb       not null,
    constraint scheduled_pk primary key (command_id, domain)
);

-- _enqueue_due: what is due in a domain, earliest first.
create index scheduled_due_idx on commandbus.scheduled (domain, due_at);

-- Replies and completion messages whose queue was dropped after the send; delivered when the queue is made again.
create table commandbus.undelivered_reply (
    reply_id   bigint      generated always as identity,
    queue_name text        not null,
    message    jsonb       not null,
    created_at timestamptz not null default now(),
    constraint undelivered_reply_pk primary key (reply_id)
);

-- sp_create_domain: the replies that waited for this queue.
create index undelivered_reply_queue_idx on commandbus.undelivered_reply (queue_name);

-- Domains whose commands no worker is given, until an operator resumes them.
create table commandbus.paused_domain (
    domain    text        not null,
    paused_at timestamptz not null default now(),
    operator  text,
    reason    text,
    constraint paused_domain_pk primary key (domain)
);

-- Worker processes that say now and then that they live. Nothing depends on it: it is for people to look at.
create table commandbus.worker (
    worker_id   uuid        not null,
    domain      text        not null,
    host        text        not null,
    pid         int         not null,
    concurrency int         not null,
    in_flight   int         not null default 0,
    started_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    constraint worker_pk primary key (worker_id)
) with (fillfactor = 50);

-- What workers did, in pieces of several lengths (see _pieces), and how deep the queue was then. waits and runs are
-- histograms: element i counts commands that took up to 2^(i-1) milliseconds, in the queue until a handler had them, and
-- in the handler.
create table commandbus.throughput (
    domain     text        not null,
    seconds    int         not null, -- the length of the piece
    at         timestamptz not null,
    completed  bigint      not null default 0,
    failed     bigint      not null default 0,
    retried    bigint      not null default 0,
    parked     bigint      not null default 0,
    enqueued   bigint,     -- messages put into the queue; null where that is not known
    last_id    bigint,     -- the last number that a message of the queue was given
    depth      bigint,
    oldest_at  timestamptz,
    waits      bigint[]    not null default '{}',
    runs       bigint[]    not null default '{}',
    constraint throughput_pk primary key (domain, seconds, at)
) with (fillfactor = 50);

-- list_throughput of all domains, and what sp_prune_throughput forgets.
create index throughput_time_idx on commandbus.throughput (seconds, at);

-- A selection of commands of the TSQ, frozen, that workers queue again at a chosen rate.
create table commandbus.redrive (
    redrive_id    uuid        not null default gen_random_uuid(),
    domain        text        not null,
    status        text        not null default 'RUNNING',
    rate          float8      not null, -- commands per second
    stop_after    int,        -- this many that wait for an operator again end it
    total_count   int         not null,
    sent_count    int         not null default 0,
    refused_count int         not null default 0, -- somebody else decided about them before
    failed_count  int         not null default 0, -- waited for an operator again
    completed_count int       not null default 0, -- the first ends of the others that were queued, as far as counted
    rejected_count int        not null default 0, -- FAILED
    canceled_count int        not null default 0,
    forgotten_count int       not null default 0, -- deleted before anybody counted them
    operator      text,
    reason        text,
    created_at    timestamptz not null default clock_timestamp(),
    stepped_at    timestamptz not null default clock_timestamp(), -- until when the rate has been used up
    looked_at     timestamptz not null default clock_timestamp(), -- until when failures have been looked for
    turn_at       timestamptz not null default clock_timestamp(), -- of the last step
    seen_at       timestamptz not null default clock_timestamp(), -- of the last count of what ended
    seen_position int         not null default 0, -- up to where it came
    counted_at    timestamptz, -- when one last found something new
    is_counted    boolean     not null default false, -- it has ended, and so has all that it queued
    finished_at   timestamptz,
    constraint redrive_pk primary key (redrive_id),
    constraint redrive_status_ck check (status in ('RUNNING', 'PAUSED', 'STOPPED', 'COMPLETED')),
    constraint redrive_finished_ck check ((finished_at is not null) = (status in ('STOPPED', 'COMPLETED'))),
    constraint redrive_counts_ck check (
        least(sent_count, refused_count, failed_count) >= 0 and sent_count + refused_count <= total_count
        and failed_count + completed_count + rejected_count + canceled_count + forgotten_count <= sent_count
    )
);

-- sp_step_redrives, which workers call all the time.
create index redrive_running_idx on commandbus.redrive (domain) where finished_at is null;
create index redrive_uncounted_idx on commandbus.redrive (domain) where not is_counted;
-- list_redrives: newest first.
create index redrive_created_idx on commandbus.redrive (created_at);

create table commandbus.redrive_item (
    redrive_id uuid        not null,
    command_id uuid        not null,
    position   int         not null,
    sent_at    timestamptz,
    refusal    text,
    outcome    text,       -- what became of it first: a final status, AGAIN for the TSQ, FORGOTTEN
    constraint redrive_item_pk primary key (redrive_id, command_id),
    constraint redrive_item_redrive_fk foreign key (redrive_id) references commandbus.redrive on delete cascade
);

-- sp_step_redrives: whose turn it is.
create index redrive_item_next_idx on commandbus.redrive_item (redrive_id, position)
    where sent_at is null and refusal is null;
-- _open_items: what was queued and has not been seen to end.
create index redrive_item_open_idx on commandbus.redrive_item (redrive_id, position)
    where sent_at is not null and outcome is null;


-- Domains and queues

-- commandbus.schema_version: the version of this schema, for programs that must know whether they fit.
create function commandbus.schema_version()
returns int
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select 1 $$;

-- commandbus._check_domain: refuse a domain name that could collide with another queue's table.
--
-- Raises   CB007.
create function commandbus._check_domain(p_domain text)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_domain is null or p_domain !~ '^[a-z][a-z0-9_]{0,36}$' then
        raise exception 'domain: must match ^[a-z][a-z0-9_]{0,36}$' using errcode = 'CB007';
    end if;
end $$;

-- commandbus._command_table: the name of the table that holds a domain's command queue.
--
-- Raises   CB007 for a bad name, CB005 when the domain has no queue.
create function commandbus._command_table(p_domain text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_domain is null or p_domain !~ '^[a-z][a-z0-9_]{0,36}$' then
        raise exception 'domain: must match ^[a-z][a-z0-9_]{0,36}$' using errcode = 'CB007';
    end if;
    if to_regclass('pgmq.q_' || p_domain || '__commands') is null then
        raise exception 'domain "%" has no command queue: create it with "commandbus queue create %"', p_domain, p_domain
            using errcode = 'CB005';
    end if;
    return 'q_' || p_domain || '__commands';
end $$;

-- commandbus._own_function: the name of a domain's own function, which sp_create_domain makes.
--
-- Raises   CB007, CB005 as _command_table, and CB005 when the domain lacks the function.
create function commandbus._own_function(p_prefix text, p_domain text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._command_table(p_domain);
    if to_regproc('commandbus.' || p_prefix || p_domain) is null then
        raise exception 'domain "%" lacks a function: create it with "commandbus queue create %"', p_domain, p_domain
            using errcode = 'CB005';
    end if;
    return p_prefix || p_domain;
end $$;

-- commandbus._reply_table: the name of the table that holds a reply queue; null when there is no such queue.
create function commandbus._reply_table(p_queue text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'q_' || p_queue
    where p_queue ~ '^[a-z][a-z0-9_]{0,36}__replies$' and to_regclass('pgmq.q_' || p_queue) is not null
$$;

-- commandbus._check_reply_queue: refuse a reply queue that nobody made, or that is no reply queue.
--
-- Raises   CB005.
create function commandbus._check_reply_queue(p_queue text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if commandbus._reply_table(p_queue) is null then
        raise exception 'reply_to: there is no reply queue "%": they are called <domain>__replies, and made by'
            ' "commandbus queue create <domain>"', left(p_queue, 60) using errcode = 'CB005';
    end if;
end $$;

-- commandbus._wake: tell the listeners of a queue that something arrived. The channel is commandbus:<queue>.
create function commandbus._wake(p_queue text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$ select pg_notify('commandbus:' || p_queue, '') $$;

-- commandbus._deliver: put messages into reply queues, those whose queue is gone into undelivered_reply.
--
-- Locks    nothing that exists before.
create function commandbus._deliver(p_queues text[], p_messages jsonb[], p_notify boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue    text;
    v_messages jsonb[];
    v_table    text;
begin
    for v_queue, v_messages in
        select d.queue, array_agg(d.message order by d.ord)
        from unnest(p_queues, p_messages) with ordinality d(queue, message, ord)
        group by d.queue
        order by d.queue
    loop
        v_table := commandbus._reply_table(v_queue);
        if v_table is null then
            insert into commandbus.undelivered_reply (queue_name, message)
            select v_queue, m from unnest(v_messages) m;
            continue;
        end if;
        execute format('insert into pgmq.%I (vt, message) select clock_timestamp(), m from unnest($1) m', v_table)
            using v_messages;
        if p_notify then
            perform commandbus._wake(v_queue);
        end if;
    end loop;
end $$;

-- commandbus.sp_create_domain: make a domain's command queue, reply queue and own functions, as far as they are not
-- there yet.
--
-- PGMQ's index on vt serves none of its queries, and because of it every delivery rewrites all index entries of a
-- message. Without it, and with half of each page free, a delivery changes the message's page only.
--
-- Returns  whether anything had to be made.
-- Raises   CB007 for a bad name.
-- Locks    PGMQ's lock for the queue name; nothing when all is there.
create function commandbus.sp_create_domain(p_domain text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue   text;
    v_made    boolean := false;
    v_waiting jsonb[];
begin
    perform commandbus._check_domain(p_domain);
    foreach v_queue in array array[p_domain || '__commands', p_domain || '__replies'] loop
        if to_regclass('pgmq.q_' || v_queue) is null then
            perform pgmq.acquire_queue_lock(v_queue);
            continue when to_regclass('pgmq.q_' || v_queue) is not null;  -- somebody was faster
            perform pgmq.create(v_queue);
            execute format('drop index if exists pgmq.%I', 'q_' || v_queue || '_vt_idx');
            execute format(
                'alter table pgmq.%I set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01,'
                ' autovacuum_vacuum_insert_scale_factor = 0.1)', 'q_' || v_queue);
            if v_queue like '%\_\_replies' then
                execute format('create index if not exists %I on pgmq.%I ((message ->> ''command_id''))',
                    'q_' || v_queue || '_cmd_idx', 'q_' || v_queue);
            end if;
            v_made := true;
        end if;
        -- Even when the queue is there: a settle may have missed it while it was being made.
        with waiting as (
            delete from commandbus.undelivered_reply u where u.queue_name = v_queue returning u.reply_id, u.message
        )
        select array_agg(w.message order by w.reply_id) into v_waiting from waiting w;
        if v_waiting is not null then
            perform commandbus._deliver(array_fill(v_queue, array[cardinality(v_waiting)]), v_waiting, true);
        end if;
    end loop;
    if commandbus._lacks_functions(p_domain) then
        perform pgmq.acquire_queue_lock(p_domain || '__commands');
        if commandbus._lacks_functions(p_domain) then
            perform commandbus._write_sender(p_domain);
            perform commandbus._write_reader(p_domain);
            v_made := true;
        end if;
    end if;
    return v_made;
end $$;

-- commandbus._lacks_functions: is one of a domain's own functions missing? Asked of the catalog itself: what a session
-- has cached of it may be older than the lock it holds.
create function commandbus._lacks_functions(p_domain text)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*) < 2
    from pg_proc p
    where p.pronamespace = 'commandbus'::regnamespace
        and p.proname in ('send_to_' || p_domain, '_read_from_' || p_domain)
$$;


-- Batches

-- commandbus.sp_create_batch: make an empty batch; commands join it as they are sent.
--
-- Returns  the batch's id.
-- Raises   CB006 when the batch exists, CB005 for an unknown completion queue, CB007 for a bad domain.
create function commandbus.sp_create_batch(
    p_domain           text,
    p_batch_id         uuid,
    p_name             text  default null,
    p_custom_data      jsonb default null,
    p_completion_queue text  default null
)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._check_domain(p_domain);
    if p_completion_queue is not null then
        perform commandbus._check_reply_queue(p_completion_queue);
    end if;
    insert into commandbus.batch (domain, batch_id, name, custom_data, completion_queue)
    values (p_domain, p_batch_id, p_name, p_custom_data, p_completion_queue)
    on conflict on constraint batch_pk do nothing;
    if not found then
        raise exception 'batch % exists in domain "%"', p_batch_id, p_domain using errcode = 'CB006';
    end if;
    return p_batch_id;
end $$;

-- commandbus._count_batches: add to the counters of batches, and complete those that have nothing left.
--
-- The arrays run in parallel, one element per batch. A batch is complete when all its commands are completed, failed
-- or canceled; a command in the TSQ keeps it open. A batch that was complete and is so no longer is open again.
--
-- Returns  the batches that became complete.
-- Raises   CB004 for a batch that does not exist.
-- Locks    the batch rows, by id.
create function commandbus._count_batches(
    p_domain         text,
    p_batch_ids      uuid[],
    p_completed      int[],
    p_failed         int[],
    p_canceled       int[],
    p_troubleshooting int[],
    p_notify         boolean default true
)
returns setof uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_add   record;
    v_batch commandbus.batch;
    v_was   text;
begin
    for v_add in
        select *
        from unnest(p_batch_ids, p_completed, p_failed, p_canceled, p_troubleshooting)
            as a(batch_id, completed, failed, canceled, troubleshooting)
        order by a.batch_id
    loop
        select b.status into v_was
        from commandbus.batch b
        where b.domain = p_domain and b.batch_id = v_add.batch_id
        for no key update;
        if not found then
            raise exception 'batch % not found in domain "%"', v_add.batch_id, p_domain using errcode = 'CB004';
        end if;

        update commandbus.batch b
        set completed_count = b.completed_count + v_add.completed,
            failed_count = b.failed_count + v_add.failed,
            canceled_count = b.canceled_count + v_add.canceled,
            in_troubleshooting_count = b.in_troubleshooting_count + v_add.troubleshooting,
            started_at = coalesce(b.started_at, clock_timestamp()),
            status = s.status,
            completed_at = case when s.status <> 'IN_PROGRESS' then coalesce(b.completed_at, clock_timestamp()) end
        from (
            select case
                when o.completed_count + o.failed_count + o.canceled_count
                    + v_add.completed + v_add.failed + v_add.canceled < o.total_count then 'IN_PROGRESS'
                when o.failed_count + o.canceled_count + v_add.failed + v_add.canceled > 0
                    then 'COMPLETED_WITH_FAILURES'
                else 'COMPLETED'
            end as status
            from commandbus.batch o
            where o.domain = p_domain and o.batch_id = v_add.batch_id
        ) s
        where b.domain = p_domain and b.batch_id = v_add.batch_id
        returning b.* into v_batch;

        if v_was = 'PENDING' then  -- none of its commands ever started: tampered with, or counted by hand
            insert into commandbus.audit (domain, command_id, event_type)
            values (p_domain, v_batch.batch_id, 'BATCH_STARTED');
        end if;
        continue when v_batch.status = 'IN_PROGRESS' or v_was = v_batch.status;
        perform commandbus._announce_batch(v_batch, p_notify);
        return next v_batch.batch_id;
    end loop;
end $$;

-- commandbus._announce_batch: write the audit event of a complete batch and tell its completion queue.
create function commandbus._announce_batch(p_batch commandbus.batch, p_notify boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_facts jsonb := jsonb_build_object(
        'status', p_batch.status,
        'total_count', p_batch.total_count,
        'completed_count', p_batch.completed_count,
        'failed_count', p_batch.failed_count,
        'canceled_count', p_batch.canceled_count
    );
begin
    insert into commandbus.audit (domain, command_id, event_type, details)
    values (p_batch.domain, p_batch.batch_id, 'BATCH_COMPLETED', v_facts);
    if p_batch.completion_queue is not null then
        perform commandbus._deliver(
            array[p_batch.completion_queue],
            array[v_facts || jsonb_build_object(
                'event', 'BATCH_COMPLETED',
                'domain', p_batch.domain,
                'batch_id', p_batch.batch_id,
                'name', p_batch.name,
                'completed_at', p_batch.completed_at
            )],
            p_notify);
    end if;
end $$;

-- commandbus.sp_start_batch: a batch's first command has started.
--
-- Returns  whether this call started the batch; false when it had started before.
-- Raises   CB004.
-- Locks    the batch row, unless the batch has started.
create function commandbus.sp_start_batch(p_domain text, p_batch_id uuid)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update commandbus.batch b
    set status = 'IN_PROGRESS', started_at = clock_timestamp()
    where b.domain = p_domain and b.batch_id = p_batch_id and b.status = 'PENDING';
    if found then
        insert into commandbus.audit (domain, command_id, event_type) values (p_domain, p_batch_id, 'BATCH_STARTED');
        return true;
    end if;
    if not exists (select from commandbus.batch b where b.domain = p_domain and b.batch_id = p_batch_id) then
        raise exception 'batch % not found in domain "%"', p_batch_id, p_domain using errcode = 'CB004';
    end if;
    return false;
end $$;

-- commandbus.sp_update_batch_counters: count one command's transition.
--
-- p_update_type is complete, fail, tsq_move, tsq_complete, tsq_cancel or tsq_retry.
--
-- Returns  whether the batch is now complete.
-- Raises   CB004; CB007 for another type; 23514 when a counter would leave its range.
-- Locks    the batch row.
create function commandbus.sp_update_batch_counters(p_domain text, p_batch_id uuid, p_update_type text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_delta int[] := case p_update_type  -- completed, failed, canceled, in troubleshooting
        when 'complete'     then array[1, 0, 0,  0]
        when 'fail'         then array[0, 1, 0,  0]
        when 'tsq_move'     then array[0, 0, 0,  1]
        when 'tsq_complete' then array[1, 0, 0, -1]
        when 'tsq_cancel'   then array[0, 0, 1, -1]
        when 'tsq_retry'    then array[0, 0, 0, -1]
    end;
begin
    if v_delta is null then
        raise exception 'p_update_type: must be complete, fail, tsq_move, tsq_complete, tsq_cancel or tsq_retry'
            using errcode = 'CB007';
    end if;
    return exists (
        select from commandbus._count_batches(
            p_domain, array[p_batch_id], v_delta[1:1], v_delta[2:2], v_delta[3:3], v_delta[4:4])
    );
end $$;

-- commandbus.sp_tsq_complete: count a command that an operator completed.
--
-- Returns  whether the batch is now complete.
-- Raises   CB004.
-- Locks    the batch row.
create function commandbus.sp_tsq_complete(p_domain text, p_batch_id uuid)
returns boolean
language sql
set search_path = pg_catalog, pg_temp
as $$ select commandbus.sp_update_batch_counters(p_domain, p_batch_id, 'tsq_complete') $$;

-- commandbus.sp_tsq_cancel: count a command that an operator canceled.
--
-- Returns  whether the batch is now complete.
-- Raises   CB004.
-- Locks    the batch row.
create function commandbus.sp_tsq_cancel(p_domain text, p_batch_id uuid)
returns boolean
language sql
set search_path = pg_catalog, pg_temp
as $$ select commandbus.sp_update_batch_counters(p_domain, p_batch_id, 'tsq_cancel') $$;

-- commandbus.sp_tsq_retry: count a command that an operator sent again; a finished batch is open again.
--
-- Raises   CB004.
-- Locks    the batch row.
create function commandbus.sp_tsq_retry(p_domain text, p_batch_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus.sp_update_batch_counters(p_domain, p_batch_id, 'tsq_retry');
end $$;


-- Send

-- commandbus.sp_send_commands: store and enqueue a set of commands of one domain.
--
-- The arrays run in parallel; an optional array that is null, or an element that is null, takes its default: the
-- command's id as correlation id, no reply, three attempts. Messages are queued in the order given.
--
-- Returns  one row per command, in no promised order. A command that was there before is returned with its present
--          msg_id if p_idempotent and its type is the same.
-- Raises   CB001 when a command exists and is not accepted as above; then nothing is sent.
--          CB004, CB006 for a batch that does not exist or is complete; CB005 for a missing command or reply queue;
--          CB007 for bad arguments.
-- Locks    the new command rows (by id), then the batch row.
create function commandbus.sp_send_commands(
    p_domain            text,
    p_command_ids       uuid[],
    p_command_types     text[],
    p_data              jsonb[],
    p_correlation_ids   uuid[]  default null,
    p_reply_queues      text[]  default null,
    p_max_attempts      int[]   default null,
    p_batch_id          uuid    default null,
    p_idempotent        boolean default false,
    p_notify            boolean default true,
    p_max_payload_bytes int     default 262144
)
returns table (command_id uuid, msg_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_table        text := commandbus._command_table(p_domain);
    v_queue        text := p_domain || '__commands';
    v_sequence     regclass := ('pgmq.' || v_table || '_msg_id_seq')::regclass;
    v_now          timestamptz := clock_timestamp();
    v_asked        int := coalesce(cardinality(p_command_ids), 0);
    v_msg_ids      bigint[];
    v_stored       uuid[];
    v_sent         bigint[];
    v_found        int;
begin
    perform commandbus._check_send(
        p_domain, p_command_ids, p_command_types, p_data, p_correlation_ids, p_reply_queues, p_max_attempts,
        p_batch_id, p_max_payload_bytes);

    select array_agg(nextval(v_sequence)) into v_msg_ids from unnest(p_command_ids);

    with stored as (
        insert into commandbus.command (
            domain, queue_name, msg_id, command_id, command_type, status, max_attempts, created_at, updated_at,
            reply_queue, correlation_id, batch_id)
        select p_domain, v_queue, a.msg_id, a.command_id, a.command_type, 'PENDING', coalesce(a.max_attempts, 3),
            v_now, v_now, coalesce(a.reply_queue, ''), coalesce(a.correlation_id, a.command_id), p_batch_id
        from unnest(p_command_ids, v_msg_ids, p_command_types, p_max_attempts, p_reply_queues, p_correlation_ids)
            as a(command_id, msg_id, command_type, max_attempts, reply_queue, correlation_id)
        order by a.command_id
        on conflict on constraint command_pk do nothing
        returning command_id, msg_id
    ), audited as (
        insert into commandbus.audit (domain, command_id, msg_id, event_type, ts)
        select p_domain, s.command_id, s.msg_id, 'SENT', v_now
        from stored s
    )
    select array_agg(s.command_id), array_agg(s.msg_id) into v_stored, v_sent from stored s;

    if cardinality(v_stored) is distinct from v_asked then
        v_stored := coalesce(v_stored, '{}');
        -- What was there must stay until this commits; it may have been removed, as too old, since the insert met it.
        perform from commandbus.command c
        where c.domain = p_domain and c.command_id = any (p_command_ids) and c.command_id <> all (v_stored)
        order by c.command_id
        for key share;
        get diagnostics v_found = row_count;
        if v_found + cardinality(v_stored) < (select count(distinct a.id) from unnest(p_command_ids) as a(id)) then
            raise exception 'a command that existed is gone by now: send again' using errcode = 'serialization_failure';
        end if;
        perform commandbus._check_duplicates(p_domain, p_command_ids, p_command_types, v_stored, p_idempotent);
        return query
        select c.command_id, c.msg_id
        from commandbus.command c
        where c.domain = p_domain and c.command_id = any (p_command_ids) and c.command_id <> all (v_stored);
    end if;

    execute format(
        $q$
            insert into pgmq.%I (msg_id, read_ct, enqueued_at, vt, message)
            overriding system value
            select a.msg_id, 0, $1, $1, jsonb_build_object(
                'command_id', a.command_id, 'command_type', a.command_type, 'domain', $2, 'data', a.data,
                'correlation_id', coalesce(a.correlation_id, a.command_id), 'reply_to', a.reply_queue,
                'created_at', $1)
            from unnest($3, $4, $5, $6, $7, $8)
                as a(command_id, msg_id, command_type, data, correlation_id, reply_queue)
            %s
        $q$,
        v_table,
        case when cardinality(v_stored) < v_asked then 'where a.msg_id = any ($9)' end)
    using v_now, p_domain, p_command_ids, v_msg_ids, p_command_types, p_data, p_correlation_ids, p_reply_queues,
        v_sent;

    if p_batch_id is not null and cardinality(v_stored) > 0 then
        update commandbus.batch b
        set total_count = b.total_count + cardinality(v_stored)
        where b.domain = p_domain and b.batch_id = p_batch_id and b.completed_at is null;
        if not found then
            raise exception 'batch % is complete: nothing can be added to it', p_batch_id using errcode = 'CB006';
        end if;
    end if;
    if p_notify and cardinality(v_stored) > 0 then
        perform commandbus._wake(v_queue);
    end if;
    return query
    select a.command_id, a.msg_id
    from unnest(p_command_ids, v_msg_ids) as a(command_id, msg_id)
    where cardinality(v_stored) = v_asked or a.msg_id = any (v_sent);
end $$;

-- commandbus.sp_send_command: store and enqueue one command, by the domain's own send_to_<domain>.
--
-- Returns  its msg_id.
-- Raises   CB001, CB004, CB005, CB006, CB007 as sp_send_commands.
-- Locks    the new command row, then the batch row.
create function commandbus.sp_send_command(
    p_domain            text,
    p_command_id        uuid,
    p_command_type      text,
    p_data              jsonb,
    p_correlation_id    uuid    default null,
    p_reply_queue       text    default null,
    p_max_attempts      int     default 3,
    p_notify            boolean default true,
    p_max_payload_bytes int     default 262144
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_msg_id bigint;
begin
    execute format(
        'select commandbus.%I($1, $2, $3, $4, $5, $6, $7, $8)', commandbus._own_function('send_to_', p_domain))
    into v_msg_id
    using p_command_id, p_command_type, p_data, p_correlation_id, p_reply_queue, p_max_attempts, p_notify,
        p_max_payload_bytes;
    return v_msg_id;
end $$;

-- commandbus._write_sender: make the function send_to_<domain>, which is sp_send_commands for one command of that
-- domain at a lower price: as the queue's name stands in it, each connection plans its statements only once.
--
-- Locks    nothing that exists before.
create function commandbus._write_sender(p_domain text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    v_statement text;
begin
    execute format($sql$
create or replace function commandbus.%1$I(
    p_command_id        uuid,
    p_command_type      text,
    p_data              jsonb,
    p_correlation_id    uuid    default null,
    p_reply_queue       text    default null,
    p_max_attempts      int     default 3,
    p_notify            boolean default true,
    p_max_payload_bytes int     default 262144
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $sender$
declare
    v_now    timestamptz := clock_timestamp();
    v_msg_id bigint := nextval(to_regclass(%5$L));
    v_told   boolean;
begin
    if v_msg_id is null or p_command_id is null or p_command_type is null or p_data is null
        or octet_length(p_command_type) not between 1 and 200 or p_command_type ~ %7$L
        or p_max_attempts not between 1 and 1000 or p_reply_queue <> ''
        or p_max_payload_bytes is not null and octet_length(p_data::text) > p_max_payload_bytes then
        perform commandbus._command_table(%2$L);
        perform commandbus._check_send(
            %2$L, array[p_command_id], array[p_command_type], array[p_data], null, array[p_reply_queue],
            array[p_max_attempts], null, p_max_payload_bytes);
    end if;

    insert into commandbus.command (
        domain, queue_name, msg_id, command_id, command_type, status, max_attempts, created_at, updated_at, reply_queue,
        correlation_id)
    values (
        %2$L, %3$L, v_msg_id, p_command_id, p_command_type, 'PENDING', coalesce(p_max_attempts, 3), v_now, v_now,
        coalesce(p_reply_queue, ''), coalesce(p_correlation_id, p_command_id))
    on conflict on constraint command_pk do nothing;
    if not found then
        raise exception 'command %% exists in domain "%2$s"', p_command_id
            using errcode = 'CB001', detail = p_command_id::text;
    end if;
    insert into commandbus.audit (domain, command_id, msg_id, event_type, ts)
    values (%2$L, p_command_id, v_msg_id, 'SENT', v_now);

    insert into pgmq.%4$I (msg_id, read_ct, enqueued_at, vt, message)
    overriding system value
    values (v_msg_id, 0, v_now, v_now, jsonb_build_object(
        'command_id', p_command_id, 'command_type', p_command_type, 'domain', %2$L::text, 'data', p_data,
        'correlation_id', coalesce(p_correlation_id, p_command_id), 'reply_to', p_reply_queue, 'created_at', v_now));
    if p_notify then
        v_told := pg_notify(%6$L, '') is not null; -- an expression: perform would start a query
    end if;
    return v_msg_id;
end $sender$
$sql$,
        'send_to_' || p_domain, p_domain, p_domain || '__commands', 'q_' || p_domain || '__commands',
        'pgmq.q_' || p_domain || '__commands_msg_id_seq', 'commandbus:' || p_domain || '__commands',
        commandbus._hidden());
    execute format('revoke execute on function commandbus.%I from public', 'send_to_' || p_domain);
    -- It is called by name: whoever may call sp_send_command may call it, with the same rights.
    for v_statement in
        select format('alter function commandbus.%I security definer', 'send_to_' || p_domain)
        from pg_proc p
        where p.oid = 'commandbus.sp_send_command'::regproc and p.prosecdef
        union all
        select format('grant execute on function commandbus.%I to %s', 'send_to_' || p_domain, a.grantee::regrole)
        from pg_proc p
        cross join aclexplode(p.proacl) a
        where p.oid = 'commandbus.sp_send_command'::regproc and a.grantee not in (0, p.proowner)
    loop
        execute v_statement;
    end loop;
end $$;

-- commandbus._hidden: the characters that no command type may have, as a regular expression: with them one type could
-- look like another.
--
-- They are Unicode's control and format characters, line and paragraph separators, by their numbers: what a class such
-- as [:cntrl:] holds depends on the server's locale. Python's list is in payload/texts.py; a test compares them.
create function commandbus._hidden()
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select $re$[\u0001-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f$re$
        || $re$\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f$re$
        || $re$\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]$re$
$$;

-- commandbus._check_send: refuse what sp_send_commands could not store, before it stores anything.
--
-- Raises   CB004, CB005, CB006, CB007.
create function commandbus._check_send(
    p_domain            text,
    p_command_ids       uuid[],
    p_command_types     text[],
    p_data              jsonb[],
    p_correlation_ids   uuid[],
    p_reply_queues      text[],
    p_max_attempts      int[],
    p_batch_id          uuid,
    p_max_payload_bytes int
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count     int := coalesce(cardinality(p_command_ids), 0);
    v_types     text[];
    v_completed timestamptz;
begin
    if v_count not between 1 and 10000 then
        raise exception 'commands: 1 to 10,000 per call, not %', v_count using errcode = 'CB007';
    end if;
    if cardinality(p_command_types) is distinct from v_count or cardinality(p_data) is distinct from v_count then
        raise exception 'command_type, data: one element per command' using errcode = 'CB007';
    end if;
    if cardinality(p_correlation_ids) <> v_count or cardinality(p_reply_queues) <> v_count
        or cardinality(p_max_attempts) <> v_count then
        raise exception 'correlation_id, reply_to, max_attempts: one element per command, or no array'
            using errcode = 'CB007';
    end if;
    if array_position(p_command_ids, null) is not null or array_position(p_command_types, null) is not null
        or array_position(p_data, null) is not null then
        raise exception 'command_id, command_type, data: must not be null' using errcode = 'CB007';
    end if;
    -- Most sets are of one type, and one look at all types costs less than one at each.
    v_types := p_command_types[1] || array_remove(p_command_types, p_command_types[1]);
    if array_to_string(v_types, '') ~ commandbus._hidden() or exists (
        select from unnest(v_types) as t(name)
        where octet_length(t.name) not between 1 and 200 and length(t.name) not between 1 and 200
    ) then
        raise exception 'command_type: must be a string of 1 to 200 characters without control or invisible characters'
            using errcode = 'CB007';
    end if;
    -- Measured as text: the stored size of 1e5000, or of data that was compressed, says nothing about it.
    if exists (select from unnest(p_data) as d(data) where octet_length(d.data::text) > p_max_payload_bytes) then
        raise exception 'data: larger than % bytes', p_max_payload_bytes using errcode = 'CB007';
    end if;
    if p_max_attempts is not null and exists (select from unnest(p_max_attempts) m where m not between 1 and 1000) then
        raise exception 'max_attempts: must be 1 to 1,000' using errcode = 'CB007';
    end if;
    if p_reply_queues is not null then
        perform commandbus._check_reply_queue(r.queue)
        from (select distinct u.queue from unnest(p_reply_queues) as u(queue) where u.queue <> '') r;
    end if;
    if p_batch_id is not null then
        select b.completed_at into v_completed
        from commandbus.batch b
        where b.domain = p_domain and b.batch_id = p_batch_id;
        if not found then
            raise exception 'batch % not found in domain "%"', p_batch_id, p_domain using errcode = 'CB004';
        elsif v_completed is not null then
            raise exception 'batch % is complete: nothing can be added to it', p_batch_id using errcode = 'CB006';
        end if;
    end if;
end $$;

-- commandbus._check_duplicates: some commands of a send were there before; is that acceptable?
--
-- Raises   CB001 naming one that is not.
create function commandbus._check_duplicates(
    p_domain        text,
    p_command_ids   uuid[],
    p_command_types text[],
    p_stored        uuid[],
    p_idempotent    boolean
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_duplicate uuid;
begin
    select a.command_id into v_duplicate
    from unnest(p_command_ids, p_command_types) as a(command_id, command_type)
    left join commandbus.command c on c.command_id = a.command_id and c.domain = p_domain
    where not p_idempotent and a.command_id <> all (p_stored) or c.command_type is distinct from a.command_type
    limit 1;
    if v_duplicate is null and not p_idempotent then  -- twice in one call
        select a.command_id into v_duplicate
        from unnest(p_command_ids) as a(command_id)
        group by a.command_id
        having count(*) > 1
        limit 1;
    end if;
    if v_duplicate is not null then
        raise exception 'command % exists in domain "%"', v_duplicate, p_domain
            using errcode = 'CB001', detail = v_duplicate::text;
    end if;
end $$;


-- Receive

-- commandbus._enqueue_due: put commands whose wait is over back into their queue.
--
-- Locks    the scheduled rows it takes (skipping locked ones), then their command rows.
create function commandbus._enqueue_due(p_domain text, p_table text, p_limit int)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now      timestamptz := clock_timestamp();  -- called in the condition, it would keep the index from being used
    v_ids      uuid[];
    v_messages jsonb[];
begin
    if not exists (
        select from commandbus.scheduled s where s.domain = p_domain and s.due_at <= v_now
    ) then
        return;
    end if;
    with due as (
        select s.command_id
        from commandbus.scheduled s
        where s.domain = p_domain and s.due_at <= v_now
        order by s.due_at
        limit p_limit
        for update skip locked
    ), taken as (
        delete from commandbus.scheduled s
        using due d
        where s.command_id = any (array[d.command_id]) and s.domain || '' = p_domain
        returning s.command_id, s.message, s.due_at
    )
    select array_agg(t.command_id order by t.due_at), array_agg(t.message order by t.due_at)
    into v_ids, v_messages
    from taken t;
    if v_ids is not null then
        perform commandbus._requeue(p_domain, p_table, v_ids, v_messages);
    end if;
end $$;

-- commandbus._requeue: queue commands again, each under a new msg_id.
--
-- Returns  the new msg_ids, in the order of the arguments.
-- Locks    the command rows, by id.
create function commandbus._requeue(p_domain text, p_table text, p_command_ids uuid[], p_messages jsonb[])
returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_msg_ids bigint[];
begin
    select array_agg(nextval(('pgmq.' || p_table || '_msg_id_seq')::regclass)) into v_msg_ids
    from unnest(p_command_ids);
    update commandbus.command c
    set msg_id = r.msg_id, read_ct = null
    from (
        select * from unnest(p_command_ids, v_msg_ids) as u(command_id, msg_id) order by u.command_id
    ) r
    where c.command_id = any (array[r.command_id]) and c.domain || '' = p_domain;
    execute format(
        $q$
            insert into pgmq.%I (msg_id, read_ct, enqueued_at, vt, message)
            overriding system value
            select r.msg_id, 0, clock_timestamp(), clock_timestamp(), r.message from unnest($1, $2) as r(msg_id, message)
        $q$, p_table)
    using v_msg_ids, p_messages;
    return v_msg_ids;
end $$;

-- commandbus._start_commands: begin an attempt of each command that may start.
--
-- The arrays run in parallel. A command starts when it is PENDING, or IN_PROGRESS with a lease that has run out (PGMQ
-- delivers no message twice before), its attempts are not used up, and the message is its own and says what the row
-- says. p_data is handed through.
--
-- Returns  one row per command started, in the order of the arguments.
-- Locks    the command rows; then batch rows that have not started, by id.
create function commandbus._start_commands(
    p_domain       text,
    p_status       text,
    p_expires_at   timestamptz,
    p_command_ids  uuid[],
    p_msg_ids      bigint[],
    p_read_cts     int[],
    p_types        text[],
    p_data         text[],
    p_waits        float8[],
    p_max_attempts int default null
)
returns table (
    command_id     uuid,
    command_type   text,
    data           text,
    correlation_id uuid,
    reply_queue    text,
    attempts       int,
    max_attempts   int,
    msg_id         bigint,
    read_ct        int,
    batch_id       uuid,
    created_at     timestamptz,
    waited         float8
)
language plpgsql
rows 100
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
begin
    return query
    with started as (
        update commandbus.command c
        set status = p_status,
            attempts = c.attempts + 1,
            msg_id = coalesce(d.msg_id, c.msg_id),
            read_ct = d.read_ct,
            lease_expires_at = p_expires_at,
            updated_at = v_now
        from unnest(p_command_ids, p_msg_ids, p_read_cts, p_types, p_data, p_waits)
            as d(command_id, msg_id, read_ct, command_type, data, waited)
        where c.command_id = any (array[d.command_id])
            and c.domain || '' = p_domain
            and c.status in ('PENDING', 'IN_PROGRESS')
            and c.attempts < coalesce(p_max_attempts, c.max_attempts)
            and c.attempts < c.max_attempts
            and (c.msg_id = d.msg_id or c.msg_id is null or d.msg_id is null)
            and (c.command_type = d.command_type or d.command_type is null)
        returning c.command_id, c.command_type, d.data, c.correlation_id, c.reply_queue, c.attempts, c.max_attempts,
            c.msg_id, c.read_ct, c.batch_id, c.created_at, d.waited
    ), audited as (
        insert into commandbus.audit (domain, command_id, msg_id, attempt, event_type, ts)
        select p_domain, s.command_id, s.msg_id, s.attempts, 'RECEIVED', v_now
        from started s
    ), begun as (
        update commandbus.batch b
        set status = 'IN_PROGRESS', started_at = v_now
        from (select distinct s.batch_id from started s where s.batch_id is not null order by s.batch_id) n
        cross join lateral (
            select o.domain, o.batch_id
            from commandbus.batch o
            where o.domain = p_domain and o.batch_id = n.batch_id and o.status = 'PENDING'
            for no key update skip locked  -- by a sender that adds to it: its next command, or its end, starts it
        ) l
        where b.domain = any (array[l.domain]) and b.batch_id = any (array[l.batch_id]) and b.status = 'PENDING'
        returning b.batch_id
    ), begun_audited as (
        insert into commandbus.audit (domain, command_id, event_type, ts)
        select p_domain, b.batch_id, 'BATCH_STARTED', v_now
        from begun b
    )
    select * from started;
end $$;

-- commandbus.sp_receive_command: begin an attempt of one command whose message the caller has read.
--
-- Returns  the command row, or none for a command that may not start: finished, waiting for an operator or for its
--          next attempt, attempts used up (those of p_max_attempts, where that is less), or another message's; none
--          while the domain is paused.
-- Raises   CB007 for a bad domain or a status other than IN_PROGRESS.
-- Locks    the command row, then its batch row unless the batch has started.
create function commandbus.sp_receive_command(
    p_domain       text,
    p_command_id   uuid,
    p_new_status   text   default 'IN_PROGRESS',
    p_msg_id       bigint default null,
    p_max_attempts int    default null
)
returns setof commandbus.command
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._check_domain(p_domain);
    if p_new_status is distinct from 'IN_PROGRESS' then
        raise exception 'p_new_status: a received command is IN_PROGRESS' using errcode = 'CB007';
    end if;
    if exists (select from commandbus.paused_domain u where u.domain = p_domain) then
        return;
    end if;
    perform commandbus._start_commands(
        p_domain, p_new_status, null, array[p_command_id], array[p_msg_id], null, null, null, null,
        p_max_attempts);
    if not found or exists (
        select from commandbus.scheduled s where s.command_id = p_command_id and s.domain = p_domain
    ) then
        return;  -- it may not start, or its next attempt is not due
    end if;
    -- A statement of its own: the one that starts a command sees its row as it was.
    return query
    select c.* from commandbus.command c where c.command_id = p_command_id and c.domain = p_domain;
end $$;

-- commandbus._write_reader: make the function _read_from_<domain>, which leases messages as pgmq.read does. As the
-- queue's name stands in it, a connection plans it once; pgmq.read is planned in every call, which is most of its price.
--
-- Locks    nothing that exists before.
create function commandbus._write_reader(p_domain text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    v_statement text;
begin
    execute format($sql$
create or replace function commandbus.%1$I(
    p_visibility_timeout int,
    p_limit              int,
    out msg_ids          bigint[],
    out read_cts         int[],
    out command_ids      text[],
    out command_types    text[], -- empty text where the message names another domain
    out data             text[],
    out waits            float8[] -- seconds since they were queued
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $reader$
begin
    with visible as (
        select q.msg_id
        from pgmq.%2$I q
        where q.vt <= clock_timestamp()
        order by q.msg_id
        limit p_limit
        for update skip locked
    ), leased as (
        update pgmq.%2$I q
        set vt = clock_timestamp() + make_interval(secs => p_visibility_timeout),
            read_ct = q.read_ct + 1,
            last_read_at = clock_timestamp()
        from visible v
        where q.msg_id = any (array[v.msg_id])
        returning q.msg_id, q.read_ct, q.message, q.enqueued_at
    )
    select array_agg(l.msg_id), array_agg(l.read_ct), array_agg(l.message ->> 'command_id'),
        array_agg(coalesce(case when l.message ->> 'domain' = %3$L then l.message ->> 'command_type' end, '')),
        array_agg((l.message -> 'data')::text),
        array_agg(date_part('epoch', clock_timestamp() - l.enqueued_at))
    into msg_ids, read_cts, command_ids, command_types, data, waits
    from (select * from leased order by msg_id) l;
end $reader$
$sql$,
        '_read_from_' || p_domain, 'q_' || p_domain || '__commands', p_domain);
    execute format('revoke execute on function commandbus.%I from public', '_read_from_' || p_domain);
    -- It is called by sp_receive_commands: where that runs with its caller's rights, whoever may call it needs this one.
    for v_statement in
        select format('grant execute on function commandbus.%I to %s', '_read_from_' || p_domain, a.grantee::regrole)
        from pg_proc p
        cross join aclexplode(p.proacl) a
        where p.oid = 'commandbus.sp_receive_commands'::regproc and not p.prosecdef
            and a.grantee not in (0, p.proowner)
    loop
        execute v_statement;
    end loop;
end $$;

-- commandbus.sp_receive_commands: lease up to p_limit messages and begin an attempt of each one's command.
--
-- A message that cannot start is taken out of the queue and returned with its fault, so that it stops nobody:
-- CRASHED (attempts used up without an end; the command goes to the TSQ), TAMPERED (the message is the command's
-- but says something else; to the TSQ), STRAY (no such command, not its message, or one that is over; PGMQ's archive).
--
-- p_wait_for_disk: false lets the transaction commit without waiting for the disk; what a server crash then takes
-- back is a lease, and the command is delivered again. Only for callers outside a transaction of their own.
--
-- Returns  0 to p_limit rows, in queue order, those with a fault last; none while the domain is paused. waited: seconds
--          that the message was in the queue.
-- Raises   CB005, CB007.
-- Locks    the queue rows it takes (skipping locked ones), then their command rows, then batches that begin.
create function commandbus.sp_receive_commands(
    p_domain             text,
    p_limit              int,
    p_visibility_timeout int,
    p_wait_for_disk      boolean default true
)
returns table (
    command_id     uuid,
    command_type   text,
    data           text,
    correlation_id uuid,
    reply_queue    text,
    attempts       int,
    max_attempts   int,
    msg_id         bigint,
    read_ct        int,
    batch_id       uuid,
    created_at     timestamptz,
    waited         float8,
    fault          text
)
language plpgsql
rows 100
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_table    text := commandbus._command_table(p_domain);
    v_msg_ids  bigint[];
    v_read_cts int[];
    v_texts    text[];
    v_ids      uuid[];
    v_types    text[];
    v_data     text[];
    v_waits    float8[];
    v_started  bigint;
begin
    if p_limit is null or p_limit not between 1 and 10000 then
        raise exception 'limit: must be 1 to 10,000' using errcode = 'CB007';
    end if;
    if p_visibility_timeout is null or p_visibility_timeout not between 1 and 86400 then
        raise exception 'visibility_timeout: must be 1 to 86,400 seconds' using errcode = 'CB007';
    end if;
    if exists (select from commandbus.paused_domain u where u.domain = p_domain) then
        return;
    end if;
    if not p_wait_for_disk then
        perform set_config('synchronous_commit', 'off', true);
    end if;
    perform commandbus._enqueue_due(p_domain, v_table, p_limit);

    -- Two statements, never one: a read sees rows that are newer than the statement around it.
    execute format('select * from commandbus.%I($1, $2)', commandbus._own_function('_read_from_', p_domain))
    into v_msg_ids, v_read_cts, v_texts, v_types, v_data, v_waits
    using p_visibility_timeout, p_limit;
    if v_msg_ids is null then
        return;
    end if;

    begin
        v_ids := v_texts::uuid[];
    exception when invalid_text_representation then  -- somebody put a message there by hand
        v_ids := array(
            select case
                when t.id ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then t.id::uuid
            end
            from unnest(v_texts) with ordinality as t(id, ord)
            order by t.ord
        );
    end;

    return query
    select s.*, null::text
    from commandbus._start_commands(
        p_domain, 'IN_PROGRESS', clock_timestamp() + make_interval(secs => p_visibility_timeout),
        v_ids, v_msg_ids, v_read_cts, v_types, v_data, v_waits) s;
    get diagnostics v_started = row_count;

    if v_started < cardinality(v_msg_ids) then
        return query select * from commandbus._divert(p_domain, v_table, v_ids, v_msg_ids, v_read_cts);
    end if;
end $$;

-- commandbus._divert: take messages that did not start out of the queue, and say why.
--
-- Returns  one row per message, with its fault; command columns only where the command is known.
-- Locks    the queue rows are the caller's; command rows, then batch rows.
create function commandbus._divert(
    p_domain      text,
    p_table       text,
    p_command_ids uuid[],
    p_msg_ids     bigint[],
    p_read_cts    int[]
)
returns table (
    command_id     uuid,
    command_type   text,
    data           text,
    correlation_id uuid,
    reply_queue    text,
    attempts       int,
    max_attempts   int,
    msg_id         bigint,
    read_ct        int,
    batch_id       uuid,
    created_at     timestamptz,
    waited         float8,
    fault          text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_read    record;
    v_message jsonb;
    v_text    text;
    v_command commandbus.command;
    v_fault   text;
begin
    for v_read in
        select r.msg_id, r.read_ct
        from unnest(p_command_ids, p_msg_ids, p_read_cts) as r(command_id, msg_id, read_ct)
        where not exists (
            select from commandbus.command c
            where c.command_id = any (array[r.command_id]) and c.domain || '' = p_domain and c.msg_id = r.msg_id
                and c.read_ct = r.read_ct and c.status = 'IN_PROGRESS'
        )
    loop
        execute format('select q.message from pgmq.%I q where q.msg_id = $1', p_table)
        into v_message using v_read.msg_id;
        v_text := lower(v_message ->> 'command_id');
        v_command := null;
        if v_text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then
            select c.* into v_command
            from commandbus.command c
            where c.command_id = v_text::uuid and c.domain = p_domain and c.msg_id = v_read.msg_id
                and c.status in ('PENDING', 'IN_PROGRESS')
            for no key update;
        end if;

        if v_command.command_id is null then
            v_fault := 'STRAY';
            perform pgmq.archive(p_domain || '__commands', v_read.msg_id);
        else
            v_fault := case when v_command.attempts < v_command.max_attempts then 'TAMPERED' else 'CRASHED' end;
            execute format('delete from pgmq.%I q where q.msg_id = $1', p_table) using v_read.msg_id;
            update commandbus.command c
            set status = 'IN_PROGRESS'
            where c.command_id = v_command.command_id and c.domain = p_domain;
            perform commandbus._end_attempts(
                p_domain, array[v_command.command_id], array[v_read.msg_id], array['TROUBLESHOOT'], null,
                array[case v_fault when 'CRASHED' then 'TRANSIENT' else 'PERMANENT' end], array[v_fault],
                array[case v_fault
                    when 'CRASHED' then 'every attempt ended without an outcome: worker lost, or lease run out'
                    else 'the queued message does not say what the command row says'
                end],
                null, array[v_fault], null, array[v_message]);
        end if;
        return query
        select v_command.command_id, v_command.command_type, null::text, v_command.correlation_id,
            v_command.reply_queue, v_command.attempts, v_command.max_attempts, v_read.msg_id, v_read.read_ct,
            v_command.batch_id, v_command.created_at, null::float8, v_fault;
    end loop;
end $$;


-- Settle

-- commandbus._end_attempts: end attempts of commands that are IN_PROGRESS; every rule about outcomes is here.
--
-- The arrays run in parallel. Outcomes:
--   COMPLETED     the handler returned p_results; reply SUCCESS
--   FAILED        a business rule refused; reply FAILED; no operator
--   RETRY         queue again in p_delays seconds
--   TROUBLESHOOT  wait for an operator, because of p_reasons (EXHAUSTED, PERMANENT, CRASHED, INVALID_PAYLOAD, ...)
--   RELEASE       never started: the attempt does not count
-- p_messages holds the queue messages of those to be queued or parked. p_msg_ids null: whatever message is current.
-- p_event_type replaces the events of the outcome by one of that type, with p_details. p_places: as sp_settle_commands.
--
-- Returns  the commands that were ended, and the batches that became complete, as two arrays in one row.
-- Locks    the command rows, in the order of the arguments; then batch rows, by id.
create function commandbus._end_attempts(
    p_domain      text,
    p_command_ids uuid[],
    p_msg_ids     bigint[],
    p_outcomes    text[],
    p_results     jsonb[],
    p_error_types text[],
    p_error_codes text[],
    p_error_msgs  text[],
    p_details     jsonb[],
    p_reasons     text[],
    p_delays      float8[],
    p_messages    jsonb[],
    p_notify      boolean default true,
    p_event_type  text    default null,
    p_places      text[]  default null,
    out ended     uuid[],
    out completed_batches uuid[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now       timestamptz := clock_timestamp();
    v_queues    text[];
    v_replies   jsonb[];
    v_batches   uuid[];
    v_completed int[];
    v_failed    int[];
    v_parked    int[];
begin
    with done as (
        update commandbus.command c
        set status = case v.outcome
                when 'COMPLETED' then 'COMPLETED'
                when 'FAILED' then 'FAILED'
                when 'TROUBLESHOOT' then 'IN_TROUBLESHOOTING_QUEUE'
                else 'PENDING'
            end,
            attempts = c.attempts - (v.outcome = 'RELEASE')::int,
            lease_expires_at = null,
            last_error_type = coalesce(v.error_type, c.last_error_type),
            last_error_code = coalesce(v.error_code, c.last_error_code),
            last_error_msg = coalesce(v.error_msg, c.last_error_msg),
            attention_at = case when v.outcome in ('FAILED', 'TROUBLESHOOT') then v_now end,
            failure_key = case when v.outcome = 'TROUBLESHOOT' then commandbus._failure_key(
                c.command_type, coalesce(v.error_type, c.last_error_type), coalesce(v.error_code, c.last_error_code),
                coalesce(v.error_msg, c.last_error_msg)) end,
            finished_at = case when v.outcome in ('COMPLETED', 'FAILED') then v_now end,
            updated_at = v_now
        from unnest(
            p_command_ids, p_msg_ids, p_outcomes, p_results, p_error_types, p_error_codes, p_error_msgs, p_details,
            p_reasons, p_delays, p_messages, p_places
        ) as v(command_id, msg_id, outcome, result, error_type, error_code, error_msg, details, reason, delay, message,
            place)
        where c.command_id = any (array[v.command_id])
            and c.domain || '' = p_domain
            and c.status = 'IN_PROGRESS'
            and (c.msg_id = v.msg_id or v.msg_id is null)
        returning c.command_id, c.msg_id, c.attempts, c.max_attempts, c.batch_id, c.reply_queue, c.correlation_id,
            v.outcome, v.result, v.error_type, v.error_code, v.error_msg, v.details, v.reason, v.delay, v.message,
            v.place
    ), audited as (
        insert into commandbus.audit (domain, command_id, msg_id, attempt, ts, event_type, details)
        select p_domain, d.command_id, d.msg_id, d.attempts + (d.outcome = 'RELEASE')::int, v_now,
            case
                when p_event_type is not null then p_event_type
                when d.outcome = 'COMPLETED' then 'COMPLETED'
                when d.outcome = 'RELEASE' then 'RELEASED'
                when d.reason = 'CRASHED' then 'RETRY_EXHAUSTED'
                else 'FAILED'
            end,
            case
                when p_event_type is not null then d.details
                when d.outcome not in ('COMPLETED', 'RELEASE') then jsonb_build_object(
                    'error_type', d.error_type, 'error_code', d.error_code, 'error_msg', d.error_msg,
                    'attempt', d.attempts, 'max_attempts', d.max_attempts, 'msg_id', d.msg_id)
                    || case when d.place is null then '{}'
                        else jsonb_build_object('error_place', left(d.place, 500)) end
            end
        from done d
        union all
        select p_domain, d.command_id, d.msg_id, d.attempts, v_now, e.event_type, e.details
        from done d
        cross join lateral (
            select 'RETRY_SCHEDULED', jsonb_build_object('delay_seconds', d.delay, 'error_code', d.error_code)
            where d.outcome = 'RETRY'
            union all
            select 'BUSINESS_RULE_FAILED', jsonb_build_object('error_code', d.error_code)
            where d.outcome = 'FAILED'
            union all
            select 'RETRY_EXHAUSTED', jsonb_build_object('attempts', d.attempts, 'max_attempts', d.max_attempts)
            where d.outcome = 'TROUBLESHOOT' and d.reason = 'EXHAUSTED'
            union all
            select 'MOVED_TO_TSQ', jsonb_build_object('reason', d.reason, 'error_code', d.error_code)
            where d.outcome = 'TROUBLESHOOT'
        ) e(event_type, details)
        where d.outcome in ('RETRY', 'FAILED', 'TROUBLESHOOT') and p_event_type is null
    ), later as (
        insert into commandbus.scheduled (domain, command_id, due_at, message)
        select p_domain, d.command_id, v_now + make_interval(secs => d.delay), d.message
        from done d
        where d.outcome = 'RETRY'
    ), parked as (
        insert into commandbus.payload_archive (domain, command_id, msg_id, message, archived_at)
        select p_domain, d.command_id, d.msg_id, d.message, v_now
        from done d
        where d.outcome = 'TROUBLESHOOT' and d.message is not null
        on conflict on constraint payload_archive_pk
        do update set msg_id = excluded.msg_id, message = excluded.message, archived_at = excluded.archived_at
    ), counted as (
        select d.batch_id,
            count(*) filter (where d.outcome = 'COMPLETED')::int as completed,
            count(*) filter (where d.outcome = 'FAILED')::int as failed,
            count(*) filter (where d.outcome = 'TROUBLESHOOT')::int as parked
        from done d
        where d.batch_id is not null and d.outcome in ('COMPLETED', 'FAILED', 'TROUBLESHOOT')
        group by d.batch_id
    ), replied as (
        select array_agg(d.reply_queue) as queues,
            array_agg(commandbus._reply(
                p_domain, d.command_id, d.correlation_id, case d.outcome when 'COMPLETED' then 'SUCCESS' else 'FAILED' end,
                d.result, d.error_type, d.error_code, d.error_msg, d.details)) as messages
        from done d
        where d.reply_queue <> '' and d.outcome in ('COMPLETED', 'FAILED')
    )
    select
        (select array_agg(d.command_id) from done d),
        r.queues, r.messages, b.ids, b.completed, b.failed, b.parked
    into ended, v_queues, v_replies, v_batches, v_completed, v_failed, v_parked
    from replied r
    cross join (
        select array_agg(n.batch_id) as ids, array_agg(n.completed) as completed, array_agg(n.failed) as failed,
            array_agg(n.parked) as parked
        from counted n
    ) b;

    ended := coalesce(ended, '{}');
    completed_batches := '{}';
    if v_queues is not null then
        perform commandbus._deliver(v_queues, v_replies, p_notify);
    end if;
    if v_batches is not null then
        completed_batches := array(
            select commandbus._count_batches(
                p_domain, v_batches, v_completed, v_failed, array_fill(0, array[cardinality(v_batches)]), v_parked,
                p_notify));
    end if;
end $$;

-- commandbus._pattern: an error's text without what differs from case to case, so that like failures look alike.
create function commandbus._pattern(p_text text)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(left(p_text, 500),
        '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}', '<uuid>', 'g'),
        '''[^'']*''|"[^"]*"', '<text>', 'g'),
        '\m0x[0-9a-fA-F]+|\m(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}\M', '<hex>', 'g'),
        '[0-9]+([.,:][0-9]+)*', '<number>', 'g'),
        '\s+', ' ', 'g')
$$;

-- commandbus._failure_key: what failures that look the same have in common.
create function commandbus._failure_key(p_command_type text, p_error_type text, p_error_code text, p_error_msg text)
returns uuid
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select md5(row(p_command_type, p_error_type, p_error_code, commandbus._pattern(p_error_msg))::text)::uuid
$$;

-- commandbus._reply: the message that answers a command.
create function commandbus._reply(
    p_domain         text,
    p_command_id     uuid,
    p_correlation_id uuid,
    p_outcome        text,
    p_result         jsonb default null,
    p_error_type     text  default null,
    p_error_code     text  default null,
    p_error_msg      text  default null,
    p_details        jsonb default null
)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'domain', p_domain, 'command_id', p_command_id, 'correlation_id', p_correlation_id, 'outcome', p_outcome,
        'result', p_result)
        || case when p_error_code is null then '{}' else jsonb_build_object(
            'error_type', p_error_type, 'error_code', p_error_code, 'error_message', p_error_msg, 'details', p_details)
        end
$$;

-- commandbus.sp_settle_commands: end attempts, each by the lease it was given.
--
-- The arrays run in parallel; see _end_attempts for the outcomes. Optional arrays may be null. p_places say where
-- in the handlers' code attempts failed ("file:line", 500 characters), for the audit; p_details are for replies only.
--
-- Returns  one row per lease that this call did not settle: STALE, it is no longer the holder's, nothing was changed
--          but an audit row says so; or DONE, this very lease was settled with this outcome before (a repeated call).
-- Raises   CB005, CB007; also when msg_id and command_id do not belong together.
--          CB003 if p_strict and a lease was not settled: then the transaction cannot commit.
-- Locks    the queue rows, in the order given (give them by msg_id); their command rows; then batch rows, by id.
create function commandbus.sp_settle_commands(
    p_domain      text,
    p_command_ids uuid[],
    p_msg_ids     bigint[],
    p_read_cts    int[],
    p_outcomes    text[],
    p_results     jsonb[]  default null,
    p_error_types text[]   default null,
    p_error_codes text[]   default null,
    p_error_msgs  text[]   default null,
    p_details     jsonb[]  default null,
    p_reasons     text[]   default null,
    p_delays      float8[] default null,
    p_notify      boolean  default true,
    p_strict      boolean  default false,
    p_places      text[]   default null
)
returns table (command_id uuid, verdict text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_table    text := commandbus._command_table(p_domain);
    v_held     bigint[];
    v_messages jsonb[];
    v_ended    uuid[];
begin
    perform commandbus._check_outcomes(p_command_ids, p_msg_ids, p_read_cts, p_outcomes, p_delays);

    -- The fence: only a queue row that still carries the lease lets its command be touched.
    execute format(
        $q$
            with gone as (
                delete from pgmq.%1$I q
                using unnest($1, $2, $3) with ordinality as l(msg_id, read_ct, outcome, ord)
                where q.msg_id = any (array[l.msg_id]) and q.read_ct = l.read_ct and l.outcome <> 'RELEASE'
                returning l.ord, case when l.outcome in ('RETRY', 'TROUBLESHOOT') then q.message end as message
            ), back as (
                update pgmq.%1$I q
                set vt = clock_timestamp(), read_ct = q.read_ct + 1  -- this lease is over before the next one begins
                from unnest($1, $2, $3) with ordinality as l(msg_id, read_ct, outcome, ord)
                where q.msg_id = any (array[l.msg_id]) and q.read_ct = l.read_ct and l.outcome = 'RELEASE'
                returning l.ord
            )
            select array_agg(h.ord order by h.ord), array_agg(h.message order by h.ord)
            from (select g.ord, g.message from gone g union all select b.ord, null from back b) h
        $q$, v_table)
    into v_held, v_messages
    using p_msg_ids, p_read_cts, p_outcomes;

    if cardinality(v_held) = cardinality(p_command_ids) then
        v_ended := (commandbus._end_attempts(
            p_domain, p_command_ids, p_msg_ids, p_outcomes, p_results, p_error_types, p_error_codes, p_error_msgs,
            p_details, p_reasons, p_delays, v_messages, p_notify, p_places => p_places)).ended;
    elsif v_held is not null then
        select (commandbus._end_attempts(
            p_domain, array_agg(a.command_id order by a.ord), array_agg(a.msg_id order by a.ord),
            array_agg(a.outcome order by a.ord), array_agg(a.result order by a.ord),
            array_agg(a.error_type order by a.ord), array_agg(a.error_code order by a.ord),
            array_agg(a.error_msg order by a.ord), array_agg(a.details order by a.ord),
            array_agg(a.reason order by a.ord), array_agg(a.delay order by a.ord), v_messages, p_notify,
            p_places => array_agg(a.place order by a.ord))).ended
        into v_ended
        from unnest(
            p_command_ids, p_msg_ids, p_outcomes, p_results, p_error_types, p_error_codes, p_error_msgs, p_details,
            p_reasons, p_delays, p_places
        ) with ordinality as a(command_id, msg_id, outcome, result, error_type, error_code, error_msg, details, reason,
            delay, place, ord)
        where a.ord = any (v_held);
    end if;

    if coalesce(cardinality(v_ended), 0) < cardinality(p_command_ids) then
        if p_strict then
            raise exception 'a lease is no longer held: nothing was settled' using errcode = 'CB003';
        end if;
        return query
        select r.command_id, r.verdict
        from commandbus._refuse_settle(
            p_domain, p_command_ids, p_msg_ids, p_read_cts, p_outcomes, coalesce(v_held, '{}'),
            coalesce(v_ended, '{}')) r;
    end if;
end $$;

-- commandbus._check_outcomes: refuse a settle that could not be carried out.
--
-- Raises   CB007.
create function commandbus._check_outcomes(
    p_command_ids uuid[],
    p_msg_ids     bigint[],
    p_read_cts    int[],
    p_outcomes    text[],
    p_delays      float8[]
)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int := coalesce(cardinality(p_command_ids), 0);
begin
    if v_count not between 1 and 10000 then
        raise exception 'commands: 1 to 10,000 per call, not %', v_count using errcode = 'CB007';
    end if;
    if array[cardinality(p_msg_ids), cardinality(p_read_cts), cardinality(p_outcomes)]
        is distinct from array[v_count, v_count, v_count] then
        raise exception 'msg_id, read_ct, outcome: one element per command' using errcode = 'CB007';
    end if;
    if not p_outcomes <@ array['COMPLETED', 'FAILED', 'RETRY', 'TROUBLESHOOT', 'RELEASE'] then
        raise exception 'outcome: must be COMPLETED, FAILED, RETRY, TROUBLESHOOT or RELEASE' using errcode = 'CB007';
    end if;
    if 'RETRY' = any (p_outcomes) and exists (
        select from unnest(p_outcomes, p_delays) as o(outcome, delay)
        where o.outcome = 'RETRY' and (o.delay between 0 and 31536000) is not true
    ) then
        raise exception 'delay: a retry needs one of 0 to 31,536,000 seconds' using errcode = 'CB007';
    end if;
end $$;

-- commandbus.sp_warm_up: let this connection compile and plan what a worker calls, before the first command waits for
-- it. Changes nothing.
--
-- Raises   CB007 for a bad domain.
create function commandbus.sp_warm_up(p_domain text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._check_domain(p_domain);
    perform commandbus._start_commands(p_domain, 'IN_PROGRESS', now(), '{}', '{}', '{}', '{}', '{}', '{}');
    perform commandbus._end_attempts(p_domain, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
    if not commandbus._lacks_functions(p_domain) and to_regclass('pgmq.q_' || p_domain || '__commands') is not null then
        execute format('select commandbus.%I(1, 0)', '_read_from_' || p_domain);
    end if;
end $$;

-- commandbus._refuse_settle: say of each lease that was not settled whether it is stale or was settled before.
--
-- p_held are the places of those whose queue row is gone, p_ended the commands whose attempts were ended.
--
-- Returns  command and verdict, STALE or DONE; a STALE_SETTLE audit row is written for each stale one.
-- Raises   CB007 when the queue row of a command that still needs it is gone.
create function commandbus._refuse_settle(
    p_domain      text,
    p_command_ids uuid[],
    p_msg_ids     bigint[],
    p_read_cts    int[],
    p_outcomes    text[],
    p_held        bigint[],
    p_ended       uuid[]
)
returns table (command_id uuid, verdict text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_msg_id bigint;
begin
    select l.msg_id into v_msg_id
    from unnest(p_command_ids, p_msg_ids) with ordinality as l(command_id, msg_id, ord)
    where l.ord = any (p_held) and l.command_id <> all (p_ended) and not exists (
        select from commandbus.command c
        where c.command_id = any (array[l.command_id]) and c.domain || '' = p_domain and c.msg_id = l.msg_id
            and c.status <> 'PENDING'
    )
    limit 1;
    if found then
        raise exception 'msg_id: % is not the message of command_id, or was never delivered', v_msg_id
            using errcode = 'CB007';
    end if;

    return query
    with refused as (
        select l.command_id, l.msg_id, l.read_ct, l.outcome, c.status, c.attempts,
            coalesce(
                c.msg_id = l.msg_id and c.read_ct = l.read_ct and c.status = case l.outcome
                    when 'COMPLETED' then 'COMPLETED'
                    when 'FAILED' then 'FAILED'
                    when 'TROUBLESHOOT' then 'IN_TROUBLESHOOTING_QUEUE'
                    else 'PENDING'
                end,
                false) as done
        from unnest(p_command_ids, p_msg_ids, p_read_cts, p_outcomes) with ordinality
            as l(command_id, msg_id, read_ct, outcome, ord)
        left join commandbus.command c on c.command_id = any (array[l.command_id]) and c.domain || '' = p_domain
        where l.command_id <> all (p_ended) or l.ord <> all (p_held)
    ), audited as (
        insert into commandbus.audit (domain, command_id, msg_id, event_type, details)
        select p_domain, r.command_id, r.msg_id, 'STALE_SETTLE',
            jsonb_build_object('outcome', r.outcome, 'read_ct', r.read_ct, 'status', r.status)
        from refused r
        where not r.done and r.status is not null
    )
    select r.command_id, case when r.done then 'DONE' else 'STALE' end
    from refused r;
end $$;

-- commandbus.sp_finish_command: end the attempt of one command; its message is the caller's to delete.
--
-- p_status is COMPLETED, FAILED or IN_TROUBLESHOOTING_QUEUE. One audit row of p_event_type is written, with p_details.
-- p_batch_id may be null; it must be the command's own.
--
-- Returns  whether the command's batch is now complete.
-- Raises   CB002; CB006 when the command is not IN_PROGRESS or of another batch; CB007.
-- Locks    the command row, then its batch row.
create function commandbus.sp_finish_command(
    p_domain     text,
    p_command_id uuid,
    p_status     text,
    p_event_type text,
    p_error_type text  default null,
    p_error_code text  default null,
    p_error_msg  text  default null,
    p_details    jsonb default null,
    p_batch_id   uuid  default null
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table   text := commandbus._command_table(p_domain);
    v_outcome text := case p_status
        when 'COMPLETED' then 'COMPLETED'
        when 'FAILED' then 'FAILED'
        when 'IN_TROUBLESHOOTING_QUEUE' then 'TROUBLESHOOT'
    end;
    v_command commandbus.command;
    v_message jsonb;
begin
    if v_outcome is null then
        raise exception 'p_status: must be COMPLETED, FAILED or IN_TROUBLESHOOTING_QUEUE' using errcode = 'CB007';
    end if;
    if p_event_type is null or upper(p_event_type) ~ '^\s*(OPERATOR|DOMAIN|REDRIVE|BATCH)_' then
        raise exception 'p_event_type: must be of an attempt''s end' using errcode = 'CB007';
    end if;
    select c.* into v_command
    from commandbus.command c
    where c.command_id = p_command_id and c.domain = p_domain
    for no key update;
    if not found then
        raise exception 'command % not found in domain "%"', p_command_id, p_domain using errcode = 'CB002';
    elsif v_command.status <> 'IN_PROGRESS' then
        raise exception 'command % is %: only one in progress can be finished', p_command_id, v_command.status
            using errcode = 'CB006';
    elsif p_batch_id is not null and p_batch_id is distinct from v_command.batch_id then
        raise exception 'command % is not of batch %', p_command_id, p_batch_id using errcode = 'CB006';
    end if;
    if v_outcome = 'TROUBLESHOOT' then
        execute format('select q.message from pgmq.%I q where q.msg_id = $1', v_table)
        into v_message using v_command.msg_id;
    end if;
    return cardinality((commandbus._end_attempts(
        p_domain, array[p_command_id], null, array[v_outcome], null, array[p_error_type], array[p_error_code],
        array[p_error_msg], array[p_details], null, null, array[v_message],
        p_event_type => p_event_type)).completed_batches) > 0;
end $$;

-- commandbus.sp_extend_leases: keep commands invisible for p_visibility_timeout seconds from now, while their handlers
-- still run. A lease that lasts longer already stays as it is.
--
-- Returns  one row per lease: renewed, or no longer the holder's.
-- Raises   CB005, CB007.
-- Locks    the queue rows that still carry the lease, in the order given; then their command rows.
create function commandbus.sp_extend_leases(
    p_domain             text,
    p_command_ids        uuid[],
    p_msg_ids            bigint[],
    p_read_cts           int[],
    p_visibility_timeout int
)
returns table (command_id uuid, renewed boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_table   text := commandbus._command_table(p_domain);
    v_until   timestamptz := clock_timestamp() + make_interval(secs => p_visibility_timeout);
    v_renewed bigint[];
begin
    if p_visibility_timeout is null or p_visibility_timeout not between 1 and 86400 then
        raise exception 'visibility_timeout: must be 1 to 86,400 seconds' using errcode = 'CB007';
    end if;
    execute format(
        $q$
            with kept as (
                update pgmq.%I q
                set vt = greatest(q.vt, $3)
                from unnest($1, $2) with ordinality as l(msg_id, read_ct, ord)
                where q.msg_id = any (array[l.msg_id]) and q.read_ct = l.read_ct
                returning l.ord
            )
            select coalesce(array_agg(k.ord), '{}') from kept k
        $q$, v_table)
    into v_renewed
    using p_msg_ids, p_read_cts, v_until;
    update commandbus.command c
    set lease_expires_at = greatest(c.lease_expires_at, v_until)
    from unnest(v_renewed) as k(ord)
    where c.command_id = any (array[p_command_ids[k.ord]]) and c.domain || '' = p_domain and c.status = 'IN_PROGRESS';
    return query
    select l.command_id, l.ord = any (v_renewed)
    from unnest(p_command_ids) with ordinality as l(command_id, ord);
end $$;

-- commandbus.sp_take_replies: take the replies to certain commands out of a reply queue, and leave all others.
--
-- Returns  the messages found, at most one per command.
-- Raises   CB005.
-- Locks    the queue rows of these replies, skipping locked ones.
create function commandbus.sp_take_replies(p_queue text, p_command_ids uuid[], p_domain text default null)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform commandbus._check_reply_queue(p_queue);
    return query execute format(
        $q$
            delete from pgmq.%1$I q
            where q.msg_id in (
                select r.msg_id
                from pgmq.%1$I r
                where r.message ->> 'command_id' = any ($1::text[])
                    and ($2 is null or r.message ->> 'domain' = $2)
                for update skip locked
            )
            returning q.message
        $q$, 'q_' || p_queue)
    using p_command_ids, p_domain;
end $$;


-- Operators
--
-- Each takes exact ids, acts on those that wait in the TSQ, and says of the others why not: NOT_FOUND, the status they
-- have, or (a retry) NO_PAYLOAD when what was sent is lost. Two operators cannot both win: the second waits for the
-- first one's row and then finds its status changed.

-- commandbus._verdicts: the refusals of an operator's call.
create function commandbus._verdicts(p_domain text, p_command_ids uuid[], p_done uuid[])
returns table (command_id uuid, refusal text)
language sql stable
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select a.command_id,
        case
            when c.status is null then 'NOT_FOUND'
            when c.status = 'IN_TROUBLESHOOTING_QUEUE' then 'NO_PAYLOAD'  -- the only reason to refuse it there
            else c.status
        end
    from unnest(p_command_ids) as a(command_id)
    left join commandbus.command c on c.command_id = any (array[a.command_id]) and c.domain || '' = p_domain
    where a.command_id <> all (p_done)
$$;

-- commandbus._decision: who decided, and why, as it stands in the audit.
create function commandbus._decision(p_operator text, p_reason text)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('operator', p_operator)
        || case when p_reason is null then '{}' else jsonb_build_object('reason', p_reason) end
$$;

-- commandbus._resolve: an operator ends the wait of commands; status, error, audit, reply and batch counters.
--
-- Returns  the commands it ended.
-- Locks    the command rows, by id; then batch rows, by id.
create function commandbus._resolve(
    p_domain      text,
    p_command_ids uuid[],
    p_status      text,
    p_event_type  text,
    p_facts       jsonb,
    p_outcome     text,
    p_result      jsonb,
    p_notify      boolean
)
returns uuid[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_now      timestamptz := clock_timestamp();
    v_done     uuid[];
    v_queues   text[];
    v_replies  jsonb[];
    v_batches  uuid[];
    v_counts   int[];
    v_none     int[];
begin
    if coalesce(cardinality(p_command_ids), 0) not between 1 and 10000 then
        raise exception 'command_ids: 1 to 10,000 per call' using errcode = 'CB007';
    end if;
    with waiting as (
        select c.command_id
        from commandbus.command c
        where c.command_id = any (p_command_ids) and c.domain = p_domain and c.status = 'IN_TROUBLESHOOTING_QUEUE'
            and (p_status <> 'PENDING' or (
                select true
                from commandbus.payload_archive p
                where p.command_id = c.command_id and p.domain = p_domain
            ))
        order by c.command_id
        for no key update
    ), done as (
        update commandbus.command c
        set status = p_status,
            attempts = case when p_status = 'PENDING' then 0 else c.attempts end,
            attention_at = case when p_status = 'CANCELED' then v_now end,
            failure_key = null,
            finished_at = case when p_status <> 'PENDING' then v_now end,
            updated_at = v_now
        from waiting w
        where c.command_id = any (array[w.command_id]) and c.domain || '' = p_domain
        returning c.command_id, c.correlation_id, c.reply_queue, c.batch_id
    ), audited as (
        insert into commandbus.audit (domain, command_id, event_type, ts, details)
        select p_domain, d.command_id, p_event_type, v_now, p_facts
        from done d
    ), counted as (
        select d.batch_id, count(*)::int as commands
        from done d
        where d.batch_id is not null
        group by d.batch_id
    )
    select
        (select array_agg(d.command_id) from done d),
        (select array_agg(d.reply_queue order by d.command_id) from done d where d.reply_queue <> ''),
        (select array_agg(commandbus._reply(
                p_domain, d.command_id, d.correlation_id, p_outcome, p_result,
                p_error_msg => p_facts ->> 'reason',  -- told of a cancel only: without a code there is no error
                p_error_code => case p_outcome when 'CANCELED' then 'CANCELED' end) order by d.command_id)
            from done d where d.reply_queue <> ''),
        (select array_agg(n.batch_id order by n.batch_id) from counted n),
        (select array_agg(n.commands order by n.batch_id) from counted n)
    into v_done, v_queues, v_replies, v_batches, v_counts;

    if p_outcome is not null and v_queues is not null then
        perform commandbus._deliver(v_queues, v_replies, p_notify);
    end if;
    if v_batches is not null then
        v_none := array_fill(0, array[cardinality(v_batches)]);
        perform commandbus._count_batches(
            p_domain, v_batches,
            case when p_status = 'COMPLETED' then v_counts else v_none end, v_none,
            case when p_status = 'CANCELED' then v_counts else v_none end,
            array(select -n from unnest(v_counts) n), p_notify);
    end if;
    return coalesce(v_done, '{}');
end $$;

-- commandbus.sp_operator_retry: queue commands of the TSQ again, with all their attempts before them.
--
-- Returns  one row per command: its new msg_id, or why it was refused.
-- Raises   CB005, CB007.
-- Locks    the command rows, by id; then batch rows, by id.
create function commandbus.sp_operator_retry(
    p_domain      text,
    p_command_ids uuid[],
    p_operator    text    default null,
    p_notify      boolean default true,
    p_reason      text    default null
)
returns table (command_id uuid, msg_id bigint, refusal text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_table    text := commandbus._command_table(p_domain);
    v_done     uuid[];
    v_messages jsonb[];
    v_msg_ids  bigint[];
begin
    v_done := commandbus._resolve(
        p_domain, p_command_ids, 'PENDING', 'OPERATOR_RETRY', commandbus._decision(p_operator, p_reason), null, null,
        p_notify);
    if cardinality(v_done) > 0 then
        -- What the row knows is written anew, so that a message somebody tampered with can be tried again.
        select array_agg(d.command_id order by d.command_id),
            array_agg(
                case when jsonb_typeof(p.message) = 'object' then p.message else '{}' end
                    || jsonb_build_object(
                        'command_id', c.command_id, 'command_type', c.command_type, 'domain', p_domain,
                        'correlation_id', c.correlation_id, 'reply_to', nullif(c.reply_queue, ''),
                        'created_at', c.created_at)
                order by d.command_id)
        into v_done, v_messages
        from unnest(v_done) as d(command_id)
        join commandbus.command c on c.command_id = any (array[d.command_id]) and c.domain || '' = p_domain
        left join commandbus.payload_archive p
            on p.command_id = any (array[d.command_id]) and p.domain || '' = p_domain;
        v_msg_ids := commandbus._requeue(p_domain, v_table, v_done, v_messages);
        delete from commandbus.payload_archive p where p.command_id = any (v_done) and p.domain = p_domain;
        if p_notify then
            perform commandbus._wake(p_domain || '__commands');
        end if;
    end if;
    return query
    select d.command_id, d.msg_id, null::text from unnest(v_done, v_msg_ids) as d(command_id, msg_id)
    union all
    select r.command_id, null, r.refusal from commandbus._verdicts(p_domain, p_command_ids, v_done) r;
end $$;

-- commandbus.sp_operator_cancel: give up commands of the TSQ; reply CANCELED.
--
-- Returns  one row per command; refusal is null where it was canceled.
-- Raises   CB007.
-- Locks    the command rows, by id; then batch rows, by id.
create function commandbus.sp_operator_cancel(
    p_domain      text,
    p_command_ids uuid[],
    p_reason      text,
    p_operator    text    default null,
    p_notify      boolean default true
)
returns table (command_id uuid, refusal text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_done uuid[];
begin
    if coalesce(p_reason, '') = '' then
        raise exception 'reason: must not be empty' using errcode = 'CB007';
    end if;
    perform commandbus._check_domain(p_domain);
    v_done := commandbus._resolve(
        p_domain, p_command_ids, 'CANCELED', 'OPERATOR_CANCEL', commandbus._decision(p_operator, p_reason),
        'CANCELED', null, p_notify);
    return query
    select d.command_id, null::text from unnest(v_done) as d(command_id)
    union all
    select r.command_id, r.refusal from commandbus._verdicts(p_domain, p_command_ids, v_done) r;
end $$;

-- commandbus.sp_operator_complete: what commands of the TSQ asked for was done by hand; reply SUCCESS with p_result,
-- which stays in the audit.
--
-- Returns  one row per command; refusal is null where it was completed.
-- Raises   CB007.
-- Locks    the command rows, by id; then batch rows, by id.
create function commandbus.sp_operator_complete(
    p_domain      text,
    p_command_ids uuid[],
    p_result      jsonb   default null,
    p_operator    text    default null,
    p_notify      boolean default true,
    p_reason      text    default null
)
returns table (command_id uuid, refusal text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_done uuid[];
begin
    perform commandbus._check_domain(p_domain);
    v_done := commandbus._resolve(
        p_domain, p_command_ids, 'COMPLETED', 'OPERATOR_COMPLETE', commandbus._decision(p_operator, p_reason)
            || case when p_result is null then '{}' else jsonb_build_object('result', p_result) end,
        'SUCCESS', p_result, p_notify);
    return query
    select d.command_id, null::text from unnest(v_done) as d(command_id)
    union all
    select r.command_id, r.refusal from commandbus._verdicts(p_domain, p_command_ids, v_done) r;
end $$;

-- commandbus.sp_operator_edit: queue a command of the TSQ again with other data; both versions stay in the audit.
--
-- Returns  the new msg_id.
-- Raises   CB002; CB005; CB006 when it does not wait; CB007.
-- Locks    the command row; then its batch row.
create function commandbus.sp_operator_edit(
    p_domain     text,
    p_command_id uuid,
    p_data       jsonb,
    p_operator   text    default null,
    p_reason     text    default null,
    p_notify     boolean default true,
    p_max_payload_bytes int default 262144
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before  jsonb;
    v_status  text;
    v_verdict record;
begin
    perform commandbus._command_table(p_domain);
    if jsonb_typeof(p_data) is distinct from 'object' then
        raise exception 'data: must be a JSON object' using errcode = 'CB007';
    elsif octet_length(p_data::text) > p_max_payload_bytes then
        raise exception 'data: larger than % bytes', p_max_payload_bytes using errcode = 'CB007';
    end if;
    select c.status into v_status
    from commandbus.command c
    where c.command_id = p_command_id and c.domain = p_domain
    for no key update;
    if not found then
        raise exception 'command % not found in domain "%"', p_command_id, p_domain using errcode = 'CB002';
    elsif v_status <> 'IN_TROUBLESHOOTING_QUEUE' then
        raise exception 'command % is %: it does not wait for an operator', p_command_id, v_status
            using errcode = 'CB006';
    end if;
    select p.message -> 'data' into v_before
    from commandbus.payload_archive p
    where p.command_id = p_command_id and p.domain = p_domain;
    -- What was sent may be lost, or no object: this is what makes such a command whole again.
    insert into commandbus.payload_archive as p (domain, command_id, message)
    values (p_domain, p_command_id, jsonb_build_object('data', p_data))
    on conflict on constraint payload_archive_pk do update
    set message = case when jsonb_typeof(p.message) = 'object' then p.message else '{}' end || excluded.message;
    insert into commandbus.audit (domain, command_id, event_type, details)
    values (p_domain, p_command_id, 'OPERATOR_EDIT',
        commandbus._decision(p_operator, p_reason) || jsonb_build_object('before', v_before, 'after', p_data));
    select * into v_verdict
    from commandbus.sp_operator_retry(p_domain, array[p_command_id], p_operator, p_notify, p_reason);
    return v_verdict.msg_id;
end $$;

-- commandbus.sp_park_lost: let commands wait for an operator whose message is gone, purged or dropped with its queue:
-- no worker would ever see them again.
--
-- It looks at every command that was sent before p_before. What was sent is kept where PGMQ's archive still has it.
--
-- Returns  the commands that wait now, up to p_limit.
-- Raises   CB005, CB007.
-- Locks    the command rows (by id), then their batch rows.
create function commandbus.sp_park_lost(
    p_domain text,
    p_before timestamptz default now() - interval '1 hour',
    p_limit  int         default 10000
)
returns setof uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table    text := commandbus._command_table(p_domain);
    v_ids      uuid[];
    v_msg_ids  bigint[];
    v_messages jsonb[];
    v_all      int;
begin
    if p_before is null or p_before > now() or p_limit is null or p_limit not between 1 and 10000 then
        raise exception 'before: must be a time in the past; limit: 1 to 10,000' using errcode = 'CB007';
    end if;
    -- One statement, so that a command is seen together with its message or without both.
    execute format(
        $q$
            with lost as (
                select c.command_id, c.msg_id
                from commandbus.command c
                where c.domain = $1 and c.created_at < $2 and c.status in ('PENDING', 'IN_PROGRESS')
                    and not exists (select from pgmq.%1$I q where q.msg_id = c.msg_id)
                    and not exists (
                        select from commandbus.scheduled s
                        where s.command_id = c.command_id and s.domain = c.domain
                    )
                order by c.command_id
                limit $3
                for no key update of c
            )
            select array_agg(l.command_id order by l.command_id), array_agg(l.msg_id order by l.command_id),
                array_agg(a.message order by l.command_id)
            from lost l
            left join pgmq.%2$I a on a.msg_id = l.msg_id and a.message ->> 'command_id' = l.command_id::text
        $q$, v_table, 'a_' || p_domain || '__commands')
    into v_ids, v_msg_ids, v_messages
    using p_domain, p_before, p_limit;
    if v_ids is null then
        return;
    end if;
    v_all := cardinality(v_ids);
    update commandbus.command c
    set status = 'IN_PROGRESS'
    from unnest(v_ids) as l(command_id)
    where c.command_id = any (array[l.command_id]) and c.domain || '' = p_domain;
    return query
    select unnest((commandbus._end_attempts(
        p_domain, v_ids, v_msg_ids, array_fill('TROUBLESHOOT'::text, array[v_all]), null,
        array_fill('PERMANENT'::text, array[v_all]), array_fill('LOST'::text, array[v_all]),
        array_fill('its message is not in the queue any more'::text, array[v_all]), null,
        array_fill('LOST'::text, array[v_all]), null, v_messages)).ended);
end $$;


-- Reads

-- commandbus.get_command: one command, or none.
create function commandbus.get_command(p_domain text, p_command_id uuid)
returns setof commandbus.command
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.* from commandbus.command c where c.command_id = p_command_id and c.domain = p_domain
$$;

-- commandbus.query_commands: commands that match every filter given, newest first.
--
-- Failed, canceled and troubled ones have an index of their own; the others are looked for from the newest on.
create function commandbus.query_commands(
    p_status         text        default null,
    p_domain         text        default null,
    p_command_type   text        default null,
    p_created_after  timestamptz default null,
    p_created_before timestamptz default null,
    p_limit          int         default 100,
    p_offset         int         default 0,
    p_correlation_id uuid        default null
)
returns setof commandbus.command
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    return query
    select c.*
    from commandbus.command c
    where (p_status is null or c.status = p_status)
        and (p_status is null or p_status not in ('IN_TROUBLESHOOTING_QUEUE', 'FAILED', 'CANCELED')
            or c.attention_at is not null)
        and (p_domain is null or c.domain = p_domain)
        and (p_command_type is null or c.command_type = p_command_type)
        and (p_created_after is null or c.created_at >= p_created_after)
        and (p_created_before is null or c.created_at < p_created_before)
        and (p_correlation_id is null
            or c.correlation_id = p_correlation_id and c.correlation_id <> c.command_id
            or c.command_id = p_correlation_id and c.correlation_id = p_correlation_id)
    order by c.created_at desc, c.command_id
    limit p_limit
    offset p_offset;
end $$;

-- commandbus._find_troubled: of each of these domains up to p_most commands that wait for an operator, or that failed
-- or were canceled, newest first. Whatever the server believes of the table, it reads no others: only
-- command_troubled_idx has this order, and a sort is no choice.
create function commandbus._find_troubled(
    p_domains   text[],
    p_waiting   boolean,
    p_after     timestamptz,
    p_before    timestamptz,
    p_before_at timestamptz,
    p_before_id uuid,
    p_most      int
)
returns setof commandbus.command
language plpgsql stable
rows 1000
set search_path = pg_catalog, pg_temp
set enable_sort = off
set enable_seqscan = off
set plan_cache_mode = force_custom_plan
as $$
declare
    v_at     timestamp := p_before_at at time zone 'UTC';
    v_after  timestamp := coalesce(p_after, '-infinity') at time zone 'UTC';
    v_before timestamp := coalesce(p_before, 'infinity') at time zone 'UTC';
begin
    return query
    select n.*
    from unnest(p_domains) as d(domain)
    cross join lateral (
        select c.*
        from commandbus.command c
        where c.domain = d.domain and c.attention_at is not null and (c.failure_key is null)::int = (not p_waiting)::int
            and c.created_at at time zone 'UTC' <= v_at
            and (c.created_at at time zone 'UTC', c.command_id) < (v_at, p_before_id)
            and c.created_at at time zone 'UTC' >= v_after
            and (p_before is null or c.created_at at time zone 'UTC' < v_before)
        order by c.created_at at time zone 'UTC' desc, c.command_id desc
        limit p_most
    ) n;
end $$;

-- commandbus.find_commands: a page of commands that match every filter given, newest first, at a bounded price.
--
-- The next page is found with the last row's created_at and command_id as p_before_at and p_before_id. A conversation,
-- a batch, a group of failures, an id, and what waits for an operator have an index that finds everything. All other
-- filters look at p_scan commands per call, of those that the indexes find; where that does not fill the page, the last
-- row has no command, and says where the next call should go on.
--
-- p_id: the command with this id, and those of this correlation. p_text: part of a type, an error's code or its text,
-- or the beginning of an id.
--
-- Returns  up to p_limit commands, and perhaps one row more.
-- Raises   CB007.
create function commandbus.find_commands(
    p_domain         text        default null,
    p_status         text        default null,
    p_command_type   text        default null,
    p_created_after  timestamptz default null,
    p_created_before timestamptz default null,
    p_correlation_id uuid        default null,
    p_batch_id       uuid        default null,
    p_failure_key    uuid        default null,
    p_id             uuid        default null,
    p_text           text        default null,
    p_before_at      timestamptz default null,
    p_before_id      uuid        default null,
    p_limit          int         default 50,
    p_scan           int         default 15000
)
returns table (command commandbus.command, resume_at timestamptz, resume_id uuid)
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_custom_plan
as $$
declare
    v_from_at    timestamptz := coalesce(p_before_at, 'infinity');
    v_from_id    uuid := coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    v_waiting    boolean := coalesce(p_status = 'IN_TROUBLESHOOTING_QUEUE', false);
    v_is_indexed boolean := p_correlation_id is not null or p_batch_id is not null or p_failure_key is not null
        or p_id is not null;
    v_troubled   boolean := not v_is_indexed
        and coalesce(p_status in ('IN_TROUBLESHOOTING_QUEUE', 'FAILED', 'CANCELED'), false);
    v_is_exact   boolean := (v_is_indexed or v_troubled and v_waiting) and p_command_type is null and p_text is null;
    v_most       int := case when v_is_exact then p_limit else p_scan end;
    v_domains    text[] := array[p_domain];
begin
    if p_limit is null or p_limit not between 1 and 1000 or p_scan is null or p_scan < p_limit then
        raise exception 'limit: must be 1 to 1,000; scan: not less' using errcode = 'CB007';
    end if;
    if p_domain is null and v_troubled then
        with recursive troubled as (
            select (select min(c.domain) from commandbus.command c where c.attention_at is not null) as domain
            union all
            select (
                select min(c.domain) from commandbus.command c where c.attention_at is not null and c.domain > t.domain
            )
            from troubled t
            where t.domain is not null
        )
        select array_agg(t.domain) into v_domains from troubled t where t.domain is not null;
        v_most := greatest(p_limit, v_most / greatest(cardinality(v_domains), 1));  -- of each domain
    elsif p_domain is null then
        v_domains := array(select commandbus.list_known_domains());  -- what their indexes begin with
    end if;
    return query
    select case when k.n = 0 then l.command end, case when k.n = 1 then l.created_at end,
        case when k.n = 1 then l.command_id end
    from (
        -- Behind the first place where the search broke off, not all are known.
        select p.*, count(*) filter (where p.place = v_most) over (
                order by p.created_at desc, p.command_id desc rows unbounded preceding) as breaks
        from (
            select c::commandbus.command as command, c.created_at, c.command_id,
                row_number() over (
                    partition by case when v_troubled then c.domain end
                    order by c.created_at desc, c.command_id desc) as place,
                (p_domain is null or c.domain = p_domain)
                and (p_status is null or c.status = p_status)
                and (p_command_type is null or c.command_type = p_command_type)
                and (p_text is null
                    or strpos(
                        lower(concat_ws(' ', c.command_type, c.last_error_code, c.last_error_msg)), lower(p_text)) > 0
                    or starts_with(c.command_id::text, lower(p_text))) as fits
            from (
                (
                    select *
                    from commandbus.command n
                    where not v_troubled and n.created_at <= v_from_at
                        and (n.created_at, n.command_id) < (v_from_at, v_from_id)
                        and (p_created_after is null or n.created_at >= p_created_after)
                        and (p_created_before is null or n.created_at < p_created_before)
                        and (not v_is_indexed or p_domain is null or n.domain = p_domain)
                        and (not v_is_indexed or p_status is null or n.status = p_status)
                        and (p_domain is not null or p_batch_id is null and p_failure_key is null
                            or n.domain = any (v_domains))
                        and (p_correlation_id is null
                            or n.correlation_id = p_correlation_id and n.correlation_id <> n.command_id
                            or n.command_id = p_correlation_id and n.correlation_id = p_correlation_id)
                        and (p_batch_id is null or n.batch_id = p_batch_id)
                        and (p_failure_key is null or n.failure_key = p_failure_key)
                        and (p_id is null
                            or n.command_id = p_id or n.correlation_id = p_id and n.correlation_id <> n.command_id)
                    order by n.created_at desc, n.command_id desc
                    limit v_most
                )
                union all
                select t.*
                from commandbus._find_troubled(
                    v_domains, v_waiting, p_created_after, p_created_before, v_from_at, v_from_id, v_most) t
                where v_troubled
            ) c
        ) p
    ) l
    -- Nothing for a row that does not fit, a command for one that does, and where it broke off where to go on.
    cross join lateral generate_series((not l.fits)::int, (not v_is_exact and l.place = v_most)::int) as k(n)
    where v_is_exact or l.breaks = (l.place = v_most)::int
    order by l.created_at desc, l.command_id desc, k.n  -- the limit must not take a command and leave where to go on
    limit p_limit;
end $$;

-- commandbus.get_message: what was sent, where it still is: QUEUE, SCHEDULED, TSQ or ARCHIVE; none for a command that
-- is over, unless PGMQ's archive has it.
--
-- Raises   CB007.
create function commandbus.get_message(p_domain text, p_command_id uuid)
returns table (place text, message jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_msg_id bigint;
begin
    perform commandbus._check_domain(p_domain);
    return query
    select 'TSQ', p.message
    from commandbus.payload_archive p
    where p.command_id = p_command_id and p.domain = p_domain
    union all
    select 'SCHEDULED', s.message
    from commandbus.scheduled s
    where s.command_id = p_command_id and s.domain = p_domain
    limit 1;
    if found then
        return;
    end if;
    select c.msg_id into v_msg_id
    from commandbus.command c
    where c.command_id = p_command_id and c.domain = p_domain;
    if v_msg_id is null or to_regclass(format('pgmq.%I', 'q_' || p_domain || '__commands')) is null then
        return;
    end if;
    return query execute format(
        $q$
            select 'QUEUE', q.message from pgmq.%I q where q.msg_id = $1 and q.message ->> 'command_id' = $2
            union all
            select 'ARCHIVE', a.message from pgmq.%I a where a.msg_id = $1 and a.message ->> 'command_id' = $2
            limit 1
        $q$, 'q_' || p_domain || '__commands', 'a_' || p_domain || '__commands')
    using v_msg_id, p_command_id::text;
end $$;

-- commandbus.get_audit_trail: what happened to a command or batch, oldest first.
create function commandbus.get_audit_trail(p_command_id uuid, p_domain text default null)
returns setof commandbus.audit
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select a.*
    from commandbus.audit a
    where a.command_id = p_command_id and (p_domain is null or a.domain = p_domain)
    order by a.audit_id
$$;

-- commandbus.query_audit: events from p_after until before p_before, newest first. The next page is found with the
-- last row's ts and audit_id as p_before and p_before_id.
--
-- The index on time says which blocks to look at, not in which order. So the time is searched from its end in pieces,
-- each four times as long as the one before. Kinds of events outside a healthy life have an index of their own.
--
-- Returns  up to p_limit rows.
create function commandbus.query_audit(
    p_domain     text        default null,
    p_event_type text        default null,
    p_after      timestamptz default null,
    p_before     timestamptz default null,
    p_before_id  bigint      default null,
    p_limit      int         default 100
)
returns setof commandbus.audit
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_indexscan = on
set enable_indexonlyscan = on
set plan_cache_mode = force_custom_plan
as $$
declare
    c_many      constant int := 5000;
    v_is_common boolean := p_event_type is null or p_event_type in ('SENT', 'RECEIVED', 'COMPLETED');
    v_now   timestamptz := clock_timestamp();
    v_until timestamptz := least(p_before, v_now + interval '1 day');
    v_tie   bigint := p_before_id;
    v_piece interval := case when v_is_common then '100 milliseconds' else '100 years' end;
    v_from  timestamptz;
    v_found int := 0;
    v_rows  int;
    v_is_last boolean;
begin
    if v_is_common then  -- the primary key holds the time too, in its last place: walking all of it is no way
        perform set_config('enable_indexscan', 'off', true), set_config('enable_indexonlyscan', 'off', true);
    end if;
    loop
        v_is_last := v_piece > interval '50 years';
        v_from := greatest(
            case
                when v_is_last then '-infinity'
                when v_until > v_now then v_now  -- clocks differ: the future is one piece
                else v_until - v_piece
            end, p_after);
        if v_is_common then
            -- A piece that reaches over a silence into a burst would be read and sorted whole: try a shorter one.
            select count(*) into v_rows
            from (
                select from commandbus.audit a
                where a.ts >= v_from and a.ts <= v_until and (a.ts < v_until or a.audit_id < v_tie)
                    and (p_event_type is null or a.event_type = p_event_type)
                    and (p_domain is null or a.domain = p_domain)
                limit c_many + 1
            ) p;
            if v_rows > c_many and v_piece > interval '1 millisecond' and v_until <= v_now then
                v_piece := v_piece / 8;
                continue;
            end if;
            return query
            select a.*
            from commandbus.audit a
            where a.ts >= v_from and a.ts <= v_until and (a.ts < v_until or a.audit_id < v_tie)
                and (p_event_type is null or a.event_type = p_event_type)
                and (p_domain is null or a.domain = p_domain)
            order by a.ts desc, a.audit_id desc
            limit p_limit - v_found;
        else
            return query
            select a.*
            from commandbus.audit a
            where a.ts >= v_from and a.ts <= v_until and (a.ts < v_until or a.audit_id < v_tie)
                and a.event_type = p_event_type and a.event_type not in ('SENT', 'RECEIVED', 'COMPLETED')
                and (p_domain is null or a.domain = p_domain)
            order by a.ts desc, a.audit_id desc
            limit p_limit;
        end if;
        get diagnostics v_rows = row_count;
        v_found := v_found + v_rows;
        exit when v_found >= p_limit or v_from <= p_after or v_is_last;
        v_piece := case when v_until > v_now then v_piece else v_piece * 4 end;
        v_until := v_from;
        v_tie := null;
    end loop;
end $$;

-- commandbus.log_event: write one audit event of the caller's own.
--
-- Returns  the event's id.
-- Raises   CB006 for an event that only the library writes.
create function commandbus.log_event(p_domain text, p_command_id uuid, p_event_type text, p_details jsonb default null)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_audit_id bigint;
begin
    if upper(btrim(p_event_type, E' \t\r\n')) in (
        'SENT', 'RECEIVED', 'RELEASED', 'COMPLETED', 'FAILED', 'RETRY_SCHEDULED', 'RETRY_EXHAUSTED', 'MOVED_TO_TSQ',
        'BUSINESS_RULE_FAILED', 'OPERATOR_RETRY', 'OPERATOR_CANCEL', 'OPERATOR_COMPLETE', 'OPERATOR_EDIT',
        'BATCH_STARTED', 'BATCH_COMPLETED', 'STALE_SETTLE', 'DOMAIN_PAUSED', 'DOMAIN_RESUMED', 'REDRIVE_STARTED',
        'REDRIVE_PAUSED', 'REDRIVE_RESUMED', 'REDRIVE_STOPPED', 'REDRIVE_COMPLETED'
    ) then
        raise exception 'event type "%" is written by commandbus only: choose a name of your own', p_event_type
            using errcode = 'CB006';
    end if;
    insert into commandbus.audit (domain, command_id, event_type, details)
    values (p_domain, p_command_id, p_event_type, p_details)
    returning audit_id into v_audit_id;
    return v_audit_id;
end $$;

-- commandbus.get_batch: one batch, or none.
create function commandbus.get_batch(p_domain text, p_batch_id uuid)
returns setof commandbus.batch
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select b.* from commandbus.batch b where b.domain = p_domain and b.batch_id = p_batch_id
$$;

-- commandbus.list_batches: batches, newest first.
--
-- p_domain null: of all domains; each is read by its own part of the index.
create function commandbus.list_batches(
    p_domain text default null,
    p_status text default null,
    p_limit  int  default 100,
    p_offset int  default 0
)
returns setof commandbus.batch
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_domains text[] := array[p_domain];
begin
    if p_domain is null then
        with recursive of_batches as (
            select (select min(b.domain) from commandbus.batch b) as domain
            union all
            select (select min(b.domain) from commandbus.batch b where b.domain > o.domain)
            from of_batches o
            where o.domain is not null
        )
        select array_agg(o.domain) into v_domains from of_batches o where o.domain is not null;
    end if;
    return query
    select n.*
    from unnest(v_domains) as d(domain)
    cross join lateral (
        select b.*
        from commandbus.batch b
        where b.domain = d.domain and (p_status is null or b.status = p_status)
        order by b.created_at desc, b.batch_id
        limit p_offset::bigint + p_limit
    ) n
    order by n.created_at desc, n.batch_id
    limit p_limit
    offset p_offset;
end $$;

-- commandbus.list_batch_commands: a batch's commands, oldest first.
create function commandbus.list_batch_commands(
    p_domain   text,
    p_batch_id uuid,
    p_status   text default null,
    p_limit    int  default 100,
    p_offset   int  default 0
)
returns setof commandbus.command
language sql stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
    select c.*
    from commandbus.command c
    where c.domain = p_domain and c.batch_id = p_batch_id and (p_status is null or c.status = p_status)
    order by c.created_at, c.command_id
    limit p_limit
    offset p_offset
$$;

-- commandbus.list_waiting: commands that wait for an operator, longest waiting first.
--
-- p_domain null: of all domains; each is read by its own part of the index, so that nothing is sorted but one page. The
-- next page is found with the last row's attention_at and command_id as p_after_at and p_after_id: it costs as much as
-- the first, where p_offset reads all that it skips.
create function commandbus.list_waiting(
    p_domain       text default null,
    p_command_type text default null,
    p_limit        int  default 50,
    p_offset       int  default 0,
    p_failure_key  uuid default null,
    p_after_at     timestamptz default null,
    p_after_id     uuid default null
)
returns setof commandbus.command
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_domains text[] := array[p_domain];
begin
    if p_domain is null then
        with recursive waiting as (
            select (select min(c.domain) from commandbus.command c where c.failure_key is not null) as domain
            union all
            select (
                select min(c.domain) from commandbus.command c where c.failure_key is not null and c.domain > w.domain
            )
            from waiting w
            where w.domain is not null
        )
        select array_agg(w.domain) into v_domains from waiting w where w.domain is not null;
    end if;
    return query
    select n.*
    from unnest(v_domains) as d(domain)
    cross join lateral (
        select c.*
        from commandbus.command c
        where c.domain = d.domain
            and c.failure_key is not null
            and (p_command_type is null or c.command_type = p_command_type)
            and (p_failure_key is null or c.failure_key = p_failure_key)
            and (p_after_at is null
                or c.attention_at >= p_after_at and (c.attention_at, c.command_id) > (p_after_at, p_after_id))
        order by c.attention_at, c.command_id
        limit p_offset::bigint + p_limit
    ) n
    order by n.attention_at, n.command_id
    limit p_limit
    offset p_offset;
end $$;

-- commandbus.list_troubleshooting: the same with their payloads, which are for operators.
create function commandbus.list_troubleshooting(
    p_domain       text default null,
    p_command_type text default null,
    p_limit        int  default 50,
    p_offset       int  default 0,
    p_failure_key  uuid default null,
    p_after_at     timestamptz default null,
    p_after_id     uuid default null
)
returns table (command commandbus.command, payload jsonb)
language sql stable
rows 100
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan  -- one made while the archive was small would read all of it
as $$
    select w, (  -- no join: it would read the whole archive where the server believes in many rows of w
        select p.message -> 'data'
        from commandbus.payload_archive p
        where p.domain = w.domain and p.command_id = w.command_id
    )
    from commandbus.list_waiting(
        p_domain, p_command_type, p_limit, p_offset, p_failure_key, p_after_at, p_after_id) w
    order by w.attention_at, w.command_id
$$;

-- commandbus.list_troubleshooting_ids: the ids of commands that wait for an operator, longest waiting first; all, or the
-- first p_limit after a command, as in list_waiting.
create function commandbus.list_troubleshooting_ids(
    p_domain       text,
    p_command_type text default null,
    p_failure_key  uuid default null,
    p_after_at     timestamptz default null,
    p_after_id     uuid default null,
    p_limit        int  default null
)
returns setof uuid
language plpgsql stable
rows 1000
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    return query
    select c.command_id
    from commandbus.command c
    where c.failure_key is not null
        and c.domain = p_domain
        and (p_command_type is null or c.command_type = p_command_type)
        and (p_failure_key is null or c.failure_key = p_failure_key)
        and (p_after_at is null
            or c.attention_at >= p_after_at and (c.attention_at, c.command_id) > (p_after_at, p_after_id))
    order by c.attention_at, c.command_id
    limit p_limit;
end $$;

-- commandbus.count_troubleshooting: how many commands wait for an operator, per domain and type.
create function commandbus.count_troubleshooting(p_domain text default null, p_command_type text default null)
returns table (domain text, command_type text, waiting bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.domain, c.command_type, count(*)
    from commandbus.command c
    where c.failure_key is not null
        and (p_domain is null or c.domain = p_domain)
        and (p_command_type is null or c.command_type = p_command_type)
    group by c.domain, c.command_type
    order by c.domain, c.command_type
$$;

-- commandbus.find_domains: the domains that know a command id.
create function commandbus.find_domains(p_command_id uuid)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.domain from commandbus.command c where c.command_id = p_command_id order by c.domain
$$;

-- commandbus.find_by_id: the commands whose ids lie in a range, as all do that begin alike, by id.
create function commandbus.find_by_id(p_from uuid, p_until uuid, p_limit int default 50)
returns setof commandbus.command
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.*
    from commandbus.command c
    where c.command_id between p_from and p_until
    order by c.command_id, c.domain
    limit p_limit
$$;

-- commandbus.get_payload: the archived message of a command, or none.
create function commandbus.get_payload(p_domain text, p_command_id uuid)
returns setof commandbus.payload_archive
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select p.* from commandbus.payload_archive p where p.command_id = p_command_id and p.domain = p_domain
$$;

-- commandbus.list_domains: the domains that have a command queue.
create function commandbus.list_domains()
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select left(m.queue_name::text, -length('__commands'))
    from pgmq.meta m
    where m.queue_name ~ '^[a-z][a-z0-9_]{0,36}__commands$'
    order by 1
$$;

-- commandbus.list_known_domains: the domains with a command queue, and those of which only batches or undelivered
-- replies are left.
create function commandbus.list_known_domains()
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive of_batches as (
        select (select min(b.domain) from commandbus.batch b) as domain
        union all
        select (select min(b.domain) from commandbus.batch b where b.domain > o.domain)
        from of_batches o
        where o.domain is not null
    )
    select d.domain from commandbus.list_domains() as d(domain)
    union
    select o.domain from of_batches o where o.domain is not null
    union
    select left(u.queue_name, -length('__replies')) from commandbus.undelivered_reply u
    order by 1
$$;

-- commandbus.domain_metrics: what a domain's queues hold now.
--
-- Returns  one row; ages in seconds, null for an empty queue. Counting walks the whole queue.
-- Raises   CB005, CB007.
create function commandbus.domain_metrics(p_domain text)
returns table (
    queue_name         text,
    length             bigint,
    visible            bigint,
    in_flight          bigint,
    scheduled          bigint,
    archived           bigint,
    newest_age_seconds float8,
    oldest_age_seconds float8
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table text := commandbus._command_table(p_domain);
begin
    return query execute format(
        $q$
            select $1 || '__commands', count(q.msg_id), count(*) filter (where q.vt <= n.now),
                count(*) filter (where q.vt > n.now),
                (select count(*) from commandbus.scheduled s where s.domain = $1),
                (select count(*) from pgmq.%I),
                extract(epoch from min(n.now - q.enqueued_at))::float8,
                extract(epoch from max(n.now - q.enqueued_at))::float8
            from (select clock_timestamp() as now) n
            left join pgmq.%I q on true
            having true
        $q$, 'a_' || p_domain || '__commands', v_table)
    using p_domain;
end $$;


-- Operation
--
-- What operators look at, and what they do to many commands or a whole domain. Events of a redrive are in the audit
-- under its id; those of a domain under the id of zeros.

-- commandbus.sp_pause_domain: give a domain's commands to no worker. What runs goes on; what is sent waits.
--
-- Returns  whether it was not paused before.
-- Raises   CB005, CB007.
-- Locks    the domain's row in paused_domain.
create function commandbus.sp_pause_domain(p_domain text, p_operator text default null, p_reason text default null)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._command_table(p_domain);
    insert into commandbus.paused_domain (domain, operator, reason)
    values (p_domain, p_operator, p_reason)
    on conflict do nothing;
    if not found then
        return false;
    end if;
    perform commandbus._log_domain(p_domain, 'DOMAIN_PAUSED', p_operator, p_reason);
    return true;
end $$;

-- commandbus.sp_resume_domain: let workers have a domain's commands again.
--
-- Returns  whether it was paused.
-- Raises   CB007.
-- Locks    the domain's row in paused_domain.
create function commandbus.sp_resume_domain(
    p_domain   text,
    p_operator text    default null,
    p_reason   text    default null,
    p_notify   boolean default true
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._check_domain(p_domain);
    delete from commandbus.paused_domain u where u.domain = p_domain;
    if not found then
        return false;
    end if;
    perform commandbus._log_domain(p_domain, 'DOMAIN_RESUMED', p_operator, p_reason);
    if p_notify then
        perform commandbus._wake(p_domain || '__commands');
    end if;
    return true;
end $$;

-- commandbus._log_domain: an audit row about a whole domain.
create function commandbus._log_domain(p_domain text, p_event_type text, p_operator text, p_reason text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into commandbus.audit (domain, command_id, event_type, details)
    values (p_domain, '00000000-0000-0000-0000-000000000000', p_event_type,
        commandbus._decision(p_operator, p_reason))
$$;

-- commandbus._pieces: the lengths of the pieces in which throughput is kept, and for how long.
--
-- A beat adds to one piece of each length: a chart of any span reads a few hundred rows per domain, without anybody
-- having to roll old rows up.
create function commandbus._pieces()
returns table (seconds int, kept interval)
language sql immutable
rows 5
set search_path = pg_catalog, pg_temp
as $$
    values (10, interval '2 hours'), (30, interval '8 hours'), (180, interval '36 hours'), (600, interval '5 days'),
        (3600, interval '8 days')
$$;

-- commandbus.sp_worker_beat: a worker lives, and says what it did since it said so last.
--
-- p_counts: completed, failed, retried and parked. p_waits, p_runs: histograms, see throughput. The first beat of ten
-- seconds also looks how deep the queue is, and how many messages were put into it since the last look; where that is
-- longer ago than half a minute, nobody knows when they were.
--
-- Raises   CB005, CB007.
-- Locks    the worker's row, then the domain's newest rows in throughput, by length.
create function commandbus.sp_worker_beat(
    p_worker_id   uuid,
    p_domain      text,
    p_host        text,
    p_pid         int,
    p_concurrency int,
    p_in_flight   int,
    p_counts      bigint[],
    p_waits       bigint[],
    p_runs        bigint[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table  text := commandbus._command_table(p_domain);
    v_now    timestamptz := clock_timestamp();
    v_at     timestamptz := date_bin('10 seconds', v_now, '2000-01-01 00:00:00+00');
    v_looks  boolean;
    v_last   bigint;
    v_before bigint;
    v_depth  bigint;
    v_oldest timestamptz;
begin
    if cardinality(p_counts) <> 4 or cardinality(p_waits) > 40 or cardinality(p_runs) > 40 then
        raise exception 'counts: four; waits, runs: up to 40' using errcode = 'CB007';
    end if;
    insert into commandbus.worker as w (worker_id, domain, host, pid, concurrency, in_flight)
    values (p_worker_id, p_domain, left(p_host, 255), p_pid, p_concurrency, p_in_flight)
    on conflict on constraint worker_pk do update set in_flight = excluded.in_flight, seen_at = clock_timestamp();

    insert into commandbus.throughput (domain, seconds, at) values (p_domain, 10, v_at) on conflict do nothing;
    v_looks := found;
    if v_looks then
        v_last := coalesce(pg_sequence_last_value(('pgmq.' || v_table || '_msg_id_seq')::regclass), 0);
        v_depth := commandbus._depth(v_table);
        v_oldest := commandbus._oldest(v_table);
        select t.last_id into v_before
        from commandbus.throughput t
        where t.domain = p_domain and t.seconds = 10 and t.at >= v_at - interval '30 seconds' and t.at < v_at
        order by t.at desc
        limit 1;
    elsif p_counts = '{0,0,0,0}' and p_waits = '{}' and p_runs = '{}' then
        return;
    end if;
    insert into commandbus.throughput as t (
        domain, seconds, at, completed, failed, retried, parked, enqueued, last_id, depth, oldest_at, waits, runs)
    select p_domain, p.seconds, date_bin(make_interval(secs => p.seconds), v_now, '2000-01-01 00:00:00+00'),
        p_counts[1], p_counts[2], p_counts[3], p_counts[4],
        case when v_before is not null then greatest(v_last - v_before, 0) end, v_last, v_depth, v_oldest,
        p_waits, p_runs
    from commandbus._pieces() p
    order by p.seconds
    on conflict on constraint throughput_pk do update
    set completed = t.completed + excluded.completed,
        failed = t.failed + excluded.failed,
        retried = t.retried + excluded.retried,
        parked = t.parked + excluded.parked,
        enqueued = coalesce(t.enqueued + excluded.enqueued, t.enqueued, excluded.enqueued),
        last_id = coalesce(excluded.last_id, t.last_id),
        depth = case when v_looks then excluded.depth else t.depth end,
        oldest_at = case when v_looks then excluded.oldest_at else t.oldest_at end,
        waits = commandbus._add(t.waits, excluded.waits),
        runs = commandbus._add(t.runs, excluded.runs);
end $$;

-- commandbus._add: two histograms as one.
create function commandbus._add(p_left bigint[], p_right bigint[])
returns bigint[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(coalesce(a.l, 0) + coalesce(a.r, 0) order by a.ord), '{}')
    from rows from (unnest(p_left), unnest(p_right)) with ordinality as a(l, r, ord)
$$;

-- commandbus._depth: how many messages a queue's table holds; counted up to p_most, beyond that the server's estimate.
create function commandbus._depth(p_table text, p_most int default 10000)
returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count bigint;
begin
    execute format('select count(*) from (select from pgmq.%I limit $1 + 1) q', p_table) into v_count using p_most;
    if v_count <= p_most then
        return v_count;
    end if;
    return greatest(v_count, (
        select case
                when c.relpages > 0 then c.reltuples / c.relpages * pg_relation_size(c.oid)
                    / current_setting('block_size')::int
            end
        from pg_class c
        where c.oid = to_regclass(format('pgmq.%I', p_table))
    ));
end $$;

-- commandbus._oldest: since when the first message of a queue waits that a worker could have now.
create function commandbus._oldest(p_table text)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_at timestamptz;
begin
    execute format(
        'select q.enqueued_at from pgmq.%I q where q.vt <= clock_timestamp() order by q.msg_id limit 1', p_table)
    into v_at;
    return v_at;
end $$;

-- commandbus.sp_worker_gone: a worker ended as it should.
create function commandbus.sp_worker_gone(p_worker_id uuid)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from commandbus.worker w where w.worker_id = p_worker_id
$$;

-- commandbus.list_workers: worker processes, by domain; those that ended without a word stay for a day.
create function commandbus.list_workers(p_domain text default null)
returns setof commandbus.worker
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select w.*
    from commandbus.worker w
    where p_domain is null or w.domain = p_domain
    order by w.domain, w.host, w.pid, w.started_at
$$;

-- commandbus.list_leases: commands that workers have now, by the end of their lease; looked for among the first
-- messages of the queue, ten times p_limit.
--
-- Raises   CB005, CB007.
create function commandbus.list_leases(p_domain text, p_limit int default 100)
returns table (
    command_id   uuid,
    command_type text,
    attempts     int,
    max_attempts int,
    msg_id       bigint,
    read_ct      int,
    leased_at    timestamptz,
    expires_at   timestamptz
)
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_table text := commandbus._command_table(p_domain);
begin
    return query execute format(
        $q$
            select c.command_id, c.command_type, c.attempts, c.max_attempts, q.msg_id, q.read_ct, q.last_read_at, q.vt
            from (
                select l.*, case
                        when l.message ->> 'command_id'
                            ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
                        then (l.message ->> 'command_id')::uuid
                    end as id
                from (select * from pgmq.%I order by msg_id limit 10 * $2) l  -- leases are taken from the front
                where l.vt > $3
            ) q
            join commandbus.command c on c.command_id = any (array[q.id]) and c.domain || '' = $1
            where c.status = 'IN_PROGRESS' and c.msg_id = q.msg_id
            order by q.vt
            limit $2
        $q$, v_table)
    using p_domain, p_limit, clock_timestamp();
end $$;

-- commandbus.overview: one row per domain: what waits, runs and needs somebody.
--
-- Counts of messages are exact up to 10,000; leases and retries are counted up to that. A worker counts that was heard
-- of in the last 20 seconds.
create function commandbus.overview(p_domain text default null)
returns table (
    domain       text,
    depth        bigint,
    in_flight    bigint,
    scheduled    bigint,
    waiting      bigint,
    archived     bigint,
    oldest_at    timestamptz,
    workers      bigint,
    capacity     bigint,
    paused_at    timestamptz,
    paused_by    text,
    pause_reason text,
    dead_rows    bigint,
    vacuumed_at  timestamptz
)
language plpgsql stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
declare
    v_domain text;
    v_table  text;
    v_leased bigint;
begin
    for v_domain in
        select d.name from commandbus.list_domains() as d(name) where p_domain is null or d.name = p_domain
    loop
        v_table := 'q_' || v_domain || '__commands';
        execute format(
            'select count(*) from (select q.vt from pgmq.%I q order by q.msg_id limit 10000) l where l.vt > $1', v_table)
        into v_leased using clock_timestamp();
        return query
        select v_domain, commandbus._depth(v_table), v_leased,
            (select count(*) from (
                select from commandbus.scheduled s where s.domain = v_domain limit 10000) n),
            (select count(*) from commandbus.command c where c.domain = v_domain and c.failure_key is not null),
            commandbus._depth('a_' || v_domain || '__commands'),
            commandbus._oldest(v_table), w.workers, w.capacity, u.paused_at, u.operator, u.reason,
            pg_stat_get_dead_tuples(to_regclass('pgmq.' || v_table)),
            greatest(
                pg_stat_get_last_autovacuum_time(to_regclass('pgmq.' || v_table)),
                pg_stat_get_last_vacuum_time(to_regclass('pgmq.' || v_table)))
        from (
            select count(*) as workers, coalesce(sum(k.concurrency), 0)::bigint as capacity
            from commandbus.worker k
            where k.domain = v_domain and k.seen_at > clock_timestamp() - interval '20 seconds'
        ) w
        left join commandbus.paused_domain u on u.domain = v_domain;
    end loop;
end $$;

-- commandbus.list_throughput: what workers did from p_after on, in pieces of p_seconds, oldest first.
--
-- Of depth and age each piece has its last known value, of counts and histograms the sum. p_domain null: of all. It is
-- made of the longest pieces kept that fit, which go back as far as _pieces says.
--
-- Raises   CB007.
create function commandbus.list_throughput(p_domain text, p_after timestamptz, p_seconds int default 10)
returns table (
    at        timestamptz,
    enqueued  bigint,
    completed bigint,
    failed    bigint,
    retried   bigint,
    parked    bigint,
    depth     bigint,
    oldest_at timestamptz,
    waits     bigint[],
    runs      bigint[]
)
language plpgsql stable
rows 1000
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set jit = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_length interval := make_interval(secs => p_seconds);
    v_kept   int := (select max(p.seconds) from commandbus._pieces() p where p_seconds % p.seconds = 0);
begin
    if v_kept is null or p_seconds not between 10 and 86400 or p_after is null then
        raise exception 'after: a time; seconds: a multiple of 10 up to 86,400' using errcode = 'CB007';
    end if;
    return query
    with pieces as not materialized (  -- read three times from memory, it never goes to disk
        select t.*, date_bin(v_length, t.at, '2000-01-01 00:00:00+00') as piece
        from commandbus.throughput t
        where t.seconds = v_kept and t.at >= date_bin(v_length, p_after, '2000-01-01 00:00:00+00')
            and (p_domain is null or t.domain = p_domain)
    ), sums as (
        select p.piece, sum(p.enqueued)::bigint as enqueued, sum(p.completed)::bigint as completed,
            sum(p.failed)::bigint as failed, sum(p.retried)::bigint as retried, sum(p.parked)::bigint as parked
        from pieces p
        group by p.piece
    ), ends as (
        select p.piece, sum(p.depth)::bigint as depth, min(p.oldest_at) as oldest_at
        from pieces p
        where p_seconds = v_kept or not exists (
            select from commandbus.throughput l
            where l.domain = p.domain and l.seconds = v_kept and l.at > p.at and l.at < p.piece + v_length)
        group by p.piece
    ), histograms as (
        select h.piece, array_agg(h.waited order by h.ord) as waits, array_agg(h.ran order by h.ord) as runs
        from (
            select x.piece, x.ord, coalesce(sum(x.waited), 0) as waited, coalesce(sum(x.ran), 0) as ran
            from (
                select p.piece, generate_series(1, greatest(cardinality(p.waits), cardinality(p.runs))) as ord,
                    unnest(p.waits::int[]) as waited, unnest(p.runs::int[]) as ran  -- of bigints the sum is slow
                from pieces p
            ) x
            group by x.piece, x.ord
        ) h
        group by h.piece
    )
    select s.piece, s.enqueued, s.completed, s.failed, s.retried, s.parked, e.depth, e.oldest_at,
        coalesce(h.waits, '{}'), coalesce(h.runs, '{}')
    from sums s
    join ends e on e.piece = s.piece
    left join histograms h on h.piece = s.piece
    order by s.piece;
end $$;

-- commandbus.list_failure_groups: commands of the TSQ that look the same, most first.
--
-- They have the same type, kind of error, code, and text but for numbers, ids and quoted words. example_id waits longest.
create function commandbus.list_failure_groups(
    p_domain       text   default null,
    p_limit        int    default 100,
    p_failure_keys uuid[] default null
)
returns table (
    domain       text,
    failure_key  uuid,
    waiting      bigint,
    first_seen   timestamptz,
    last_seen    timestamptz,
    command_type text,
    error_type   text,
    error_code   text,
    error_text   text,
    example_id   uuid
)
language sql stable
rows 100
set search_path = pg_catalog, pg_temp
as $$
    select g.domain, g.failure_key, g.waiting, g.first_seen, g.last_seen, e.command_type, e.last_error_type,
        e.last_error_code, commandbus._pattern(e.last_error_msg), e.command_id
    from (
        select c.domain, c.failure_key, count(*) as waiting, min(c.attention_at) as first_seen,
            max(c.attention_at) as last_seen
        from commandbus.command c
        where c.failure_key is not null and (p_domain is null or c.domain = p_domain)
            and (p_failure_keys is null or c.failure_key = any (p_failure_keys))
        group by c.domain, c.failure_key
        order by count(*) desc, max(c.attention_at) desc
        limit p_limit
    ) g
    cross join lateral (
        select c.*
        from commandbus.command c
        where c.domain = g.domain and c.failure_key = g.failure_key
        order by c.attention_at
        limit 1
    ) e
    order by g.waiting desc, g.last_seen desc
$$;

-- commandbus.sp_start_redrive: freeze a selection of the TSQ, to be queued again at p_rate commands per second.
--
-- The selection is p_command_ids, or a group of failures, or (both null) all of the domain; the longest waiting first,
-- up to p_limit. p_stop_after: this many that wait for an operator again end it. p_redrive_id: an id of the caller's, by
-- which it is started once, however often it is asked for.
--
-- Returns  the redrive's id.
-- Raises   CB005; CB006 when nothing is selected, or there is a redrive of this id; CB007.
-- Locks    no row that others could hold, so that it has no lock_timeout as its siblings have. A second call with the same
--          id waits for the end of the first: any other answer would leave its caller in doubt.
create function commandbus.sp_start_redrive(
    p_domain      text,
    p_command_ids uuid[],
    p_failure_key uuid,
    p_rate        float8,
    p_stop_after  int  default null,
    p_operator    text default null,
    p_reason      text default null,
    p_limit       int  default 100000,
    p_redrive_id  uuid default null
)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id    uuid := coalesce(p_redrive_id, gen_random_uuid());
    v_total int;
begin
    perform commandbus._command_table(p_domain);
    if (p_rate between 0.001 and 10000) is not true or p_stop_after < 1
        or (p_limit between 1 and 100000) is not true or cardinality(p_command_ids) > 100000
    then
        raise exception 'rate: 0.001 to 10,000 per second; stop_after: at least 1; commands: 1 to 100,000'
            using errcode = 'CB007';
    end if;
    insert into commandbus.redrive (
        redrive_id, domain, rate, stop_after, total_count, operator, reason, stepped_at)
    values (v_id, p_domain, p_rate, p_stop_after, 0, p_operator, p_reason,
        clock_timestamp() - make_interval(secs => 1 / p_rate))  -- the first goes at once
    on conflict (redrive_id) do nothing;
    if not found then
        raise exception 'redrive % exists', v_id using errcode = 'CB006';
    end if;
    insert into commandbus.redrive_item (redrive_id, command_id, position)
    select v_id, n.command_id, row_number() over (order by n.attention_at, n.command_id)
    from (
        select c.command_id, c.attention_at
        from commandbus.command c
        where c.domain = p_domain and c.failure_key is not null and c.attention_at is not null
            and (p_command_ids is null or c.command_id = any (p_command_ids))
            and (p_failure_key is null or c.failure_key = p_failure_key)
        order by c.attention_at, c.command_id
        limit p_limit
    ) n;
    get diagnostics v_total = row_count;
    if v_total = 0 then
        raise exception 'nothing that was selected waits for an operator' using errcode = 'CB006';
    end if;
    update commandbus.redrive r set total_count = v_total where r.redrive_id = v_id;
    perform commandbus._log_redrive(v_id, 'REDRIVE_STARTED', p_operator, p_reason);
    return v_id;
end $$;

-- commandbus._log_redrive: an audit row about a redrive, with its counters.
create function commandbus._log_redrive(p_redrive_id uuid, p_event_type text, p_operator text, p_reason text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into commandbus.audit (domain, command_id, event_type, details)
    select r.domain, r.redrive_id, p_event_type, commandbus._decision(p_operator, p_reason) || jsonb_build_object(
        'rate', r.rate, 'total', r.total_count, 'sent', r.sent_count, 'refused', r.refused_count,
        'failed', r.failed_count)
    from commandbus.redrive r
    where r.redrive_id = p_redrive_id
$$;

-- commandbus.sp_control_redrive: PAUSE, RESUME or STOP a redrive; what it has queued stays queued.
--
-- Returns  its new status.
-- Raises   CB006 when there is none, or it is not in a state for that; CB007; 55P03.
-- Locks    the redrive's row; for five seconds at most, where a step waits for one.
create function commandbus.sp_control_redrive(
    p_redrive_id uuid,
    p_action     text,
    p_operator   text default null,
    p_reason     text default null
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    v_status text;
    v_next   text;
begin
    if (p_action in ('PAUSE', 'RESUME', 'STOP')) is not true then
        raise exception 'action: must be PAUSE, RESUME or STOP' using errcode = 'CB007';
    end if;
    select r.status into v_status from commandbus.redrive r where r.redrive_id = p_redrive_id for update;
    if not found then
        raise exception 'redrive % not found', p_redrive_id using errcode = 'CB006';
    end if;
    v_next := case
        when p_action = 'PAUSE' and v_status = 'RUNNING' then 'PAUSED'
        when p_action = 'RESUME' and v_status = 'PAUSED' then 'RUNNING'
        when p_action = 'STOP' and v_status in ('RUNNING', 'PAUSED') then 'STOPPED'
    end;
    if v_next is null then
        raise exception 'redrive % is %: it cannot %', p_redrive_id, v_status, lower(p_action)
            using errcode = 'CB006';
    end if;
    update commandbus.redrive r
    set status = v_next,
        stepped_at = case when v_next = 'RUNNING' then clock_timestamp() else r.stepped_at end,
        finished_at = case when v_next = 'STOPPED' then clock_timestamp() end
    where r.redrive_id = p_redrive_id;
    perform commandbus._log_redrive(
        p_redrive_id, case p_action when 'PAUSE' then 'REDRIVE_PAUSED' when 'RESUME' then 'REDRIVE_RESUMED'
            else 'REDRIVE_STOPPED' end,
        p_operator, p_reason);
    return v_next;
end $$;

-- commandbus.sp_step_redrives: queue again what is due of one of a domain's redrives, the one that was stepped longest
-- ago, up to 1,000 commands; and count what ended of one. Workers call it ten times a second while one runs, once for
-- each: several in one transaction would lock commands of the second after batches of the first. One that meets a
-- locked command waits for its next turn.
--
-- Returns  for how many of them it should be called again soon.
-- Raises   CB005, CB007.
-- Locks    the redrives' rows (others where those are locked); then as sp_operator_retry; each for a second at most.
create function commandbus.sp_step_redrives(p_domain text, p_notify boolean default true)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_redrive commandbus.redrive;
begin
    perform commandbus._check_domain(p_domain);
    select r.* into v_redrive
    from commandbus.redrive r
    where r.domain = p_domain and r.status = 'RUNNING' and r.finished_at is null
    order by r.turn_at
    limit 1
    for no key update skip locked;
    if found then
        begin
            perform commandbus._step_redrive(v_redrive, p_notify);
        exception when lock_not_available or deadlock_detected then
            update commandbus.redrive r set turn_at = clock_timestamp() where r.redrive_id = v_redrive.redrive_id;
        end;
    end if;
    perform commandbus._count_redrive(p_domain);
    return (
        select count(*)
        from commandbus.redrive r
        where r.domain = p_domain and not r.is_counted
            and (r.status = 'RUNNING' or r.counted_at > clock_timestamp() - interval '10 seconds')
    );
end $$;

-- commandbus._step_redrive: one step of one redrive, whose row the caller has locked.
create function commandbus._step_redrive(p_redrive commandbus.redrive, p_notify boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_now     timestamptz := clock_timestamp();
    v_failed  int := 0;
    v_looks   boolean := p_redrive.looked_at <= clock_timestamp() - interval '900 milliseconds';
    -- Where no worker was there for a while, what it would have sent is not made up for.
    v_seconds float8 := least(
        extract(epoch from v_now - p_redrive.stepped_at)::float8, greatest(5, 1 / p_redrive.rate));
    v_count   int := least(floor(v_seconds * p_redrive.rate + 1e-6), 1000);  -- what others wait for is short
    v_ids     uuid[];
    v_sent    int := 0;
    v_refused int := 0;
    v_ends    text;
begin
    -- Once a second, with an overlap: a settle may take a while from its time to its commit.
    with again as (
        select c.command_id, c.attention_at
        from commandbus.command c
        where v_looks and c.domain = p_redrive.domain
            and c.attention_at >= p_redrive.looked_at - interval '10 seconds' and c.failure_key is not null
    )
    update commandbus.redrive_item i
    set outcome = 'AGAIN'
    from again a
    cross join lateral (  -- a lookup for each: what the server knows of the table is older than this redrive
        select n.ctid
        from commandbus.redrive_item n
        where n.redrive_id = p_redrive.redrive_id and n.command_id = a.command_id
            and n.sent_at < a.attention_at and n.outcome is null
        limit 1
    ) t
    where i.ctid = t.ctid;
    get diagnostics v_failed = row_count;
    if p_redrive.failed_count + v_failed >= p_redrive.stop_after then
        v_ends := 'STOPPED';
    else
        select array_agg(n.command_id) into v_ids
        from (
            select i.command_id
            from commandbus.redrive_item i
            where i.redrive_id = p_redrive.redrive_id and i.sent_at is null and i.refusal is null
            order by i.position
            limit v_count
        ) n;
        if v_ids is not null then
            with verdicts as (
                select v.command_id, v.refusal
                from commandbus.sp_operator_retry(
                    p_redrive.domain, v_ids, p_redrive.operator, p_notify,
                    'redrive ' || p_redrive.redrive_id || coalesce(': ' || p_redrive.reason, '')) v
            ), marked as (
                update commandbus.redrive_item i
                set sent_at = case when v.refusal is null then v_now end,
                    refusal = v.refusal
                from verdicts v
                cross join lateral (
                    select n.ctid
                    from commandbus.redrive_item n
                    where n.redrive_id = p_redrive.redrive_id and n.command_id = v.command_id
                    limit 1
                ) t
                where i.ctid = t.ctid
                returning i.refusal
            )
            select count(*) filter (where m.refusal is null), count(*) filter (where m.refusal is not null)
            into v_sent, v_refused
            from marked m;
        end if;
        if p_redrive.sent_count + p_redrive.refused_count + v_sent + v_refused >= p_redrive.total_count then
            v_ends := 'COMPLETED';
        end if;
    end if;
    update commandbus.redrive r
    set sent_count = r.sent_count + v_sent,
        refused_count = r.refused_count + v_refused,
        failed_count = r.failed_count + v_failed,
        looked_at = case when v_looks then v_now else r.looked_at end,
        turn_at = v_now,
        stepped_at = v_now - make_interval(secs => greatest(v_seconds - v_count / r.rate, 0)),
        status = coalesce(v_ends, r.status),
        finished_at = case when v_ends is not null then v_now end
    where r.redrive_id = p_redrive.redrive_id;
    if v_ends is not null then
        perform commandbus._log_redrive(p_redrive.redrive_id, 'REDRIVE_' || v_ends, null,
            case v_ends when 'STOPPED' then 'too many failed again' end);
    end if;
end $$;

-- commandbus._open_items: the first p_limit items of a redrive after a position that were queued and have not been seen
-- to end, and the outcome of those that have.
create function commandbus._open_items(p_redrive commandbus.redrive, p_after int, p_limit int)
returns table ("position" int, command_id uuid, outcome text)
language sql stable
rows 1000
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select i.position, i.command_id, case
            when c.status is null then 'FORGOTTEN'
            when c.status = 'IN_TROUBLESHOOTING_QUEUE' then 'AGAIN'
            when c.status in ('COMPLETED', 'FAILED', 'CANCELED') then c.status
        end
    from (
        select n.position, n.command_id
        from commandbus.redrive_item n
        where n.redrive_id = p_redrive.redrive_id and n.sent_at is not null and n.outcome is null
            and n.position > p_after
        order by n.position
        limit p_limit
    ) i
    left join lateral (
        select o.status
        from commandbus.command o
        where o.command_id = i.command_id and o.domain = p_redrive.domain
        limit 1
    ) c on true
$$;

-- commandbus._count_redrive: look once a second what has ended of one of a domain's redrives, the one that was looked
-- at longest ago; at 2,000 items, the next ones another time.
create function commandbus._count_redrive(p_domain text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_redrive commandbus.redrive;
begin
    select r.* into v_redrive
    from commandbus.redrive r
    where r.domain = p_domain and not r.is_counted and r.seen_at <= clock_timestamp() - interval '900 milliseconds'
    order by r.seen_at
    limit 1
    for no key update skip locked;
    if not found then
        return;
    end if;
    with items as materialized (
        select o.* from commandbus._open_items(v_redrive, v_redrive.seen_position, 2000) o
    ), ended as (
        update commandbus.redrive_item i
        set outcome = o.outcome
        from items o
        cross join lateral (
            select n.ctid
            from commandbus.redrive_item n
            where n.redrive_id = v_redrive.redrive_id and n.command_id = o.command_id
            limit 1
        ) t
        where i.ctid = t.ctid and o.outcome is not null
        returning i.outcome
    ), counts as (
        select count(*) as n, count(*) filter (where e.outcome = 'COMPLETED') as completed,
            count(*) filter (where e.outcome = 'FAILED') as rejected,
            count(*) filter (where e.outcome = 'CANCELED') as canceled,
            count(*) filter (where e.outcome = 'AGAIN') as again,
            count(*) filter (where e.outcome = 'FORGOTTEN') as forgotten
        from ended e
    )
    update commandbus.redrive r
    set completed_count = r.completed_count + n.completed,
        rejected_count = r.rejected_count + n.rejected,
        canceled_count = r.canceled_count + n.canceled,
        failed_count = r.failed_count + n.again,
        forgotten_count = r.forgotten_count + n.forgotten,
        seen_at = clock_timestamp(),
        seen_position = (select case when count(*) = 2000 then max(o.position) else 0 end from items o),
        counted_at = case when n.n > 0 then clock_timestamp() else r.counted_at end,
        is_counted = r.finished_at is not null and n.n + r.completed_count + r.rejected_count + r.canceled_count
            + r.failed_count + r.forgotten_count = r.sent_count
    from counts n
    where r.redrive_id = v_redrive.redrive_id;
end $$;

-- commandbus.list_redrives: newest first.
create function commandbus.list_redrives(p_domain text default null, p_limit int default 50)
returns setof commandbus.redrive
language sql stable
rows 50
set search_path = pg_catalog, pg_temp
as $$
    select r.*
    from commandbus.redrive r
    where p_domain is null or r.domain = p_domain
    order by r.created_at desc, r.redrive_id
    limit p_limit
$$;

-- commandbus.get_redrive: one redrive, and what became first of the commands it queued, or none.
--
-- again: waited for an operator again; forgotten: ended, and deleted before anybody counted it. The rest of those sent
-- is under way. Beyond what workers have counted, this looks at 2,000: with more, some that ended count as under way.
create function commandbus.get_redrive(p_redrive_id uuid)
returns table (
    redrive   commandbus.redrive,
    completed bigint,
    failed    bigint,
    canceled  bigint,
    again     bigint,
    forgotten bigint
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select r, r.completed_count + n.completed, r.rejected_count + n.failed, r.canceled_count + n.canceled,
        r.failed_count + n.again, r.forgotten_count + n.forgotten
    from commandbus.redrive r
    cross join lateral (
        select count(*) filter (where o.outcome = 'COMPLETED') as completed,
            count(*) filter (where o.outcome = 'FAILED') as failed,
            count(*) filter (where o.outcome = 'CANCELED') as canceled,
            count(*) filter (where o.outcome = 'AGAIN') as again,
            count(*) filter (where o.outcome = 'FORGOTTEN') as forgotten
        from commandbus._open_items(r, 0, 2000) o
    ) n
    where r.redrive_id = p_redrive_id
$$;


-- Messages
--
-- PGMQ's own functions for any queue, safe to call under any search_path: they look names up in the session's.

-- commandbus._queue_table: the name of the table that holds a queue.
--
-- Raises   CB007 for a bad name, CB005 when there is no such queue.
create function commandbus._queue_table(p_queue text)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_queue is null or p_queue !~ '^[a-z][a-z0-9_]{0,46}$' then
        raise exception 'queue: must match ^[a-z][a-z0-9_]{0,46}$' using errcode = 'CB007';
    end if;
    -- Whoever takes a message out of there would do so without an attempt, a lease and an audit.
    if p_queue ~ '__commands$' then
        raise exception 'queue: "%" is for commands: send, receive and settle them', p_queue using errcode = 'CB007';
    end if;
    if to_regclass('pgmq.q_' || p_queue) is null then
        raise exception 'queue "%" does not exist', p_queue using errcode = 'CB005';
    end if;
    return 'q_' || p_queue;
end $$;

-- commandbus.queue_create: make a plain queue, if it is not there yet. Domains are made by sp_create_domain.
--
-- Returns  whether it had to be made.
create function commandbus.queue_create(p_queue text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_queue is null or p_queue !~ '^[a-z][a-z0-9_]{0,46}$' then
        raise exception 'queue: must match ^[a-z][a-z0-9_]{0,46}$' using errcode = 'CB007';
    end if;
    if p_queue ~ '__(commands|replies)$' then
        raise exception 'queue: "%" is made by sp_create_domain', p_queue using errcode = 'CB007';
    end if;
    if to_regclass('pgmq.q_' || p_queue) is not null then
        return false;
    end if;
    perform pgmq.create(p_queue);
    return true;
end $$;

-- commandbus.queue_send: put messages into a queue, visible after p_delay seconds.
--
-- Returns  their msg_ids, in order.
create function commandbus.queue_send(p_queue text, p_messages jsonb[], p_delay int default 0)
returns setof bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._queue_table(p_queue);
    return query
    select s.msg_id
    from pgmq.send_batch(p_queue, p_messages, null::jsonb[], clock_timestamp() + make_interval(secs => p_delay))
        as s(msg_id);
end $$;

-- commandbus.queue_read: lease up to p_limit messages for p_visibility_timeout seconds, oldest first.
create function commandbus.queue_read(p_queue text, p_visibility_timeout int, p_limit int)
returns table (msg_id bigint, read_ct int, enqueued_at timestamptz, vt timestamptz, message jsonb)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._queue_table(p_queue);
    return query
    select r.msg_id, r.read_ct, r.enqueued_at, r.vt, r.message
    from pgmq.read(p_queue, p_visibility_timeout, p_limit) r
    order by r.msg_id;
end $$;

-- commandbus.queue_delete: remove a message. Returns whether it was there.
create function commandbus.queue_delete(p_queue text, p_msg_id bigint)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._queue_table(p_queue);
    return pgmq.delete(p_queue, p_msg_id);
end $$;

-- commandbus.queue_archive: move a message to the queue's archive. Returns whether it was there.
create function commandbus.queue_archive(p_queue text, p_msg_id bigint)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._queue_table(p_queue);
    return pgmq.archive(p_queue, p_msg_id);
end $$;

-- commandbus.queue_set_vt: let a message be visible in p_seconds. Returns whether it was there.
create function commandbus.queue_set_vt(p_queue text, p_msg_id bigint, p_seconds int)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform commandbus._queue_table(p_queue);
    return exists (
        select from pgmq.set_vt(p_queue, p_msg_id, clock_timestamp() + make_interval(secs => p_seconds)));
end $$;

-- commandbus.queue_notify: wake the listeners of a queue.
create function commandbus.queue_notify(p_queue text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('pgmq.q_' || p_queue) is null then
        raise exception 'queue "%" does not exist', p_queue using errcode = 'CB005';
    end if;
    perform commandbus._wake(p_queue);
end $$;


-- Growth
--
-- Each function does a bounded piece of work, under locks that no sender and no worker waits for long. One at a time
-- maintains a database: whoever comes while another transaction does gets null at once, and has nothing to do.

-- commandbus._maintain_alone: be the one who maintains this database until the transaction ends.
--
-- Returns  false when somebody else is.
create function commandbus._maintain_alone()
returns boolean
language sql
set search_path = pg_catalog, pg_temp
as $$ select pg_try_advisory_xact_lock(hashtextextended('commandbus maintenance', 0)) $$;

-- commandbus.sp_make_partitions: make the audit's partitions of this month and the next ones, as far as they lack.
--
-- A month of which rows are in audit_default already stays there.
--
-- Returns  the names of those made; null when somebody else maintains the database.
-- Raises   CB007; 55P03 when a reader of the audit holds audit_default for more than a second.
-- Locks    audit against other DDL, audit_default exclusively; inserts into this month go on.
create function commandbus.sp_make_partitions(p_months_ahead int default 3)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
set timezone = 'UTC'  -- the bounds are written and read as text
set datestyle = 'ISO'
as $$
declare
    v_made   text[] := '{}';
    v_months timestamp[] := '{}';
    v_month  timestamp;
    v_name   text;
begin
    if p_months_ahead is null or p_months_ahead not between 0 and 12 then
        raise exception 'months_ahead: must be 0 to 12' using errcode = 'CB007';
    end if;
    if not commandbus._maintain_alone() then
        return null;
    end if;
    -- Which ones are missing is found out before the first lock is taken.
    for v_month in
        select m
        from generate_series(
            date_trunc('month', now() at time zone 'UTC'),
            date_trunc('month', now() at time zone 'UTC') + make_interval(months => p_months_ahead),
            interval '1 month') m
        where not exists (
                select from commandbus.audit_default d
                where d.ts >= m at time zone 'UTC' and d.ts < (m + interval '1 month') at time zone 'UTC'
            )
            and not exists (
                select from pg_inherits i
                join pg_class c on c.oid = i.inhrelid
                where i.inhparent = 'commandbus.audit'::regclass and c.relname = to_char(m, '"audit_y"YYYY"m"MM')
            )
    loop
        v_months := v_months || v_month;
    end loop;
    foreach v_month in array v_months loop
        v_name := to_char(v_month, '"audit_y"YYYY"m"MM');
        -- Attached, not made in place, which would wait for every transaction that has written to the audit.
        execute format('create table commandbus.%I (like commandbus.audit including defaults)', v_name);
        execute format(
            'alter table commandbus.audit attach partition commandbus.%I for values from (%L) to (%L)',
            v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
        v_made := v_made || v_name;
    end loop;
    return v_made;
end $$;

-- commandbus._may_prune: be the one who maintains this database until the transaction ends, to remove what is older
-- than p_before.
--
-- Returns  false when somebody else is.
-- Raises   CB007 for a time in the future, and for a step without bounds.
create function commandbus._may_prune(p_before timestamptz, p_limit int default 1)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_before is null or p_before > now() then
        raise exception 'before: must be a time in the past' using errcode = 'CB007';
    end if;
    if p_limit is null or p_limit not between 1 and 100000 then
        raise exception 'limit: must be 1 to 100,000' using errcode = 'CB007';
    end if;
    return commandbus._maintain_alone();
end $$;

-- commandbus.sp_drop_partitions: forget the audit of a month that ended before p_before. Call it until it returns an
-- empty array.
--
-- One step per call, so that no lock is held while another is waited for: the oldest month that still has rows and is
-- not being read is emptied, which only its readers notice; when all are empty, one is dropped. Dropping needs the lock
-- on the whole audit, and is left for another time where that is not to be had at once.
--
-- Returns  the name of the partition that was emptied or dropped, in an array; null when somebody else maintains the
--          database.
-- Raises   CB007; 55P03 when nothing could be done because of the readers of old months.
-- Locks    one old partition exclusively, for which it waits longer than an autovacuum takes to give way; or audit
--          exclusively, for which it waits 50 ms at most.
create function commandbus.sp_drop_partitions(p_before timestamptz)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1500ms'  -- autovacuum gives way after deadlock_timeout, by default one second
as $$
declare
    v_name  text;
    v_empty boolean;
    v_drop  text;
    v_read  boolean := false;
begin
    if not commandbus._may_prune(p_before) then
        return null;
    end if;
    for v_name in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'commandbus.audit'::regclass and c.relname ~ '^audit_y[0-9]{4}m[0-9]{2}$'
            and (to_date(substr(c.relname, 8), 'YYYY"m"MM') + interval '1 month') at time zone 'UTC' <= p_before
        order by c.relname
    loop
        begin
            execute format('select not exists (select from commandbus.%I)', v_name) into v_empty;
            if not v_empty then
                execute format('truncate commandbus.%I', v_name);
                return array[v_name];
            end if;
            v_drop := coalesce(v_drop, v_name);
        exception when lock_not_available then
            v_read := true;
        end;
    end loop;
    if v_drop is not null then
        begin
            perform set_config('lock_timeout', '50ms', true);
            execute format('drop table commandbus.%I', v_drop);
            return array[v_drop];
        exception when lock_not_available then
            v_read := true;
        end;
    end if;
    if v_read then
        raise exception 'months of the audit are being read, or written to: nothing was dropped'
            using errcode = 'lock_not_available';
    end if;
    return '{}';
end $$;

-- commandbus.sp_prune_audit: delete up to p_limit events that are older than p_before and of no month's partition.
--
-- Returns  how many were deleted; null when somebody else maintains the database.
-- Raises   CB007; 55P03.
-- Locks    the rows it deletes.
create function commandbus.sp_prune_audit(p_before timestamptz, p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_rows int;
begin
    if not commandbus._may_prune(p_before, p_limit) then
        return null;
    end if;
    delete from commandbus.audit_default d
    where d.ctid in (select o.ctid from commandbus.audit_default o where o.ts < p_before limit p_limit);
    get diagnostics v_rows = row_count;
    return v_rows;
end $$;

-- commandbus.sp_prune_commands: delete commands that ended before p_before and are of no batch, with their payloads.
--
-- It walks on from (p_after_at, p_after_id) in the order of creation. Commands that have not ended are passed over.
--
-- Returns  one row: how many were deleted, and where to go on, null at the end; no row when somebody else maintains
--          the database.
-- Raises   CB007.
-- Locks    the rows it deletes.
create function commandbus.sp_prune_commands(
    p_before   timestamptz,
    p_after_at timestamptz default '-infinity',
    p_after_id uuid        default '00000000-0000-0000-0000-000000000000',
    p_limit    int         default 10000
)
returns table (deleted int, last_at timestamptz, last_id uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    if not commandbus._may_prune(p_before, p_limit) then
        return;
    end if;
    return query
    with old as (
        select c.command_id, c.domain, c.created_at
        from commandbus.command c
        where c.created_at < p_before and c.created_at >= p_after_at
            and (c.created_at, c.command_id) > (p_after_at, p_after_id)
        order by c.created_at, c.command_id
        limit p_limit
    ), gone as (
        delete from commandbus.command c
        using old o
        where c.command_id = any (array[o.command_id]) and c.domain || '' = o.domain
            and c.finished_at < p_before and c.batch_id is null
        returning c.command_id, c.domain
    ), payloads as (
        delete from commandbus.payload_archive p
        using gone g
        where p.command_id = any (array[g.command_id]) and p.domain || '' = g.domain
    ), last as (
        select o.created_at, o.command_id
        from old o
        order by o.created_at desc, o.command_id desc
        limit 1
    )
    select (select count(*)::int from gone), l.created_at, l.command_id
    from (values (true)) v
    left join last l on (select count(*) from old) = p_limit;
end $$;

-- commandbus.sp_prune_batches: delete a domain's batches that were complete before p_before, each with all its
-- commands and their payloads, until p_limit commands are gone or none is left.
--
-- A batch goes in one piece, as its counters must equal a recount at every commit.
--
-- Returns  how many commands and batches were deleted; null when somebody else maintains the database.
-- Raises   CB007.
-- Locks    the rows it deletes.
create function commandbus.sp_prune_batches(p_domain text, p_before timestamptz, p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_batch_id uuid;
    v_deleted  int := 0;
    v_commands int;
begin
    perform commandbus._check_domain(p_domain);
    if not commandbus._may_prune(p_before, p_limit) then
        return null;
    end if;
    for v_batch_id in
        select b.batch_id
        from commandbus.batch b
        where b.domain = p_domain and b.created_at < p_before and b.completed_at < p_before
            and not exists (  -- whatever the counters say
                select from commandbus.command c
                where c.domain = b.domain and c.batch_id = b.batch_id and c.finished_at is null
            )
        order by b.created_at
        for update skip locked
    loop
        with gone as (
            delete from commandbus.command c
            where c.domain = p_domain and c.batch_id = v_batch_id
            returning c.command_id
        ), payloads as (
            delete from commandbus.payload_archive p
            using gone g
            where p.command_id = any (array[g.command_id]) and p.domain || '' = p_domain
        )
        select count(*) into v_commands from gone;
        delete from commandbus.batch b where b.domain = p_domain and b.batch_id = v_batch_id;
        v_deleted := v_deleted + v_commands + 1;
        exit when v_deleted >= p_limit;
    end loop;
    return v_deleted;
end $$;

-- commandbus.sp_prune_throughput: forget what workers said so long ago that it is not kept, and workers not heard of
-- for a day.
--
-- Returns  how many rows were deleted, of what workers said up to p_limit.
-- Raises   CB007.
-- Locks    the rows it deletes, skipping locked ones.
create function commandbus.sp_prune_throughput(p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_pieces  record;
    v_points  int;
    v_deleted int := 0;
    v_workers int;
begin
    if p_limit is null or p_limit not between 1 and 100000 then
        raise exception 'limit: must be 1 to 100,000' using errcode = 'CB007';
    end if;
    for v_pieces in select p.seconds, p.kept from commandbus._pieces() p loop
        delete from commandbus.throughput t
        where t.ctid = any (array(
            select o.ctid
            from commandbus.throughput o
            where o.seconds = v_pieces.seconds and o.at < now() - v_pieces.kept
            order by o.at
            limit p_limit - v_deleted
            for update skip locked));
        get diagnostics v_points = row_count;
        v_deleted := v_deleted + v_points;
    end loop;
    delete from commandbus.worker w where w.seen_at < now() - interval '1 day';
    get diagnostics v_workers = row_count;
    return v_deleted + v_workers;
end $$;

-- commandbus.sp_prune_redrives: forget redrives that ended before p_before, with what they selected.
--
-- Returns  how many rows were deleted; null when somebody else maintains the database.
-- Raises   CB007.
-- Locks    the redrives' rows, skipping locked ones.
create function commandbus.sp_prune_redrives(p_before timestamptz, p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_redrive_id uuid;
    v_deleted    int := 0;
    v_items      int;
begin
    if not commandbus._may_prune(p_before, p_limit) then
        return null;
    end if;
    for v_redrive_id in
        select r.redrive_id
        from commandbus.redrive r
        where r.created_at < p_before and r.finished_at < p_before
        order by r.created_at
        for update skip locked
    loop
        delete from commandbus.redrive_item i
        where i.redrive_id = v_redrive_id and i.command_id = any (array(
            select n.command_id from commandbus.redrive_item n where n.redrive_id = v_redrive_id limit p_limit));
        get diagnostics v_items = row_count;
        v_deleted := v_deleted + v_items;
        exit when v_items = p_limit or v_deleted >= p_limit;  -- the rest of it in the next step
        delete from commandbus.redrive r where r.redrive_id = v_redrive_id;
        v_deleted := v_deleted + 1;
    end loop;
    return v_deleted;
end $$;

-- commandbus.sp_prune_payloads: delete payloads that were put aside before p_before, of commands that have ended or
-- are gone, among the p_limit oldest after p_after.
--
-- Returns  one row: how many were deleted, and where to go on, null at the end; no row when somebody else maintains
--          the database.
-- Raises   CB007; 55P03.
-- Locks    the rows it deletes.
create function commandbus.sp_prune_payloads(
    p_before timestamptz,
    p_after  timestamptz default '-infinity',
    p_limit  int         default 10000
)
returns table (deleted int, last_at timestamptz)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    if not commandbus._may_prune(p_before, p_limit) then
        return;
    end if;
    return query
    with old as (
        select p.command_id, p.domain, p.archived_at
        from commandbus.payload_archive p
        where p.archived_at < p_before and p.archived_at > p_after
        order by p.archived_at
        fetch first p_limit rows with ties
    ), gone as (
        delete from commandbus.payload_archive p
        using old o
        where p.command_id = any (array[o.command_id]) and p.domain || '' = o.domain
            and not exists (
                select from commandbus.command c
                where c.command_id = o.command_id and c.domain = o.domain and c.finished_at is null
            )
        returning p.command_id
    )
    select (select count(*)::int from gone), (select max(o.archived_at) from old o having count(*) >= p_limit);
end $$;

-- commandbus.sp_prune_archives: delete up to p_limit messages that PGMQ archived in a domain's queues before p_before.
--
-- Returns  how many were deleted; null when somebody else maintains the database.
-- Raises   CB007; 55P03.
-- Locks    the rows it deletes.
create function commandbus.sp_prune_archives(p_domain text, p_before timestamptz, p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_deleted int := 0;
    v_rows    int;
    v_queue   text;
begin
    perform commandbus._check_domain(p_domain);
    if not commandbus._may_prune(p_before, p_limit) then
        return null;
    end if;
    foreach v_queue in array array[p_domain || '__commands', p_domain || '__replies'] loop
        continue when to_regclass('pgmq.a_' || v_queue) is null;
        execute format(
            'delete from pgmq.%1$I a where a.ctid in ('
            ' select o.ctid from pgmq.%1$I o where o.archived_at < $1 order by o.archived_at limit $2)', 'a_' || v_queue)
        using p_before, p_limit - v_deleted;
        get diagnostics v_rows = row_count;
        v_deleted := v_deleted + v_rows;
    end loop;
    return v_deleted;
end $$;

-- commandbus.sp_prune_replies: delete up to p_limit replies of a domain that nobody took since p_before, and those
-- that wait for a reply queue that is gone.
--
-- Returns  how many were deleted; null when somebody else maintains the database.
-- Raises   CB007; 55P03.
-- Locks    the rows it deletes, skipping those somebody takes.
create function commandbus.sp_prune_replies(p_domain text, p_before timestamptz, p_limit int default 10000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_deleted int := 0;
    v_rows    int;
begin
    perform commandbus._check_domain(p_domain);
    if not commandbus._may_prune(p_before, p_limit) then
        return null;
    end if;
    if commandbus._reply_table(p_domain || '__replies') is not null then
        execute format(
            'delete from pgmq.%1$I q where q.msg_id = any (array('
            ' select o.msg_id from (select m.msg_id, m.enqueued_at from pgmq.%1$I m order by m.msg_id limit $2'
            ' for update skip locked) o where o.enqueued_at < $1))', 'q_' || p_domain || '__replies')
        using p_before, p_limit;
        get diagnostics v_deleted = row_count;
    end if;
    delete from commandbus.undelivered_reply u
    where u.reply_id = any (array(
        select o.reply_id
        from commandbus.undelivered_reply o
        where o.queue_name = p_domain || '__replies' and o.created_at < p_before
        order by o.reply_id
        limit p_limit - v_deleted
        for update skip locked
    ));
    get diagnostics v_rows = row_count;
    return v_deleted + v_rows;
end $$;

do $$ begin perform commandbus.sp_make_partitions(); end $$;


-- Nobody may call anything unless it is granted.
revoke execute on all functions in schema commandbus from public;
