# SPDX-License-Identifier: Apache-2.0
"""Imports point down only, and each outside library has one owner."""

from __future__ import annotations

import ast

import pytest

from tests.house import source

# What each floor may import of ours. The order is from the ground up.
FLOORS = {
  "core": set(),
  "ops": {"core"},
  "text": {"core"},
  "models": {"core", "ops"},
  "interop": {"core", "models"},
  "engine": {"core", "ops"},
  "data": {"core", "text", "engine"},
  # Responses are cleaned as `text` does it.
  "evaluation": {"core", "ops", "text"},
  "labeling": {"core", "ops", "text", "engine"},
  # Annotations are kept in the label store.
  "rating": {"core", "ops", "evaluation", "labeling"},
  "sft": {"core", "models", "engine", "data"},
  # The training losses of pairs read files of labelled pairs.
  "reward": {"core", "ops", "text", "models", "engine", "data"},
  "rl": {"core", "ops", "engine"},
  "dpo": {"core", "ops", "engine"},
}
# Finished models on disk.
FLOORS["model_io"] = set(FLOORS)
# The public API, and what several jobs share.
FLOORS["api"] = set(FLOORS)
FLOORS["planner"] = set(FLOORS)
FLOORS["experiments"] = set(FLOORS) - {"planner"}
_BELOW_JOBS = set(FLOORS)
FLOORS["jobs"] = _BELOW_JOBS
# The command line imports jobs by name, from cli.job_table.
FLOORS["cli"] = {"core", "engine"}
FLOORS["main"] = {"core", "engine", "cli"}
# Nobody imports the benchmarks.
FLOORS["bench"] = _BELOW_JOBS | {"cli"}

# Outside library -> the modules that may import it, by prefix.
FENCES = {
  "gin": ("rlaif_jax.cli.gin_reader",),
  "absl.flags": (),
  "tensorflow": ("rlaif_jax.data",),
  "tensorflow_datasets": ("rlaif_jax.data",),
  "seqio": ("rlaif_jax.data",),
  "orbax": (
    "rlaif_jax.engine.checkpoint",
    "rlaif_jax.engine.run_checkpoints",
  ),
  "optax": ("rlaif_jax.engine.optimizer", "rlaif_jax.engine.step"),
  "matplotlib": ("rlaif_jax.evaluation.figures",),
  "scipy": ("rlaif_jax.ops", "rlaif_jax.evaluation"),
  "safetensors": (
    "rlaif_jax.interop.safetensors_files",
    "rlaif_jax.interop.peft_files",
  ),
  "qwix": ("rlaif_jax.ops.quantization",),
  "gguf": ("rlaif_jax.interop.gguf_files",),
  "tensorstore": (
    "rlaif_jax.interop.t5x_files",
    "rlaif_jax.interop.zarr_files",
  ),
  "openai": ("rlaif_jax.labeling.endpoint",),
  "apache_beam": (
    "rlaif_jax.labeling.beam_files",
    "rlaif_jax.labeling.beam_labels",
  ),
  "tokenizers": (
    "rlaif_jax.text.encoder_tokenizer",
    "rlaif_jax.text.gguf_vocabulary",
    "rlaif_jax.text.tokenizers",
  ),
  "jinja2": ("rlaif_jax.text.chat_renderer", "rlaif_jax.evaluation.pages"),
  "torch": (),
  "transformers": (),
}

# Imported inside functions only: the package works without them, or they make
# each command a second longer (scipy).
LAZY = {
  "tensorflow",
  "tensorflow_datasets",
  "seqio",
  "matplotlib",
  "pyarrow",
  "safetensors",
  "qwix",
  "gguf",
  "tensorstore",
  "tokenizers",
  "jinja2",
  "openai",
  "apache_beam",
  "scipy",
}

# Floors on which nothing may reach JAX.
NO_JAX = ("text", "evaluation")


def floor_of(name: str) -> str:
  parts = name.split(".")
  return parts[1] if len(parts) > 1 else ""


def at_run_time(module: ast.Module) -> ast.Module:
  """The module without its `if TYPE_CHECKING:` blocks."""

  class Strip(ast.NodeTransformer):
    def visit_If(self, node):
      return None if "TYPE_CHECKING" in ast.unparse(node.test) else node

  return Strip().visit(ast.parse(ast.unparse(module)))


def is_under(name: str, prefix: str) -> bool:
  return f"{name}.".startswith(f"{prefix}.")


@pytest.fixture(scope="module")
def graph():
  """Module -> names that it imports, with lines."""
  return {
    source.dotted(path): list(source.imports(source.tree(path)))
    for path in source.modules()
  }


def test_imports_point_down(graph):
  wrong = []
  for module, names in graph.items():
    floor = floor_of(module)
    for name, line in names:
      if not is_under(name, "rlaif_jax") or not floor:
        continue
      other = floor_of(name)
      if other != floor and other not in FLOORS[floor]:
        wrong.append(f"{module}:{line} imports {name}")
  assert not wrong, "these point up or sideways:\n" + "\n".join(wrong)


def test_every_floor_is_known(graph):
  floors = {floor_of(module) for module in graph} - {""}
  assert floors <= set(FLOORS), "say in FLOORS where the new package stands"


def test_outside_libraries_have_one_owner():
  """Names that only annotations need are free, under TYPE_CHECKING."""
  wrong = []
  for path in source.modules():
    module = source.dotted(path)
    for name, _ in source.imports(at_run_time(source.tree(path))):
      for library, owners in FENCES.items():
        if is_under(name, library) and not any(
          is_under(module, owner) for owner in owners
        ):
          wrong.append(f"{module} imports {name}; owner: {owners}")
  assert not wrong, "\n".join(wrong)


def test_optional_libraries_are_imported_inside_functions():
  wrong = []
  for path in source.modules():
    top = [n for n in source.tree(path).body if not _is_definition(n)]
    for node in top:
      for name, line in source.imports(at_run_time(ast.Module([node], []))):
        if any(is_under(name, library) for library in LAZY):
          wrong.append(f"{source.short(path)}:{line} imports {name}")
  assert not wrong, "import these where they are used:\n" + "\n".join(wrong)


def _is_definition(node: ast.stmt) -> bool:
  return isinstance(node, (ast.FunctionDef, ast.ClassDef))


def test_text_and_evaluation_do_not_reach_jax():
  graph = {
    source.dotted(path): {
      name for name, _ in source.imports(at_run_time(source.tree(path)))
    }
    for path in source.modules()
  }
  for start in [m for m in graph if floor_of(m) in NO_JAX]:
    seen, queue = set(), [start]
    while queue:
      module = queue.pop()
      if module in seen:
        continue
      seen.add(module)
      for name in graph[module]:
        assert name.split(".")[0] not in ("jax", "flax"), (
          f"{start} reaches {name} through {module}"
        )
        if name in graph:
          queue.append(name)


def test_no_import_cycle(graph):
  edges = {m: {n for n, _ in names if n in graph} for m, names in graph.items()}
  done: set[str] = set()

  def visit(module, path):
    assert module not in path, "cycle: " + " -> ".join([*path, module])
    if module not in done:
      for other in edges[module]:
        visit(other, [*path, module])
      done.add(module)

  for module in edges:
    visit(module, [])


def test_modules_are_imported_not_names():
  """`from rlaif_jax.ops import preference`, so that calls say whose they are.

  Classes and functions imported by name hide where they live.
  """
  known = {source.dotted(p) for p in source.modules()}
  wrong = []
  for path in source.modules() + source.tests():
    # The public names of the package itself are imported for type checkers.
    for name, line in source.imports(at_run_time(source.tree(path))):
      if is_under(name, "rlaif_jax") and name not in known:
        wrong.append(f"{source.short(path)}:{line} imports {name}")
  assert not wrong, "\n".join(wrong)


def test_only_packages_with_empty_init():
  for path in source.PACKAGE.rglob("__init__.py"):
    if path.parent != source.PACKAGE:
      assert not source.text(path).strip(), f"{source.short(path)}: empty it"
