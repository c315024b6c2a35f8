"""What the server serves, in OpenAPI's words, for /openapi.json.

The fields of a request are those of the models that read it; the rest is written here.
"""

from typing import Any

from malt_fast.serving.openai_format import Body, ChatBody, TextBody

Schema = dict[str, Any]

REASONS = {
    400: "the body cannot be read or served, or the question is too long",
    401: "the token is missing or wrong",
    404: "there is no such model",
    405: "the route has other methods",
    408: "the body took too long to arrive",
    413: "the body is longer than 4 MiB",
    429: "as many questions are in progress as serve.max_waiting allows",
    500: "every pass of the question failed",
    503: "the server loads, stops or has too much to read, or its engine has died",
}
RETRY: Schema = {"Retry-After": {"schema": {"type": "string"}, "description": "seconds"}}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def described(name: str, token: bool) -> Schema:
    """The description of a server of the model `name`, with or without a token."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"malt-fast, serving {name}", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": _question(ChatBody, "chat.completion")},
            "/v1/completions": {"post": _question(TextBody, "text_completion")},
            "/v1/models": {"get": _get("the model served", _object("object", "data"), 401)},
            "/v1/models/{name}": {
                "get": _get("a model", _object("id", "object", "created", "owned_by"), 401, 404),
                "parameters": [{"name": "name", "in": "path", "required": True, "schema": TEXT}],
            },
            "/health": {"get": _get("whether the server lives", _object("status"), state=True)},
            "/ready": {"get": _get("whether it answers", _object("status"), state=True)},
            "/metrics": {"get": _get("figures for Prometheus", TEXT, 401, kind="text/plain")},
        },
        "components": {
            "schemas": {"Error": {**_object("error"), "properties": {"error": _error()}}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if token else [],
    }


def _question(kind: type[Body], answer: str) -> Schema:
    reply = _object("id", "object", "created", "model", "choices", "usage")
    reply["properties"] = {
        "object": {"const": answer},
        "choices": {"type": "array", "items": _object("index", "finish_reason")},
        "usage": _object("prompt_tokens", "completion_tokens", "total_tokens"),
    }
    content = {"application/json": {"schema": reply}, "text/event-stream": {}}
    body = {"application/json": {"schema": kind.model_json_schema(ref_template=_INSIDE)}}
    return {
        "summary": "the answer to a question, whole or as server-sent events",
        "requestBody": {"required": True, "content": _without_references(body)},
        "responses": {
            "200": {"description": "the answer that most passes agree on", "content": content},
            **_refusals(*(status for status in REASONS if status != 405)),
        },
    }


def _get(about: str, found: Schema, *others: int, kind: str = "", state: bool = False) -> Schema:
    content = {kind or "application/json": {"schema": found}}
    failed = {"503": {"description": "not now", "content": content}} if state else {}
    good = {"200": {"description": about, "content": content}}
    return {"summary": about, "responses": {**good, **failed, **_refusals(*others)}}


def _refusals(*statuses: int) -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(status): {
            "description": REASONS[status],
            "content": content,
            **({"headers": RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def _error() -> Schema:
    kinds = ["authentication_error", "invalid_request_error", "rate_limit_error", "server_error"]
    properties = {"message": TEXT, "type": {"enum": kinds}}
    return {**_object("message", "type", "param", "code"), "properties": properties}


def _object(*required: str) -> Schema:
    return {"type": "object", "required": [*required]}


_INSIDE = "{model}"


def _without_references(value: Any, known: Schema | None = None) -> Any:
    """A schema whose definitions stand where they are named."""
    if isinstance(value, list):
        return [_without_references(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    known = value.get("$defs", known)
    if "$ref" in value and known is not None:
        return _without_references(known[value["$ref"]], known)
    return {k: _without_references(v, known) for k, v in value.items() if k != "$defs"}
