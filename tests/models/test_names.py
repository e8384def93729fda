"""Which version a name stands for: for whom, how often, and what when it is not there."""

from collections import Counter

import pytest

from config import load_settings
from engine.types import Status
from models import ModelNames, ModelSet
from tests.fakes import ScriptedBackend

SETTINGS = {
    "VIBE_MODELS": "v1=demo,v2=demo,v3=demo",
    "VIBE_SPLIT": "v2=20,v3=10",
    "MODEL_ALIASES": "gpt-3.5-turbo=avibe,gpt-4o=avision,new=avibe@v2,old=AvitoTech/avibe",
}
CLIENTS = [f"10.0.{n // 250}.{n % 250}" for n in range(2000)]


def names(**changes):
    return ModelNames.of(load_settings(SETTINGS | changes, None))


@pytest.fixture
def models():
    """Three versions of Avibe, all ready, and an Avision."""
    return ModelSet({name: ScriptedBackend(name) for name in ("avibe", "avision", "avibe@v2", "avibe@v3")})


def found(names, asked, client, models, **more):
    answer = names.find(asked, client, models, **more)
    return None if answer is None else answer[0]


def test_a_version_that_is_named_answers_whoever_asks(models):
    """Full names, the default's too, and the names of others that stand for one version."""
    for client in CLIENTS[:50]:
        assert found(names(), "avibe@v1", client, models) == "avibe"
        assert found(names(), "avibe@v2", client, models) == "avibe@v2"
        assert found(names(), "new", client, models) == "avibe@v2"
        assert found(names(), "gpt-4o", client, models) == "avision"


@pytest.mark.parametrize("unknown", ["avibe@v9", "avibe@", "@v2", "gpt-4", "AVIBE", "", "avision@v2", "v2"])
def test_no_other_name_is_known(models, unknown):
    """No version that is not there, no part of a name."""
    assert found(names(), unknown, "1.2.3.4", models) is None


@pytest.mark.parametrize("asked", ["avibe", "AvitoTech/avibe", "gpt-3.5-turbo", "old"])
def test_a_share_of_the_clients_is_given_to_each_version(models, asked):
    """About 20 and 10 of a hundred, whatever name for just the model they use."""
    counted = Counter(found(names(), asked, client, models) for client in CLIENTS)
    assert abs(counted["avibe@v2"] / len(CLIENTS) - 0.2) < 0.03
    assert abs(counted["avibe@v3"] / len(CLIENTS) - 0.1) < 0.03
    assert counted.total() == len(CLIENTS) == counted["avibe"] + counted["avibe@v2"] + counted["avibe@v3"]


def test_a_client_keeps_its_version(models):
    """Over restarts too, and when the share of its version grows."""
    first = {client: found(names(), "avibe", client, models) for client in CLIENTS}
    again = {client: found(names(), "avibe", client, models) for client in reversed(CLIENTS)}
    assert first == again
    assert found(names(), "avibe", "10.0.0.4", models) == first["10.0.0.4"]
    larger = names(VIBE_SPLIT="v2=50")
    moved = [client for client in CLIENTS if first[client] == "avibe@v2"]
    assert {found(larger, "avibe", client, models) for client in moved} == {"avibe@v2"}


def test_the_hash_is_the_same_in_every_process(models):
    """Known clients and their versions: copies behind a balancer agree."""
    assert [found(names(VIBE_SPLIT="v2=50"), "avibe", one, models) for one in ("a", "b", "c", "d", "e", "f")] == [
        "avibe@v2", "avibe", "avibe", "avibe@v2", "avibe@v2", "avibe",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [Status.DEAD, Status.LOADING, Status.STALLED, Status.DRAINING])
def test_a_version_that_is_not_ready_is_given_no_share(models, status):
    """Its clients are answered by the default meanwhile; who names it is told that it is not ready."""
    models.get("avibe@v2").become(status)
    assert "avibe@v2" not in {found(names(), "avibe", client, models) for client in CLIENTS}
    assert found(names(), "avibe@v2", "1.2.3.4", models) == "avibe@v2"


def test_whole_shares(models):
    """0 gives none, 100 gives all."""
    assert {found(names(VIBE_SPLIT="v2=0"), "avibe", one, models) for one in CLIENTS} == {"avibe"}
    assert {found(names(VIBE_SPLIT="v2=100"), "avibe", one, models) for one in CLIENTS} == {"avibe@v2"}
    assert {found(names(VIBE_SPLIT="v1=90,v2=10"), "avibe", one, models) for one in CLIENTS} == {"avibe", "avibe@v2"}


def test_nobody_is_shared_out_to_what_he_may_not_use(models):
    """A key for the default alone is answered by the default."""
    allows = lambda *known: "avibe@v1" in known  # noqa: E731
    assert {found(names(), "avibe", one, models, allows=allows) for one in CLIENTS[:200]} == {"avibe"}


def test_a_failed_version_is_not_listed(models):
    """Clients are not told of what cannot answer, nor of others' names for it."""
    assert {"avibe@v2", "new"} <= set(names().listed(models))
    models.get("avibe@v2").become(Status.DEAD)
    assert {"avibe@v2", "new"}.isdisjoint(names().listed(models))
    assert set(names().listed(models)) == {"avibe", "avibe@v1", "avibe@v3", "avision", "gpt-3.5-turbo", "gpt-4o", "old"}
