"""What all request bodies have in common: nothing in them is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

from swarm.gateway.api_error import ApiError, bad_request

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_PROMPTS = 16


class Body(BaseModel):
    """Unknown fields are refused, so that no option is silently without effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError("is not valid Unicode text") from exc
    return text


Text = Annotated[str, AfterValidator(_encodable)]
ShortText = Annotated[Text, Field(max_length=512)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
NewTokens = Annotated[int, Field(ge=1, lt=1 << 31)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
TopK = Annotated[int, Field(ge=1, lt=1 << 31)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Count = Annotated[int, Field(ge=1, le=MOST_CHOICES)]
Bias = Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=MOST_STOPS)]
Schema = dict[str, Any]
Metadata = Annotated[dict[ShortText, ShortText], Field(max_length=16)]


class TextPart(Body):
    """A piece of text in a message; images, sounds and files are refused."""

    type: Literal["text"]
    text: Text


def joined(content: str | list[Any] | None) -> str:
    """The text of a message's content."""
    if content is None:
        return ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def as_prompts(given: Any) -> list[Any]:
    """One prompt, or many, as a list of texts or of lists of token ids."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Stop texts, given as one or as many."""
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def refusal(errors: list[ErrorDetails] | list[dict[str, Any]]) -> ApiError:
    """400 for what pydantic found; the input itself is not repeated."""
    first = dict(errors[0])
    path = [str(part).encode("utf-8", "replace").decode()[:100] for part in first["loc"] if part != "body"]
    param = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return bad_request(f"unknown or unsupported option: {param}", param, "unsupported_parameter")
    if first["type"] == "missing":
        return bad_request(f"missing: {param or 'the body'}", param, "missing_required_parameter")
    if first["type"] == "json_invalid":
        return bad_request("the body is not valid JSON")
    if param is None and first["type"] in ("model_attributes_type", "model_type", "dict_type"):
        return bad_request("the body must be a JSON object, sent with content-type: application/json")
    return bad_request(f"{param or 'body'}: {first['msg']}", param, "invalid_value")
