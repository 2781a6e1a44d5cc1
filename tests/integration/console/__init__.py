"""Tests of the console's pages, by Flask's client on a real database."""
