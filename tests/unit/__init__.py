"""Pure code, no database."""
