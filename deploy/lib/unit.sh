# shellcheck shell=bash
# The systemd units of the service, and the checks in the sandbox of the main unit.

CHECK_UNIT=avito-ai-check.service
EXPLAIN_UNIT=avito-ai-explain@.service
# Installed by deploy/engine.sh, and from then on renewed with each release.
VLLM_UNIT=avito-ai-vllm@.service
VLLM_UNITS=(avito-ai-vllm@avibe.service avito-ai-vllm@avision.service)
# Beside the service: each with a timer of its name.
TIMED_UNITS=(avito-ai-health avito-ai-backup avito-ai-backup-test)

main_pid() {
    local pid
    pid="$(systemctl show --property MainPID --value "$UNIT" 2>/dev/null)" || true
    echo "${pid:-0}"
}

service_state() { systemctl show --property ActiveState --value "$UNIT" 2>/dev/null || true; }

# The release that is serving: the working directory of the running master, whatever `current` points to.
serving_release() { release_at "$PROC/$(main_pid)/cwd"; }

# Installs the units of the release in $1.
install_units() {
    local name file changed=no
    if install_unit_file "$1/$UNIT" "$UNIT_DIR"; then changed=yes; fi
    if install_unit_file "$1/deploy/systemd/$EXPLAIN_UNIT" "$UNIT_DIR"; then changed=yes; fi
    for name in "${TIMED_UNITS[@]}"; do
        for file in "$1/deploy/systemd/$name.service" "$1/deploy/systemd/$name.timer"; do
            if install_unit_file "$file" "$UNIT_DIR"; then changed=yes; fi
        done
    done
    if [ -f "$UNIT_DIR/$VLLM_UNIT" ]; then
        if install_unit_file "$1/deploy/systemd/$VLLM_UNIT" "$UNIT_DIR"; then changed=yes; fi
        if install_unit_file "$1/deploy/vllm/order.conf" "$UNIT_DIR/${VLLM_UNITS[1]}.d"; then changed=yes; fi
    fi
    if [ "$(systemd_version)" -ge 254 ] && install_unit_file "$1/deploy/systemd/back-off.conf" "$UNIT_DIR/$UNIT.d"; then
        changed=yes
    fi
    if [ "$changed" = yes ]; then systemctl daemon-reload; fi
}

# Where deploy/engine.sh has installed vLLM: its files are the operator's, and are not renewed.
warn_of_vllm() {
    local file line
    [ -f "$UNIT_DIR/$VLLM_UNIT" ] || return 0
    for file in "$CONFIG_DIR"/vllm-*.env; do
        [ -f "$file" ] || continue
        while IFS= read -r line; do warn "$line"; done < <(options_to_change "$file")
    done
}

# Installs the file $1 into the folder $2; true if that changed it.
install_unit_file() {
    local name="${1##*/}"
    if [ ! -f "$1" ] || cmp -s "$1" "$2/$name"; then return 1; fi
    mkdir -p "$2"
    cp "$1" "$2/$name.new"
    chmod 644 "$2/$name.new"
    mv "$2/$name.new" "$2/$name"
}

systemd_version() {
    local version
    version="$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" || true
    echo "${version:-0}"
}

# Runs the checks of RELEASE as the service's user with all limits of its unit, including the operator's drop-ins.
check_in_sandbox() {
    local report="$DEPLOY_STATE/sandbox-check" status=0
    say "Checking settings, model folders and GPU as the user $SERVICE_USER, in the sandbox of the unit."
    mkdir -p "$RUN_UNIT_DIR"
    check_unit "$report" >"$RUN_UNIT_DIR/$CHECK_UNIT"
    if [ -d "$UNIT_DIR/$UNIT.d" ]; then ln -sfn "$UNIT_DIR/$UNIT.d" "$RUN_UNIT_DIR/$CHECK_UNIT.d"; fi
    : >"$report"
    systemctl daemon-reload
    recorded systemctl start "$CHECK_UNIT" >/dev/null 2>&1 || status=$?
    remove_check_unit
    while IFS= read -r line; do say "$line"; done < <(grep -v '^Error: ' "$report")
    if [ "$status" -ne 0 ]; then
        sed -n 's/^Error: /Error: /p' "$report" >&2
        [ -s "$report" ] || journalctl -u "$CHECK_UNIT" -n 10 -o cat --no-pager >&2 || true
        die "This release cannot start with these settings on this machine, and was not started."
    fi
}

# Prints the unit of RELEASE as a oneshot unit that runs the checks. Folders that systemd would remove with it belong to
# the running service and are left out.
check_unit() {
    unit_lines | sed -e '/^\[Install\]/,$d' \
        -e '/^\(Type\|NotifyAccess\|Exec[A-Za-z]*\|Restart[A-Za-z]*\|Watchdog[A-Za-z]*\|RuntimeDirectory[A-Za-z]*\|PIDFile\|Success[A-Za-z]*\|Standard[A-Za-z]*\|Timeout[A-Za-z]*\|StartLimit[A-Za-z]*\|OnFailure\)=/d' \
        -e "s#/opt/avito-ai/current#$RELEASE#g"
    printf '%s\n' "[Service]" "Type=oneshot" "TimeoutStartSec=180" "Restart=no" "StandardOutput=truncate:$1" "StandardError=inherit" \
        "ExecStart=$RELEASE/.venv/bin/python -m deploy.sandbox_check"
    unit_lines | sed -n '/^ExecStartPre=/p' | sed "s#/opt/avito-ai/current#$RELEASE#g"
}

# Prints the unit of RELEASE with its continued lines joined.
unit_lines() { sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' "$RELEASE/$UNIT"; }

remove_check_unit() {
    rm -f "$RUN_UNIT_DIR/$CHECK_UNIT" "$RUN_UNIT_DIR/$CHECK_UNIT.d"
    systemctl reset-failed "$CHECK_UNIT" >/dev/null 2>&1 || true
}

# Prints the service's errors since $1, in seconds since the epoch.
failure_reason() {
    local lines
    lines="$(journalctl -u "$UNIT" --since "@$1" -o cat --no-pager 2>/dev/null)" || true
    grep -E 'cannot start|CRITICAL|ERROR' <<<"$lines" | tail -n 5 || tail -n 10 <<<"$lines"
}
