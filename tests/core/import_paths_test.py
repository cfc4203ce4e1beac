# SPDX-License-Identifier: Apache-2.0
"""Import paths: both spellings, and what a wrong one says."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.core import import_paths


@pytest.mark.parametrize("path", ["json:dumps", "json.dumps"])
def test_both_spellings_name_the_object(path):
  assert import_paths.load(path, "the function") is json.dumps


@pytest.mark.parametrize(
  "path, words",
  [
    ("dumps", "must be an import path"),
    ("no_such_module:f", "import of no_such_module fails.*PYTHONPATH"),
    ("json:dumbs", "json has no 'dumbs'; did you mean json:dumps"),
    ("json:", "must be an import path|import of"),
  ],
)
def test_a_wrong_path_says_what_is_wrong(path, words):
  with pytest.raises(ValueError, match=f"the function is '{path}'.*"):
    import_paths.load(path, "the function")
  with pytest.raises(ValueError, match=words):
    import_paths.load(path, "the function")
