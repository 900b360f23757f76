"""What a running node tells of itself."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.backend import NodeBackend
from node.home import Home


def test_its_memory_is_that_of_all_its_processes(tmp_path: Path) -> None:
    ids: list[int] = []
    driver: Any = SimpleNamespace(process_ids=lambda: ids)
    config: Any = SimpleNamespace(home=Home(tmp_path))
    nothing: Any = None
    backend = NodeBackend(driver, nothing, config, nothing)
    alone = backend.resources().memory_bytes
    program = "held = b'1' * 200_000_000; print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        ids.append(other.pid)
        assert backend.resources().memory_bytes > alone + 100_000_000
        other.kill()
    # It has ended just now.
    assert backend.resources().memory_bytes < alone + 100_000_000
