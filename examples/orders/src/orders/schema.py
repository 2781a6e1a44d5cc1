"""The shop's own tables. A real program would have a migration tool make them."""

import psycopg

TABLES = """
create schema if not exists shop;
create table if not exists shop.orders (
    order_id uuid primary key,
    article  text not null,
    quantity int  not null,
    state    text not null default 'new'
);
create table if not exists shop.stock (article text primary key, available int not null check (available >= 0));
"""


def create_tables(database_url: str) -> None:
    """Make the tables that are missing."""
    with psycopg.connect(database_url) as connection:
        connection.execute(TABLES)
