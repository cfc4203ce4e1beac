# SPDX-License-Identifier: Apache-2.0
"""The folder of JAX's persistent compilation cache. Does not import JAX.

A compiled program is code. The cache is used only if nobody else can write it.
"""

from __future__ import annotations

import grp
import os
import pathlib
import platform
import pwd
import stat
import sys
from typing import Mapping, MutableMapping

# The variable of this package, and JAX's own.
OURS = "RLAIF_JAX_CACHE"
JAX = "JAX_COMPILATION_CACHE_DIR"


def cache_dir(environ: Mapping[str, str]) -> str:
  """Returns the folder, or "" if the cache is off.

  JAX's variable comes first, then RLAIF_JAX_CACHE ("off" disables the cache),
  then the user's cache folder, with one folder per host name: programs
  compiled for one CPU may not run on another.
  """
  if environ.get(JAX):
    return environ[JAX]
  if environ.get(OURS):
    return "" if environ[OURS] == "off" else environ[OURS]
  caches = environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return str(pathlib.Path(caches) / "rlaif_jax" / (platform.node() or "here"))


def enable(environ: MutableMapping[str, str]) -> None:
  """Sets JAX's variable; must run before JAX is imported.

  Creates the folder for its owner only. If others can write it, prints why the
  cache is off and removes the variable. A folder of a bucket ("gs://...") is
  not checked.
  """
  directory = cache_dir(environ)
  if directory and "://" not in directory:
    directory = os.path.realpath(directory)
    if why := find_risk(directory):
      print(
        f"the cache of compiled programs is off: {why}, or set {OURS} to "
        "another folder",
        file=sys.stderr,
      )
      directory = ""
  if directory:
    environ[JAX] = directory
  else:
    environ.pop(JAX, None)


def find_risk(directory: str) -> str:
  """Creates a folder and returns who else can write it, and what to type.

  The folder and its files must belong to this user, its parents to this user
  or root. Only their owners may write them; in a parent with the sticky bit,
  such as /tmp, others may write but not rename the folder.

  Returns:
    "" if nobody else can write it.
  """
  path = pathlib.Path(directory)
  try:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    own = os.geteuid()
    for parent in path.parents:
      found = parent.stat()
      if found.st_uid not in (own, 0):
        return f"{parent} belongs to {_user(found.st_uid)}; change its owner"
      if _others_write(found) and not found.st_mode & stat.S_ISVTX:
        return f"others can write {parent}; type: chmod go-w '{parent}'"
    found = path.stat()
    if found.st_uid != own:
      return f"{path} belongs to {_user(found.st_uid)}; delete it"
    if _others_write(found):
      return f"others can write {path}; type: rm -r '{path}'"
    with os.scandir(path) as entries:
      for entry in entries:
        owner = entry.stat(follow_symlinks=False).st_uid
        if owner != own:
          return f"{entry.path} belongs to {_user(owner)}; type: rm -r '{path}'"
  except OSError as error:
    return f"{path}: {error.strerror}; make it a folder that you can write"
  return ""


def _others_write(found: os.stat_result) -> bool:
  """Returns whether anybody but the owner can write a file or folder."""
  if found.st_mode & stat.S_IWOTH:
    return True
  return bool(found.st_mode & stat.S_IWGRP) and not _is_private(found)


def _is_private(found: os.stat_result) -> bool:
  """Returns whether a group has its user's name and no other member."""
  try:
    group = grp.getgrgid(found.st_gid)
  except KeyError:
    return False
  return group.gr_name == _user(found.st_uid) and (
    set(group.gr_mem) <= {group.gr_name}
  )


def _user(number: int) -> str:
  """Returns the name of a user, or its number if it has none."""
  try:
    return pwd.getpwuid(number).pw_name
  except KeyError:
    return f"user {number}"
