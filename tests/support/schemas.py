"""JSON Schemas: some that answers are held to, and some that are refused."""

import json
from typing import Any


def an_object(**properties: Any) -> dict[str, Any]:
    """With these properties, all of them and no others."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


COLOR = {"enum": ["red", "green", "blue", "yellow"]}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
PLACE = an_object(top=COLOR, left={"type": "boolean"})

# Whatever a model says, an answer to one of these ends within some dozens of tokens.
ENDING: dict[str, dict[str, Any]] = {
    "object": an_object(color=COLOR, count=DIGIT),
    "nested": an_object(place=PLACE, none={"type": "null"}),
    "list": {"type": "array", "items": COLOR, "minItems": 2, "maxItems": 3},
    "text": an_object(what={"type": "string", "minLength": 1, "maxLength": 8}),
    "pattern": an_object(code={"type": "string", "pattern": "^[A-C]{2}-[0-9]{3}$"}),
    "format": an_object(day={"type": "string", "format": "date"}),
    "union": {"anyOf": [COLOR, DIGIT, an_object(never={"const": "seen"})]},
    "optional": {"type": "object", "properties": {"a": DIGIT, "b": COLOR}, "additionalProperties": False},
    "shared": {"$defs": {"color": COLOR}} | an_object(one={"$ref": "#/$defs/color"}, other={"$ref": "#/$defs/color"}),
    "characters": {"enum": ["rouge é", "漢字", 'a "quoted" \\ text', "🎈"]},
    "alone": {"enum": ["yes", "no"]},
    "described": an_object(n=DIGIT) | {"title": "Count", "description": "How many?", "default": {"n": 1}},
}

ANY_OBJECT = json.dumps({"type": "object"})


def nested(depth: int) -> dict[str, Any]:
    """An object in an object, and so on; two levels of JSON each."""
    inner: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}}
    return inner


# Compiling one of these takes minutes, or more memory than there is.
BOMBS: dict[str, dict[str, Any]] = {
    "a huge list": {"type": "array", "minItems": 10**9},
    "patterns at once": {"allOf": [{"type": "string", "pattern": f"{i:x}"} for i in range(800)]},
    "divisors": an_object(**{f"p{i}": {"type": "integer", "multipleOf": 9973 + i} for i in range(600)}),
    "patterns of names": {"patternProperties": {f"^x{i}$": {"type": "integer"} for i in range(1000)}},
}

# As texts, with a part of what is said of each.
REFUSED: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "it is not valid JSON"),
    "half a character": ('{"const": "\ud800"}', "it is not valid JSON"),
    "no object": ("[]", "it must be an object"),
    "a boolean": ("true", "it must be an object"),
    "no type": ('{"type": "strng"}', "Invalid type: strng"),
    "a keyword": ('{"type": "array", "uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"]'),
    "a format": ('{"type": "string", "format": "isbn"}', "Unknown format: isbn"),
    "a pattern": ('{"type": "string", "pattern": "(?=a)"}', "look-around, including"),
    "far away": ('{"$ref": "https://example.com/schema.json"}', "Default retriever does not fetch resources"),
    "nowhere": ('{"$ref": "#/$defs/color"}', "Pointer '/$defs/color' does not exist"),
    "itself": ('{"$ref": "#"}', "no JSON fits it"),
    "no end": (
        '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
        "Too many items",
    ),
    "nothing": ('{"type": "string", "minLength": 3, "maxLength": 2}', "Unsatisfiable schema"),
    "options": ('{"type": "string", "x-guidance": {"whitespace_pattern": "!+"}}', "'x-guidance' is not supported"),
    "long": (json.dumps({"enum": [f"value {i}" for i in range(5000)]}), "at most 65536 are accepted"),
    "deep": (json.dumps(nested(25)), "more than 50 deep"),
    "a long text": (json.dumps({"const": "a" * 8193}), "more than 8192 characters"),
    **{
        name: (json.dumps(schema), "it takes more than 0.25 s or 1024 MiB to compile") for name, schema in BOMBS.items()
    },
}

# Passes, and fails after some tokens: the places for a property's name are more than the grammar has room for.
GROWING = json.dumps(
    {
        "type": "object",
        "properties": {"first": COLOR, "second": {"type": "object", "properties": {f"p{i}": {} for i in range(600)}}},
        "required": ["first", "second"],
    }
)
