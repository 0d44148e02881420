"""A real redis-server, with what tests do to it."""

import signal
from urllib.parse import quote

from lookonce_evaluation.bench import fixtures
from lookonce_evaluation.bench.fixtures import free_port, wait_until

__all__ = ["RedisServer", "free_port", "wait_until"]


class RedisServer(fixtures.RedisServer):
    """See `fixtures.RedisServer`."""

    def restart(self) -> None:
        """Kill the server if it runs, and start it on the same port."""
        self.kill()
        self.start()

    def flush(self) -> None:
        """Delete all data."""
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        """Stops the server's process as an overloaded machine would: connections stay, and nothing answers."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stopped server go on; nothing if it was not stopped."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)

    def configure(self, **settings: str) -> None:
        """CONFIG SET, with underscores for dashes."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def add_user(self, name: str, password: str, *rules: str) -> str:
        """Adds a user with exactly these rules, or changes it; the URL to connect as that user."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
        return f"redis://{quote(name)}:{quote(password)}@127.0.0.1:{self.port}/0"

    def replicate(self, master: "RedisServer") -> None:
        """Makes this server the master's replica, and returns once it has the master's data."""
        master.configure(repl_diskless_sync_delay="0")
        with self.client() as client:
            client.replicaof("127.0.0.1", str(master.port))
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "it became a replica")
