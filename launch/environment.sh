#!/usr/bin/env bash
# Creates the Python environment of the other scripts, which source this one.
# RLAIF_VENV is its folder, RLAIF_PYTHON the interpreter.

rlaif_environment() {
  local root=$1 extras=$2 python=${RLAIF_PYTHON:-python3} venv stamp wanted
  venv=${RLAIF_VENV:-$root/.venv}
  stamp=$venv/.rlaif_$extras
  wanted=$(cksum <"$root/setup.py")
  # Also repairs an environment whose creation was interrupted before pip.
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$python is older than Python 3.11; set RLAIF_PYTHON=..." >&2
      return 1
    fi
    "$python" -m venv "$venv"
  fi
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing rlaif_jax[$extras] into $venv (a few minutes) ..."
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    # Setuptools warns about every editable installation.
    PYTHONWARNINGS=ignore \
      "$venv/bin/python" -m pip install --quiet -e "${root}[$extras]"
    echo "$wanted" >"$stamp"
  fi
  PATH=$venv/bin:$PATH
  export PATH
}
