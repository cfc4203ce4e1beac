# SPDX-License-Identifier: Apache-2.0
"""XLA flags of tests, which compile longer than they compute; without JAX."""

from __future__ import annotations

from importlib import metadata

QUICK = "--xla_backend_optimization_level=0"
# Without the fusion emitters a training step compiles in a third of the time,
# and in one piece, not 32 at once, in two thirds of that.
# XLA ends a process whose flag it does not know, and jaxlib 0.12 has no such.
if metadata.version("jaxlib").startswith("0.10."):
  QUICK += " --xla_cpu_use_fusion_emitters=false"
  QUICK += " --xla_cpu_parallel_codegen_split_count=1"
