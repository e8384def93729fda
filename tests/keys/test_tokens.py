"""Tokens of the operator's issuer: which count, whom they stand for, and which are refused whatever they say."""

import json
import logging
import os
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from config import load_settings
from engine.errors import StartError
from keys.account import Account, Limits
from keys.tokens import MAX_CACHED, TokenRefused, TokenVerifier
from tests.keys.issuer import EC_KEY, RSA_KEY, SECRET, by_hand, claims, key_set, public, token

PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """A JWK set with a key for each algorithm."""
    path = tmp_path / "keys.json"
    path.write_text(key_set(public(RSA_KEY, "r1"), public(EC_KEY, "e1")))
    return path


def verifier(**settings):
    """Return a verifier that has read its keys."""
    made = TokenVerifier(load_settings({"AUTH": "jwt"} | settings, None))
    made.load()
    return made


@pytest.fixture
def everything(file):
    """A verifier with a key for every algorithm."""
    return verifier(JWT_SECRET_KEY=SECRET, JWT_JWKS_FILE=str(file))


@pytest.mark.parametrize(("algorithm", "kid"), [("HS256", None), ("RS256", "r1"), ("ES256", "e1"), ("RS256", None)])
def test_a_token_of_the_issuer_stands_for_its_subject(everything, algorithm, kid):
    """With each algorithm whose key is configured; the second look-up gives the same."""
    made = token(algorithm, headers={"kid": kid} if kid else None)
    assert everything.account_of(made) == Account("jwt:anna", "Anna")
    assert everything.account_of(made) == Account("jwt:anna", "Anna")


def test_claims_have_the_names_that_the_settings_give(file):
    """Subject, name, models as a list or as a text, and limits."""
    known = verifier(
        JWT_SECRET_KEY=SECRET,
        JWT_SUBJECT_CLAIM="client_id",
        JWT_NAME_CLAIM="team",
        JWT_MODELS_CLAIM="scope",
        JWT_LIMITS_CLAIM="limits",
    )
    own = {"sub": None, "client_id": "c-7", "team": "Шины", "limits": {"requests_per_minute": 5, "tokens_per_day": 9}}
    for scope in ("avibe avision", "avibe,avision", ["avision", "avibe"]):
        assert known.account_of(token(scope=scope, **own)) == Account(
            "jwt:c-7", "Шины", Limits(requests_per_minute=5, tokens_per_day=9), frozenset({"avibe", "avision"})
        )


def test_a_token_without_a_name_shows_its_subject(everything):
    """As does one whose name cannot be shown."""
    for name in (None, "", "a\nb", "x" * 200, 7, ["Anna"]):
        assert everything.account_of(token(name=name)).name == "anna"


NOW = int(time.time())
REFUSED_CLAIMS = {
    "expired": {"exp": NOW - 1},
    "without an end": {"exp": None},
    "an endless one": {"exp": float("inf")},
    "an end that is no number": {"exp": "later"},
    "not yet valid": {"nbf": NOW + 86_400},
    "without a subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is no text": {"sub": 7},
    "a subject of two lines": {"sub": "a\nb"},
    "a long subject": {"sub": "x" * 129},
    "an audience, and none is configured": {"aud": "others"},
}


@pytest.mark.parametrize("changes", REFUSED_CLAIMS.values(), ids=REFUSED_CLAIMS.keys())
def test_claims_that_do_not_hold_are_refused(everything, changes):
    """Time, subject and audience."""
    with pytest.raises(TokenRefused):
        everything.account_of(token(**changes))


def test_a_token_may_be_made_later_than_now(everything):
    """The issuer's clock may be ahead; `nbf` says from when a token counts, and `iat` says nothing of it."""
    assert everything.account_of(token(iat=NOW + 600)).name == "Anna"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": None},
        {"iss": "https://other.example"},
        {"aud": None},
        {"aud": "others"},
        {"aud": []},
        {"iss": ["https://issuer.example"]},
    ],
)
def test_issuer_and_audience_must_be_those_of_the_settings(changes):
    """Missing ones are wrong as well."""
    known = verifier(JWT_SECRET_KEY=SECRET, JWT_ISSUER="https://issuer.example", JWT_AUDIENCE="avito-ai")
    good = {"iss": "https://issuer.example", "aud": ["others", "avito-ai"]}
    assert known.account_of(token(**good)).name == "Anna"
    with pytest.raises(TokenRefused):
        known.account_of(by_hand({"alg": "HS256"}, claims(**good | changes), SECRET.encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"requests": 5}},
        {"limits": {"requests_per_minute": "5"}},
        {"limits": {"requests_per_minute": -5}},
        {"limits": [5]},
        {"models": []},
        {"models": ""},
        {"models": 5},
        {"models": [5]},
        {"models": {"avibe": True}},
    ],
)
def test_limits_and_models_that_cannot_be_held_refuse_the_token(changes):
    """Rather than let it do more than its issuer meant."""
    known = verifier(JWT_SECRET_KEY=SECRET, JWT_MODELS_CLAIM="models", JWT_LIMITS_CLAIM="limits")
    with pytest.raises(TokenRefused):
        known.account_of(token(**changes))


OTHER_RSA, OTHER_EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
GOOD = claims()
FORGED = {
    "no signature": by_hand({"alg": "none"}, GOOD),
    "no signature, in capitals": by_hand({"alg": "NONE"}, GOOD),
    "no algorithm": by_hand({"typ": "JWT"}, GOOD, SECRET.encode()),
    "an algorithm that is no text": by_hand({"alg": ["HS256"]}, GOOD, SECRET.encode()),
    "the public key as a shared one": by_hand({"alg": "HS256", "kid": "r1"}, GOOD, PEM),
    "another shared key": token(key="x" * 40),
    "an algorithm of the family": token("HS512", SECRET * 2),
    "another RSA key": token("RS256", OTHER_RSA, {"kid": "r1"}),
    "an RSA key of another name": token("RS256", headers={"kid": "r2"}),
    "another curve's key": token("ES256", OTHER_EC, {"kid": "e1"}),
    "a key of the other kind": token("ES256", headers={"kid": "r1"}),
    "a critical extension": token(headers={"crit": ["b64"], "b64": True}),
    "an extension that is not called critical": by_hand({"alg": "HS256", "b64": True}, GOOD, SECRET.encode()),
    "claims that are a list": by_hand({"alg": "HS256"}, [GOOD], SECRET.encode()),
    "claims that are no JSON": by_hand({"alg": "HS256"}, b"{", SECRET.encode()),
    "deep claims": by_hand({"alg": "HS256"}, b"[" * 3000, SECRET.encode()),
    "a header that is no object": by_hand([], GOOD, SECRET.encode()),
    "a large one": token(filler="x" * 9000),
    "two parts": "a.b",
    "nothing between the dots": "..",
    "no base64": "!.!.!",
    "letters beyond ASCII": "é.é.é",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_refused(everything, forged):
    """By TokenRefused, whatever the library makes of it."""
    with pytest.raises(TokenRefused):
        everything.account_of(forged)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_no_part_of_a_token_can_be_changed(everything, algorithm, part):
    """Each character counts, as far as it says something."""
    parts = token(algorithm).split(".")
    at = len(parts[part]) // 2
    parts[part] = parts[part][:at] + ("A" if parts[part][at] != "A" else "B") + parts[part][at + 1 :]
    with pytest.raises(TokenRefused):
        everything.account_of(".".join(parts))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_an_algorithm_without_a_key_is_refused(algorithm):
    """Where only a shared key is configured; and a shared key's where only a key set is."""
    with pytest.raises(TokenRefused):
        verifier(JWT_SECRET_KEY=SECRET).account_of(token(algorithm))


def test_a_shared_key_does_not_count_where_none_is_configured(file):
    """HS256 with any text of the key set, either."""
    known = verifier(JWT_JWKS_FILE=str(file))
    for secret in (SECRET.encode(), PEM, file.read_bytes(), json.loads(file.read_text())["keys"][0]["n"].encode()):
        with pytest.raises(TokenRefused):
            known.account_of(by_hand({"alg": "HS256"}, GOOD, secret))


def test_without_a_kid_one_key_alone_may_be_meant(tmp_path):
    """Two keys of an algorithm need a name."""
    file = tmp_path / "keys.json"
    file.write_text(key_set(public(RSA_KEY, "r1"), public(OTHER_RSA, "r2")))
    known = verifier(JWT_JWKS_FILE=str(file))
    with pytest.raises(TokenRefused):
        known.account_of(token("RS256"))
    assert known.account_of(token("RS256", headers={"kid": "r1"})).name == "Anna"
    assert known.account_of(token("RS256", OTHER_RSA, {"kid": "r2"})).name == "Anna"


def test_no_token_counts_beyond_its_end(everything, clock, settings):
    """Not one that was verified before, either."""
    known = TokenVerifier(load_settings({"AUTH": "jwt", "JWT_SECRET_KEY": SECRET}, None), clock)
    known.load()
    made = token(exp=int(clock()) + 30)
    assert known.account_of(made).name == "Anna"
    clock.advance(29)
    assert known.account_of(made).name == "Anna"
    clock.advance(1)
    with pytest.raises(TokenRefused) as refused:
        known.account_of(made)
    assert refused.value.expired


def test_what_is_remembered_is_bounded(everything):
    """However many tokens the issuer makes."""
    for number in range(MAX_CACHED + 50):
        everything._keep(number.to_bytes(4, "big"), (Account("jwt:a"), 0.0), everything._keys)
    assert len(everything._verified) == MAX_CACHED


def test_a_changed_key_set_counts_at_once_and_a_broken_one_changes_nothing(file, caplog):
    """A token of a removed key is refused, though it was verified before."""
    known, made = verifier(JWT_JWKS_FILE=str(file)), token("RS256", headers={"kid": "r1"})
    new = token("RS256", OTHER_RSA, {"kid": "r2"})
    assert known.account_of(made).name == "Anna"
    caplog.set_level(logging.WARNING)
    replace(file, "{")
    known.refresh()
    known.refresh()
    assert known.failing
    assert len(caplog.records) == 1
    assert known.account_of(made).name == "Anna"
    replace(file, key_set(public(OTHER_RSA, "r2")))
    known.refresh()
    assert not known.failing
    assert known.account_of(new).name == "Anna"
    with pytest.raises(TokenRefused):
        known.account_of(made)


def test_another_secret_counts_while_the_key_set_cannot_be_read(file):
    """The keys of the set stay as they were, and the former secret is refused."""
    secrets = ["the-first-secret-of-0123456789abcdef", "the-other-secret-of-0123456789abcdef"]
    known = verifier(JWT_JWKS_FILE=str(file), JWT_SECRET_KEY=secrets[0])
    of_the_set, former, new = token("RS256", headers={"kid": "r1"}), *(token(key=secret) for secret in secrets)
    assert known.account_of(former).name == "Anna"
    file.unlink()
    known.use_secret(secrets[1])
    assert {known.account_of(one).name for one in (of_the_set, new)} == {"Anna"}
    with pytest.raises(TokenRefused):
        known.account_of(former)


def replace(file, text):
    """Write a file as editors do, by another that takes its name."""
    another = file.with_suffix(".new")
    another.write_text(text)
    os.replace(another, file)


def test_a_token_that_is_verified_while_the_keys_change_is_not_remembered():
    """It was good for the keys of before, and is verified again with those that are in force."""

    class Overtaken(TokenVerifier):
        """Gets another key while it verifies its first token."""

        def _account(self, claims):
            self.use_secret(SECRET[::-1])
            return super()._account(claims)

    known, made = Overtaken(load_settings({"AUTH": "jwt", "JWT_SECRET_KEY": SECRET}, None)), token()
    known.load()
    assert known.account_of(made).name == "Anna"
    with pytest.raises(TokenRefused):
        known.account_of(made)


def test_keys_for_other_purposes_are_passed_over(tmp_path):
    """Keys that encrypt, of other algorithms, too short ones, and shared ones, which have no place in a public set."""
    file, short = tmp_path / "keys.json", rsa.generate_private_key(65537, 1024)
    others = [
        public(OTHER_RSA, "r1", use="enc"),
        public(OTHER_RSA, "r1", key_ops=["encrypt"]),
        public(OTHER_RSA, "r1", alg="PS256"),
        public(short, "r1"),
        public(ec.generate_private_key(ec.SECP384R1()), "e1"),
        {"kty": "oct", "k": jwt.utils.base64url_encode(SECRET.encode()).decode(), "kid": "h1", "alg": "HS256"},
    ]
    file.write_text(key_set(*others, public(RSA_KEY, "r1", use="sig", alg="RS256")))
    known = verifier(JWT_JWKS_FILE=str(file))
    assert known.account_of(token("RS256", headers={"kid": "r1"})).name == "Anna"
    with pytest.raises(TokenRefused):
        known.account_of(token(headers={"kid": "h1"}))
    file.write_text(key_set(*others))
    with pytest.raises(StartError, match="no key"):
        verifier(JWT_JWKS_FILE=str(file))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"keys": 7}', '{"keys": [7]}', '{"keys": [{"kty": "RSA"}]}', "[" * 9999]
)
def test_a_key_set_that_is_none_stops_the_start(tmp_path, text):
    """The error names setting and file."""
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(StartError, match="JWT_JWKS_FILE=.*keys.json"):
        verifier(JWT_JWKS_FILE=str(file))
    with pytest.raises(StartError, match="cannot be read"):
        verifier(JWT_JWKS_FILE=str(tmp_path / "nothing"))
