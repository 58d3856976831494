"""The model hub: its address, and a quick test of it, where a client would try for half a minute."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request

_OFF = {"", "0", "false", "no", "off"}


def endpoint() -> str:
    """Return the hub's address: `HF_ENDPOINT`, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def why_unreachable(seconds: float = 3.0) -> str | None:
    """Return why the hub does not answer within `seconds`, None if it does. Sends one HEAD request."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in _OFF:
        return "HF_HUB_OFFLINE is set"
    if not endpoint().startswith(("http://", "https://")):
        return "HF_ENDPOINT is not an http address"
    answer: list[str | None] = []
    # a thread, since resolving a name knows no timeout
    asking = threading.Thread(target=lambda: answer.append(_ask(seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    return answer[0] if answer else f"no answer within {seconds:g} s"


def _ask(seconds: float) -> str | None:
    try:
        request = urllib.request.Request(endpoint(), method="HEAD")  # noqa: S310 - http(s), see above
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}" if error.code >= 500 else None
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        return str(getattr(error, "reason", error))
