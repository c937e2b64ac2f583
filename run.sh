#!/usr/bin/env bash
# Commands for a new clone. Each command first creates the virtual environment, if it does not exist:
#   ./run.sh demo     run the complete method on the demo data (a few minutes on two CPU cores)
#   ./run.sh test     run the linters, the type checker and the tests
#   ./run.sh slow     run the tests that take minutes each
#   ./run.sh gpu      on a machine with a GPU: check AFA there and measure its speed, in ten minutes
# PYTHON sets the interpreter (3.11 or newer), VENV the folder of the environment (default: .venv). With VENV=none,
# PYTHON is used as it is, with the packages that it has.
set -euo pipefail
cd "$(dirname "$0")"
command=${1:-help}
python=${PYTHON:-python3}
venv=${VENV:-.venv}
interpreter=$venv/bin/python
[ "$venv" != none ] || interpreter=$python

install() { # install [EXTRA]: install this folder's program, editable, and its packages in the versions of requirements.lock
    [ "$venv" != none ] || return 0
    local stamp="$venv/${1:-afa}.installed"
    if ! cmp -s <(cat pyproject.toml requirements.lock && pwd) "$stamp"; then
        "$python" -c 'import sys; sys.exit("Python 3.11 or newer is required; set PYTHON=<interpreter>") if sys.version_info < (3, 11) else None'
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet --editable ".${1:+[$1]}" --constraint requirements.lock
        (cat pyproject.toml requirements.lock && pwd) > "$stamp"
    fi
}

case $command in
    demo)
        install
        "$interpreter" main.py hocon_config/demo/afa.hocon "${@:2}"
        ;;
    test)
        install dev
        "$interpreter" -m ruff check .
        "$interpreter" -m ruff format --check .
        "$interpreter" -m mypy
        "$interpreter" -m pytest "${@:2}"
        ;;
    slow)
        install dev
        "$interpreter" -m pytest -m slow "${@:2}"
        ;;
    gpu)
        install
        "$interpreter" benchmarks/gpu.py "${@:2}"
        ;;
    *)
        sed -n '2,8p' "$0" | cut -c3-
        [ "$command" = help ]
        ;;
esac
