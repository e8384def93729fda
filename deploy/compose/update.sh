#!/usr/bin/env bash
# Updates the service that compose.yaml runs here, after a backup, and goes back to the old image unless the new one
# becomes healthy:
#
#   deploy/compose/update.sh            build the new image from this tree
#   deploy/compose/update.sh IMAGE      pull it instead
#   deploy/compose/update.sh backup     only back up
#
# A backup is a folder of $BACKUPS (./backups) that holds .env, the database and the journals of usage; the newest $KEEP
# (14) are kept. A database that DATABASE_URL names and that neither a volume of the service nor the PostgreSQL of
# deploy/compose/postgres.yaml holds is backed up where it runs, as DATABASE=elsewhere says; without that, nothing is
# changed. The files of Compose are those of COMPOSE_FILE, in .env or the environment. ENGINE and COMPOSE replace
# docker and `docker compose`; UPDATE_SECONDS (900) bounds the wait for a healthy service. If this is ended by a signal, the
# old image serves, and the last line says so.
set -euo pipefail
case "${BACKUPS:-}" in "" | /*) ;; *) BACKUPS="$PWD/$BACKUPS" ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

ENGINE="${ENGINE:-docker}" KEEP="${KEEP:-14}" UPDATE_SECONDS="${UPDATE_SECONDS:-900}"
BACKUPS="${BACKUPS:-$PWD/backups}"
read -ra COMPOSE <<<"${COMPOSE:-docker compose}"
# An image whose service ends as often as this will not become healthy, however long one waits.
SERVICE=avito-ai POLL="${POLL:-2}" RESTARTS=3
# The name of the image that Compose runs, once it may mean another than before; what it meant; whether the new one may run.
TAG="" MEANT="" STARTED=""
# shellcheck source=deploy/lib/apart.sh
. deploy/lib/apart.sh

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

main() {
    local container tag new="${1:-}"
    trap 'ended $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Who read the output has gone: a lost connection without a terminal, a job that was cancelled.
    trap 'exit 141' PIPE
    container="$(container_of "$SERVICE")"
    [ -n "$container" ] || die "The service does not run here. Start it first: ${COMPOSE[*]} up --detach --wait"
    apart back_up "$container"
    [ "$new" != backup ] || return 0
    tag="$(inspect .Config.Image "$container")"
    # A name of its own keeps the old image from being pruned.
    "$ENGINE" image tag "$(inspect .Image "$container")" avito-ai:before
    # What was built or pulled and not yet started has the name, too.
    MEANT="$(image_of "$tag")" || MEANT=avito-ai:before
    TAG="$tag"
    apart fetch "$new" "$tag"
    STARTED=yes
    apart serves "$tag" || go_back "$tag"
    trap - EXIT HUP INT TERM PIPE
    say "Updated. The image before is avito-ai:before."
}

# Ends the script. $1: its exit status. At a signal, an image that has not proved itself neither runs on nor keeps the name.
ended() {
    local state="nothing was changed."
    case "$1" in 129 | 130 | 141 | 143) ;; *) exit "$1" ;; esac
    trap - EXIT
    trap '' HUP INT TERM PIPE
    set +e
    end_child
    if [ -n "$STARTED" ]; then
        say "Ended by a signal: going back to the old image."
        state="the old image serves again."
        old_serves "$TAG" || state="the old image did not become healthy. See: ${COMPOSE[*]} logs $SERVICE"
    elif [ -n "$TAG" ]; then
        "$ENGINE" image tag "$MEANT" "$TAG"
    fi
    printf 'Error: Ended by a signal; %s\n' "$state" >&2
    exit "$1"
}

# $1: the service; $2: --all for one that has just ended, too. Prints its container, nothing if there is none.
container_of() {
    "$ENGINE" ps ${2:+"$2"} --quiet --filter "label=com.docker.compose.project=${COMPOSE_PROJECT_NAME:-avito-ai}" \
        --filter "label=com.docker.compose.service=$1" | head -n 1
}

inspect() { "$ENGINE" inspect --format "{{$1}}" "$2"; }

# $1: the name of an image. Prints its id.
image_of() { "$ENGINE" image inspect --format '{{.Id}}' "$1" 2>/dev/null; }

# $1: the container of the service, whose volumes are read by another one of the same image.
back_up() {
    local image folder postgres whole
    image="$(inspect .Image "$1")"
    (umask 077 && mkdir -p "$BACKUPS")
    BACKUPS="$(cd "$BACKUPS" && pwd)"
    whole="$BACKUPS/$(date -u +%Y%m%d-%H%M%S)"
    # Under another name until it is whole: half a backup must not take the place of one that is kept.
    among_backups 'unfinished-*' | remove_backups "$image"
    folder="$BACKUPS/unfinished-${whole##*/}"
    (umask 077 && mkdir "$folder")
    if [ -f .env ]; then install -m 600 .env "$folder/env"; fi
    (umask 077 && settings_of_database "$1" >"$folder/settings")
    copy_database "$1" "$folder" "$image" || die "The database could not be copied, and nothing was changed."
    rm "$folder/settings"
    postgres="$(container_of postgres)"
    if [ -n "$postgres" ]; then
        "$ENGINE" exec "$postgres" pg_dump --username avito_ai --format=custom avito_ai >"$folder/avito-ai.dump" ||
            die "PostgreSQL could not be dumped, and nothing was changed."
    fi
    mv "$folder" "$whole"
    among_backups '[0-9]*-[0-9]*' | sort -r | tail -n "+$((KEEP + 1))" | remove_backups "$image" ||
        die "The backup is $whole. Older ones could not be removed, and nothing was changed."
    say "The backup is $whole."
}

# $1: the container of the service. Prints what its environment says of the database, whatever Compose has read it from.
settings_of_database() {
    "$ENGINE" inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$1" | grep -E '^(DATABASE_URL|DATABASE_URL_FILE|STATE_DIR)=.' || true
}

# $1: a container; $2: a folder with its `settings`; $3: an image. False unless the folder has all that the service keeps,
# apart from a database that is dumped or backed up elsewhere.
copy_database() {
    local url state name
    url="$(with_volumes "$@" setting /backup/settings DATABASE_URL)" || return 1
    state="$(sed -n 's/^STATE_DIR=//p' "$2/settings" | tail -n 1)"
    state="${state:-/var/lib/avito-ai}"
    case "$url" in
        "" | sqlite[:+]*) with_volumes "$@" copy /backup/settings "$state" "$state" /backup || return 1 ;;
        *)
            is_dumped "$url" || is_elsewhere || return 1
            with_volumes "$@" journals /backup/settings "$state" "$state" /backup || return 1
            ;;
    esac
    name="${url%%\?*}" name="${name##*/}"
    case "$url" in sqlite[:+]*) [ -n "$(find "$2" -name "$name" -type f)" ] || is_elsewhere || return 1 ;; esac
}

# True if the URL is of the PostgreSQL that runs here and of the database of it that is dumped; its options may name another.
is_dumped() {
    [[ "$1" =~ ^postgresql[^:]*://([^/?#@]*@)?postgres(:[0-9]+)?/avito_ai(\?.*)?$ ]] || return 1
    [[ ! "$1" =~ [?\&](host|hostaddr|port|dbname|service)= ]] && [ -n "$(container_of postgres)" ]
}

is_elsewhere() {
    [ "${DATABASE:-}" = elsewhere ] || {
        printf '%s\n' "DATABASE_URL names a database that is neither in a volume of the service nor in the postgres that runs here." \
            "If it is backed up where it is, say so: DATABASE=elsewhere deploy/compose/update.sh" >&2
        return 1
    }
}

# $1: a container; $2: a folder; $3: an image; the others: a command of database_copy.py. Root of the new container may read
# the volumes; what it writes is to belong to whoever runs this.
with_volumes() {
    "$ENGINE" run --rm --interactive --network none --user 0 --volumes-from "$1" --volume "$2:/backup" "$3" \
        sh -ec 'python - "$@"; chown -R --reference=/backup /backup' sh "${@:4}" <deploy/database_copy.py
}

# $1: a pattern. Prints the names of the folders that fit it.
among_backups() { find "$BACKUPS" -mindepth 1 -maxdepth 1 -type d -name "$1" | sed 's|.*/||'; }

# $1: an image; stdin: names of folders. A container removes them: what the copy left half done belongs to its root, and
# whoever runs this may be a member of the group `docker` only.
remove_backups() {
    local name folders=()
    while read -r name; do folders+=("/backups/$name"); done
    [ ${#folders[@]} -eq 0 ] ||
        "$ENGINE" run --rm --network none --user 0 --volume "$BACKUPS:/backups" "$1" rm -rf "${folders[@]}"
}

# $1: an image to pull, or nothing to build one; $2: the name that Compose runs it by.
fetch() {
    if [ -n "$1" ]; then
        "$ENGINE" pull --quiet "$1" >/dev/null || die "$1 could not be pulled, and nothing was changed."
        "$ENGINE" image tag "$1" "$2"
    else
        "${COMPOSE[@]}" build "$SERVICE" || die "The image could not be built, and nothing was changed."
    fi
}

# $1: the name of the image. Starts it, and waits until it is healthy.
serves() { start "$1" && healthy "$1"; }

# $1: the name of the image. Not every Compose notices that the name means another image than before.
start() {
    "${COMPOSE[@]}" up --detach --no-build || return 1
    runs "$1" || "${COMPOSE[@]}" up --detach --no-build --no-deps --force-recreate "$SERVICE"
}

runs() { [ "$(inspect .Image "$(container_of "$SERVICE" --all)" 2>/dev/null)" = "$(image_of "$1")" ]; }

# $1: the name of the image. It runs, its models are loaded and have answered a prompt, and the site leads to them.
healthy() {
    local until=$((SECONDS + UPDATE_SECONDS)) container
    until container="$(container_of "$SERVICE" --all)" && [ -n "$container" ] && runs "$1" &&
        "$ENGINE" exec "$container" python -m deploy.health_check >/dev/null 2>&1 && site_answers; do
        [ "$SECONDS" -lt "$until" ] || return 1
        if [ -n "$container" ] && [ "$(inspect .RestartCount "$container")" -ge "$RESTARTS" ]; then return 1; fi
        sleep "$POLL"
    done
}

site_answers() {
    local nginx
    nginx="$(container_of nginx)"
    [ -z "$nginx" ] || "$ENGINE" exec "$nginx" curl --fail --silent --insecure --max-time 5 --output /dev/null \
        https://127.0.0.1/api/health/live
}

# $1: the name of the image that Compose runs.
go_back() {
    trap '' PIPE
    "${COMPOSE[@]}" logs --tail 20 "$SERVICE" >&2 || true
    if ! apart old_serves "$1"; then
        die "The new image did not become healthy, and neither did the old one. See: ${COMPOSE[*]} logs $SERVICE"
    fi
    die "The new image did not become healthy (its last lines are above); the old one serves again."
}

# It does not end with whoever reads the output: a write to a broken pipe ends programs such as Compose, also where PIPE is
# ignored.
old_serves() { "$ENGINE" image tag avito-ai:before "$1" && serves "$1" 2>&1 | read_on >&2; }

# Hands on what it reads for as long as somebody takes it, and reads the rest all the same.
read_on() {
    trap '' PIPE
    cat 2>/dev/null || cat >/dev/null
}

main "$@"
