"""The requests and answers of `/v1/files`, as OpenAI's."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lookonce_server.sessions.file_store import MAX_SECONDS, MIN_SECONDS, KeptFile, Purpose

MAX_LISTED = 10_000


class FileForm(BaseModel):
    """The fields of an upload beside its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Purpose
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[int | None, Field(alias="expires_after[seconds]", ge=MIN_SECONDS, le=MAX_SECONDS)] = None


UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": ["vision", "user_data"]},
                        "expires_after[anchor]": {"const": "created_at"},
                        "expires_after[seconds]": {"type": "integer", "minimum": MIN_SECONDS, "maximum": MAX_SECONDS},
                    },
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                }
            }
        },
    }
}


class FileObject(BaseModel):
    """A file's facts."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, file: KeptFile) -> "FileObject":
        """Return a kept file's facts."""
        return cls(**file.model_dump())


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FilesQuery(BaseModel):
    """The query parameters of a list of files."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[str | None, Field(max_length=128)] = None
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = MAX_LISTED
    order: Literal["asc", "desc"] = "desc"
    purpose: Annotated[str | None, Field(max_length=64)] = None
