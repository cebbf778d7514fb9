"""The map of a swarm, layers x peers, as a rich table.

Names that strangers chose stand in `Text`, which reads no markup; records allow no control characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from swarm.core.span import Span
from swarm.routing.records import PeerState
from swarm.routing.status import PeerRow, StatusReport

MAP_COLUMNS = 48
_OTHER_COLUMNS = 83  # what a line needs besides the map
_STYLES = {
    PeerState.ONLINE: "green",
    PeerState.JOINING: "cyan",
    PeerState.DRAINING: "yellow",
    PeerState.LEFT: "dim",
}


def render(reports: Sequence[StatusReport], width: int) -> RenderableType:
    """All models, one below the other, for a terminal of `width` characters."""
    columns = min(MAP_COLUMNS, max(8, width - _OTHER_COLUMNS))
    return Group(*(part for report in reports for part in _model(report, columns)))


def layer_map(span: Span, n_layers: int, columns: int) -> str:
    """`span` as a bar: one column per layer, or fewer where there are more layers than columns."""
    width = min(n_layers, columns)
    # a column is filled if any layer of the span falls into it, so that no peer looks empty
    first = span.start * width // n_layers
    last = (span.end - 1) * width // n_layers
    return "".join("█" if first <= column <= last else "·" for column in range(width))


def _model(report: StatusReport, columns: int) -> list[RenderableType]:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("peer", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    table.add_column(f"0 .. {report.n_layers - 1}", no_wrap=True)
    for name in ("state", "computes"):
        table.add_column(name, no_wrap=True)
    for name in ("tok/s", "free cache", "sess."):
        table.add_column(name, justify="right", no_wrap=True)
    for peer in report.peers:
        _add_peer(table, peer, layer_map(peer.span, report.n_layers, columns))
    title = Text.assemble((report.model_name or report.model_uid, "bold"), f"  {report.model_uid[:12]}")
    rejected = [
        Text(f"not used: {_label(row.name, row.peer_id)}: {row.reason}", "yellow") for row in report.rejected
    ]
    return [title, table, _verdict(report), *rejected, Text()]


def _computes(peer: PeerRow) -> str:
    """Precision and way of batching, short: `fp32 flat`."""
    precision = peer.precision.replace("bfloat", "bf").replace("float", "fp")
    return f"{precision} {'1x1' if peer.batching == 'one by one' else peer.batching or '?'}"


def _add_peer(table: Table, peer: PeerRow, drawn: str) -> None:
    style = _STYLES[peer.state]
    share = f"{_short(peer.free_tokens)}/{_short(peer.total_tokens)}"
    table.add_row(
        Text(_label(peer.name, peer.peer_id)),
        str(peer.span),
        Text(drawn, style),
        Text(peer.state.value, style),
        Text(_computes(peer)),
        "?" if peer.tokens_per_s is None else f"{peer.tokens_per_s:,.0f}",
        share,
        str(peer.sessions),
    )


def _verdict(report: StatusReport) -> Text:
    if report.missing:
        return Text(f"incomplete: nobody serves layers {', '.join(map(str, report.missing))}", "bold red")
    if not report.complete:
        return Text("incomplete: every layer is served, but in no single precision", "bold red")
    weakest = report.weakest_layer
    if weakest is None:
        return Text("nobody known", "red")
    who = "1 peer" if weakest.peers == 1 else f"{weakest.peers} peers"
    return Text(
        f"complete; weakest layer {weakest.layer}: {who}, {weakest.tokens_per_s:,.0f} tokens/s",
        "yellow" if weakest.peers == 1 else "green",
    )


def _short(tokens: int) -> str:
    """`830`, `16.4k`, `2.1M`"""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.1f}{unit}"
    return str(tokens)


def _label(name: str, peer_id: str) -> str:
    return f"{name} ({peer_id[-6:]})" if name else f"...{peer_id[-12:]}"
