"""What must be true of every run, checked while it happens (`Watch`) and at its end.

A checker raises a Violation with the facts. It looks at what correct nodes make durable, send and
tell their clients, and believes nothing else: Byzantine members are seen only through these.
"""

from simulations.checkers.ending import check_acknowledged, check_meaning, check_stores
from simulations.checkers.promises import PromiseBook
from simulations.checkers.violation import Fork, NoProgress, Violation
from simulations.checkers.watch import Watch

__all__ = [
    "Fork",
    "NoProgress",
    "PromiseBook",
    "Violation",
    "Watch",
    "check_acknowledged",
    "check_meaning",
    "check_stores",
]
