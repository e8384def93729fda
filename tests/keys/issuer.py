"""An issuer of tokens, with keys of its own, for tests."""

import base64
import hashlib
import hmac
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SECRET = "a-shared-key-of-an-issuer-for-tests-alone"  # pragma: allowlist secret
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE = {"HS256": SECRET, "RS256": RSA_KEY, "ES256": EC_KEY}


def claims(**changes):
    """Return the claims of a good token; None leaves one out."""
    made = {"sub": "anna", "name": "Anna", "exp": int(time.time()) + 600} | changes
    return {name: value for name, value in made.items() if value is not None}


def token(algorithm="HS256", key=None, headers=None, **changes):
    """Return a token of the issuer."""
    return jwt.encode(claims(**changes), key or PRIVATE[algorithm], algorithm, headers)


def key_set(*entries):
    """Return the text of a JWK set."""
    return json.dumps({"keys": list(entries)})


def public(key, kid=None, **fields):
    """Return the JWK of a private key's public half."""
    kind = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    entry = kind.to_jwk(key.public_key(), as_dict=True)
    return entry | ({"kid": kid} if kid else {}) | fields


def by_hand(header, body, secret=b""):
    """Return a token that no library would make; signed with HMAC-SHA-256 if there is a secret."""

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, body)]
    signed = b".".join(map(encoded, parts))
    signature = encoded(hmac.digest(secret, signed, hashlib.sha256)) if secret else b""
    return (signed + b"." + signature).decode()
