"""Everything that touches the database, on a real PostgreSQL and a database of its own."""
