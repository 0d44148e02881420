"""The addresses that images are fetched from: public and opened ones."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, text.split()))


# Spelled out, since `is_global` and `is_private` of some of them differ between versions of Python.
# From IANA's registries of special-purpose addresses.
_NOT_PUBLIC = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24"
    " 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    " 2001::/23 2001:db8::/32 2002::/16 3fff::/20"
)
# The rest of IPv6 is loopback, private, link-local, multicast, reserved, or IPv4 in disguise (mapped, NAT64).
_PUBLIC_V6 = ip_network("2000::/3")
# Addresses that carry an IPv4 address: IPv4-compatible and mapped, NAT64, 6to4, Teredo.
_DISGUISES = _networks("::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32")
# Clouds serve a machine's secrets here: never allowed, whatever networks are open. 168.63.129.16 is in a public range.
_NEVER = _networks("169.254.0.0/16 100.100.100.200/32 168.63.129.16/32 192.0.0.192/32 fd00:ec2::/32 fe80::/10")


def may_connect(address: Address, opened: tuple[Network, ...] = ()) -> bool:
    """Return whether images may be fetched from an address.

    Args:
        address: of the host.
        opened: networks that are not public, and allowed by the operator.
    """
    if _is_in(address, _NEVER):
        return False
    return _is_public(address) or _is_in(address, opened)


def parse_network(text: str) -> Network:
    """Parse a network that the operator opens, as in '10.1.2.0/24'.

    Raises:
        ValueError: it is no network, or one of IPv6 addresses that stand for IPv4 ones.
    """
    network = ip_network(text)
    if any(network.version == other.version and network.overlaps(other) for other in _DISGUISES):
        raise ValueError(f"{text!r} has IPv6 addresses that stand for IPv4 ones: give the IPv4 network itself")
    return network


def _is_public(address: Address) -> bool:
    if _is_in(address, _NOT_PUBLIC):
        return False
    return address.version == 4 or address in _PUBLIC_V6


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
