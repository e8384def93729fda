# shellcheck shell=bash
# shellcheck disable=SC2034  # SETTINGS_BEFORE is read with the account
# From one release to another, and back by itself where the other does not serve. The old one goes on serving until the
# new one is ready; whatever ends this script in between, `undo` leaves what was there before.

# What `undo` has to take back: the release before (- where there was none), empty while nothing was switched.
SWITCHED_FROM=""
SETTLE_SECONDS=900

guard_run() {
    trap 'leave $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# The end of a run, good or bad. $1: its exit status.
leave() {
    trap - EXIT
    trap '' HUP INT TERM
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
    say "The service is stopped: there is no earlier release to go back to."
}

go_back() {
    say "Going back to ${SWITCHED_FROM##*/}."
    point_current_at "$SWITCHED_FROM"
    install_units "$SWITCHED_FROM"
    wait_until_settled
    if [ "$(service_state)" = active ] && [ "$(serving_release)" = "$SWITCHED_FROM" ]; then
        say "${SWITCHED_FROM##*/} serves: it never stopped."
        return
    fi
    if [ "$(service_state)" != active ] || ! systemctl reload "$UNIT"; then
        systemctl reset-failed "$UNIT" 2>/dev/null
        systemctl restart "$UNIT"
    fi
    if [ "$(service_state)" = active ] && [ "$(serving_release)" = "$SWITCHED_FROM" ]; then
        say "${SWITCHED_FROM##*/} serves again."
    else
        warn "${SWITCHED_FROM##*/} does not serve either: $(service_state). See: journalctl -u $UNIT -e"
    fi
}

# A reload that is under way cannot be called back: its outcome is awaited.
wait_until_settled() {
    local waited=0
    while [ "$(service_state)" = reloading ] && [ "$waited" -lt "$SETTLE_SECONDS" ]; do
        sleep 1
        waited=$((waited + 1))
    done
}

# Makes the release in $1 the one that serves, and proves it; does nothing where it is so already.
switch_to() {
    local target="$1" before began
    before="$(current_release)" began="$(date +%s)"
    if already_serves "$target"; then
        say "${target##*/} serves already with these settings; nothing is restarted."
        return
    fi
    SWITCHED_FROM="${before:--}"
    point_current_at "$target"
    install_units "$target"
    hand_over "$target" || fail_switch "$target" "$began"
    [ "$(serving_release)" = "$target" ] || fail_switch "$target" "$began"
    prove_service || fail_switch "$target" "$began"
    rm -f "$target/.release/failed"
    if [ -n "$before" ] && [ "$before" != "$target" ]; then echo "$before" >"$MEMORY/previous"; fi
    applied_mark >"$MEMORY/applied"
    SWITCHED_FROM="" SETTINGS_BEFORE=""
}

fail_switch() {
    printf '%s\n' "Why ${1##*/} does not serve:" >&2
    failure_reason "$2" | tee -a "$DEPLOY_LOG" | sed 's/^/    /' >&2
    date -u +%Y-%m-%dT%H:%M:%SZ >"$1/.release/failed"
    die "The release ${1##*/} did not become ready; its reason stands above."
}

# What was in force when the service was last proven to serve: its settings and its unit.
applied_mark() { cat "$SETTINGS_FILE" "$UNIT_DIR/$UNIT" 2>/dev/null | sha256sum; }

already_serves() {
    [ "$(current_release)" = "$1" ] && [ "$(service_state)" = active ] && [ "$(serving_release)" = "$1" ] &&
        cmp -s "$1/$UNIT" "$UNIT_DIR/$UNIT" && [ "$(applied_mark)" = "$(cat "$MEMORY/applied" 2>/dev/null)" ]
}

# Starts the release that `current` names, or lets it take over from the one that runs.
hand_over() {
    if [ "$(service_state)" != active ]; then
        say "Starting the service; it is ready when both models have loaded and answered."
        systemctl reset-failed "$UNIT" 2>/dev/null || true
        while_loading systemctl restart "$UNIT"
    elif address_changes; then
        say "HOST or PORT changes, which a reload cannot do: restarting. Admitted requests finish, new ones are refused meanwhile."
        while_loading systemctl restart "$UNIT"
    else
        say "Handing over to ${1##*/}; the release that runs serves until it is ready."
        while_loading systemctl reload "$UNIT"
    fi
}

# Runs systemctl and says now and then what the service is at.
while_loading() { recorded "$PYTHON" -m deploy.service watch "$UNIT" "$@"; }

address_changes() {
    local port
    port="$(file_setting PORT 8085)"
    ! "$PYTHON" -m deploy.service listens "$(main_pid)" | grep -qx "$(listening_host) $port"
}

# The address that the kernel shows for HOST; a name is asked for as it is, so it counts as a change only once.
listening_host() {
    local host
    host="$(file_setting HOST 0.0.0.0)"
    if [ "$host" = localhost ]; then host=127.0.0.1; fi
    echo "$host"
}

# Asks the service what a client would: readiness, one text, one picture.
prove_service() {
    say "Asking the service for one answer of each model."
    recorded "$PYTHON" -m deploy.ask "$(main_pid)"
}
