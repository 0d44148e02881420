"""The formats of an answer: text, a JSON object, or JSON of a schema.

Chats and responses ask for them alike, but for where the schema stands.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag

from lookonce_server.http.schemas.messages import by_type
from lookonce_server.http.schemas.must_be_unset import RepeatedModel

_ANY_OBJECT = '{"type":"object"}'


def _schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), allow_nan=False)


def _check_depth(schema: dict[str, Any]) -> dict[str, Any]:
    """Reject a schema that is too deep to write as JSON."""
    try:
        _schema_text(schema)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return schema


class _Format(RepeatedModel):
    @property
    def schema_text(self) -> str | None:
        """Return the JSON Schema of the answer as JSON text; None for free text."""
        return None


class TextFormat(_Format):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(_Format):
    """A JSON object."""

    type: Literal["json_object"]

    @property
    def schema_text(self) -> str | None:
        """See `_Format.schema_text`."""
        return _ANY_OBJECT


class JsonSchema(_Format):
    """A JSON Schema, which the answer follows whatever `strict` says.

    Name and description are labels.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    # The trailing underscore: pydantic has a method of that name.
    schema_: Annotated[dict[str, Any], AfterValidator(_check_depth), Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None

    @property
    def schema_text(self) -> str | None:
        """See `_Format.schema_text`."""
        return _schema_text(self.schema_)


class _SchemaFormat(_Format):
    type: Literal["json_schema"]


class ChatSchemaFormat(_SchemaFormat):
    """JSON that a schema accepts, as chats ask for it."""

    json_schema: JsonSchema

    @property
    def schema_text(self) -> str | None:
        """See `_Format.schema_text`."""
        return self.json_schema.schema_text


class ResponseSchemaFormat(JsonSchema, _SchemaFormat):
    """JSON that a schema accepts, as responses ask for it."""


_Text = Annotated[TextFormat, Tag("type=text")]
_JsonObject = Annotated[JsonObjectFormat, Tag("type=json_object")]
_BY_TYPE = by_type("a format's type must be 'text', 'json_object' or 'json_schema'")
ChatTextFormat = Annotated[_Text | _JsonObject | Annotated[ChatSchemaFormat, Tag("type=json_schema")], _BY_TYPE]
ResponseTextFormat = Annotated[_Text | _JsonObject | Annotated[ResponseSchemaFormat, Tag("type=json_schema")], _BY_TYPE]
