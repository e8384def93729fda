# shellcheck shell=bash
# Messages of deploy.sh (errors on stderr), logged execution of programs, and lookup of settings.

# File that also receives all messages of a production run; empty: none.
DEPLOY_LOG=""
# Process group of the program that `recorded` runs.
CHILD=""

say() {
    printf '==> %s\n' "$*"
    note "$*"
}

warn() {
    printf 'Warning: %s\n' "$*" >&2
    note "Warning: $*"
}

die() {
    printf 'Error: %s\n' "$*" >&2
    note "Error: $*"
    exit 1
}

note() {
    [ -z "$DEPLOY_LOG" ] || printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$DEPLOY_LOG"
}

# Runs a program. With a log, its output goes there as well and it runs as a background process group, so that this
# script handles a signal at once and not after the program has exited.
recorded() {
    local status=0
    if [ -z "$DEPLOY_LOG" ]; then
        "$@"
        return
    fi
    set -m
    (
        set -o pipefail
        "$@" 2>&1 </dev/null | tee -a "$DEPLOY_LOG"
    ) &
    CHILD=$!
    set +m
    wait "$CHILD" || status=$?
    CHILD=""
    return "$status"
}

end_child() {
    [ -z "$CHILD" ] || kill -TERM -- "-$CHILD" 2>/dev/null || true
}

at_terminal() { [ -t 0 ] && [ -t 1 ]; }

has() { command -v "$1" >/dev/null 2>&1; }

ENV_FILE_PATH="${ENV_FILE:-$ROOT/.env}"

# Prints the value that the service will use for a setting: $1 its name, $2 its default.
setting() {
    local value="${!1:-}"
    if [ -z "$value" ] && [ -f "$ENV_FILE_PATH" ]; then
        value="$(sed -n "s/^$1=//p" "$ENV_FILE_PATH" | tail -n 1)"
    fi
    echo "${value:-$2}"
}
