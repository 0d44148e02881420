"""OpenAI's Responses API, for text and one image a conversation."""

from lookonce_server.http.responses.routes import router

__all__ = ["router"]
