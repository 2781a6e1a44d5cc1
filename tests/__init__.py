"""All tests; `support` holds what their fixtures are made of."""
