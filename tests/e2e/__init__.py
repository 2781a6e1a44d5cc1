"""The demo application, and tests that look at it and at the console as people do: in a browser."""
