"""Parameters of the tools that tests let a model call, as JSON schemas."""

COLOR = {
    "type": "object",
    "properties": {"color": {"$ref": "#/$defs/Color"}, "sure": {"type": "boolean"}},
    "required": ["color", "sure"],
    "$defs": {"Color": {"enum": ["red", "green", "blue"]}},
}
COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["count"],
}
