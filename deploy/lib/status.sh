# shellcheck shell=bash
# shellcheck disable=SC2153,SC2034  # RELEASES and UNIT are set elsewhere; RELEASE is used by the other parts
# `deploy.sh status`, `rollback` and `uninstall`.

# Exit status: 0 if the service is ready, 3 if not (as systemctl), 4 if it is not installed; 1 without root, which alone
# sees the settings and the process.
status() {
    [ $# -eq 0 ] || die "'status' takes no arguments, but got '$1'."
    if [ ! -L "$CURRENT" ]; then
        say "Avito AI API is not installed here; ./deploy.sh production installs it."
        exit 4
    fi
    find_production_python
    say "service    $(service_state), since $(systemctl show --property ActiveEnterTimestamp --value "$UNIT")"
    say "release    $(current_release | sed 's#.*/##')$(serves_another)"
    say "previous   $(previous_release | sed 's#.*/##')"
    say "settings   $SETTINGS_FILE$(settings_pending)"
    say "health     $(systemctl is-active avito-ai-health.timer 2>/dev/null || true) (avito-ai-health.timer)"
    say "backups    $(backup_state)"
    list_releases
    is_root || die "Whether it is ready, which release serves and whether the settings are applied, root alone can see: sudo ./deploy.sh status"
    "$PYTHON" -m deploy.service state "$(main_pid)" || exit 3
}

backup_state() {
    local created failed
    created="$(noted created)" failed="$(noted_failure)$(noted_test_failure)"
    if [ "$created" -eq 0 ]; then echo "none yet"; else echo "the last one at $(date -u -d "@$created" '+%Y-%m-%d %H:%M') UTC${failed:+; FAILED: $failed}"; fi
}

serves_another() {
    local serving
    serving="$(serving_release)"
    if [ -n "$serving" ] && [ "$serving" != "$(current_release)" ]; then echo " (but ${serving##*/} serves until the next reload)"; fi
}

settings_pending() {
    is_root || return 0
    [ "$(applied_mark)" != "$(cat "$DEPLOY_STATE/applied" 2>/dev/null)" ] || return 0
    if settings_were_read; then
        echo " (changed since the last start by deploy.sh, and read by the process that runs)"
    else
        echo " (changed since the last start by deploy.sh; ./deploy.sh production applies them)"
    fi
}

# Whether the running master was started after the last change of the settings, by systemctl for instance.
settings_were_read() {
    local running changed
    running="$(ps -o etimes= -p "$(main_pid)" 2>/dev/null | tr -d ' ')" && [ -n "$running" ] || return 1
    changed="$(date -r "$SETTINGS_FILE" +%s)" || return 1
    [ $(($(date +%s) - running)) -gt "$changed" ]
}

list_releases() {
    local folder mark
    for folder in $(releases_newest_first); do
        mark="ready"
        [ -e "$folder/.release/complete" ] || mark="incomplete"
        [ ! -e "$folder/.release/failed" ] || mark="failed at $(cat "$folder/.release/failed")"
        say "    ${folder##*/}  $mark"
    done
}

# Returns to the previous release or the given one, with the packages and code that were tested.
rollback() {
    local target
    need_root rollback
    [ $# -le 1 ] || die "'rollback' takes at most the name of one release."
    umask 022
    open_log rollback "$@"
    take_lock
    target="$(rollback_target "${1:-}")"
    [ -n "$target" ] || die "There is no release${1:+ $1} to return to; ./deploy.sh status lists them."
    find_production_python
    guard_run
    RELEASE="$target"
    check_release_settings
    switch_to "$target"
    say "${target##*/} serves."
}

rollback_target() {
    local wanted="$RELEASES/$1"
    if [ -z "$1" ]; then
        previous_release
    elif [ -e "$wanted/.release/complete" ]; then
        echo "$wanted"
    fi
}

uninstall() {
    local purge=no sure=no
    need_root uninstall
    while [ $# -gt 0 ]; do
        case "$1" in
            --purge) purge=yes ;;
            --yes) sure=yes ;;
            *) die "'uninstall' has no option '$1'; it takes --purge and --yes." ;;
        esac
        shift
    done
    if [ "$sure" = no ]; then ask_to_uninstall "$purge"; fi
    open_log uninstall
    take_lock
    cd /
    stop_for_good
    remove_site
    rm -rf "$PREFIX" "$CACHE_DIR" "$CACHE_DIR-vllm"
    rm -f "$LOGROTATE_DIR/avito-ai"
    if [ "$purge" = yes ]; then purge_rest; else say "Kept: $CONFIG_DIR, $SERVICE_STATE, $LOG_DIR and the user $SERVICE_USER (--purge removes them too)."; fi
    say "Avito AI API is removed. Packages that apt installed for it (python3-venv, gcc, nginx, certbot) are kept."
}

ask_to_uninstall() {
    local answer extra=""
    [ -t 0 ] || die "'uninstall' asks before it removes anything, and nobody is at a terminal here; --yes answers it."
    if [ "$1" = yes ]; then extra=" with its settings, keys, state and logs"; fi
    read -r -p "Remove the service and all its releases$extra? [y/N] " answer
    case "$answer" in
        [Yy]*) ;;
        *) die "Nothing was removed." ;;
    esac
}

stop_for_good() {
    local unit
    for unit in "${TIMED_UNITS[@]/%/.timer}" "${TIMED_UNITS[@]/%/.service}" "$UNIT" "${VLLM_UNITS[@]}"; do
        systemctl disable --quiet "$unit" >/dev/null 2>&1 || true
        systemctl stop "$unit" 2>/dev/null || true
        rm -rf "${UNIT_DIR:?}/$unit" "${UNIT_DIR:?}/$unit.d"
    done
    rm -f "${UNIT_DIR:?}/$EXPLAIN_UNIT" "${UNIT_DIR:?}/$VLLM_UNIT"
    systemctl daemon-reload
    systemctl reset-failed "$UNIT" "${VLLM_UNITS[@]}" "${TIMED_UNITS[@]/%/.service}" 2>/dev/null || true
}

purge_rest() {
    rm -rf "$CONFIG_DIR" "$SERVICE_STATE" "$LOG_DIR" "${BACKUP_NOTE%/*}"
    if id -u "$SERVICE_USER" >/dev/null 2>&1; then userdel "$SERVICE_USER" || warn "The user $SERVICE_USER could not be removed."; fi
}
