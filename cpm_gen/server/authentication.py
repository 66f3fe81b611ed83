"""Whose request it is: the dependency of every route that is not open to all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cpm_gen.serving.api_keys import Key
from cpm_gen.serving.service import Service

_bearer = HTTPBearer(auto_error=False, description="An API key; only where the service has keys")


def authorised(service: Service) -> Callable[..., Awaitable[Key]]:
    """A dependency that finds the request's key and counts the request; documented where there are keys."""

    def find(request: Request) -> Key:
        key = service.keys.find(request.headers.get("authorization"))
        request.state.user = key.name
        key.count()
        return key

    async def open_to_all(request: Request) -> Key:
        return find(request)

    async def with_key(request: Request, _: HTTPAuthorizationCredentials | None = Depends(_bearer)) -> Key:
        return find(request)

    return with_key if service.keys.needed else open_to_all
