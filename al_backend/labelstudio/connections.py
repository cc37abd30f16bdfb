"""Model connections and webhooks of a project: how Label Studio finds this backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al_backend.errors import LabelStudioError
from al_backend.labelstudio.reading import Reading

# Label Studio calls the backend's /health and /setup while it answers, each with tries of its own.
_CONNECT_SECONDS = 60.0


class Connections(Reading):
    """Connects and disconnects backends and webhooks."""

    def add_ml_backend(
        self,
        project_id: int,
        url: str,
        title: str,
        *,
        basic_auth: tuple[str, str] | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Connect the backend at `url`, which has to answer by now.

        Label Studio adds a webhook to `url`/webhook on its own.

        Raises:
            LabelStudioError: it refuses; a half-made connection, which would never get events, is removed again.
        """
        body = {"project": project_id, "url": url, "title": title} | _credentials(basic_auth)
        if extra_params is not None:
            body["extra_params"] = dict(extra_params)
        before = {backend["id"] for backend in self.ml_backends(project_id)}
        try:
            return dict(self.request("POST", "/api/ml/", body=body, timeout=_CONNECT_SECONDS))
        except LabelStudioError as error:
            for backend in self.ml_backends(project_id):
                if backend["id"] not in before and backend.get("url") == url:
                    self.delete_ml_backend(backend["id"])
            if error.status == 403:
                raise LabelStudioError(
                    f"{error} Label Studio refuses backends in private networks unless it runs with "
                    "SSRF_PROTECTION_ENABLED=false and ML_BLOCK_LOCAL_IP=false.",
                    status=403,
                ) from error
            raise

    def update_ml_backend(
        self,
        backend_id: int,
        project_id: int,
        url: str,
        *,
        title: str | None = None,
        basic_auth: tuple[str, str] | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Change a connection; what is None stays. Label Studio needs `url` and the project for every change."""
        body: dict[str, Any] = {"project": project_id, "url": url} | _credentials(basic_auth)
        if title is not None:
            body["title"] = title
        if extra_params is not None:
            body["extra_params"] = dict(extra_params)
        return dict(self.request("PATCH", f"/api/ml/{backend_id}", body=body, timeout=_CONNECT_SECONDS))

    def delete_ml_backend(self, backend_id: int) -> None:
        """Disconnect a backend. Its webhook stays and has to be deleted too."""
        self.request("DELETE", f"/api/ml/{backend_id}")

    def train(self, backend_id: int) -> None:
        """Press "Start training": Label Studio sends START_TRAINING to the backend's webhook and waits for it."""
        self.request("POST", f"/api/ml/{backend_id}/train", body={}, timeout=_CONNECT_SECONDS * 2)

    def set_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Make the project have exactly one active webhook to `url`, for all events and with these headers."""
        wanted = {"send_payload": True, "send_for_all_actions": True, "is_active": True, "headers": dict(headers)}
        ours = sorted(
            (hook for hook in self.webhooks(project_id) if hook.get("url") == url), key=lambda hook: hook["id"]
        )
        if not ours:
            body = wanted | {"url": url, "project": project_id}
            return dict(self.request("POST", "/api/webhooks/", body=body))
        for surplus in ours[1:]:  # every event would come twice
            self.delete_webhook(surplus["id"])
        kept = ours[0]
        if all(kept.get(key) == value for key, value in wanted.items()):
            return kept
        return dict(self.request("PATCH", f"/api/webhooks/{kept['id']}/", body=wanted | {"url": url}))

    def webhook_refusal(self, project_id: int, url: str) -> str | None:
        """Why Label Studio sends no event to `url`, a private address; None when it does. Nothing is changed.

        It judges an address when a webhook is saved, and again at each event, where a refusal shows in its own log
        alone. So it is asked to save one that cannot be saved for another reason, of which it speaks second.
        """
        body = {"project": project_id, "url": url, "is_active": "this is a question"}
        try:
            made = self.request("POST", "/api/webhooks/", body=body)
        except LabelStudioError as error:
            return str(error) if error.status == 403 and "reserved network" in str(error) else None
        self.delete_webhook(made["id"])  # of a release that takes any text for a yes
        return None

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook."""
        self.request("DELETE", f"/api/webhooks/{webhook_id}/")


def _credentials(basic_auth: tuple[str, str] | None) -> dict[str, Any]:
    if basic_auth is None:
        return {}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": basic_auth[0], "basic_auth_pass": basic_auth[1]}
