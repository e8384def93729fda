#!/usr/bin/env bash
# Tries a new release on one machine with a share of the requests, and then gives it all of them or none:
#
#   canary.sh SITE STABLE CANARY SHARE [SECONDS]
#
#   SITE     the site that render.sh printed, with both copies, as /etc/nginx/conf.d/avito-ai.conf
#   STABLE   port, or host:port, of the copy that serves now
#   CANARY   the same of the copy with the new release, which is ready
#   SHARE    percent of the requests for it, 1 to 99; 100 switches at once (blue-green), 0 switches back
#   SECONDS  how long it is watched (600)
#
# The exit status is 1 if the canary was withdrawn. Environment: NGINX, the program (nginx); what deploy/canary.py reads.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
NGINX="${NGINX:-nginx}"
# shellcheck source=deploy/lib/checked.sh
. "$HERE/../lib/checked.sh"

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

[ $# -ge 4 ] && [ $# -le 5 ] || die "usage: canary.sh SITE STABLE CANARY SHARE [SECONDS]"
SITE="$1" STABLE="$2" CANARY="$3" SHARE="$4" SECONDS_WATCHED="${5:-600}"
case "$STABLE" in *:*) ;; *) STABLE="127.0.0.1:$STABLE" ;; esac
case "$CANARY" in *:*) ;; *) CANARY="127.0.0.1:$CANARY" ;; esac
[[ "$SHARE" =~ ^(100|[1-9]?[0-9])$ ]] || die "SHARE is a whole number from 0 to 100, not '$SHARE'."
[[ "$SECONDS_WATCHED" =~ ^[1-9][0-9]*$ ]] || die "SECONDS is a whole number, not '$SECONDS_WATCHED'."
for copy in "$STABLE" "$CANARY"; do
    grep -q "server $copy .*fail_timeout=" "$SITE" || die "$SITE has no copy $copy; render it with both."
done

# Prints what the site has, with percent $2 of the requests for the copy $1. nginx knows no weight of 0.
weighed() {
    local how="weight=$2 max_fails=1 fail_timeout=5s"
    if [ "$2" = 0 ]; then how="max_fails=1 fail_timeout=5s down"; fi
    sed "s/server ${1//./\\.} [^;]*fail_timeout=5s[^;]*;/server $1 $how;/"
}

takes_it() { $NGINX -t -q && $NGINX -s reload; }

# $1: percent of the requests for the canary. The site is as before if nginx does not take it.
divide() {
    local text
    text="$(weighed "$CANARY" "$1" <"$SITE" | weighed "$STABLE" "$((100 - $1))")" && replace_checked "$SITE" takes_it <<<"$text"
}

withdraw() {
    put_back
    divide 0 || die "$CANARY keeps its share of the requests: nginx does not take its configuration (nginx -t)."
}

# Where the watch is ended, nobody would judge the canary any more. $1: the exit status.
ended() {
    kill "${!:-}" 2>/dev/null || true
    withdraw
    printf 'Error: The watch was ended; %s has all requests again.\n' "$STABLE" >&2
    exit "$1"
}

trap 'ended 130' INT
trap 'ended 143' TERM
trap 'ended 129' HUP
divide "$SHARE" || die "nginx does not take its configuration (nginx -t); $SITE is as it was."
case "$SHARE" in 0 | 100) printf '%s gets %s%% of the requests.\n' "$CANARY" "$SHARE" && exit ;; esac
python3 "$HERE/../canary.py" scrape "$SECONDS_WATCHED" "http://$STABLE/metrics" "http://$CANARY/metrics" &
if wait "$!"; then
    divide 100 || die "$CANARY may have all requests and keeps its share of them: nginx does not take its configuration (nginx -t)."
    printf '%s gets all requests.\n' "$CANARY"
else
    withdraw
    die "$CANARY gets no requests; $STABLE has them all again."
fi
