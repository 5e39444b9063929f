# For LiteLLM's proxy: any key may come, and may have this many requests at once. Its own keys would need a database.
import os

from litellm.proxy._types import UserAPIKeyAuth

LIMIT = int(os.environ["MAX_PARALLEL_REQUESTS"]) or None


async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, max_parallel_requests=LIMIT)
