"""What the package imports, and when."""

import subprocess
import sys

import pytest

import lookonce_cache

LIGHT = (
    "lookonce_cache",
    "lookonce_cache.errors",
    "lookonce_cache.identity",
    "lookonce_cache.stores.base",
    "lookonce_cache.stores.blobs",
    "lookonce_cache.stores.open",
    "lookonce_cache.stores.redis.options",
    "lookonce_cache.stores.urls",
)


def test_keys_errors_and_urls_need_neither_torch_nor_redis():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"import {', '.join(LIGHT)}\n"
        "lookonce_cache.check_tenant('acme')\n"
        "lookonce_cache.check_store_url('redis+cluster://h:1,i?timeout=2')\n"
        "try:\n    lookonce_cache.open_store('memory://?max_bytes=2GB')\n"
        "except lookonce_cache.StoreConfigError:\n    pass\n"
        "new = sys.modules.keys() - before\n"
        "print(sorted(new & {'torch', 'numpy', 'redis', 'asyncio', 'lookonce_cache.context'}))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(lookonce_cache, name) is not None for name in lookonce_cache.__all__)
    with pytest.raises(AttributeError, match="'lookonce_cache' has no attribute 'Cache'"):
        _ = lookonce_cache.Cache
