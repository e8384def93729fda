# shellcheck shell=bash
# The rules that let clients in and nobody else. They are shown; --firewall applies them with ufw.

# Prints each rule as arguments of ufw. The way in for the operator comes first.
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

# The port of this very session, else the one that the server is set to.
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
    say "Firewall rules that fit (--firewall applies them):"
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
        die "ufw could not be switched on; its reason stands above."
    fi
    say "The firewall lets in: $(firewall_rules | sed 's/allow //' | tr '\n' ' ')"
}
