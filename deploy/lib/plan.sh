# shellcheck shell=bash
# `deploy.sh production --dry-run`: run the checks and print the steps, without changing anything.

print_plan() {
    local missing
    is_root || [ ! -e "$CONFIG_DIR" ] ||
        die "The plan depends on the settings and the process that are here, which root alone can see: sudo ./deploy.sh production --dry-run"
    say "Dry run: nothing is changed. ./deploy.sh production would do this:"
    warn_of_environment
    warn_of_vllm
    FOUND_PYTHON="$(production_python)"
    missing="$(missing_system_packages | tr '\n' ' ')"
    plan_line "$missing" "install the system packages: $missing" "have all system packages"
    PYTHON="$FOUND_PYTHON"
    missing="$(missing_compiler_packages | tr '\n' ' ')"
    [ -z "$missing" ] || say "would install the compiler for the kernels: $missing"
    check_gpu
    check_model_folders
    [ -z "$PYTHON" ] || check_production_port
    refuse_other_environment
    plan_account
    plan_release
    plan_switch
    plan_proxy
    show_firewall
}

# $1: empty if there is nothing to do; then $3 is printed, else $2.
plan_line() {
    if [ -n "$1" ]; then say "would $2"; else say "would $3: nothing to do"; fi
}

plan_account() {
    if id -u "$SERVICE_USER" >/dev/null 2>&1; then
        say "would keep the user $SERVICE_USER"
    else
        say "would create the system user $SERVICE_USER"
    fi
    if [ -e "$SETTINGS_FILE" ]; then
        say "would keep the settings in $SETTINGS_FILE${GIVEN[*]+, and set: $(said_options "${GIVEN[@]}")}"
    else
        say "would write $SETTINGS_FILE from $([ -f "$ROOT/.env" ] && echo "$ROOT/.env" || echo .env.example)${GIVEN[*]+, and set: $(said_options "${GIVEN[@]}")}"
    fi
}

plan_release() {
    choose_release
    if release_complete; then
        say "would use the existing release ${RELEASE##*/} of this tree"
    else
        say "would copy $ROOT to $RELEASES/(date)-${RELEASE##*-}, install its packages$(plan_kernels) and run its smoke tests"
    fi
    say "would check settings, model folders and GPU as $SERVICE_USER in the sandbox of $UNIT"
}

plan_kernels() { if runs_on_cpu; then echo ", compile its kernels"; fi; }

plan_switch() {
    if release_complete && already_serves "$RELEASE" && [ ${#GIVEN[@]} -eq 0 ]; then
        say "would leave the service as it is: it already serves this release with these settings"
    elif [ "$(service_state)" = active ]; then
        if [ "$BACKUP" = yes ]; then say "would back up settings and database first"; fi
        say "would hand over from $(current_release | sed 's#.*/##') without downtime, or roll back to it"
    else
        say "would install and start $UNIT and the timers of ${TIMED_UNITS[*]}, and enable them at boot"
    fi
    say "would check readiness and one answer of each model"
}

plan_proxy() {
    if [ -z "$DOMAIN" ]; then
        follow_site
        if [ -n "$DOMAIN" ]; then
            say "would set up nginx anew at https://$DOMAIN, for port $(wanted_setting PORT 8085)"
            return
        fi
        say "would change no proxy (--domain NAME sets up nginx)"
        return
    fi
    say "would set HOST=127.0.0.1 and TRUSTED_PROXIES=1, and put nginx in front at https://$DOMAIN"
    if [ -n "$CERTIFICATE" ]; then
        say "would use the certificate $CERTIFICATE"
    else
        say "would request a certificate from Let's Encrypt with certbot"
    fi
}
