"""Signs what schemathesis sends, as docs/protocol.md says; the secret is FASTMAP_SECRET. Called by scripts/api."""

import hashlib
import hmac
import os
import secrets
import time
from urllib.parse import urlsplit

import schemathesis
from requests.auth import AuthBase

SECRET = os.environ["FASTMAP_SECRET"]


class Signed(AuthBase):
    """Signs a request as it is about to be sent: by then its path, query and body are what they will be."""

    def __call__(self, request):
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = b"".join(body)
            request.body = body
            request.headers.pop("transfer-encoding", None)
            request.headers["content-length"] = str(len(body))
        url = urlsplit(request.url)
        stamp, nonce, digest = str(int(time.time())), secrets.token_hex(16), hashlib.sha256(body).hexdigest()
        canonical = ["fastmap-request-v1", request.method, url.path, url.query, stamp, nonce, digest]
        signature = hmac.new(SECRET[32:].encode(), "\n".join(canonical).encode(), hashlib.sha256)
        request.headers["authorization"] = f"Bearer {SECRET[:32]}"
        request.headers["fastmap-timestamp"] = stamp
        request.headers["fastmap-nonce"] = nonce
        request.headers["fastmap-digest"] = digest
        request.headers["fastmap-signature"] = signature.hexdigest()
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    kwargs["auth"] = Signed()
