"""Reads the prompt of a request, before anything is asked of quotad."""
import functools
import json

from django.http import JsonResponse

MOST = 4000  # characters


def with_prompt(view):
    """Calls view(request, prompt) with what was posted as JSON or as a form, or answers 400."""
    @functools.wraps(view)
    def read(request):
        try:
            prompt = json.loads(request.body)["prompt"] if request.content_type == "application/json" else request.POST["prompt"]
        except (ValueError, TypeError, KeyError, RecursionError):  # the last of JSON that is nested too deep
            prompt = None
        if not isinstance(prompt, str) or not 0 < len(prompt.strip()) <= MOST:
            return JsonResponse({"error": f"prompt: want a text of 1 to {MOST} characters."}, status=400)
        return view(request, prompt.strip())
    return read
