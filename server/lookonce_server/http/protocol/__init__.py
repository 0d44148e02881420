"""Sockets and HTTP/1.1 connections under uvicorn, with bounds."""
