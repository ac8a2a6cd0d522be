"""Stores found by their name: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from babygpt.data.arrow import DATA_NAME
from babygpt.data.prepared import look, open_prepared
from babygpt.recipe import DataRecipe
from sentences import build


def test_a_store_is_opened_by_its_name_or_not_at_all(corpus: Path, tmp_path: Path) -> None:
    built = build(tmp_path, corpus)
    found = open_prepared(tmp_path, built.key)
    assert found is not None
    assert found.folder == built.folder == tmp_path / "data" / built.key
    assert (found.fingerprint, found.notes, found.withheld) == (built.fingerprint, built.notes, "")
    assert (found.reused, built.reused, found.masked) == (True, False, False)
    sides = [json.loads((found.folder / side / "babygpt.json").read_text()) for side in ("train", "val")]
    both = " ".join(side["fingerprint"] for side in sides)
    assert found.fingerprint == hashlib.sha256(both.encode()).hexdigest()
    assert open_prepared(tmp_path, "0" * 32) is None
    manifest = found.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sha256"], content["facts"]["withheld"]  # its own checksum need not be there
    manifest.write_text(json.dumps(content))
    assert open_prepared(tmp_path, built.key) is not None
    assert open_prepared(tmp_path, built.key, needs_withheld=True) is None
    (found.val.folder / DATA_NAME).write_bytes(b"x")
    assert open_prepared(tmp_path, built.key) is None


def test_files_that_were_read_before_are_taken_on_trust(corpus: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.txt"
    val.write_text("held out")
    recipe = DataRecipe(path=(str(corpus),), val_path=(str(val),))
    first, second, read = look(recipe, tmp_path), look(recipe, tmp_path), look(recipe, tmp_path, trust=False)
    assert {each.num_files for each in (first, second, read)} == {61}
    assert first.path.identity == second.path.identity == read.path.identity
    assert read.taken_on_trust == 0
