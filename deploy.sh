#!/usr/bin/env bash
# Sets up and runs Avito AI API in the folder it lies in; `./deploy.sh help` lists the commands.
# bash 3.2 (macOS) must be able to read it. Every command may be run again at any time and finishes the same.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
cd "$ROOT"

# shellcheck source=deploy/lib/say.sh
. deploy/lib/say.sh
# shellcheck source=deploy/lib/python.sh
. deploy/lib/python.sh
# shellcheck source=deploy/lib/install.sh
. deploy/lib/install.sh
# shellcheck source=deploy/lib/system_packages.sh
. deploy/lib/system_packages.sh
# shellcheck source=deploy/lib/serve.sh
. deploy/lib/serve.sh

usage() {
    cat <<'TEXT'
Usage: ./deploy.sh COMMAND

  development        set up what is missing and serve at http://127.0.0.1:8085 until Ctrl+C
  test [--yes] [...] the same set-up, then all tests; --yes installs missing system packages without asking,
                     anything else is given to pytest (and then coverage is not measured)
  help               this text

Environment:
  PYTHON             the Python to use, 3.11 to 3.13 (default: the newest of these that works)
  TORCH_INDEX_URL    the package index that torch comes from (default without an NVIDIA GPU on Linux:
                     https://download.pytorch.org/whl/cpu; otherwise pip's own configuration)
  HOST, PORT         where to serve; every setting of the service may be given like this (see .env.example)
TEXT
}

development() {
    [ $# -eq 0 ] || die "'development' takes no arguments, and '$1' was given."
    find_python
    check_port
    make_venv
    install_packages requirements.txt
    write_env_file
    check_settings
    check_cuda
    serve
}

run_tests() {
    local assume_yes=no
    if [ "${1:-}" = --yes ]; then
        assume_yes=yes
        shift
    fi
    # Two processes test side by side; with as many threads as cores in each, torch's would only wait for one another.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    find_python
    install_system_packages "$assume_yes"
    make_venv
    install_packages requirements-test.txt
    if [ $# -gt 0 ]; then
        exec "$VENV_PYTHON" -m pytest "$@"
    fi
    say "The tests run now; the last line says how they went."
    exec "$VENV_PYTHON" -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered
}

case "${1:-help}" in
    development) shift && development "$@" ;;
    test) shift && run_tests "$@" ;;
    production) die "'./deploy.sh production' is not available yet." ;;
    help | -h | --help) usage ;;
    *)
        usage >&2
        die "There is no command '$1'."
        ;;
esac
