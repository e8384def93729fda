# shellcheck shell=bash
# shellcheck disable=SC2034  # used by the other parts
# Paths of a production installation. AVITO_AI_ROOT is a prefix of all of them, for tests only.

SYSTEM_ROOT="${AVITO_AI_ROOT:-}"
SERVICE_USER=avito-ai
UNIT=avito-ai.service

PREFIX="$SYSTEM_ROOT/opt/avito-ai"
RELEASES="$PREFIX/releases"
CURRENT="$PREFIX/current"
# State of deploy.sh. Writable by root only, not by the service.
DEPLOY_STATE="$PREFIX/deploy-state"
CONFIG_DIR="$SYSTEM_ROOT/etc/avito-ai"
SETTINGS_FILE="$CONFIG_DIR/.env"
SERVICE_STATE="$SYSTEM_ROOT/var/lib/avito-ai"
CACHE_DIR="$SYSTEM_ROOT/var/cache/avito-ai"
LOG_DIR="$SYSTEM_ROOT/var/log/avito-ai"
UNIT_DIR="$SYSTEM_ROOT/etc/systemd/system"
RUN_UNIT_DIR="$SYSTEM_ROOT/run/systemd/system"
LOGROTATE_DIR="$SYSTEM_ROOT/etc/logrotate.d"
PROC="$SYSTEM_ROOT/proc"

is_root() { [ "$(id -u)" -eq 0 ]; }

need_root() {
    is_root || die "'$1' changes the system and needs root: sudo ./deploy.sh $1"
}

# From here on, all messages are logged.
open_log() {
    mkdir -p "$SYSTEM_ROOT/var/log"
    DEPLOY_LOG="$SYSTEM_ROOT/var/log/avito-ai-deploy.log"
    (umask 077 && : >>"$DEPLOY_LOG") || die "The log $DEPLOY_LOG cannot be written."
    note "--- deploy.sh $*"
}

# One run at a time; the lock is released when this process exits.
take_lock() {
    mkdir -p "$SYSTEM_ROOT/run/lock"
    exec 9>"$SYSTEM_ROOT/run/lock/avito-ai-deploy"
    flock -n 9 || die "Another deploy.sh is running; nothing was changed."
}

# Prints one field of /etc/os-release.
os_release() {
    sed -n "s/^$1=//p" "$SYSTEM_ROOT/etc/os-release" 2>/dev/null | tr -d '"' | tail -n 1
}

check_system() {
    local id version
    id="$(os_release ID)" version="$(os_release VERSION_ID)"
    case "$id" in
        debian) at_least "${version:-99}" 12 || refuse_system ;;
        ubuntu) at_least "${version:-0}" 24.04 || refuse_system ;;
        *) refuse_system ;;
    esac
    [ -d "$SYSTEM_ROOT/run/systemd/system" ] ||
        refuse "This system is not run by systemd (a container?). Production is a systemd service; docs/containers.md describes containers."
}

# A dry run says what would stop production here, and shows the other steps all the same.
refuse() {
    if [ "$DRY_RUN" = yes ]; then warn "Here production would stop: $1"; else die "$1"; fi
}

refuse_system() {
    local name
    name="$(os_release PRETTY_NAME)"
    refuse "Production requires Debian 12 or newer, or Ubuntu 24.04 or newer; this is ${name:-another system}. ./deploy.sh development and the containers of docs/containers.md run elsewhere."
}

# True if version $1 is $2 or newer.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}
