# SPDX-License-Identifier: Apache-2.0
"""Records to JSON and back; bad rows are named."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.core import records


def preference(**changes):
  fields = dict(
    id="a",
    context="c",
    first="x",
    second="y",
    p_first=0.25,
    labeler="l",
    p_orders=(0.1, 0.4),
  )
  return records.Preference(**{**fields, **changes})


def test_round_trip():
  row = records.to_row(preference())
  assert records.from_row(records.Preference, row) == preference()


def test_lists_of_json_become_tuples():
  row = {**records.to_row(preference()), "p_orders": [0.1, 0.4]}
  assert records.from_row(records.Preference, row) == preference()


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_label_outside_zero_one_is_an_error(value):
  with pytest.raises(ValueError, match="probability"):
    preference(p_first=value)


def test_unknown_and_missing_keys_are_named():
  row = records.to_row(preference())
  del row["first"]
  row["frist"] = "x"
  with pytest.raises(ValueError, match="'first'.*'frist'"):
    records.from_row(records.Preference, row)


def test_content_ids_tell_where_texts_begin():
  assert records.content_id("ab", "c") != records.content_id("a", "bc")
  assert records.content_id("ab", "c") == "43ee655579de01ca"
  assert len(records.content_id("")) == 16


def test_usage_adds_up():
  total = records.Usage(input_tokens=1) + records.Usage(requests=2)
  assert total == records.Usage(input_tokens=1, requests=2)


def test_records_inside_records_come_back():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Plain:
    sizes: dict

  row = {"outer": {"sizes": {"a": 1}}, "name": "x"}
  outer = dataclasses.make_dataclass(
    "Outer", [("outer", Plain), ("name", str)], frozen=True, kw_only=True
  )
  made = records.from_row(outer, row)
  assert made.outer == Plain(sizes={"a": 1})
  assert records.to_row(made) == row
  with pytest.raises(ValueError, match="Plain: missing keys"):
    records.from_row(outer, {"outer": {}, "name": "x"})


def test_a_pair_is_of_texts_and_any_text_has_a_name():
  fields = {"id": "p", "context": "c", "first": "a", "second": "b"}
  for name in fields:
    with pytest.raises(ValueError, match=f"{name} is 7; it should be a text"):
      records.Pair(**{**fields, name: 7})
  names = {records.content_id(text) for text in ("\ud800", "\ud801", "?")}
  assert len(names) == 3


@pytest.mark.parametrize(
  "change, message",
  [
    ({"first": 1}, "first is 1; it must be a text"),
    ({"first": "\ud800"}, r"first is '\\ud800'; it must be Unicode"),
    ({"p_first": "0.5"}, "p_first is '0.5'; it must be a finite number"),
    ({"p_first": float("nan")}, "p_first is nan; it must be a finite number"),
    ({"p_first": 10**400}, "it must be a finite number"),
    ({"p_first": True}, "p_first is True; it must be a finite number"),
    ({"confidence": 1.0}, "confidence is 1.0; it must be an integer"),
    ({"confidence": 2**63}, "it must be an integer"),
    ({"p_orders": 1}, "p_orders is 1; it must be a list"),
    ({"p_orders": [0.5, None]}, "each element: it must be a finite number"),
    ({"rationales": "xy"}, "rationales is 'xy'; it must be a list"),
    ({"rationales": ["a", ["b"]]}, "each element: it must be a text"),
  ],
)
def test_a_value_of_another_type_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    records.from_row(
      records.Preference, {**records.to_row(preference()), **change}
    )


@pytest.mark.parametrize("row", [[], None, "x", 1, [["id", "x"]]])
def test_a_row_is_an_object(row):
  with pytest.raises(ValueError, match="Preference: expected an object, found"):
    records.from_row(records.Preference, row)


def test_values_are_kept_as_they_are():
  """An integer stays one, so that files do not change."""
  found = records.from_row(
    records.Preference, {**records.to_row(preference()), "p_first": 1}
  )
  assert type(found.p_first) is int
