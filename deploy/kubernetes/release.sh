#!/usr/bin/env bash
# Deploys an image to a cluster: release.sh OVERLAY IMAGE [URL]
#
#   OVERLAY  cpu-demo or gpu
#   IMAGE    name:tag or name@sha256:..., as pulled by the cluster
#   URL      URL of the service; one text is generated there
#
# A release that does not become ready is rolled back, and the exit status is 1. Environment: KUBECONFIG_TEXT, the
# content of a kubeconfig file; ROLLOUT_TIMEOUT, the limit of the rollout (30m).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/overlays"

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

[ $# -ge 2 ] && [ $# -le 3 ] || die "usage: release.sh OVERLAY IMAGE [URL]"
OVERLAY="$1" IMAGE="$2" URL="${3:-}"
[ -f "$OVERLAY/kustomization.yaml" ] || die "there is no overlay '$OVERLAY'."
[[ "$IMAGE" =~ ^[a-z0-9._/:-]+(@sha256:[0-9a-f]{64}|:[A-Za-z0-9._-]+)$ ]] || die "'$IMAGE' is neither name:tag nor name@sha256:..."

release="$(mktemp -d ./.release.XXXXXX)"
trap 'rm -rf "$release"' EXIT
if [ -n "${KUBECONFIG_TEXT:-}" ]; then
    (umask 077 && printf '%s\n' "$KUBECONFIG_TEXT" >"$release/kubeconfig")
    export KUBECONFIG="$PWD/$release/kubeconfig"
fi

# The overlay with this image.
case "$IMAGE" in
    *@*) version="digest: ${IMAGE#*@}" name="${IMAGE%@*}" ;;
    *) version="newTag: \"${IMAGE##*:}\"" name="${IMAGE%:*}" ;;
esac
cat >"$release/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../$OVERLAY]
images:
  - name: avito-ai
    newName: $name
    $version
YAML

in_namespace() { kubectl --namespace avito-ai "$@"; }

roll_back() {
    in_namespace get pods --selector app.kubernetes.io/name=avito-ai >&2 || true
    in_namespace logs --selector app.kubernetes.io/name=avito-ai --tail 20 >&2 || true
    in_namespace rollout undo deployment/avito-ai >&2 || die "$1, and there is no previous release to return to."
    die "$1; the previous release was restored."
}

kubectl apply --kustomize "$release"
in_namespace rollout status deployment/avito-ai --timeout "${ROLLOUT_TIMEOUT:-30m}" ||
    roll_back "$IMAGE did not become ready"
if [ -n "$URL" ]; then
    curl --fail --silent --show-error --retry 3 --retry-all-errors --max-time 60 "$URL/api/v1/text/generate" \
        --header 'Content-Type: application/json' --data '{"prompt": "Привет!", "max_tokens": 10}' >/dev/null ||
        roll_back "$URL did not generate a text"
fi
printf '%s serves.\n' "$IMAGE"
