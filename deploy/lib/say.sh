# shellcheck shell=bash
# Words to the person who runs deploy.sh (news on stdout, failures on stderr), and the settings that person made.

# A production run keeps all that is said in this file as well; empty: none is kept.
DEPLOY_LOG=""
# The process group of what `recorded` runs, for whoever has to end it.
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

# Runs a program. With a log its output goes there too, and it is a process group in the background, so that a signal
# to this script is acted upon at once and not when the program has ended.
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

# Prints what the service will read for a setting: $1 its name, $2 its default.
setting() {
    local value="${!1:-}"
    if [ -z "$value" ] && [ -f "$ENV_FILE_PATH" ]; then
        value="$(sed -n "s/^$1=//p" "$ENV_FILE_PATH" | tail -n 1)"
    fi
    echo "${value:-$2}"
}
