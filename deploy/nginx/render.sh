#!/usr/bin/env bash
# Prints nginx's site for this service from the templates beside this file:
#
#   render.sh challenge DOMAIN
#   render.sh site DOMAIN CERTIFICATE CERTIFICATE_KEY COPY...
#
# COPY: a local port, or host:port. In the environment: HTTP_PORT and HTTPS_PORT replace 80 and 443; AFFINITY=yes sends
# each conversation, or else each client, to the same copy; REQUEST_TIMEOUT is that of the copies (300).
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
HTTP_PORT="${HTTP_PORT:-80}" HTTPS_PORT="${HTTPS_PORT:-443}" BALANCE="least_conn;" REQUEST_TIMEOUT="${REQUEST_TIMEOUT:-300}"
# shellcheck disable=SC2016 # a variable of nginx
case "${AFFINITY:-no}" in yes) BALANCE='hash $avito_ai_affinity consistent;' ;; esac
DOMAIN_NAME='^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$'
FILE_NAME='^/[A-Za-z0-9._/-]+$'
SECONDS_NAME='^[0-9]{1,6}(\.[0-9]*)?$'
COPY_NAME='^([A-Za-z0-9.-]+:)?[0-9]{1,5}$'

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

main() {
    [ $# -ge 2 ] || die "usage: render.sh challenge DOMAIN | site DOMAIN CERTIFICATE CERTIFICATE_KEY COPY..."
    local kind="$1" domain="$2"
    shift 2
    [[ "$domain" =~ $DOMAIN_NAME ]] || die "'$domain' is not a domain name."
    case "$kind" in
        challenge) challenge "$domain" ;;
        site) site "$domain" "$@" ;;
        *) die "'$kind' is neither 'challenge' nor 'site'." ;;
    esac
}

challenge() {
    local text
    text="$(<"$HERE/challenge.conf")"
    text="${text//@LISTEN_HTTP@/"$(listen "$HTTP_PORT")"}"
    printf '%s\n' "${text//@DOMAIN@/"$1"}"
}

site() {
    [ $# -ge 4 ] || die "a site needs a certificate, its key and at least one copy of the service."
    local domain="$1" certificate="$2" key="$3" text another="" file copy
    shift 3
    for file in "$certificate" "$key"; do
        [[ "$file" =~ $FILE_NAME ]] || die "'$file' is not an absolute path of letters, digits and . _ - /."
    done
    for copy in "$@"; do
        [[ "$copy" =~ $COPY_NAME ]] || die "'$copy' is neither a port nor host:port."
    done
    [[ "$REQUEST_TIMEOUT" =~ $SECONDS_NAME ]] || die "REQUEST_TIMEOUT=$REQUEST_TIMEOUT is not a number of seconds such as 300."
    if [ $# -gt 1 ]; then another=yes; fi
    text="$(<"$HERE/avito-ai.conf")"
    text="${text//@BALANCE@/"$BALANCE"}"
    text="${text//@SERVERS@/"$(servers 'max_fails=1 fail_timeout=5s' "$@")"}"
    text="${text//@OTHER_SERVERS@/"$(servers 'max_fails=0' "$@")"}"
    text="${text//@LISTEN_HTTP@/"$(listen "$HTTP_PORT")"}"
    text="${text//@LISTEN_HTTPS@/"$(listen_https)"}"
    text="${text//@READ_SECONDS@/"$(read_seconds)"}"
    text="${text//@DOMAIN@/"$domain"}"
    text="${text//@CERTIFICATE@/"$certificate"}"
    text="${text//@CERTIFICATE_KEY@/"$key"}"
    printf '%s\n' "${text//@ANOTHER_COPY@/"$another"}"
}

# Prints ten seconds more than a request may take, rounded up.
read_seconds() {
    local whole="${REQUEST_TIMEOUT%%.*}" part=0
    case "$REQUEST_TIMEOUT" in *.*[1-9]*) part=1 ;; esac
    echo "$((10#$whole + part + 10))"
}

# $1: nginx's parameters of each; the others: the copies.
servers() {
    local how="$1" copy separator=""
    shift
    for copy in "$@"; do
        case "$copy" in *:*) ;; *) copy="127.0.0.1:$copy" ;; esac
        printf '%sserver %s %s;' "$separator" "$copy" "$how"
        separator=$'\n    '
    done
}

# $1: the port; $2: options after it. IPv6 only if the system has it, otherwise nginx would not start.
listen() {
    printf 'listen %s%s;' "$1" "${2:-}"
    if [ -e /proc/net/if_inet6 ]; then printf '\n    listen [::]:%s%s;' "$1" "${2:-}"; fi
}

# Since nginx 1.25.1 http2 is a directive of its own.
listen_https() {
    local version
    version="$(nginx -v 2>&1 | sed -n 's|.*nginx/\([0-9.]*\).*|\1|p')"
    if [ "$(printf '%s\n' 1.25.1 "$version" | sort -V | head -n 1)" = 1.25.1 ]; then
        printf '%s\n    http2 on;' "$(listen "$HTTPS_PORT" ' ssl')"
    else
        listen "$HTTPS_PORT" ' ssl http2'
    fi
}

main "$@"
