# shellcheck shell=bash
# shellcheck disable=SC2034  # SETTINGS_BEFORE is used in account.sh
# Switches releases, and rolls back if the new one fails. The old one serves until the new one is ready; if this script
# is interrupted in between, `undo` restores the previous state.

# The release that `undo` returns to (- if there was none); empty if nothing was switched.
SWITCHED_FROM=""
# The process that served before: the same release may serve with other settings by another one.
SERVED_BY=0
SETTLE_SECONDS=900

guard_run() {
    trap 'leave $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Ends a run. $1: its exit status.
leave() {
    trap - EXIT
    trap '' HUP INT TERM PIPE
    set +e
    end_child
    if [ "$1" -ne 0 ]; then undo "$1"; fi
    remove_check_unit
    exit "$1"
}

undo() {
    case "$1" in 129 | 130 | 143) note "Ended by a signal." ;; esac
    restore_proxy
    restore_settings
    if [ -z "$SWITCHED_FROM" ]; then
        note "Nothing was switched."
    elif [ "$SWITCHED_FROM" = - ]; then
        abandon_first_release
    else
        go_back
    fi
}

abandon_first_release() {
    systemctl disable "$UNIT" >/dev/null 2>&1
    systemctl stop "$UNIT"
    rm -f "$CURRENT"
    say "The service is stopped: there is no previous release to return to."
}

go_back() {
    say "Rolling back to ${SWITCHED_FROM##*/}."
    point_current_at "$SWITCHED_FROM"
    install_units "$SWITCHED_FROM"
    wait_until_settled
    if [ "$(service_state)" = active ] && [ "$(serving_release)" = "$SWITCHED_FROM" ] && [ "$(main_pid)" = "$SERVED_BY" ]; then
        say "${SWITCHED_FROM##*/} is still serving; it was never stopped."
        return
    fi
    if [ "$(service_state)" != active ] || address_changes || ! systemctl reload "$UNIT"; then
        systemctl reset-failed "$UNIT" 2>/dev/null
        systemctl restart "$UNIT"
    fi
    if [ "$(service_state)" = active ] && [ "$(serving_release)" = "$SWITCHED_FROM" ]; then
        say "${SWITCHED_FROM##*/} serves again."
    else
        warn "${SWITCHED_FROM##*/} fails as well: $(service_state). See: journalctl -u $UNIT -e"
    fi
}

# A running reload cannot be cancelled, so wait for its result.
wait_until_settled() {
    local waited=0
    while [ "$(service_state)" = reloading ] && [ "$waited" -lt "$SETTLE_SECONDS" ]; do
        sleep 1
        waited=$((waited + 1))
    done
}

# Switches to the release in $1 and checks it; does nothing if it already serves.
switch_to() {
    local target="$1" before began
    before="$(current_release)" began="$(date +%s)"
    if already_serves "$target"; then
        say "${target##*/} already serves with these settings; nothing is restarted."
        return
    fi
    SWITCHED_FROM="${before:--}" SERVED_BY="$(main_pid)"
    point_current_at "$target"
    install_units "$target"
    hand_over "$target" || fail_switch "$target" "$began"
    [ "$(serving_release)" = "$target" ] || fail_switch "$target" "$began"
    prove_service || fail_switch "$target" "$began" "is ready and does not answer as it should; its answer is above"
    rm -f "$target/.release/failed"
    if [ -n "$before" ] && [ "$before" != "$target" ]; then echo "$before" >"$DEPLOY_STATE/previous"; fi
    applied_mark >"$DEPLOY_STATE/applied"
    SWITCHED_FROM="" SETTINGS_BEFORE=""
}

# $1: the release; $2: when it was started; $3: what it did, if not that it never became ready.
fail_switch() {
    printf '%s\n' "Errors of ${1##*/}:" >&2
    failure_reason "$2" | tee -a "$DEPLOY_LOG" | sed 's/^/    /' >&2
    date -u +%Y-%m-%dT%H:%M:%SZ >"$1/.release/failed"
    die "The release ${1##*/} ${3:-did not become ready; see the errors above}."
}

# Checksum of the settings and the unit; stored after the service was last checked successfully.
applied_mark() { cat "$SETTINGS_FILE" "$UNIT_DIR/$UNIT" 2>/dev/null | sha256sum; }

already_serves() {
    [ "$(current_release)" = "$1" ] && [ "$(service_state)" = active ] && [ "$(serving_release)" = "$1" ] &&
        cmp -s "$1/$UNIT" "$UNIT_DIR/$UNIT" && [ "$(applied_mark)" = "$(cat "$DEPLOY_STATE/applied" 2>/dev/null)" ]
}

# Starts the release that `current` points to, or hands over to it from the running one.
hand_over() {
    if [ "$(service_state)" != active ]; then
        say "Starting the service; it is ready once both models have loaded and answered."
        systemctl reset-failed "$UNIT" 2>/dev/null || true
        while_loading systemctl restart "$UNIT"
    elif address_changes; then
        say "HOST or PORT has changed, which requires a restart. Admitted requests finish; new ones are refused meanwhile."
        while_loading systemctl restart "$UNIT"
    else
        say "Handing over to ${1##*/}; the running release serves until it is ready."
        while_loading systemctl reload "$UNIT"
    fi
}

# Runs systemctl and prints the loading progress.
while_loading() { recorded "$PYTHON" -m deploy.service watch "$UNIT" "$@"; }

address_changes() {
    local port
    port="$(file_setting PORT 8085)"
    ! "$PYTHON" -m deploy.service listens "$(main_pid)" | grep -qx "$(listening_host) $port"
}

# Prints HOST as the kernel shows it; a host name other than localhost always counts as a change.
listening_host() {
    local host
    host="$(file_setting HOST 0.0.0.0)"
    if [ "$host" = localhost ]; then host=127.0.0.1; fi
    echo "$host"
}

# Checks the service as a client: readiness, one text, one image.
prove_service() {
    say "Requesting one answer from each model."
    recorded "$PYTHON" -m deploy.ask "$(main_pid)"
}
