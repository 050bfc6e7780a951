"""What several client tests ask for, in OpenAI's and in Anthropic's words."""

import base64
import json
import struct
import zlib

HELLO = [{"role": "user", "content": "Say hello."}]
TEXT = "Hello there, how are you?"

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city"],
}
OPENAI_TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": WEATHER_PARAMETERS}},
    {"type": "function", "function": {"name": "time", "description": "Time in a city", "parameters": WEATHER_PARAMETERS}},
]
ANTHROPIC_TOOLS = [
    {"name": "weather", "description": "Weather of a city", "input_schema": WEATHER_PARAMETERS},
    {"name": "time", "description": "Time in a city", "input_schema": WEATHER_PARAMETERS},
]
# Two at once, in the mock's script.
PARALLEL_CALLS = [
    {"name": "weather", "arguments": {"city": "Vienna", "unit": "C"}},
    {"name": "time", "arguments": {"city": "Quito"}},
]
CALLED = [("weather", {"city": "Vienna", "unit": "C"}), ("time", {"city": "Quito"})]

PERSON_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def png():
    """A picture of one pixel, base64."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    picture = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00")) + chunk(b"IEND", b"")
    return base64.b64encode(picture).decode()


def texts_of(body):
    """All text of a request body, whichever dialect, for "does it contain"."""
    return json.dumps(body, ensure_ascii=False)
