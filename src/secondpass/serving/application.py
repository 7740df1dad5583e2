"""The application: models, endpoints, gate and log put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from secondpass.reranker import Reranker
from secondpass.serving.admission import Admission
from secondpass.serving.endpoints import router
from secondpass.serving.guarded_route import told
from secondpass.serving.metrics import Metrics
from secondpass.serving.models import Models, load_models
from secondpass.serving.problems import Problem
from secondpass.serving.request_log import RequestLog, facts_of
from secondpass.serving.service import Service
from secondpass.serving.settings import Settings


def create_app(settings: Settings | None = None, models: Mapping[str, Reranker] | None = None) -> FastAPI:
    """Make the ASGI application; any server can run it, `secondpass serve` uses uvicorn.

    Args:
        settings: limits and keys; None takes the defaults.
        models: loaded models by name, the first is the default; None loads those of the settings.

    Returns:
        The application. Its lifespan ends the scoring threads; `app.state.service` is the `Service`.

    Raises:
        ModelLoadError: a model cannot be had.
        InvalidInput: a model has several labels.
    """
    settings = settings or Settings()
    metrics = Metrics()
    served = Models(load_models(settings) if models is None else models, settings, metrics.watch)
    service = Service(settings, served, metrics, Admission(settings.max_requests))
    metrics.follow(service.admission, served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    # The pages that FastAPI offers would load scripts of others into the browser of whoever opens them.
    app = FastAPI(
        title="secondpass",
        summary="Second-pass ranking",
        version=version("secondpass"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router(service))
    app.add_exception_handler(HTTPException, _no_such_endpoint)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    """404 and 405, in the one form that errors have."""
    status = getattr(error, "status_code", 500)
    message = {404: "there is no such path", 405: "the path does not take this method"}.get(status, "refused")
    return told(Problem(status, "no_endpoint", message, getattr(error, "headers", None)), facts_of(request.scope))
