# shellcheck shell=bash
# Firewall rules that admit clients only. They are shown; --firewall applies them with ufw.

# Every port by which SSH can be reached, one a line: without its rule an operator is locked out.
SSH_PORTS=""

# Prints each rule as arguments of ufw, SSH first.
firewall_rules() {
    local port
    for port in $SSH_PORTS; do echo "allow $port/tcp"; done
    if [ -n "$DOMAIN" ] || [ -e "$SITE_LINK" ]; then
        printf '%s\n' "allow 80/tcp" "allow 443/tcp"
    else
        port="$(file_setting PORT 8085)"
        echo "allow $port/tcp"
    fi
}

# Sets SSH_PORTS: that of the current session first, which may have been started with other settings.
find_ssh_ports() {
    local sshd session="${SSH_CONNECTION:-}"
    sshd="$(command -v sshd)" || sshd="$SYSTEM_ROOT/usr/sbin/sshd"
    SSH_PORTS="$({ echo "${session##* }" && ports_of_sshd "$sshd" && ports_of_socket; } | awk 'NF && !seen[$0]++')"
    if [ -z "$SSH_PORTS" ]; then
        SSH_PORTS=22
        [ ! -x "$sshd" ] || warn "sshd does not tell its ports (sudo sshd -T), so the rule for SSH is one for port 22."
    fi
}

# What it has of `listenaddress` is complete, also where that has a port of its own.
ports_of_sshd() {
    { "$1" -T 2>/dev/null || true; } | sed -n 's/^listenaddress [^ ]*:\([0-9][0-9]*\).*/\1/p'
}

# Where systemd listens for sshd, which may then neither run nor be able to tell.
ports_of_socket() {
    { systemctl show --property ActiveState,Listen ssh.socket 2>/dev/null || true; } |
        awk '/^ActiveState=active$/ { active = 1 } sub(/ \(Stream\)$/, "") && sub(/^Listen=.*:/, "") { ports = ports $0 "\n" }
            END { if (active) printf "%s", ports }'
}

show_firewall() {
    local rule
    find_ssh_ports
    if [ "$FIREWALL" = yes ] && [ "$DRY_RUN" = no ]; then
        apply_firewall
        return
    fi
    say "Matching firewall rules (--firewall applies them):"
    firewall_rules | while IFS= read -r rule; do say "    ufw $rule"; done
    say "    ufw default deny incoming; ufw enable"
}

apply_firewall() {
    local rule
    firewall_rules | while IFS= read -r rule; do
        # shellcheck disable=SC2086  # two words
        recorded ufw $rule || die "ufw refused: $rule"
    done
    if ! recorded ufw default deny incoming || ! recorded ufw --force enable; then
        die "ufw could not be enabled; see its output above."
    fi
    say "The firewall allows: $(firewall_rules | sed 's/allow //' | tr '\n' ' ')"
}
