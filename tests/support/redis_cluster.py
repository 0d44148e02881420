"""A real Redis Cluster on free ports: masters, each with a replica or none."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from redis.crc import key_slot

from .redis_server import RedisServer, free_port, wait_until

SLOTS = 16384
BUS = 10000  # a node's bus listens on its port plus this, in versions before 7 always
ARGUMENTS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
    *("--cluster-require-full-coverage", "no"),  # one shard's failure is that shard's
    *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)


class RedisCluster:
    """Runs while its `with` block does.

    Args:
        masters: how many, at least 3, so that a majority can decide on a failover.
        replicas: how many of the masters, from the first on, have a replica each.
    """

    def __init__(self, *, masters: int = 3, replicas: int = 0) -> None:
        self._nodes = [RedisServer(arguments=ARGUMENTS, port=free_port(bus=BUS)) for _ in range(masters + replicas)]
        self.masters = self._nodes[:masters]
        self.replicas = self._nodes[masters:]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self._nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def master_of(self, key: bytes) -> RedisServer:
        """The node that was given the key's slot at the start."""
        return self.masters[key_slot(key) * len(self.masters) // SLOTS]

    def replica_of(self, master: RedisServer) -> RedisServer:
        """The replica that was given to the master at the start."""
        return self.replicas[self.masters.index(master)]

    def wait_for_failover(self, master: RedisServer) -> None:
        """Returns once the replica of a dead master serves its slots, and the others know."""
        replica = self.replica_of(master)
        with replica.client() as client:
            wait_until(lambda: client.role()[0] == b"master", "the replica has taken over")
            name = client.execute_command("CLUSTER", "MYID").decode()
        for node in self.masters:
            if node is not master:
                wait_until(lambda node=node: "master" in _flags(node).get(name, ""), "the others know the new master")

    def wait_for_replicas(self) -> None:
        """Returns once every write so far is on the replicas too."""
        for master, replica in zip(self.masters, self.replicas, strict=False):
            with master.client() as writer, replica.client() as reader:
                offset = writer.info("replication")["master_repl_offset"]
                wait_until(
                    lambda reader=reader, offset=offset: reader.info("replication")["slave_repl_offset"] >= offset,
                    "the replica has the master's writes",
                )

    def flush(self) -> None:
        """Deletes all data."""
        for master in self.masters:
            master.flush()

    def _join(self) -> None:
        for number, node in enumerate(self._nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self._nodes[0].port)
        for number, master in enumerate(self.masters):
            with master.client() as client:
                slots = [slot for slot in range(SLOTS) if slot * len(self.masters) // SLOTS == number]
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        for node in self._nodes:
            wait_until(lambda node=node: _knows(node, len(self._nodes)), "every node knows every other")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            with master.client() as of, replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", of.execute_command("CLUSTER", "MYID"))
        for node in self._nodes:
            wait_until(lambda node=node: _is_ok(node), "the cluster is ready")
        for replica in self.replicas:
            with replica.client() as client:
                wait_until(
                    lambda client=client: client.info("replication").get("master_link_status") == "up",
                    "the replicas follow",
                )


def _flags(node: RedisServer) -> dict[str, str]:
    """What the node thinks of each node: its name, and flags such as "master" and "fail"."""
    with node.client() as client:
        lines = client.execute_command("CLUSTER", "NODES").decode().splitlines()
    return {name: flags for name, _address, flags, *_rest in map(str.split, lines)}


def _knows(node: RedisServer, number: int) -> bool:
    flags = _flags(node).values()
    return len(flags) == number and not any("handshake" in flag for flag in flags)


def _is_ok(node: RedisServer) -> bool:
    with node.client() as client:
        info = client.execute_command("CLUSTER", "INFO").decode().splitlines()
    return {"cluster_state:ok", f"cluster_slots_ok:{SLOTS}"} <= set(info)
