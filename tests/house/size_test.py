# SPDX-License-Identifier: Apache-2.0
"""Files, functions and signatures stay small enough to read."""

from __future__ import annotations

import ast

from tests.house import source

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
# The body of a job's `run`, and its whole file.
MAX_JOB_LINES = 100
MAX_JOB_FILE_LINES = 150
MAX_ARGUMENTS = 8
MAX_JOB_ARGUMENTS = 10
# A model config is a list of sizes; twelve are enough for all others.
MAX_CONFIG_FIELDS = 14
COLUMNS = 80


def all_files():
  return source.modules() + source.tests()


def test_files():
  long = {
    source.short(path): len(source.text(path).splitlines())
    for path in all_files()
    if len(source.text(path).splitlines()) > MAX_FILE_LINES
  }
  assert not long, f"more than {MAX_FILE_LINES} lines: {long}"


def test_job_files():
  """A job reads top to bottom; what jobs share is in other packages."""
  long = {
    source.short(path): len(source.text(path).splitlines())
    for path in source.modules()
    if path.parent.name == "jobs"
    and len(source.text(path).splitlines()) > MAX_JOB_FILE_LINES
  }
  assert not long, f"more than {MAX_JOB_FILE_LINES} lines: {long}"


def test_columns():
  wrong = [
    f"{source.short(path)}:{number}"
    for path in all_files()
    for number, line in enumerate(source.text(path).splitlines(), start=1)
    if len(line) > COLUMNS and "http" not in line
  ]
  assert not wrong, f"more than {COLUMNS} columns: {wrong}"


def test_headers():
  wrong = []
  for path in all_files():
    text = source.text(path)
    if not text.strip():
      continue
    has_doc = bool(ast.get_docstring(source.tree(path)))
    if not text.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
      wrong.append(f"{source.short(path)}: no SPDX line")
    if not has_doc:
      wrong.append(f"{source.short(path)}: no module docstring")
  assert not wrong, "\n".join(wrong)


def body_lines(function: ast.FunctionDef) -> int:
  """Lines of the body; the docstring is free."""
  body = function.body
  if ast.get_docstring(function) is not None:
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def max_lines(path, function: ast.FunctionDef) -> int:
  is_job = path.parent.name == "jobs" and function.name == "run"
  return MAX_JOB_LINES if is_job else MAX_BODY_LINES


def test_function_bodies():
  long = [
    f"{source.short(path)}:{f.lineno} {f.name}: {body_lines(f)}"
    for path in all_files()
    for f in source.functions(source.tree(path))
    if body_lines(f) > max_lines(path, f)
  ]
  assert not long, f"more than {MAX_BODY_LINES} lines:\n" + "\n".join(long)


def test_argument_counts():
  """A job's `run` may have more: its keywords are its configuration."""
  wrong = []
  for path in source.modules():
    in_jobs = path.parent.name == "jobs"
    for f in source.functions(source.tree(path)):
      a = f.args
      positional = [x.arg for x in a.posonlyargs + a.args]
      positional = [x for x in positional if x not in ("self", "cls")]
      count = len(positional) + len(a.kwonlyargs)
      limit = MAX_ARGUMENTS
      if in_jobs and f.name == "run":
        assert not positional, f"{source.short(path)}: run(*, ...)"
        count -= 1  # output_dir is the command line's.
        limit = MAX_JOB_ARGUMENTS
      if count > limit:
        wrong.append(f"{source.short(path)}:{f.lineno} {f.name}: {count}")
  assert not wrong, f"too many arguments: {wrong}"


def test_config_dataclasses():
  """Frozen, keyword-only, few fields."""
  wrong = []
  for path in source.modules():
    for cls in source.dataclasses(source.tree(path)):
      if not cls.name.endswith("Config"):
        continue
      decorators = " ".join(ast.unparse(d) for d in cls.decorator_list)
      fields = [n for n in cls.body if isinstance(n, ast.AnnAssign)]
      where = f"{source.short(path)}:{cls.lineno} {cls.name}"
      if "frozen=True" not in decorators or "kw_only=True" not in decorators:
        wrong.append(f"{where} is not frozen and keyword-only")
      if len(fields) > MAX_CONFIG_FIELDS:
        wrong.append(f"{where} has {len(fields)} fields")
  assert not wrong, "\n".join(wrong)


def compares_with_itself(test: ast.Assert) -> bool:
  check = test.test
  if isinstance(check, ast.Compare) and len(check.comparators) == 1:
    return ast.dump(check.left) == ast.dump(check.comparators[0])
  return False


def test_no_assertion_compares_a_thing_with_itself():
  wrong = []
  for path in source.tests():
    for node in ast.walk(source.tree(path)):
      if isinstance(node, ast.Assert) and compares_with_itself(node):
        wrong.append(f"{source.short(path)}:{node.lineno}")
      if isinstance(node, ast.Call) and "assert" in ast.unparse(node.func):
        arguments = [ast.dump(a) for a in node.args[:2]]
        if len(arguments) == 2 and arguments[0] == arguments[1]:
          wrong.append(f"{source.short(path)}:{node.lineno}")
  assert not wrong, f"these cannot fail: {wrong}"


def test_printing_and_tail_words():
  """print belongs to jobs, benches and the command line; no TODO, no utils."""
  wrong = []
  for path in source.modules():
    if path.stem in ("utils", "util", "helpers", "common", "misc", "base"):
      wrong.append(f"{source.short(path)}: name the idea that it holds")
    if "TODO" in source.text(path) or "FIXME" in source.text(path):
      wrong.append(f"{source.short(path)}: do it, or file an issue")
    if path.parent.name in ("jobs", "bench", "cli") or path.name == "main.py":
      continue
    for node in ast.walk(source.tree(path)):
      if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
        wrong.append(f"{source.short(path)}:{node.lineno}: absl.logging")
  assert not wrong, "\n".join(wrong)


def test_catching_everything_is_left_to_backends_and_main():
  wrong = []
  for path in source.modules():
    # `parsing.panics` raises all but one class again, which has no import.
    if path.name in ("backends.py", "main.py", "parsing.py"):
      continue
    for node in ast.walk(source.tree(path)):
      if isinstance(node, ast.ExceptHandler) and (
        node.type is None
        or ast.unparse(node.type) in ("Exception", "BaseException")
      ):
        wrong.append(f"{source.short(path)}:{node.lineno}")
  assert not wrong, f"catch what you expect: {wrong}"
