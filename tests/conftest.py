"""What all tests share."""

from lookonce_server.engines.torch_extensions import install

install()
