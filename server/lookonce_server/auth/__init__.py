"""Tenants: their API keys and their limits."""
