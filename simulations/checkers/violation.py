"""How a run fails: by doing what must never be done, or by not doing what it must."""


class Violation(Exception):
    """Something happened that must never happen."""


class Fork(Violation):
    """Two correct nodes apply two blocks at one height."""


class NoProgress(Exception):
    """What should have happened after the healing did not."""
