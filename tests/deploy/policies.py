"""Which connections NetworkPolicies permit, by the rules of networking.k8s.io/v1 that these manifests use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.deploy.manifests import Manifest

PORTS: Mapping[str, int] = {"http": 8085}
"""The named ports of the policies, which are those of containers."""


@dataclass(frozen=True)
class Peer:
    """A pod, by its labels and its namespace; without a namespace, an address outside of the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "avito-ai"


OUTSIDE = Peer(namespace="")


def permitted(policies: Iterable[Manifest], source: Peer, target: Peer, port: int) -> bool:
    """Return whether `source` may connect to `target`: both sides must permit it."""
    policies = list(policies)
    return _permits(policies, "Egress", source, target, port) and _permits(policies, "Ingress", target, source, port)


def _permits(policies: list[Manifest], direction: str, one: Peer, other: Peer, port: int) -> bool:
    """Return whether the policies that select a peer let it talk with the other; without any, it may do anything."""
    found = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == one.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], one.labels)
    ]
    rules = [rule for spec in found for rule in spec.get(direction.lower()) or []]
    return not found or any(_fits(rule, one.namespace, other, port) for rule in rules)


def _fits(rule: Manifest, namespace: str, other: Peer, port: int) -> bool:
    peers, ports = rule.get("to", rule.get("from")), rule.get("ports")
    return (not peers or any(_is(peer, namespace, other) for peer in peers)) and (
        not ports or any(PORTS.get(one["port"], one["port"]) == port for one in ports)
    )


def _is(peer: Manifest, namespace: str, other: Peer) -> bool:
    if "ipBlock" in peer:
        return False
    names = {"kubernetes.io/metadata.name": other.namespace}
    near = _selects(peer["namespaceSelector"], names) if "namespaceSelector" in peer else other.namespace == namespace
    return near and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, selector
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
