"""The two Bedrock clients of the app. Both are guarded, so that no call of theirs goes without a quota."""
import functools

import boto3
import botocore.session
from botocore.config import Config
from django.conf import settings

from . import quotad


def _client():
    session = botocore.session.get_session()
    # Debian 12's boto3 has no model of Bedrock's runtime. One that has its own finds that first; then this line and aws/ can go.
    session.get_component("data_loader").search_paths.append(str(settings.BASE_DIR / "aws"))
    return boto3.Session(botocore_session=session).client(
        "bedrock-runtime", region_name=settings.BEDROCK_REGION, endpoint_url=settings.BEDROCK_ENDPOINT_URL,
        config=Config(retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=settings.BEDROCK_READ_TIMEOUT,
                      max_pool_connections=settings.BEDROCK_CONNECTIONS))


@functools.lru_cache(maxsize=None)
def images():
    """Draws. The view takes the quota before it calls this, and the guard settles what the view took."""
    return quotad.guard(_client(), "portfolio")


@functools.lru_cache(maxsize=None)
def texts():
    """Writes. The guard takes the quota itself, so that the view need not think of it."""
    return quotad.guard(_client(), "portfolio", ceiling=10, denied="Bedrock limit reached")
