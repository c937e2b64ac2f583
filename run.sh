#!/usr/bin/env bash
# Commands for a new clone. Each command first creates the virtual environment, if it does not exist:
#   ./run.sh demo     run the complete method on the demo data (a few minutes on two CPU cores)
#   ./run.sh test     run the linters, the type checker and the tests
#   ./run.sh slow     run the tests that take minutes each
# PYTHON sets the interpreter (3.11 or newer), VENV the folder of the environment (default: .venv).
set -euo pipefail
cd "$(dirname "$0")"
command=${1:-help}
python=${PYTHON:-python3}
venv=${VENV:-.venv}

install() { # install [EXTRA]: install this folder's program, editable, and its packages in the versions of requirements.lock
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
        "$venv/bin/python" main.py hocon_config/demo/afa.hocon "${@:2}"
        ;;
    test)
        install dev
        "$venv/bin/ruff" check .
        "$venv/bin/ruff" format --check .
        "$venv/bin/mypy"
        "$venv/bin/python" -m pytest "${@:2}"
        ;;
    slow)
        install dev
        "$venv/bin/python" -m pytest -m slow "${@:2}"
        ;;
    *)
        sed -n '2,6p' "$0" | cut -c3-
        [ "$command" = help ]
        ;;
esac
