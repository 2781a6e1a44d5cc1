#!/bin/sh
# Makes the data directory on the first start, then becomes the server, as the user postgres.
set -eu

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown postgres:postgres "$(dirname "$PGDATA")" "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    printf '%s' "${POSTGRES_PASSWORD:?}" >"/tmp/password"
    initdb --username "$user" --pwfile /tmp/password --encoding UTF8 --locale C.UTF-8 \
        --auth-local trust --auth-host scram-sha-256 >/dev/null
    rm /tmp/password
    printf "listen_addresses = '*'\nlog_timezone = UTC\n" >>"$PGDATA/postgresql.conf"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
        # Not by TCP: nobody from outside meets the server before it is ready.
        pg_ctl start --wait --silent --options "-c listen_addresses=''" >/dev/null
        createdb --username "$user" --maintenance-db postgres "$POSTGRES_DB"
        pg_ctl stop --wait --silent --mode fast
    fi
fi

exec "$@"
