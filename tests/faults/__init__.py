"""Faults: real processes, real signals, a server that is stopped dead; and the books checked afterwards."""
