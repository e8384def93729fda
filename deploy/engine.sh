#!/usr/bin/env bash
# Changes what computes the models of an installed service, while it serves: engine.sh vllm | own [--stop-first]
#
#   vllm          start vLLM for both models, then let the service ask it (VIBE_UPSTREAM, VISION_UPSTREAM)
#   own           let the service compute again, then stop vLLM
#   --stop-first  free the card before the other engine loads, where it does not hold both; requests get 503 meanwhile
#
# vLLM is yours to install: sudo python3 -m venv /opt/avito-ai/vllm && sudo /opt/avito-ai/vllm/bin/pip install vllm
# If the new engine does not start, settings and engine stay as they were, and the exit status is 1. What else is set of
# either upstream (a model's name there, key, role) was meant for another server, and becomes a comment.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
ROOT="${AVITO_AI_ROOT:-}" # a prefix of all paths, for tests only
SETTINGS="$ROOT/etc/avito-ai/.env"
# shellcheck source=deploy/lib/locale.sh
. "$HERE/lib/locale.sh"
# shellcheck source=deploy/lib/vllm.sh
. "$HERE/lib/vllm.sh"
ASSIGNED='^[[:space:]]*(export[[:space:]]+)?(VIBE|VISION)_UPSTREAM' # the beginning of a line that sets one
UNITS=(avito-ai-vllm@avibe avito-ai-vllm@avision)

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

[ $# -ge 1 ] && [ $# -le 2 ] && [[ "$1" =~ ^(vllm|own)$ ]] && [[ "${2:---stop-first}" = --stop-first ]] ||
    die "usage: engine.sh vllm|own [--stop-first]"
[ "$(id -u)" -eq 0 ] || die "It changes the system and needs root: sudo deploy/engine.sh $*"
[ -f "$SETTINGS" ] || die "The service is not installed: $SETTINGS is missing. Run sudo ./deploy.sh production first."
FIRST="${2:-}"
SETTINGS="$(readlink -f "$SETTINGS")" # a link stays one

install_units() {
    local units="$ROOT/etc/systemd/system" model
    [ -x "$ROOT/opt/avito-ai/vllm/bin/vllm" ] ||
        die "/opt/avito-ai/vllm/bin/vllm is missing. Install it: sudo python3 -m venv /opt/avito-ai/vllm && sudo /opt/avito-ai/vllm/bin/pip install vllm"
    mkdir -p "$units/avito-ai-vllm@avision.service.d"
    cp "$HERE/systemd/avito-ai-vllm@.service" "$units/"
    cp "$HERE/vllm/order.conf" "$units/avito-ai-vllm@avision.service.d/"
    for model in avibe avision; do
        [ -e "$ROOT/etc/avito-ai/vllm-$model.env" ] || first_options "$model" >"$ROOT/etc/avito-ai/vllm-$model.env"
    done
    systemctl daemon-reload
}

# Prints the options of model $1 as they come, on the card that the service has for it.
first_options() {
    local card
    case "$1" in avibe) card="$(card_of VIBE_DEVICE)" ;; *) card="$(card_of VISION_DEVICE)" ;; esac
    sed "s/^CUDA_VISIBLE_DEVICES=.*/CUDA_VISIBLE_DEVICES=${card:-0}/" "$HERE/vllm/$1.env"
}

# Prints the card that setting $1 puts a model on, by its name in CUDA_VISIBLE_DEVICES or else by its number; nothing
# where neither is set. A number counts the visible cards.
card_of() {
    local visible number
    visible="$(setting CUDA_VISIBLE_DEVICES)"
    number="$(setting "$1" | sed -n 's/^cuda:\([0-9]\{1,\}\)$/\1/p')"
    if [ -n "$visible" ]; then cut -d , -f "$((${number:-0} + 1))" <<<"$visible"; else printf '%s' "$number"; fi
}

# Prints the value of setting $1 in the file of settings.
setting() {
    sed -nE "s/^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=[[:space:]]*//p" "$SETTINGS" | tail -n 1 | tr -d "\"' "
}

check_options() {
    local model wrong
    for model in avibe avision; do
        wrong="$(options_to_change "$ROOT/etc/avito-ai/vllm-$model.env")"
        [ -z "$wrong" ] || die "$wrong"
    done
}

# $1: of which model.
address() {
    printf 'http://127.0.0.1:%s/v1' "$(sed -n 's/^PORT=//p' "$ROOT/etc/avito-ai/vllm-$1.env")"
}

# Replaces the settings by stdin, in one step: whoever reads them meanwhile, and a machine that stops, has either file
# whole. Owner, mode and what else belongs to the file stay.
write_settings() {
    cp -p "$SETTINGS" "$SETTINGS.new"
    cat >"$SETTINGS.new"
    sync -d "$SETTINGS.new"
    mv -f "$SETTINGS.new" "$SETTINGS"
}

# Replaces both settings; without arguments they are removed.
set_upstreams() {
    local others
    others="$(grep -E "${ASSIGNED}_[A-Z_]+[[:space:]]*=" "$SETTINGS" | sed -E 's/[[:space:]]*=.*//; s/.*[[:space:]]//' | paste -sd ' ' || true)"
    if [ -n "$others" ]; then printf 'These settings are comments now in %s, since they were meant for another server: %s\n' "$SETTINGS" "$others"; fi
    # shellcheck disable=SC1003  # sed ends the last line by it
    {
        sed -E "/${ASSIGNED}[[:space:]]*=/d; s/${ASSIGNED}_[A-Z_]+[[:space:]]*=/# &/" "$SETTINGS" | sed -e '$a\'
        if [ $# -eq 2 ]; then printf 'VIBE_UPSTREAM=%s\nVISION_UPSTREAM=%s\n' "$@"; fi
    } | write_settings
}

state_of() { systemctl show --property ActiveState --value "$1"; }

is_down() {
    case "$(state_of "$1")" in inactive | failed | deactivating) return 0 ;; *) return 1 ;; esac
}

# A reload lets the old process serve until the new one is ready; a stopped service is started. One that still loads, or
# waits for its restart, has read the settings of before, and a start would just wait for it.
take_over() {
    if is_down avito-ai; then
        systemctl start avito-ai
    elif [ "$(state_of avito-ai)" = activating ]; then
        systemctl restart avito-ai
    else
        systemctl reload avito-ai
    fi
}

to_vllm() {
    install_units
    check_options
    begin
    if [ -n "$FIRST" ]; then systemctl stop avito-ai; fi
    systemctl enable --now "${UNITS[@]}" ||
        die "vLLM did not start (journalctl -u 'avito-ai-vllm@*'), and our own engine serves on. Where the card does not hold both, use --stop-first."
    save_settings
    set_upstreams "$(address avibe)" "$(address avision)"
    take_over || die "The service does not run with vLLM (journalctl -u avito-ai), and our own engine serves on."
    finish
    printf 'vLLM computes both models.\n'
}

to_own() {
    # Where the settings name another server, vLLM may never have been installed.
    [ -e "$ROOT/etc/systemd/system/avito-ai-vllm@.service" ] || UNITS=()
    begin
    save_settings
    set_upstreams
    if [ -n "$FIRST" ]; then systemctl stop avito-ai "${UNITS[@]}"; fi
    take_over ||
        die "Our own engine did not start (journalctl -u avito-ai), and vLLM computes on. Where the card does not hold both, use --stop-first."
    finish
    if [ ${#UNITS[@]} -gt 0 ]; then systemctl disable --now "${UNITS[@]}"; fi
    printf 'Our own engine computes both models.\n'
}

# Whether a change has begun that is not complete, and whether the settings are saved for it; which units ran or loaded
# before it, which did not, and which were not to start at boot.
CHANGING="" SAVED="" RAN=() DID_NOT_RUN=() NOT_ENABLED=()

begin() {
    local unit
    for unit in "${UNITS[@]}"; do
        if is_down "$unit"; then DID_NOT_RUN+=("$unit"); else RAN+=("$unit"); fi
        systemctl is-enabled --quiet "$unit" 2>/dev/null || NOT_ENABLED+=("$unit")
    done
    CHANGING=yes
}

save_settings() {
    cp -p "$SETTINGS" "$SETTINGS.before"
    SAVED=yes
}

finish() {
    CHANGING=""
    rm -f "$SETTINGS.before"
}

# Ends the script, however it ends. $1: its exit status. A change that is not complete is taken back: neither may the
# settings name an engine that did not take over, nor the service stay stopped.
leave() {
    trap - EXIT
    trap '' HUP INT TERM PIPE
    set +e
    if [ -n "$CHANGING" ]; then
        printf 'Taking the change back.\n' >&2
        take_back || printf 'Error: The service does not run: systemctl status avito-ai, journalctl -u avito-ai\n' >&2
    fi
    exit "$1"
}

take_back() {
    if [ -n "$SAVED" ]; then mv -f "$SETTINGS.before" "$SETTINGS"; fi
    rm -f "$SETTINGS.new"
    if [ ${#RAN[@]} -gt 0 ]; then systemctl start "${RAN[@]}"; fi
    if [ ${#DID_NOT_RUN[@]} -gt 0 ]; then systemctl stop "${DID_NOT_RUN[@]}" 2>/dev/null; fi
    if [ ${#NOT_ENABLED[@]} -gt 0 ]; then systemctl disable "${NOT_ENABLED[@]}" 2>/dev/null; fi
    if [ -z "$SAVED" ] && ! is_down avito-ai; then return; fi
    take_over
}

trap 'leave $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
"to_$1"
