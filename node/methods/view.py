"""The base of what methods return."""

import msgspec


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of every result: a JSON object; members that do not apply are left out."""
