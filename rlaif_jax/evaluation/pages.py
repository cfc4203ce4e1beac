# SPDX-License-Identifier: Apache-2.0
"""Renders self-contained HTML pages from `evaluation/templates`."""

from __future__ import annotations

import functools
import pathlib
import typing
from typing import Mapping

from rlaif_jax.core import parsing

if typing.TYPE_CHECKING:
  import jinja2

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


@functools.cache
def environment() -> jinja2.Environment:
  """Returns the Jinja environment: it escapes, and unknown names are errors."""
  import jinja2

  result = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  result.filters["p_value"] = "{:.2g}".format
  result.filters["mirror"] = mirror
  return result


def mirror(estimate: Mapping[str, object]) -> dict[str, object]:
  """Returns the win rate of B against A from that of A against B."""
  return {
    **estimate,
    "value": 1 - estimate["value"],
    "low": 1 - estimate["high"],
    "high": 1 - estimate["low"],
  }


def render(template: str, **values: object) -> str:
  """Returns a page that needs no network and no other file.

  Args:
    template: file name in `evaluation/templates`.
    **values: names in the template.

  Raises:
    ValueError: a value is missing or has another form than the template needs.
  """
  import jinja2

  try:
    return environment().get_template(template).render(**values)
  except (jinja2.TemplateError, *parsing.ERRORS) as error:
    raise ValueError(f"{template}: {parsing.reason(error)}") from error
