"""Limit the sockets and HTTP/1.1 connections under uvicorn."""
