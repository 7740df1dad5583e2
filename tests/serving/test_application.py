"""The application for whoever embeds it."""

from __future__ import annotations

import httpx
import pytest

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from secondpass.serving import Settings, create_app
from secondpass.serving.settings import ModelSource


async def test_it_runs_in_any_asgi_server(tiny: CrossEncoder) -> None:
    """Here in none: the client calls it directly, and its lifespan ends the queues."""
    app = create_app(models={"tiny": tiny})
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x", trust_env=False) as client,
    ):
        answer = await client.post("/score", json={"pairs": [["cat", "mat"]]})
        assert answer.json()["scores"] == pytest.approx([float(tiny.predict(["cat", "mat"]))], abs=1e-6)
    with pytest.raises(SecondPassError, match="closed"):
        app.state.service.models.get(None).shared.submit("cat", ["mat"])


def test_it_loads_the_models_of_its_settings(tiny_folder: str) -> None:
    """Under their names."""
    app = create_app(Settings(models=(ModelSource("mine", tiny_folder),), device="cpu"))
    assert [served.name for served in app.state.service.models] == ["mine"]
    app.state.service.models.close()
