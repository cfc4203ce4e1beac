# SPDX-License-Identifier: Apache-2.0
"""The job in a tiny world: rows, and what is finished is not done again."""

from __future__ import annotations

from rlaif_jax.core import jsonl
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.jobs import rig_pairs
from rlaif_jax.jobs import run_rig_pairs
from tests import tiny_rig

ARM = rig_pairs.PairArm(name="DPO", dpo=dpo_model.DPOConfig())
TRAIN = rig_pairs.PairTrainConfig(
  optimizer=tiny_rig.adam(1e-2), epochs=1, batch_size=32
)


def run(directory, *arms):
  return run_rig_pairs.run(
    output_dir=str(directory),
    rig=tiny_rig.CONFIG,
    proxies=tiny_rig.PROXIES,
    measure=tiny_rig.TRAIN,
    train=TRAIN,
    arms=arms,
    seeds=(0,),
  )


def test_rows_of_an_arm_and_going_on(tmp_path):
  run(tmp_path, ARM)
  path = tmp_path / "rows.jsonl"
  before = path.read_text()
  rows = jsonl.parse_rows(path, dict)
  assert rows[0]["stage"] == "judges"
  assert [r["step"] for r in rows[1:]] == [0, 1, 2, 3]
  assert {"gold", "kl", "proxy", "tokens"} <= set(rows[-1])
  # One of these rows is made up: what is there is not made again.
  path.write_text(before.replace('"seed": 0', '"mark": 1, "seed": 0'))
  run(tmp_path, ARM)
  assert path.read_text().count('"mark"') == len(rows)
