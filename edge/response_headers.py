"""The headers that every response carries, whoever makes it."""

from __future__ import annotations

CORS_EXPOSED = [
    "X-Request-ID",
    "Request-ID",
    "X-Response-Time",
    "X-Max-Tokens",
    "X-Model",
    "X-Model-Fingerprint",
    "X-Cost",
    "X-Cache",
    "X-Next-Offset",
    "X-Should-Retry",
    "X-Stream-Id",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "RateLimit-Policy",
]
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
NO_STORE = {"Cache-Control": "no-store"}


def varies(allowed_origins: tuple[str, ...]) -> bool:
    """Return whether responses differ by the origin of the page that asks, as caches have to know."""
    return allowed_origins != ("*",)


def cors_headers(allowed_origins: tuple[str, ...], origin: str | None) -> dict[str, str]:
    """Return what flask-cors adds to a response that is no preflight's. origin: of the page that asks, if one does."""
    exposed = {"Access-Control-Expose-Headers": ", ".join(sorted(CORS_EXPOSED))}
    if not varies(allowed_origins):
        return {"Access-Control-Allow-Origin": "*"} | exposed
    vary = {"Vary": "Origin"}
    origin = sorted(allowed_origins)[0] if origin is None else origin
    if origin.lower() not in (allowed.lower() for allowed in allowed_origins):
        return vary
    return {"Access-Control-Allow-Origin": origin} | exposed | vary
