"""Pages that draw on several apps, and signing in and out."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from portal.pages import plan_panel, plan_views, views

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("jobs/<int:pk>/", views.job_page, name="job"),
    path("jobs/new/plan/", plan_panel.job_panel, name="job-plan"),
    path("plan/", plan_views.plan_page, name="plan"),
]
