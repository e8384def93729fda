# shellcheck shell=bash
# Words to the person who runs deploy.sh (news on stdout, failures on stderr), and the settings that person made.

say() { printf '==> %s\n' "$*"; }

warn() { printf 'Warning: %s\n' "$*" >&2; }

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
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
