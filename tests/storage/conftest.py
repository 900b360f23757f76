"""What the tests of files share."""

import resource
from collections.abc import Callable, Iterator

import pytest

import storage.database


@pytest.fixture(autouse=True, scope="module")
def busy() -> Iterator[None]:
    """No database rests, however slow the machine: what a test says is in memory is in memory. Not
    even those that are made once for a module.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.database, "IDLE_SECONDS", 1e6)
        yield


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Forbid this process files larger than so many bytes; the system's own error, in write()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
