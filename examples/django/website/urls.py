from django.urls import path

from portfolio import views

urlpatterns = [
    path("generate-ai-image/", views.generate_ai_image),
    path("predict-aws/", views.predict_aws),
]
