# shellcheck shell=bash
# shellcheck disable=SC2034  # the names below are read by the other parts
# Where a production installation lies. AVITO_AI_ROOT puts all of it under another folder, for tests alone.

SYSTEM_ROOT="${AVITO_AI_ROOT:-}"
SERVICE_USER=avito-ai
UNIT=avito-ai.service

PREFIX="$SYSTEM_ROOT/opt/avito-ai"
RELEASES="$PREFIX/releases"
CURRENT="$PREFIX/current"
# What deploy.sh remembers. Only root writes here; what the service may write is no place for it.
MEMORY="$PREFIX/deploy-state"
CONFIG_DIR="$SYSTEM_ROOT/etc/avito-ai"
SETTINGS_FILE="$CONFIG_DIR/.env"
STATE_DIR="$SYSTEM_ROOT/var/lib/avito-ai"
LOG_DIR="$SYSTEM_ROOT/var/log/avito-ai"
UNIT_DIR="$SYSTEM_ROOT/etc/systemd/system"
RUN_UNIT_DIR="$SYSTEM_ROOT/run/systemd/system"
LOGROTATE_DIR="$SYSTEM_ROOT/etc/logrotate.d"
PROC="$SYSTEM_ROOT/proc"

need_root() {
    [ "$(id -u)" -eq 0 ] || die "'$1' changes the system and needs root: sudo ./deploy.sh $1"
}

# Everything that is said from here on is kept.
open_log() {
    mkdir -p "$SYSTEM_ROOT/var/log"
    DEPLOY_LOG="$SYSTEM_ROOT/var/log/avito-ai-deploy.log"
    (umask 077 && : >>"$DEPLOY_LOG") || die "The log $DEPLOY_LOG cannot be written."
    note "--- deploy.sh $*"
}

# One run at a time; the lock goes with this process, however it ends.
take_lock() {
    mkdir -p "$SYSTEM_ROOT/run/lock"
    exec 9>"$SYSTEM_ROOT/run/lock/avito-ai-deploy"
    flock -n 9 || die "Another deploy.sh is at work here; this one changed nothing."
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
        die "systemd does not run this system (a container?). Production is a systemd service; docs/containers.md says how to run it in a container."
}

refuse_system() {
    local name
    name="$(os_release PRETTY_NAME)"
    die "Production is set up on Debian 12 or newer and Ubuntu 24.04 or newer; this is ${name:-another system}. ./deploy.sh development and the containers of docs/containers.md run elsewhere."
}

# True where version $1 is $2 or newer.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}
