"""The API key of a request: a dependency of every route but the health checks and the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.service import Service

_bearer = HTTPBearer(auto_error=False, description="An API key; only where the service has keys")


def authorised(service: Service) -> Callable[..., Awaitable[ApiKey]]:
    """A dependency that returns the request's key and counts the request against its rate.

    It raises ServiceError (unauthenticated, rate_limited). The OpenAPI document mentions it only if the service has keys.
    """

    def find(request: Request) -> ApiKey:
        key = service.keys.find(request.headers.get("authorization"))
        request.state.user = key.name
        key.count()
        return key

    async def without_key(request: Request) -> ApiKey:
        return find(request)

    async def with_key(request: Request, _: HTTPAuthorizationCredentials | None = Depends(_bearer)) -> ApiKey:
        return find(request)

    return with_key if service.keys.needed else without_key
