# shellcheck shell=bash
# Relative paths that deploy.sh is given are meant from the folder in which it was called, and it works in another one.

CALLED_FROM="$PWD"

# Prints a path as an absolute one; an empty one stays empty.
from_caller() {
    case "$1" in
        "" | /*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$CALLED_FROM/${1#./}" ;;
    esac
}

# Does that to the paths in the environment. PYTHON may also be a name that is found in PATH.
take_paths_of_environment() {
    local name
    for name in PYTHON ENV_FILE HF_TOKEN_FILE; do
        case "$name:${!name:-}" in PYTHON:*/* | ENV_FILE:?* | HF_TOKEN_FILE:?*) printf -v "$name" '%s' "$(from_caller "${!name}")" ;; esac
    done
}

# Prints NAME=VALUE with the path of a file or folder that is there.
setting_from_caller() {
    local path
    path="$(from_caller "${1#*=}")"
    case "$1" in
        *_DIR=demo) ;;
        *_DIR=* | *_FILE=*) if [ -e "$path" ]; then set -- "${1%%=*}=$path"; fi ;;
    esac
    printf '%s\n' "$1"
}

# Prints an argument of pytest; one that names tests below a file or folder that is there has the path of it.
tests_from_caller() {
    local path="${1%%::*}"
    case "$1" in
        -*) ;;
        */* | *.py*) if [ -e "$(from_caller "$path")" ]; then set -- "$(from_caller "$1")"; fi ;;
    esac
    printf '%s\n' "$1"
}
