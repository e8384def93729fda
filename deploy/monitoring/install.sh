#!/usr/bin/env bash
# Installs Debian's or Ubuntu's Prometheus, Alertmanager and blackbox exporter and runs them with the configuration that
# render.py makes from /etc/avito-monitoring.env. May be run again at any time; if one of the programs rejects the new
# configuration or does not run with it, or this is ended, the previous one is restored.
set -euo pipefail
umask 022 # the programs are users of their own, and read what is written here

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
SETTINGS=/etc/avito-monitoring.env
CONFIGURED=/etc/avito-monitoring
UNITS=(prometheus prometheus-alertmanager prometheus-blackbox-exporter)
PATIENCE=60 # seconds within which a started program must respond
# Whether the programs may run with the new configuration.
STARTED=""

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

main() {
    [ "$(id -u)" -eq 0 ] || die "This installs packages and units: run it as root."
    command -v apt-get >/dev/null || die "This is for Debian and Ubuntu; elsewhere install the three programs and use the configuration that render.py writes."
    first_settings
    remember
    trap 'leave $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    python3 "$HERE/render.py" --settings "$SETTINGS" --output "$CONFIGURED" || die "The settings in $SETTINGS are wrong; nothing was changed."
    install_units
    install_packages
    check_secrets
    check_configuration
    start
    trap - EXIT HUP INT TERM
    rm -rf "$CONFIGURED.before"
    say "Running. Alerts and targets: $(setting PROMETHEUS_URL http://127.0.0.1:9090). After changing $SETTINGS, run this again."
    say "For Grafana, use $CONFIGURED/grafana/provisioning as its provisioning folder."
}

first_settings() {
    [ ! -e "$SETTINGS" ] || return 0
    install -m 640 "$HERE/monitoring.env.example" "$SETTINGS"
    say "Wrote $SETTINGS: set the receivers of alerts there, and run this again."
}

# $1: a setting; $2: its default.
setting() {
    local value
    value="$(sed -n "s/^$1=//p" "$SETTINGS" | tail -n 1)"
    printf '%s\n' "${value:-$2}"
}

# What a run that was killed has remembered stays: only with that the programs have run.
remember() {
    [ -e "$CONFIGURED" ] && [ ! -e "$CONFIGURED.before" ] || return 0
    rm -rf "$CONFIGURED.new"
    cp -a "$CONFIGURED" "$CONFIGURED.new"
    mv "$CONFIGURED.new" "$CONFIGURED.before"
}

# Ends a run. $1: its exit status. The programs' units go back with the configuration: they name addresses that it has.
# Where there was none before, what does not run is left to be looked at.
leave() {
    local unit
    [ "$1" -ne 0 ] || return 0
    trap '' HUP INT TERM
    set +e
    if [ -e "$CONFIGURED.before" ]; then
        rm -rf "$CONFIGURED"
        mv "$CONFIGURED.before" "$CONFIGURED"
        install_units
        [ -z "$STARTED" ] || systemctl restart "${UNITS[@]}"
        printf '%s\n' "The previous configuration is restored." >&2
    elif [ -z "$STARTED" ]; then
        rm -rf "$CONFIGURED"
        for unit in "${UNITS[@]}"; do rm -f "/etc/systemd/system/$unit.service.d/avito-ai.conf"; done
        systemctl daemon-reload
    fi
}

# Before the packages, which start their programs at once: those then listen on the right addresses.
install_units() {
    local unit folder
    for unit in "${UNITS[@]}"; do
        folder="/etc/systemd/system/$unit.service.d"
        mkdir -p "$folder"
        install -m 644 "$CONFIGURED/systemd/$unit.conf" "$folder/avito-ai.conf"
    done
    systemctl daemon-reload
}

install_packages() {
    local unit missing=()
    for unit in "${UNITS[@]}"; do
        if ! dpkg-query --show --showformat='${Status}' "$unit" 2>/dev/null | grep -q ' installed$'; then missing+=("$unit"); fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing ${missing[*]}"
    apt_get install "${missing[@]}" || { apt-get update --quiet && apt_get install "${missing[@]}"; } ||
        die "apt could not install them; see its output above."
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet --no-install-recommends "$@"; }

# Runs a command as the user that the programs run as.
as_program() { runuser -u prometheus -- "$@"; }

# The programs read them as their own user, and only with the first scrape or notification.
check_secrets() {
    local name file
    for name in ADMIN_KEY_FILE SMTP_PASSWORD_FILE SLACK_WEBHOOK_FILE PAGERDUTY_KEY_FILE; do
        file="$(setting "$name" "")"
        [ -n "$file" ] || continue
        as_program test -r "$file" ||
            die "$name: $file cannot be read by the user prometheus. Try: chown prometheus: $file && chmod 400 $file"
    done
}

check_configuration() {
    as_program promtool check config "$CONFIGURED/prometheus/prometheus.yml" >/dev/null || die "Prometheus rejects its configuration."
    as_program amtool check-config "$CONFIGURED/alertmanager/alertmanager.yml" >/dev/null || die "Alertmanager rejects its configuration."
    as_program prometheus-blackbox-exporter --config.check --config.file="$CONFIGURED/blackbox/blackbox.yml" 2>/dev/null ||
        die "The blackbox exporter rejects its configuration."
}

start() {
    STARTED=yes
    systemctl reset-failed "${UNITS[@]}" 2>/dev/null || true
    systemctl enable --quiet "${UNITS[@]}"
    systemctl restart "${UNITS[@]}" || die "They cannot be started. See: journalctl -u prometheus* -e"
    answers "$(setting PROMETHEUS_URL http://127.0.0.1:9090)/-/ready" prometheus
    answers "http://$(setting ALERTMANAGER_TARGET 127.0.0.1:9093)/-/ready" prometheus-alertmanager
    answers "http://$(setting BLACKBOX_TARGET 127.0.0.1:9115)/-/healthy" prometheus-blackbox-exporter
}

# $1: a URL; $2: the unit that should respond there.
answers() {
    local until=$((SECONDS + PATIENCE))
    until python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null; do
        [ "$SECONDS" -lt "$until" ] || die "$2 does not respond at $1. See: journalctl -u $2 -e"
        sleep 1
    done
}

main "$@"
