# SPDX-License-Identifier: Apache-2.0
"""Tables of a toy world from rows whose means are known."""

from __future__ import annotations

from rlaif_jax.core import jsonl
from rlaif_jax.experiments import toy_report


def rows(deviation=True):
  found = []
  for arm, lift in (("one", 0.0), ("five <b>", 0.5)):
    for seed in (0, 1):
      base = {"arm": arm, "seed": seed}
      found.append(
        {
          **base,
          "stage": "proxy",
          "accuracy": 0.6 + 0.1 * seed,
          "parameters": 12345,
          "learned": 12,
        }
      )
      for n in (1, 4):
        found.append(
          {**base, "stage": "search", "n": n, "kl": n / 4, "gold": n + lift}
        )
      for step, kl in enumerate((0.0, 3.0, 6.0)):
        row = {**base, "stage": "policy", "step": step, "kl": kl}
        row |= {"gold": kl + lift + seed, "proxy": 2.0, "tokens": 9.0}
        u = lift * (1 + kl + seed)  # One model has none.
        found.append({**row, "deviation": u} if deviation else row)
  return found


def lines(table):
  head, body = table
  return [dict(zip(head, line, strict=True)) for line in body]


def test_policies_at_matched_kl_and_at_the_end():
  first, second = lines(toy_report.policies(rows()))
  # Gold is kl + seed: at KL 2 the mean is 2.5, the standard error 0.5.
  assert first["gold at KL 2"] == "2.50 ± 0.50"
  assert first["gold at KL 10"] == "-"
  assert first["gold at the end"] == "6.50 ± 0.50"
  assert first["end minus the first arm's"] == ""
  assert second["end minus the first arm's"] == "0.50 ± 0.00"
  assert second["tokens at the end"] == "9.00 ± 0.00"


def test_a_kl_that_one_seed_reaches_says_so():
  found = [r for r in rows() if not (r["seed"] and r.get("kl") == 6.0)]
  first, _ = lines(toy_report.policies(found))
  assert first["gold at KL 5"] == "5.00 (1 of 2)"


def test_searches_and_proxies():
  first, second = lines(toy_report.searches(rows()))
  assert first["gold, best of 4"] == "4.00 ± 0.00"
  assert second["best of 4 minus the first arm's"] == "0.50 ± 0.00"
  costs = [{"arm": "one", "update_seconds": 0.002, "score_seconds": 0.01}]
  first, second = lines(toy_report.proxies(rows(), costs))
  assert first["accuracy, test pairs"] == "0.650 ± 0.050"
  assert first["ms per update"] == "2.0"
  assert first["parameters"] == "12,345"
  assert second["ms per update"] == "-" and "nuclear ratio" not in second
  more = [{**row, "ece": 0.25} for row in rows()[:1]] + rows()[1:]
  first, second = lines(toy_report.proxies(more, costs))
  assert (first["ECE"], second["ECE"]) == ("0.250", "-")


def test_deviation_at_matched_kl():
  (found,) = lines(toy_report.deviations(rows()))
  # 0.5 (1 + kl + seed): at KL 2 the mean is 1.75, over seeds half apart.
  assert found["arm"] == "five <b>" and found["at the start"] == "0.75 ± 0.25"
  assert found["at KL 2"] == "1.75 ± 0.25" and found["at KL 10"] == "-"
  assert found["end minus start"] == "3.00 ± 0.00"
  assert toy_report.deviations(rows(deviation=False)) is None


def test_best_of_n_stands_beside_policies_where_nothing_is_trained():
  search = [r for r in rows() if r["arm"] != "one" or r["stage"] == "search"]
  first, second = lines(toy_report.policies(search))
  assert (first["arm"], first["gold at the end"]) == ("one", "4.00 ± 0.00")
  assert second["end minus the first arm's"] == "3.00 ± 0.50"
  assert first["KL at the end"] == "1.00 ± 0.00"
  wins = [{**r, "win_rate": 0.75} for r in search]
  assert lines(toy_report.policies(wins))[0]["win rate at the end"] == (
    "0.75 ± 0.00"
  )
  assert "win rate at the end" not in first


def test_stages_that_nobody_ran_have_no_table():
  only = [row for row in rows() if row["stage"] == "policy"]
  titles = ["Policies", "Members' deviation"]
  assert list(toy_report.tables(only, [])) == titles
  assert toy_report.searches(only) is None
  assert toy_report.proxies(only, []) is None


def test_read_tables_figures_and_markdown(tmp_path):
  jsonl.write_text(
    tmp_path / "toy <1>" / "rows.jsonl",
    "".join(jsonl.dump_row(row) + "\n" for row in rows()),
  )
  (toy,) = toy_report.read(tmp_path)
  assert toy["name"] == "toy <1>" and len(toy["tables"]) == 4
  assert ["<svg" in svg for _, svg in toy["figures"]] == [True, True]
  text = toy_report.markdown(
    [{"name": "toy", "tables": {"T": (["a", "b"], [["1", "2"]])}}]
  )
  assert text == "## toy: T\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
