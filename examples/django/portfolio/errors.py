"""What a user is told when a call was not made, or went wrong."""
import logging
import math

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from django.http import JsonResponse

from . import quotad

_log = logging.getLogger(__name__)


class AIErrors:
    """Middleware that answers for the views."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, error):
        if isinstance(error, quotad.Denied):
            response = JsonResponse({"error": str(error)}, status=429)
            if error.retry_after:
                response["Retry-After"] = math.ceil(error.retry_after)
            return response
        if isinstance(error, quotad.Unavailable):
            _log.error("no AI call is made: %s", error)
            return JsonResponse({"error": "AI is not available now. Try again later."}, status=503)
        if isinstance(error, (BotoCoreError, ClientError, ResponseParserError)):
            _log.error("an AI call went wrong: %s", error)
            return JsonResponse({"error": "The AI service did not answer. Try again."}, status=502)
        return None
