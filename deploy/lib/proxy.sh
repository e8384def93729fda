# shellcheck shell=bash
# --domain NAME: nginx with TLS in front of the service. Without it no proxy is touched.

SITE_TEMPLATE=deploy/nginx/avito-ai.conf.template
SITE="$SYSTEM_ROOT/etc/nginx/sites-available/avito-ai.conf"
SITE_LINK="$SYSTEM_ROOT/etc/nginx/sites-enabled/avito-ai.conf"
# The site names these two; they are links to the operator's files, to certbot's, or a stand-in until certbot has some.
TLS_DIR="$CONFIG_DIR/tls"
WEBROOT="$SYSTEM_ROOT/var/www/avito-ai"
CERTBOT_LIVE="$SYSTEM_ROOT/etc/letsencrypt/live"
# The site as it was, while a failure of this run would have to bring it back; - where there was none.
SITE_BEFORE=""

check_proxy_options() {
    if [ -z "$DOMAIN" ]; then
        [ -z "$CERTIFICATE$CERTIFICATE_KEY$EMAIL" ] || die "--certificate, --certificate-key and --email go with --domain NAME."
        return 0
    fi
    case "$DOMAIN" in
        *[!A-Za-z0-9.-]* | .* | -* | *..* | *.) die "--domain $DOMAIN is no host name." ;;
        *.*) ;;
        *) die "--domain $DOMAIN is no host name; it needs a dot." ;;
    esac
    [ -z "$CERTIFICATE" ] || [ -n "$CERTIFICATE_KEY" ] || die "--certificate needs --certificate-key FILE beside it."
    [ -z "$CERTIFICATE_KEY" ] || [ -n "$CERTIFICATE" ] || die "--certificate-key needs --certificate FILE beside it."
    [ -z "$CERTIFICATE" ] || check_own_certificate
}

check_own_certificate() {
    local file
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

# Puts the site and its certificate in place and has nginx read them, without using them yet.
prepare_proxy() {
    say "Preparing nginx for https://$DOMAIN."
    mkdir -p "$TLS_DIR" "$WEBROOT" "${SITE%/*}" "${SITE_LINK%/*}"
    chmod 750 "$TLS_DIR"
    place_certificate
    SITE_BEFORE=-
    if [ -e "$SITE" ]; then
        SITE_BEFORE="$MEMORY/site-before"
        cp "$SITE" "$SITE_BEFORE"
    fi
    render_site >"$SITE.new"
    mv "$SITE.new" "$SITE"
    ln -sfn "$SITE" "$SITE_LINK"
    recorded nginx -t || die "nginx does not take the site; its reason stands above."
}

render_site() {
    sed -e "s#@DOMAIN@#$DOMAIN#g" -e "s#@PORT@#$(file_setting PORT 8085)#g" -e "s#@TLS_DIR@#$TLS_DIR#g" \
        -e "s#@WEBROOT@#$WEBROOT#g" "$RELEASE/$SITE_TEMPLATE"
}

place_certificate() {
    local live="$CERTBOT_LIVE/$DOMAIN"
    if [ -n "$CERTIFICATE" ]; then
        link_certificate "$CERTIFICATE" "$CERTIFICATE_KEY"
    elif [ -e "$live/fullchain.pem" ]; then
        link_certificate "$live/fullchain.pem" "$live/privkey.pem"
    elif [ ! -e "$TLS_DIR/fullchain.pem" ]; then
        (umask 077 && openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=$DOMAIN" -addext "subjectAltName=DNS:$DOMAIN" \
            -keyout "$TLS_DIR/stand-in.key" -out "$TLS_DIR/stand-in.pem" 2>/dev/null) || die "openssl could not make a certificate to begin with."
        link_certificate "$TLS_DIR/stand-in.pem" "$TLS_DIR/stand-in.key"
    fi
}

link_certificate() {
    ln -sfn "$1" "$TLS_DIR/fullchain.pem"
    ln -sfn "$2" "$TLS_DIR/privkey.pem"
}

# Lets nginx use the site, gets the certificate that it stands in for, and asks for the service by its name.
finish_proxy() {
    SITE_BEFORE=""
    systemctl enable --quiet nginx
    recorded systemctl reload-or-restart nginx || die "nginx could not be started; the service itself serves. See: journalctl -u nginx -e"
    if [ "$(readlink "$TLS_DIR/fullchain.pem")" = "$TLS_DIR/stand-in.pem" ]; then ask_certbot; fi
    curl --silent --show-error --insecure --output /dev/null --fail --max-time 20 --noproxy '*' --resolve "$DOMAIN:443:127.0.0.1" \
        "https://$DOMAIN/api/health/live" || die "The service serves, but not through nginx at https://$DOMAIN; see: journalctl -u nginx -e"
    say "nginx answers for https://$DOMAIN."
}

ask_certbot() {
    local who=(--register-unsafely-without-email)
    if [ -n "$EMAIL" ]; then who=(--email "$EMAIL"); fi
    say "Asking Let's Encrypt for a certificate for $DOMAIN."
    recorded certbot certonly --webroot --webroot-path "$WEBROOT" --domain "$DOMAIN" --non-interactive --agree-tos \
        --deploy-hook "systemctl reload nginx" "${who[@]}" ||
        die "There is no certificate for $DOMAIN yet; certbot's reason stands above (does the name lead here, is port 80 open?). The service serves behind a self-signed one; run this again."
    link_certificate "$CERTBOT_LIVE/$DOMAIN/fullchain.pem" "$CERTBOT_LIVE/$DOMAIN/privkey.pem"
    recorded systemctl reload nginx
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
    say "Took the site out of nginx."
}
