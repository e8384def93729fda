# shellcheck shell=bash
# --domain NAME: nginx with TLS in front of the service. Without it no proxy is changed.

SITE="$SYSTEM_ROOT/etc/nginx/sites-available/avito-ai.conf"
SITE_LINK="$SYSTEM_ROOT/etc/nginx/sites-enabled/avito-ai.conf"
# Webroot of certbot's challenge; the templates of deploy/nginx contain this path.
WEBROOT="$SYSTEM_ROOT/var/www/avito-ai"
CERTBOT_LIVE="$SYSTEM_ROOT/etc/letsencrypt/live"
# Copy of the previous site while a failure of this run would restore it; - if there was none.
SITE_BEFORE=""

check_proxy_options() {
    if [ -z "$DOMAIN" ]; then
        [ -z "$CERTIFICATE$CERTIFICATE_KEY$EMAIL" ] || die "--certificate, --certificate-key and --email require --domain NAME."
        return 0
    fi
    case "$DOMAIN" in
        *[!A-Za-z0-9.-]* | .* | -* | *..* | *.) die "--domain $DOMAIN is not a host name." ;;
        *.*) ;;
        *) die "--domain $DOMAIN is not a host name; it needs a dot." ;;
    esac
    [ -z "$CERTIFICATE" ] || [ -n "$CERTIFICATE_KEY" ] || die "--certificate requires --certificate-key FILE."
    [ -z "$CERTIFICATE_KEY" ] || [ -n "$CERTIFICATE" ] || die "--certificate-key requires --certificate FILE."
}

check_own_certificate() {
    local file
    [ -n "$CERTIFICATE" ] || return 0
    for file in "$CERTIFICATE" "$CERTIFICATE_KEY"; do
        [ -r "$file" ] || die "$file cannot be read."
    done
    CERTIFICATE="$(absolute "$CERTIFICATE")" CERTIFICATE_KEY="$(absolute "$CERTIFICATE_KEY")"
    has openssl || return 0
    [ "$(openssl x509 -in "$CERTIFICATE" -noout -pubkey 2>/dev/null)" = "$(openssl pkey -in "$CERTIFICATE_KEY" -pubout 2>/dev/null)" ] ||
        die "$CERTIFICATE_KEY is not the key of $CERTIFICATE."
    openssl x509 -in "$CERTIFICATE" -noout -checkend 0 >/dev/null || die "$CERTIFICATE has expired."
    openssl x509 -in "$CERTIFICATE" -noout -checkhost "$DOMAIN" | grep -q 'does match' || die "$CERTIFICATE is not for $DOMAIN."
}

absolute() { (cd "$(dirname "$1")" && printf '%s/%s\n' "$(pwd -P)" "${1##*/}"); }

# Writes the site and has nginx validate it, without activating it. Without a certificate it is the site for certbot's
# challenge.
prepare_proxy() {
    say "Preparing nginx for https://$DOMAIN."
    if [ -z "$CERTIFICATE" ] && certbot_has_one; then use_certbots; fi
    mkdir -p "$WEBROOT" "${SITE%/*}" "${SITE_LINK%/*}"
    SITE_BEFORE=-
    if [ -e "$SITE" ]; then
        SITE_BEFORE="$DEPLOY_STATE/site-before"
        cp "$SITE" "$SITE_BEFORE"
    fi
    if [ -n "$CERTIFICATE" ]; then
        write_whole_site
    else
        write_site challenge "$DOMAIN"
    fi
}

certbot_has_one() { [ -e "$CERTBOT_LIVE/$DOMAIN/fullchain.pem" ]; }

use_certbots() { CERTIFICATE="$CERTBOT_LIVE/$DOMAIN/fullchain.pem" CERTIFICATE_KEY="$CERTBOT_LIVE/$DOMAIN/privkey.pem"; }

# $@: the arguments of render.sh. A site that nginx rejects leaves the former one, which the next start of nginx reads.
write_site() {
    local text
    text="$(render_site "$RELEASE" "$@")" || die "The nginx site could not be generated; see the message above."
    ln -sfn "$SITE" "$SITE_LINK"
    replace_checked "$SITE" recorded nginx -t <<<"$text" || {
        [ -e "$SITE" ] || rm -f "$SITE_LINK"
        die "nginx rejects the site; see its message above."
    }
}

write_whole_site() { write_site site "$DOMAIN" "$CERTIFICATE" "$CERTIFICATE_KEY" "$(wanted_setting PORT 8085)"; }

# Without --domain, a site of an earlier run that does not lead to the port of the settings, or waits for another time than
# they say, is set up anew with its own name and certificate. One with several copies is the operator's, and one without
# any waits for its certificate.
follow_site() {
    local name certificate key now wanted
    [ -z "$DOMAIN" ] && [ -e "$SITE" ] && [ -e "$SITE_LINK" ] || return 0
    case "$(sed -n 's/^ *server \(127.0.0.1:[0-9]*\) .*/\1/p' "$SITE" | sort -u)" in "" | *[[:space:]]*) return 0 ;; esac
    now="$(followed <"$SITE")"
    # What follows the settings is the same for every name, so that nothing else of the site need be as it was written.
    wanted="$(render_site "$ROOT" site example.invalid /certificate /key "$(wanted_setting PORT 8085)" | followed)" ||
        die "The nginx site could not be generated; see the message above."
    if [ "$now" = "$wanted" ]; then return; fi
    name="$(site_word server_name)" certificate="$(site_word ssl_certificate)" key="$(site_word ssl_certificate_key)"
    render_site "$ROOT" site "$name" "$certificate" "$key" "$(wanted_setting PORT 8085)" >/dev/null ||
        die "$SITE could not be set up anew for these settings: --domain NAME does."
    DOMAIN="$name" CERTIFICATE="$certificate" CERTIFICATE_KEY="$key"
}

# Prints the value of a directive of the site.
site_word() { sed -n "s/^ *$1 \([^ ;]*\);.*/\1/p" "$SITE" | head -n 1; }

# Prints the lines of a site, from stdin, that follow the settings.
followed() { grep -E '^ *(server 127|proxy_read_timeout )' | sort; }

# $1: the tree; the others: the arguments of render.sh.
render_site() { REQUEST_TIMEOUT="$(wanted_setting REQUEST_TIMEOUT 300)" bash "$1/deploy/nginx/render.sh" "${@:2}"; }

# Activates the site, requests a certificate if there is none, and checks the service through nginx.
finish_proxy() {
    SITE_BEFORE=""
    systemctl enable --quiet nginx
    reload_nginx
    if [ -z "$CERTIFICATE" ]; then ask_certbot; fi
    # nginx finishes a reload shortly after the command has returned.
    curl --silent --show-error --insecure --output /dev/null --fail --max-time 20 --retry 10 --retry-delay 1 --retry-connrefused --noproxy '*' --resolve "$DOMAIN:443:127.0.0.1" \
        "https://$DOMAIN/api/health/live" || die "The service is ready, but not reachable through nginx at https://$DOMAIN; see: journalctl -u nginx -e"
    say "nginx serves https://$DOMAIN."
}

reload_nginx() {
    recorded systemctl reload-or-restart nginx || die "nginx could not be started; the service itself is ready. See: journalctl -u nginx -e"
}

ask_certbot() {
    local who=(--register-unsafely-without-email)
    if [ -n "$EMAIL" ]; then who=(--email "$EMAIL"); fi
    say "Requesting a certificate for $DOMAIN from Let's Encrypt."
    recorded certbot certonly --webroot --webroot-path "$WEBROOT" --domain "$DOMAIN" --non-interactive --agree-tos \
        --deploy-hook "systemctl reload nginx" "${who[@]}" ||
        die "There is no certificate for $DOMAIN yet; see certbot's message above (does the name resolve to this machine, is port 80 open?). Until this is run again, the service is reachable on this machine only."
    use_certbots
    write_whole_site
    reload_nginx
}

restore_proxy() {
    case "$SITE_BEFORE" in
        "") ;;
        -) rm -f "$SITE" "$SITE_LINK" ;;
        *) cp "$SITE_BEFORE" "$SITE" ;;
    esac
}

remove_site() {
    [ -e "$SITE_LINK" ] || return 0
    rm -f "$SITE" "$SITE_LINK"
    systemctl reload nginx 2>/dev/null || true
    say "Removed the site from nginx."
}
