"""Requests and answers, as OpenAPI documents them."""
