"""What shape an answer must have, as OpenAI's clients ask for it."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from lookonce_server.api.messages import ChatModel, Text, kind_of

MAX_CHARACTERS = 65_536
MAX_DEPTH = 32
_ANY_OBJECT = '{"type":"object"}'


def _small(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that a grammar can be made of in reasonable time."""
    level, depth = [*schema.values()], 1
    while level := [child for node in level for child in _children(node)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise PydanticCustomError("schema_depth", "must be nested at most {most} levels deep", {"most": MAX_DEPTH})
    if len(json.dumps(schema, separators=(",", ":"))) > MAX_CHARACTERS:
        raise PydanticCustomError(
            "schema_size", "must have at most {most} characters, written as JSON", {"most": MAX_CHARACTERS}
        )
    return schema


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


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
        return _ANY_OBJECT


class JsonSchema(ChatModel):
    """A JSON Schema; the answer follows it exactly, whatever `strict` says. Name and description are labels."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    # The trailing underscore: pydantic has a method of that name.
    schema_: Annotated[dict[str, Any], Field(alias="schema"), AfterValidator(_small)]
    strict: bool | None = None


class JsonSchemaFormat(ChatModel):
    """JSON that a schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def json_schema_text(self) -> str | None:
        """The schema, as JSON text with its keys in the order they came in."""
        return json.dumps(self.json_schema.schema_, separators=(",", ":"))


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("text")]
    | Annotated[JsonObjectFormat, Tag("json_object")]
    | Annotated[JsonSchemaFormat, Tag("json_schema")],
    Discriminator(
        kind_of,
        custom_error_type="format_type",
        custom_error_message="a format's type must be 'text', 'json_object' or 'json_schema'",
    ),
]
