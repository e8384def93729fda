#!/usr/bin/env bash
# Sets up and runs Avito AI API in its own folder; `./deploy.sh help` lists the commands.
# Must be readable by bash 3.2 (macOS). Every command is idempotent.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source=deploy/lib/locale.sh
. "$ROOT/deploy/lib/locale.sh"
# shellcheck source=deploy/lib/caller.sh
. "$ROOT/deploy/lib/caller.sh"
take_paths_of_environment
cd "$ROOT"
unset PYTHONSAFEPATH # of the caller's: `python -m deploy...` is found in this folder

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
# shellcheck source=deploy/lib/paths.sh
. deploy/lib/paths.sh
# shellcheck source=deploy/lib/backups.sh
. deploy/lib/backups.sh
# shellcheck source=deploy/lib/account.sh
. deploy/lib/account.sh
# shellcheck source=deploy/lib/machine.sh
. deploy/lib/machine.sh
# shellcheck source=deploy/lib/release.sh
. deploy/lib/release.sh
# shellcheck source=deploy/lib/unit.sh
. deploy/lib/unit.sh
# shellcheck source=deploy/lib/vllm.sh
. deploy/lib/vllm.sh
# shellcheck source=deploy/lib/switch.sh
. deploy/lib/switch.sh
# shellcheck source=deploy/lib/checked.sh
. deploy/lib/checked.sh
# shellcheck source=deploy/lib/proxy.sh
. deploy/lib/proxy.sh
# shellcheck source=deploy/lib/firewall.sh
. deploy/lib/firewall.sh
# shellcheck source=deploy/lib/plan.sh
. deploy/lib/plan.sh
# shellcheck source=deploy/lib/production.sh
. deploy/lib/production.sh
# shellcheck source=deploy/lib/status.sh
. deploy/lib/status.sh
# shellcheck source=deploy/lib/keys.sh
. deploy/lib/keys.sh
# shellcheck source=deploy/lib/update.sh
. deploy/lib/update.sh
# shellcheck source=deploy/lib/models.sh
. deploy/lib/models.sh

# What Python compiled there as root the owner of a checkout could neither renew nor remove.
if is_root && [ "$(stat -c %U "$ROOT" 2>/dev/null)" != root ]; then export PYTHONDONTWRITEBYTECODE=1; fi

# Without it, a command that ends by itself on Ctrl+C would count as one that failed.
trap 'exit 130' INT

usage() {
    cat <<'TEXT'
Usage: ./deploy.sh COMMAND

  development        set up what is missing and serve on http://127.0.0.1:8085 until Ctrl+C
  models [--to FOLDER] [--dry-run] [MODEL[=OWNER/NAME] ...]
                     download the models from Hugging Face, check them and write their folders into the settings;
                     MODEL is avibe or avision (default: both), OWNER/NAME another repository than Avito's;
                     --dry-run shows names, sizes and free space; run it again to continue a download
  test [--yes] [...] the same set-up, then all tests; --yes installs missing system packages without asking,
                     anything else is given to pytest (then only what the selected tests need is installed, and
                     coverage is not measured); without apt or root, tests whose programs are missing are left out
  production [options] [NAME=VALUE ...]
                     install this tree as a new release of the systemd service and roll back if it fails to serve;
                     NAME=VALUE writes a setting to /etc/avito-ai/.env
      --dry-run                  print the steps without changing anything
      --domain NAME              set up nginx with TLS from Let's Encrypt (--email ADDRESS for its notices)
      --certificate FILE --certificate-key FILE
                                 with --domain: use your own certificate
      --firewall                 apply the firewall rules that are otherwise only shown
      --no-backup                update without a backup of settings and database before it
  status             the release, its state and readiness; root alone can see all of it
  rollback [RELEASE] return to the previous release, or to the given one
  keys COMMAND       make and manage client keys; './deploy.sh keys --help' lists what it takes
  update [SOURCE]    fetch a newer tree (a tag or branch, a folder, a tarball or its URL) and install it;
                     --sha256 SUM verifies a tarball, --no-backup makes no backup before
  uninstall [--purge] [--yes]
                     remove the service; --purge removes settings, state and logs too; asks first, so away from a
                     terminal it needs --yes
  help               this text

Environment:
  PYTHON             the Python to use, 3.11 to 3.13 (default: the newest one that works)
  TORCH_INDEX_URL    the package index for torch (default without an NVIDIA GPU on Linux:
                     https://download.pytorch.org/whl/cpu; otherwise pip's own configuration)
  HF_TOKEN, HF_TOKEN_FILE, HF_ENDPOINT
                     for models: a token of your account, the file that has it, and another address than
                     https://huggingface.co
  HOST, PORT         address of development, which reads every setting from the environment (see .env.example)
TEXT
}

# $1: a command. Prints its part of the usage, or fails if there is no such command.
usage_of() {
    usage | awk -v name="$1" '/^  [a-z]/ { found = $1 == name } /^$/ { found = 0 } found { print; any = 1 } END { exit !any }'
}

# True if help is wanted, which needs no set-up.
asks_for_help() {
    local argument
    for argument; do
        case "$argument" in -h | --help) return 0 ;; esac
    done
    return 1
}

development() {
    [ $# -eq 0 ] || die "'development' takes no arguments, but got '$1'."
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
    # The tests run in two processes; with one thread per core in each, torch's threads would compete.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    find_python
    if [ $# -gt 0 ]; then
        run_some_tests "$assume_yes" "$@"
    fi
    # shellcheck disable=SC2046  # words
    install_system_programs "$assume_yes" $(all_programs)
    make_venv
    install_packages requirements-test.txt
    say "Running the tests; the last line has the result."
    # Coverage of a part of the tests is meaningless.
    if [ -z "$LEFT_OUT" ]; then set -- -p pytest_cov --cov --cov-report=term:skip-covered; fi
    run_pytest -p xdist -n 2 --dist worksteal "$@"
}

# $1: as for install_system_programs; the other arguments select tests, as for pytest. Only programs that these tests
# need are installed; if no program is missing, the tests are not even collected.
run_some_tests() {
    local assume_yes="$1" word words=()
    shift
    for word; do words+=("$(tests_from_caller "$word")"); done
    set -- "${words[@]}"
    make_venv
    install_packages requirements-test.txt
    # shellcheck disable=SC2046  # words
    find_missing_programs $(all_programs)
    if [ ${#MISSING_PROGRAMS[@]} -gt 0 ]; then
        # shellcheck disable=SC2046  # words
        install_system_programs "$assume_yes" $(needed_programs "$@")
    fi
    run_pytest "$@"
}

# Prints the programs that the selected tests need, one per line. The run itself reports errors in the selection.
needed_programs() {
    { "$VENV_PYTHON" -m pytest --collect-only --quiet --list-needs "$@" 2>/dev/null || true; } | sed -n 's/^needs //p'
}

run_pytest() {
    if [ -n "$LEFT_OUT" ]; then set -- "$@" --leave-out "$LEFT_OUT"; fi
    exec "$VENV_PYTHON" -m pytest "$@"
}

# `keys` has a text for each of its own commands, once something is installed.
if { [ "${1:-}" != keys ] || { [ ! -L "$CURRENT" ] && [ ! -x "$VENV_PYTHON" ]; }; } && asks_for_help "${@:2}" && usage_of "$1"; then exit; fi

case "${1:-help}" in
    models) shift && get_models "$@" ;;
    development) shift && development "$@" ;;
    test) shift && run_tests "$@" ;;
    production) shift && production "$@" ;;
    status) shift && status "$@" ;;
    rollback) shift && rollback "$@" ;;
    keys) shift && manage_keys "$@" ;;
    update) shift && update "$@" ;;
    uninstall) shift && uninstall "$@" ;;
    help | -h | --help) usage ;;
    *)
        usage >&2
        die "There is no command '$1'."
        ;;
esac
