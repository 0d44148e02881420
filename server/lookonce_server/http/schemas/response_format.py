"""What shape an answer must have, as OpenAI's clients ask for it."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from lookonce_server.http.schemas.messages import ChatModel, Text, kind_of

ANY_OBJECT = '{"type":"object"}'


def _writable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that can be written as JSON; what it means, and costs, the engines look at."""
    try:
        schema_text(schema)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return schema


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as JSON, its keys in the order they came in."""
    return json.dumps(schema, separators=(",", ":"), allow_nan=False)


Schema = Annotated[dict[str, Any], AfterValidator(_writable)]
FormatName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextFormat(ChatModel):
    """Free text."""

    type: Literal["text"]

    def json_schema_text(self) -> str | None:
        """None: anything goes."""
        return None


class JsonObjectFormat(ChatModel):
    """Some JSON object."""

    type: Literal["json_object"]

    def json_schema_text(self) -> str | None:
        """The JSON Schema of every object."""
        return ANY_OBJECT


class JsonSchema(ChatModel):
    """A JSON Schema; the answer follows it exactly, whatever `strict` says. Name and description are labels."""

    name: FormatName
    description: Text | None = None
    # The trailing underscore: pydantic has a method of that name.
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class JsonSchemaFormat(ChatModel):
    """JSON that a schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def json_schema_text(self) -> str | None:
        """The schema."""
        return schema_text(self.json_schema.schema_)


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("type=text")]
    | Annotated[JsonObjectFormat, Tag("type=json_object")]
    | Annotated[JsonSchemaFormat, Tag("type=json_schema")],
    Discriminator(
        kind_of,
        custom_error_type="format_type",
        custom_error_message="a format's type must be 'text', 'json_object' or 'json_schema'",
    ),
]
