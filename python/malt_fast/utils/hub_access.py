"""Whether the Hugging Face hub can be reached.

Where it cannot, its clients would try again for a minute or more before they say so. One question
at the start settles it, and they look into their caches alone.
"""

import os
import sys
from functools import cache

PATIENCE = 5  # seconds to connect
NO_HUB = "the hub cannot be reached"


@cache
def offline() -> bool:
    """Whether only what is in the cache can be used: HF_HUB_OFFLINE is set, or there is no way to
    the hub, for which it is set then."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        httpx.head(constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError):
        os.environ["HF_HUB_OFFLINE"] = "1"  # for other processes, and what is imported later
        constants.HF_HUB_OFFLINE = True
        if datasets := sys.modules.get("datasets.config"):
            datasets.HF_HUB_OFFLINE = datasets.HF_DATASETS_OFFLINE = True  # type: ignore[attr-defined]
        return True
    except httpx.HTTPError:  # slow, or an answer that it does not understand
        return False
    return False
