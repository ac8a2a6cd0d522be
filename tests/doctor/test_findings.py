"""How findings are told."""

from __future__ import annotations

from babygpt.doctor.findings import Diagnosis, fault, ok, warning


def test_a_table_that_lines_up() -> None:
    long = "word " * 40
    table = [str(line) for line in Diagnosis((ok("one", "well"), warning("two", long, long))).lines()]
    assert table[0] == "ok       one           well"
    assert table[1].startswith("warning  two           word word")
    assert max(map(len, table)) <= 80
    assert {line[:23].strip() for line in table[2:-2]} == {""}
    assert sum(line[23:].startswith("-> word") for line in table) == 1
    assert table[-1] == "2 checks: 0 faults, 1 warning"


def test_exit_codes_and_counts() -> None:
    assert Diagnosis((ok("a", "b"), warning("a", "b", "c"))).exit_code == 0
    bad = Diagnosis((fault("a", "b", "c"), fault("a", "b", "c")))
    assert bad.exit_code == 1
    assert bad.to_dict()["faults"] == 2
    assert bad.to_dict()["findings"][0] == {"about": "a", "status": "fault", "what": "b", "mend": "c"}
    assert str(bad.lines()[-1]) == "2 checks: 2 faults, 0 warnings"


def test_nothing_secret_and_nothing_that_moves_a_cursor() -> None:
    found = fault("a", "https://me:word@host/x?token=1 \x1b[2J\nline", "b")
    assert found.what == "https://...@host/x?... \\x1b[2J line"
