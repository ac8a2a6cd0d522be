"""A process whose standard error nobody reads any more goes on, and ends with the exit code that it earned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BEGIN = "import os, sys, warnings; from babygpt.standard_streams import outlive_readers; outlive_readers()\n"


def test_a_reader_that_goes_away_on_the_way(tmp_path: Path) -> None:
    code = BEGIN + (
        "print('first', file=sys.stderr); sys.stdin.readline()\n"
        "for n in range(3): print('x' * 100_000, file=sys.stderr, flush=True)\n"
        "warnings.warn('nobody hears'); os.write(1, b'done')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"first\n", "what is read arrives at once"
    process.stderr.close()
    assert process.communicate(b"\n", timeout=60)[0] == b"done"
    assert process.returncode == 0


def test_streams_that_are_closed_from_the_start(tmp_path: Path) -> None:
    """Else the first file that is opened would be number 2, and take what libraries write there."""
    code = BEGIN + (
        "file = open('kept', 'wb'); os.write(2, b'a message'); print('another', file=sys.stderr); print('result')\n"
        "sys.exit(7 if file.fileno() > 2 else 1)"
    )
    for closed in ("2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"):
        shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
        assert subprocess.run(shell, cwd=tmp_path, check=False, timeout=60).returncode == 7, closed
        assert (tmp_path / "kept").read_bytes() == b"", closed


def test_a_full_disk_behind_it(tmp_path: Path) -> None:
    if os.path.exists("/dev/full"):
        code = BEGIN + "print('no room', file=sys.stderr, flush=True); sys.exit(7)"
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-c", code], stderr=full, check=False, timeout=60)
        assert done.returncode == 7


def test_the_command_keeps_its_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "babygpt", "train", "--nonsense"], stderr=write, check=False, timeout=60
    )
    os.close(write)
    assert done.returncode == 2


def test_somebodys_own_stream_stays() -> None:
    code = (
        "import io, sys; from babygpt.standard_streams import outlive_readers\n"
        "own = sys.stderr = io.StringIO(); outlive_readers(); print('kept', file=sys.stderr)\n"
        "sys.exit(own.getvalue() != 'kept\\n')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
