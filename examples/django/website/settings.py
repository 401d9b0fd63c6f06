"""The smallest settings that serve the two views."""
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "for this example only: nothing is signed with it"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "website.urls"
WSGI_APPLICATION = "website.wsgi.application"
INSTALLED_APPS = ["portfolio"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "portfolio.errors.AIErrors"]
DATABASES = {}  # the counts are quotad's
LOGGING = {"version": 1, "disable_existing_loggers": False, "handlers": {"console": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["console"]}}

USE_TZ = True
TIME_ZONE = "America/Chicago"  # the zone of the bucket in buckets.yaml: a day is this zone's date

BEDROCK_REGION = os.environ.get("AWS_REGION", "us-east-1")
BEDROCK_ENDPOINT_URL = os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME") or None  # without one, the region's own
BEDROCK_READ_TIMEOUT = float(os.environ.get("BEDROCK_READ_TIMEOUT", "60"))  # seconds
BEDROCK_CONNECTIONS = 32  # at least the threads of a worker
BEDROCK_IMAGE_MODEL = os.environ.get("BEDROCK_IMAGE_MODEL", "amazon.nova-canvas-v1:0")
BEDROCK_TEXT_MODEL = os.environ.get("BEDROCK_TEXT_MODEL", "amazon.nova-lite-v1:0")
