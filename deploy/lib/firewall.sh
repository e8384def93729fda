# shellcheck shell=bash
# Firewall rules that admit clients only. They are shown; --firewall applies them with ufw.

# Prints each rule as arguments of ufw, SSH first.
firewall_rules() {
    local port
    echo "allow $(ssh_port)/tcp"
    if [ -n "$DOMAIN" ] || [ -e "$SITE_LINK" ]; then
        printf '%s\n' "allow 80/tcp" "allow 443/tcp"
    else
        port="$(file_setting PORT 8085)"
        echo "allow $port/tcp"
    fi
}

# The port of the current SSH session, else the server's configured one.
ssh_port() {
    local port="${SSH_CONNECTION:-}"
    port="${port##* }"
    if [ -z "$port" ] && has sshd; then port="$(sshd -T 2>/dev/null | sed -n 's/^port //p' | head -n 1)"; fi
    echo "${port:-22}"
}

show_firewall() {
    local rule
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
