# SPDX-License-Identifier: Apache-2.0
"""The model, the report of a benchmark and its flags."""

from __future__ import annotations

import json

import flax.linen as nn
import jax

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.models import architectures


def test_the_model_is_the_peers():
  functions = architectures.language(workload.MODEL)
  shapes = nn.unbox(jax.eval_shape(functions.init, jax.random.key(0)))
  sizes = {
    path: leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  assert round(sum(sizes.values()) / 1e6, 1) == 43.7
  kernels = sum(n for path, n in sizes.items() if path[-1].key == "kernel")
  assert model_flops.block_params(workload.MODEL) == kernels


def test_the_report(monkeypatch, capsys):
  monkeypatch.setattr(roofline, "seconds_of", lambda call, n: [8.0, 4.0, 5.0])
  machine = roofline.Machine(flops=1e9, bandwidth=1e9)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  phases = [roofline.Phase(name="all", flops=1e9, bytes=5e8, times=2.0)]
  workload.report(
    "x", "pairs", 10, lambda: None, phases, repetitions=3, settings={"rows": 3}
  )
  line = json.loads(capsys.readouterr().out)
  assert line["pairs_per_s"] == 2.0
  assert line["roofline_pairs_per_s"] == 5.0
  assert line["share"] == 0.4
  assert (line["gflop"], line["gb"]) == (2.0, 1.0)
  assert line["rows"] == 3


def test_flags_are_the_parameters_of_run():
  calls = []

  def run(rows: int = 3, *, plain: bool = False, svg: str = "", model=None):
    calls.append((rows, plain, svg, model))

  workload.main(run, "doc", [])
  workload.main(run, "doc", ["--rows=5", "--plain", "--svg=a"])
  assert calls == [(3, False, "", None), (5, True, "a", None)]
