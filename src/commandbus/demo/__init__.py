"""The demo: real worker processes on a scratch server, failures of every kind, an operator, and an audit of it all."""

from commandbus.demo.life import run_console
from commandbus.demo.plan import MOST_COMMANDS
from commandbus.demo.report import Check, Report
from commandbus.demo.show import print_report
from commandbus.demo.story import run_demo

__all__ = ["MOST_COMMANDS", "Check", "Report", "print_report", "run_console", "run_demo"]
