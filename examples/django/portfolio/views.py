"""The two views that spend money."""
import json

from django.conf import settings
from django.http import JsonResponse
from django.views.decorators.http import require_POST

from . import bedrock
from .prompt import with_prompt
from .quotad import quota


@require_POST
@with_prompt
@quota("portfolio", denied="Daily AI limit reached. Try again tomorrow.")
def generate_ai_image(request, prompt):
    answer = bedrock.images().invoke_model(modelId=settings.BEDROCK_IMAGE_MODEL, body=json.dumps(
        {"taskType": "TEXT_IMAGE", "textToImageParams": {"text": prompt}, "imageGenerationConfig": {"numberOfImages": 1}}))
    return JsonResponse({"url": "data:image/png;base64," + json.loads(answer["body"].read())["images"][0]})


@require_POST
@with_prompt
def predict_aws(request, prompt):
    answer = bedrock.texts().converse(
        modelId=settings.BEDROCK_TEXT_MODEL, messages=[{"role": "user", "content": [{"text": prompt}]}], inferenceConfig={"maxTokens": 512})
    return JsonResponse({"prediction": "".join(part.get("text", "") for part in answer["output"]["message"]["content"])})
