"""Logs: what cannot be written is dropped, and nothing that the node does depends on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.logs import Output

_LOG = """
import sys
import structlog
from node.logs import configure
configure("info", "json")
structlog.get_logger().info("started", height=1)
structlog.get_logger().debug("too much")
sys.stderr.write("done")
"""


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    full = os.open("/dev/full", os.O_WRONLY)
    spare = os.dup(file)
    output = Output(file)
    try:
        assert output.write("first\n") == 6
        os.dup2(full, file)
        assert output.write("lost\n") == 5
        os.dup2(spare, file)
        output.write("next\n")
        output.write("last\udcff\n")
    finally:
        for descriptor in (file, full, spare):
            os.close(descriptor)
    # What was lost may have been torn in its middle: the next line starts a new one.
    assert (tmp_path / "log").read_bytes() == b"first\n\nnext\nlast\\udcff\n"


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-", "| true", "| cat"])
def test_whatever_standard_output_is_the_node_goes_on(redirection: str) -> None:
    root = Path(__file__).resolve().parents[2]
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, _LOG]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=True)
    assert done.stderr == "done"
    if redirection == "| cat":
        line = json.loads(done.stdout)
        assert (line["event"], line["level"], line["height"]) == ("started", "info", 1)
