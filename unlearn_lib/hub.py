"""Whether the Hugging Face hub can be reached, answered within a second.

Without this question a `from_pretrained` on a machine without a network retries for 23 seconds before it fails.
"""

from __future__ import annotations

import threading

PROBE_SECONDS = 0.8


def hub_reachable() -> bool:
    """True when the hub's endpoint answers; proxies from the environment are honoured, `HF_HUB_OFFLINE` means no."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def probe() -> None:
        try:
            httpx.head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except httpx.HTTPError:
            return
        answers.append(True)

    # A thread, because no timeout covers a name lookup that hangs.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)
