"""Text on what pages of the request's origin may do on a route with `cors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.control.route import Route
from sidecar.core.exchange import Exchange

if TYPE_CHECKING:
    from sidecar.stages.cors.stage import CorsStage

CORS = "cors"


def cross_origin_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on a request by its Origin; None without `cors`."""
    link = next((each for each in route.chain if each.policy == CORS), None)
    if link is None:
        return None
    stage: CorsStage = link.stage  # type: ignore[assignment]  # the stage is imported on demand
    origin = (x.joined(b"origin") or b"").decode("latin-1")
    if not link.block.is_enforced:
        return [f"mode is observe: {link.where} answers no preflight, and adds no field"]
    if not origin:
        return ["the request has no Origin: it is not one of a page of another origin"]
    result = stage.judge(x, origin.encode("latin-1"))
    if x.is_preflight:
        answers = {
            "allowed": "is answered with 204 and allowed",
            "origin": "is refused with 403: the origin is not one of `origins`",
            "method": "is answered with 204, but the browser refuses it: the method is not one of `methods`",
            "headers": "is answered with 204, but the browser refuses it: a field is not one of `headers`",
            "private_network": "is answered with 204, but the browser refuses it: `private_network` is not set",
        }
        return [f"the preflight of {origin} {answers[result]}"]
    if result == "origin":
        return [f"the request goes on, but pages of {origin} cannot read the answer: it is not one of `origins`"]
    told = [f"pages of {origin} may read the answer"]
    if stage.spec.expose:
        told.append(f"besides the common fields they may read {', '.join(stage.spec.expose)}")
    return told
