"""The OpenAPI document of the server: https://spec.openapis.org/oas/v3.1.1

It is made of what stands at the operations (see `described`), of where they are mounted, and of the types themselves,
whose JSON Schema is that of OpenAPI 3.1.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from importlib import metadata
from typing import Annotated, Any, NamedTuple, cast

import msgspec
import orjson
from msgspec import Meta

from .access.keys import Scope
from .described import JSON, TOO_MANY, Described, Media, as_json, description_of
from .engine import endpoints
from .errors import Error
from .http import ByMethod, Operation

PATH_PARAMETERS: dict[str, Any] = {
    "endpoint": Annotated[str, Meta(pattern=f"^{endpoints.ID.pattern}$", description="the endpoint's id")],
    "worker": Annotated[str, Meta(min_length=1, description="the worker's id")],
    "job": Annotated[str, Meta(pattern="^[A-Za-z0-9-]{1,64}$", description="the job's id")],
}

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_TEXT = {str: {"type": "string"}, bytes: {}}
_WITHOUT_BODY = ("GET", "DELETE")
"""What a body of such a request means is nowhere defined: RFC 9110, section 9.3."""

_ERRORS = {
    400: "the request cannot be served as it is",
    401: "no key, or a wrong one",
    403: "the key is not good for this",
    404: "there is none of this id",
    408: "the body did not arrive in time",
    413: "the body is too large",
    429: TOO_MANY,
    503: "the store is not available at present; `Retry-After` says when to come back",
}


class Route(NamedTuple):
    """An operation as it is mounted. `scope`: what the app checks of its key; `limit`: of requests; `shape`: makes
    answers of errors."""

    path: str
    method: str
    operation: Operation
    scope: Scope | None
    limit: str
    shape: Callable[[Error], Any]


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document. An operation that nothing is said of is not in it."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, str] = {}
    for route in routes:
        operation: Any = route.operation
        if isinstance(operation, ByMethod):
            operation = operation.operations[route.method]
        if said := description_of(operation):
            name, about = _tag_of(operation)
            tags[name] = about
            path = re.sub(r":\w+}", "}", route.path)
            described = {"tags": [name], **_operation(route, operation, path, said, schemas)}
            paths.setdefault(path, {})[route.method.lower()] = described
    schemas.resolve()
    found = {
        "openapi": "3.1.1",
        "info": {
            "title": "runlane",
            "version": metadata.version("runlane"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in tags.items()],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": SECURITY},
    }
    return cast(dict[str, Any], orjson.loads(orjson.dumps(found)))  # as others see it: without tuples


def _operation(route: Route, operation: Operation, path: str, said: Described, schemas: "_Schemas") -> dict[str, Any]:
    scope = said.scope or route.scope
    return {
        "operationId": _id_of(route),
        **_words_of(operation, scope),
        **_parameters(path, said, schemas),
        **(_body(said, schemas) if route.method not in _WITHOUT_BODY else {}),
        "responses": _answers(route, path, said, schemas),
        "security": [{name: []} for name in SECURITY] if scope else [],
    }


class _Schemas:
    """The schemas of all types. A type has its schema when all of them are known, so that their names differ."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._wanted: list[tuple[Any, Callable[[dict[str, Any]], None]]] = []
        self._queries: set[str] = set()

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; it is filled by `resolve`."""
        if kind in _TEXT:
            return _TEXT[kind]
        schema: dict[str, Any] = {}
        self._wanted.append((kind, schema.update))
        return schema

    def of_fields(self, kind: type[msgspec.Struct], parameters: list[dict[str, Any]]) -> None:
        """Adds the fields of a type as the parameters of a query."""

        def add(schema: dict[str, Any]) -> None:
            name = schema["$ref"].rpartition("/")[2]
            self._queries.add(name)
            fields = self.components[name]
            for field, described in fields["properties"].items():
                parameters.append(_parameter("query", field, described, field in fields["required"]))

        self._wanted.append((kind, add))

    def resolve(self) -> None:
        """Makes the schemas of all types that were asked for."""
        schemas, self.components = msgspec.json.schema_components(
            [kind for kind, _ in self._wanted], ref_template="#/components/schemas/{name}"
        )
        for (_, fill), schema in zip(self._wanted, schemas, strict=True):
            fill(schema)
        for name in self._queries:
            self.components.pop(name)


def _tag_of(operation: Any) -> tuple[str, str]:
    """Operations of one class stand together, under its `TAG` or its name. Its module says what they are."""
    kind = type(getattr(operation, "__self__", operation))
    about = inspect.getdoc(sys.modules[kind.__module__]) or ""
    name = getattr(kind, "TAG", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).capitalize())
    return name, about.partition("\n\n")[0].replace("\n", " ")


def _id_of(route: Route) -> str:
    path = re.sub(r":\w+}", "}", route.path).removesuffix("/")
    words = re.findall(r"[A-Za-z0-9]+", path) + ["Slash"] * route.path.endswith("/")
    return route.method.lower() + "".join(word[:1].upper() + word[1:] for word in words)


def _words_of(operation: Any, scope: Scope | None) -> dict[str, str]:
    text = inspect.getdoc(operation) or ""
    text = re.split(r"\n\s*(?:Args|Raises|Returns):\n", text)[0].strip()
    summary, *rest = re.split(r"\.(?:\s+|$)", re.sub(r"(?<=\S)\n(?=\S)", " ", text), maxsplit=1)
    needs = f"Needs a key with the scope `{scope}`." if scope else "Needs no key."
    return {"summary": summary, "description": "\n\n".join([*filter(None, rest), needs])}


def _parameters(path: str, said: Described, schemas: _Schemas) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    kinds = {**PATH_PARAMETERS, **said.path}
    for name in re.findall(r"{(\w+)}", path):
        parameters.append({"name": name, "in": "path", "required": True, "schema": schemas.of(kinds.get(name, str))})
    for name, kind in said.headers.items():
        parameters.append({"name": name, "in": "header", "required": False, "schema": schemas.of(kind)})
    if said.query is not None:
        schemas.of_fields(said.query, parameters)
    return {"parameters": parameters} if parameters or said.query else {}


def _parameter(place: str, name: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    described = dict(schema)
    text = described.pop("description", None)
    return {
        "name": name,
        "in": place,
        "required": required,
        **({"description": text} if text else {}),
        "schema": described,
    }


def _body(said: Described, schemas: _Schemas) -> dict[str, Any]:
    if said.body is None:
        return {}
    media = said.body if isinstance(said.body, Media) else as_json(said.body)
    return {"requestBody": {"required": not said.body_is_optional, "content": _content(media, schemas)}}


def _answers(route: Route, path: str, said: Described, schemas: _Schemas) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, media in said.answers.items():
        answers[str(status)] = {"description": HTTPStatus(status).phrase}
        if media.types:
            answers[str(status)]["content"] = _content(media, schemas)
    kind = route.shape.__dict__["tells"]
    for code, text in {**_usual_errors(route, path, said), **said.errors}.items():
        answers[code] = {"description": text, "content": {JSON: {"schema": schemas.of(kind)}}}
    return answers


def _usual_errors(route: Route, path: str, said: Described) -> dict[str, str]:
    codes: set[int] = {503}
    if said.scope or route.scope:
        codes |= {401, 403}
    if "{" in path:
        codes.add(404)
    if said.query is not None or said.body is not None or said.headers:
        codes.add(400)
    if said.body is not None:
        codes |= {408, 413}
    if route.limit:
        codes.add(429)
    return {str(code): _ERRORS[code] for code in sorted(codes)}


def _content(media: Media, schemas: _Schemas) -> dict[str, Any]:
    return {name: {"schema": schemas.of(kind)} for name, kind in media.types.items()}
