"""Who asks: the token that Runwarden's tools service signs for each call, checked before work."""

import base64
import json
import time
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

MAX_AGE_SECONDS = 60
LEEWAY_SECONDS = 2


class InvalidTokenError(Exception):
    """The caller has not shown that it is the tools service, and for whom it calls."""


@dataclass(frozen=True)
class Caller:
    """Workspace and actor for whom a call is made; the workspace is empty for ListTools."""

    workspace_id: str
    actor_id: str


def read_tools_key(trusted_keys: str) -> Ed25519PublicKey:
    """The key of the tools service, out of RUNWARDEN_TRUSTED_KEYS: the base64 of its SPKI DER."""
    key = load_der_public_key(base64.b64decode(json.loads(trusted_keys)["tools"]))
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("the key of tools is not an Ed25519 key")
    return key


def verify_token(token: str, key: Ed25519PublicKey, audience: str) -> Caller:
    """Checks the token of one call; `audience` is the name under which the mesh knows us."""
    try:
        decoded = jwt.decode_complete(
            token,
            key,
            algorithms=["EdDSA"],
            issuer="tools",
            audience=audience,
            leeway=LEEWAY_SECONDS,
            options={"require": ["iat", "exp", "sub", "ws"], "strict_aud": True},
        )
    except jwt.InvalidTokenError as error:
        raise InvalidTokenError from error
    claims = decoded["payload"]
    is_old = claims["iat"] < time.time() - MAX_AGE_SECONDS - LEEWAY_SECONDS
    if decoded["header"].get("typ") != "runwarden-hop+jwt" or is_old:
        raise InvalidTokenError
    return Caller(workspace_id=claims["ws"], actor_id=claims["sub"])
