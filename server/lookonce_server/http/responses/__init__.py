"""OpenAI's Responses API, for text and images."""

from lookonce_server.http.responses.routes import router

__all__ = ["router"]
