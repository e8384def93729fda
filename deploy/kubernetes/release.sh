#!/usr/bin/env bash
# Deploys an image to a cluster: release.sh [--canary SHARE] OVERLAY IMAGE [URL]
#
#   SHARE    percent of the requests, 1 to 99, that one pod with the image gets first; it is released if it does no worse
#            than the others in CANARY_SECONDS, and withdrawn otherwise (deploy/canary.py), with exit status 1
#   OVERLAY  a folder of overlays/, as cpu-demo or gpu
#   IMAGE    name:tag or name@sha256:..., as pulled by the cluster
#   URL      URL of the service; one text is generated there
#
# A release that cannot be applied whole, does not become ready or is ended is rolled back, with what the overlay itself
# deploys; the exit status is 1, or that of the signal. Environment: KUBECONFIG_TEXT, the content of a kubeconfig file;
# ROLLOUT_TIMEOUT, the limit of the rollout (40m); COMPONENTS, names of folders of
# components, separated by spaces, to add to the overlay; API_KEY, a client key, where the service asks for one at URL.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/overlays"
# shellcheck source=deploy/lib/apart.sh
. ../../lib/apart.sh

STATUS=1
die() {
    printf 'Error: %s\n' "$*" >&2
    exit "$STATUS"
}

SHARE=""
if [ "${1:-}" = --canary ]; then
    SHARE="${2:-}"
    [[ "$SHARE" =~ ^[1-9][0-9]?$ ]] || die "SHARE is a whole number from 1 to 99, not '$SHARE'."
    [ -n "${PROMETHEUS:-}" ] || die "PROMETHEUS must hold the URL of the Prometheus that judges the canary."
    shift 2
fi
[ $# -ge 2 ] && [ $# -le 3 ] || die "usage: release.sh [--canary SHARE] OVERLAY IMAGE [URL]"
OVERLAY="$1" IMAGE="$2" URL="${3:-}"
[ -f "$OVERLAY/kustomization.yaml" ] || die "there is no overlay '$OVERLAY'."
[[ "$IMAGE" =~ ^[a-z0-9._/:-]+(@sha256:[0-9a-f]{64}|:[A-Za-z0-9._-]+)$ ]] || die "'$IMAGE' is neither name:tag nor name@sha256:..."

components=""
for component in ${COMPONENTS:-}; do
    [ -f "../components/$component/kustomization.yaml" ] || die "there is no component '$component'."
    components+="${components:+, }../../components/$component"
done

release="$(mktemp -d ./.release.XXXXXX)" tried=""
# However the release ends: a canary that is left would keep its share of the requests, and nobody would judge it.
leave() {
    trap '' INT TERM HUP
    end_child
    if [ -n "$tried" ] && ! withdraw; then
        printf 'Error: The canary could not be removed and keeps its share of the requests. Remove it: %s\n' \
            "kubectl --namespace avito-ai delete ingress,$CANARY" >&2
        rm -rf "$release"
        exit 1
    fi
    rm -rf "$release"
}
trap leave EXIT
if [ -n "${KUBECONFIG_TEXT:-}" ]; then
    (umask 077 && printf '%s\n' "$KUBECONFIG_TEXT" >"$release/kubeconfig")
    export KUBECONFIG="$PWD/$release/kubeconfig"
fi

case "$IMAGE" in
    *@*) version="digest: ${IMAGE#*@}" name="${IMAGE%@*}" ;;
    *) version="newTag: \"${IMAGE##*:}\"" name="${IMAGE%:*}" ;;
esac
# The overlay with the image. $1: another component; stdin: what else the kustomization has.
kustomization() {
    cat >"$release/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../$OVERLAY]
components: [$components${1:+${components:+, }$1}]
images:
  - name: avito-ai
    newName: $name
    $version
$(cat)
YAML
}

in_namespace() { kubectl --namespace avito-ai "$@"; }

# The deployments that a release may change: those of the overlay itself, as vLLM's, and then the service's.
deployments() {
    sed -n '/^kind: Deployment$/,/^spec:/s/^  name: //p' "$OVERLAY"/*.yaml | grep -v '^avito-ai$' || true
    printf 'avito-ai\n'
}

# The number of a deployment's revision, nothing for one that there is not.
revision() {
    in_namespace get deployment "$1" --ignore-not-found \
        --output 'jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}'
}

# Waits until the controller has seen the deployment as it is now: only then its revision is that of the present state.
observed() {
    local attempt seen
    for attempt in 0 1 2 4 8; do
        sleep "$attempt"
        seen="$(in_namespace get deployment "$1" --ignore-not-found \
            --output 'jsonpath={.metadata.generation} {.status.observedGeneration}')" || continue
        [ "${seen% *}" != "${seen#* }" ] || return 0
    done
}

# Takes back what this release has changed, and nothing else: another undo would go back to an older release.
roll_back() {
    local name before now undone="" first=""
    trap '' INT TERM HUP
    end_child
    while read -r name before; do
        observed "$name"
        if ! now="$(revision "$name" || revision "$name")"; then
            printf 'Error: The revision of %s cannot be read; look whether it has to be undone.\n' "$name" >&2
            continue
        fi
        [ "$now" != "$before" ] || continue
        in_namespace get pods --selector "app.kubernetes.io/name=$name" >&2 || true
        in_namespace logs --selector "app.kubernetes.io/name=$name" --tail 20 >&2 || true
        if [ -n "$before" ] && in_namespace rollout undo "deployment/$name" >&2; then undone+=" $name"; else first+=" $name"; fi
    done <"$release/revisions"
    [ -z "$first" ] || die "$1, and there is no previous release of$first to return to."
    [ -n "$undone" ] || die "$1, though this release has changed no deployment."
    die "$1; the previous release was restored:$undone."
}

CANARY="deployment,service,servicemonitor,networkpolicy,configmap --selector avito-ai/track=canary"

# Removes the canary's objects; the Ingress first, so that no request meets a pod that is gone. The cluster may be out of
# reach for a moment.
withdraw() {
    local attempt left
    for attempt in 0 1 2; do
        sleep "$attempt"
        left=""
        in_namespace delete ingress --selector avito-ai/track=canary >&2 || left=yes
        # shellcheck disable=SC2086  # words
        in_namespace delete $CANARY >&2 || left=yes
        [ -n "$left" ] || return 0
    done
    return 1
}

try_canary() {
    kustomization ../../canary <<YAML
patches:
  - target: {kind: Ingress, name: avito-ai-canary}
    patch: |
      - op: add
        path: /metadata/annotations/nginx.ingress.kubernetes.io~1canary-weight
        value: "$SHARE"
YAML
    tried=yes
    apart kubectl apply --kustomize "$release" --selector avito-ai/track=canary &&
        apart in_namespace rollout status deployment/avito-ai-canary --timeout "${ROLLOUT_TIMEOUT:-40m}" &&
        apart python3 ../../canary.py prometheus "${CANARY_SECONDS:-600}" "$PROMETHEUS" \
            'namespace="avito-ai",service="avito-ai"' 'namespace="avito-ai",service="avito-ai-canary"'
}

# $1: the exit status.
ended() {
    printf 'Error: The watch was ended, and %s is withdrawn.\n' "$IMAGE" >&2
    exit "$1"
}

if [ -n "$SHARE" ]; then
    trap 'ended 130' INT
    trap 'ended 143' TERM
    trap 'ended 129' HUP
fi
if [ -n "$SHARE" ] && ! try_canary; then
    in_namespace logs --selector app.kubernetes.io/name=avito-ai-canary --tail 20 >&2 || true
    die "$IMAGE is withdrawn; the previous release serves on."
fi

trap - INT TERM HUP
kustomization '' </dev/null
for name in $(deployments); do
    before="$(revision "$name" || revision "$name")" || die "the revision of $name cannot be read; nothing was changed."
    printf '%s %s\n' "$name" "$before" >>"$release/revisions"
done
# $1: the exit status.
interrupted() {
    STATUS="$1"
    roll_back "The release of $IMAGE was ended"
}

trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
apart kubectl apply --kustomize "$release" || roll_back "$IMAGE could not be applied whole"
for name in $(deployments); do
    apart in_namespace rollout status "deployment/$name" --timeout "${ROLLOUT_TIMEOUT:-40m}" ||
        roll_back "$name did not become ready with $IMAGE"
done
# Not on the command line, where other users of the machine would see it.
authorization() {
    if [ -n "${API_KEY:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$API_KEY"; fi
}

generate() {
    authorization | curl --config - --fail --silent --show-error --retry 3 --retry-all-errors --max-time 60 "$URL/api/v1/text/generate" \
        --header 'Content-Type: application/json' --data '{"prompt": "Привет!", "max_tokens": 10}' >/dev/null
}

if [ -n "$URL" ]; then
    apart generate || roll_back "$URL did not generate a text"
fi
trap - INT TERM HUP
printf '%s serves.\n' "$IMAGE"
