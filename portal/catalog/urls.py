"""Pages of the catalog."""

from django.urls import path

from portal.catalog import views

urlpatterns = [
    path("models/", views.model_list, name="models"),
    path("models/new/", views.model_new, name="model-new"),
    path("models/<str:name>/", views.model_page, name="model"),
    path("models/<str:name>/remote-code/", views.model_remote_code, name="model-remote-code"),
    path("datasets/", views.dataset_list, name="datasets"),
    path("datasets/new/", views.dataset_new, name="dataset-new"),
    path("datasets/<str:name>/", views.dataset_page, name="dataset"),
    path("adapters/", views.adapter_list, name="adapters"),
]
