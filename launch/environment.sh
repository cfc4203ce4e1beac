#!/usr/bin/env bash
# Makes the project's own environment, once; sourced by the other scripts.
# RLAIF_VENV names another place for it, RLAIF_PYTHON another interpreter.

rlaif_environment() {
  local root=$1 extras=$2 venv stamp wanted
  venv=${RLAIF_VENV:-$root/.venv}
  stamp=$venv/.rlaif_$extras
  wanted=$(cksum <"$root/setup.py")
  if [ ! -x "$venv/bin/python" ]; then
    "${RLAIF_PYTHON:-python3}" -m venv "$venv"
  fi
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing rlaif_jax[$extras] into $venv (a few minutes) ..."
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    "$venv/bin/python" -m pip install --quiet -e "$root[$extras]"
    echo "$wanted" >"$stamp"
  fi
  PATH=$venv/bin:$PATH
  export PATH
}
