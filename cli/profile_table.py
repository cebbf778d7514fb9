"""Where a token's time went, as a table on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.client.network import Network


def show_profile(network: Network) -> None:
    """Print milliseconds per token: this side, every hop, the network, and their sum."""
    from rich.console import Console
    from rich.table import Table

    profile = network.profile
    table = Table(title=f"ms per token, over {profile.steps} tokens after the first", title_justify="left")
    table.add_column("where")
    for name in ("queue", "compute", "serialise", "all"):
        table.add_column(name, justify="right")

    def row(where: str, *seconds: float | None) -> None:
        cells = ["" if s is None else f"{1000 * s / max(profile.steps, 1):.2f}" for s in seconds]
        table.add_row(where, *cells)

    inside_s = profile.client_s + profile.handover_s
    row("client", None, inside_s, profile.serialise_s, inside_s + profile.serialise_s)
    for peer_id, hop in profile.hops.items():
        name = network.peer_name(peer_id) or peer_id[-8:]
        row(name, hop.queue_s, hop.compute_s, hop.serialise_s, hop.total_s)
    row("network", None, None, None, profile.network_s)
    row("sum", None, None, None, profile.total_s)
    Console(stderr=True).print(table)
