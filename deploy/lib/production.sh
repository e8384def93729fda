# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # options and paths are shared with the other parts
# `deploy.sh production`: sets up the service on a bare server, or replaces its release.

DRY_RUN=no
BACKUP=yes
DOMAIN="" CERTIFICATE="" CERTIFICATE_KEY="" EMAIL="" FIREWALL=no
GIVEN=()

production() {
    local began
    began="$(date +%s)"
    read_production_options "$@"
    check_own_certificate
    check_system
    if [ "$DRY_RUN" = yes ]; then
        print_plan
        return
    fi
    need_root production
    umask 022
    ENV_FILE_PATH="$SETTINGS_FILE"
    open_log production "$(said_options "$@")"
    take_lock
    guard_run
    prepare
    install_release
    back_up_before_update
    switch_to "$RELEASE"
    finish
    say "Ready after $(($(date +%s) - began)) s: $(service_address). The log of this run is $DEPLOY_LOG."
}

# Reads and checks the options, apart from the files that they name; a restore may bring those.
read_production_options() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --dry-run) DRY_RUN=yes ;;
            --firewall) FIREWALL=yes ;;
            --no-backup) BACKUP=no ;;
            --domain | --certificate | --certificate-key | --email) read_option "$@" && shift ;;
            [A-Z]*=*) check_setting_word "$1" && GIVEN+=("$(setting_from_caller "$1")") ;;
            *) die "'production' has no option '$1'; see ./deploy.sh help." ;;
        esac
        shift
    done
    check_proxy_options
}

read_option() {
    [ -n "${2:-}" ] || die "$1 needs a value."
    case "$1" in
        --domain) DOMAIN="$2" ;;
        --certificate) CERTIFICATE="$(from_caller "$2")" ;;
        --certificate-key) CERTIFICATE_KEY="$(from_caller "$2")" ;;
        --email) EMAIL="$2" ;;
    esac
}

# Prints the command line for the log, without values: one may be a secret.
said_options() {
    local word
    for word in "$@"; do
        case "$word" in
            [A-Z]*=*) printf '%s=... ' "${word%%=*}" ;;
            *) printf '%s ' "$word" ;;
        esac
    done
}

# Cheap checks come before any download.
prepare() {
    warn_of_environment
    warn_of_vllm
    install_missing_packages
    find_production_python
    check_gpu
    check_model_folders
    install_compiler
    if [ -n "$DOMAIN" ]; then GIVEN+=(HOST=127.0.0.1 TRUSTED_PROXIES=1); fi
    check_production_port
    ensure_account
    ensure_folders
    ensure_backup_settings
    ensure_settings ${GIVEN[@]+"${GIVEN[@]}"}
}

install_release() {
    choose_release
    if release_complete; then
        say "The release ${RELEASE##*/} of this tree exists and has passed its smoke tests."
        build_kernels
    else
        make_release
    fi
    cd "$ROOT" || exit
    check_release_settings
    if ! already_serves "$RELEASE"; then check_in_sandbox; fi
    follow_site
    if [ -n "$DOMAIN" ]; then prepare_proxy; fi
}

# What is about to run may change the database, and this run has changed the settings if it was told to.
back_up_before_update() {
    if [ "$BACKUP" = no ] || [ -z "$(current_release)" ] || already_serves "$RELEASE"; then return; fi
    say "Backing up settings and database before the update."
    recorded "$ROOT/deploy/backup.sh" before-update ||
        die "The backup before the update failed, so nothing is switched; --no-backup updates without one."
}

# Validates the settings with the release's own code, without this run's environment.
check_release_settings() {
    local report
    report="$(cd "$RELEASE" && env -i PATH="$PATH" ENVIRONMENT=production ENV_FILE="$SETTINGS_FILE" .venv/bin/python config.py 2>&1 >/dev/null)" || {
        printf '%s\n' "$report" >&2
        note "$report"
        die "Fix the settings above first, in $SETTINGS_FILE."
    }
    [ -z "$report" ] || warn "$report"
}

finish() {
    install_logrotate "$RELEASE"
    systemctl enable --quiet "$UNIT"
    local name
    for name in "${TIMED_UNITS[@]}"; do
        if [ -f "$UNIT_DIR/$name.timer" ]; then systemctl enable --quiet --now "$name.timer"; fi
    done
    if [ -n "$DOMAIN" ]; then finish_proxy; fi
    show_firewall
    prune_releases
}

install_logrotate() {
    [ -f "$1/deploy/logrotate/avito-ai" ] || return 0
    mkdir -p "$LOGROTATE_DIR"
    cmp -s "$1/deploy/logrotate/avito-ai" "$LOGROTATE_DIR/avito-ai" || cp "$1/deploy/logrotate/avito-ai" "$LOGROTATE_DIR/avito-ai"
}

service_address() {
    if [ -n "$DOMAIN" ]; then
        echo "https://$DOMAIN"
    else
        "$PYTHON" -m deploy.service url "$(main_pid)"
    fi
}
