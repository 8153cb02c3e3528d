"""Verdicts as JUnit XML, which every CI displays: a suite for each scenario, a case for each expectation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Tree

if TYPE_CHECKING:
    from chaos.battery import Result


def junit_xml(results: Sequence[Result]) -> str:
    """Return the document."""
    root = Tree.Element("testsuites", name="chaos")
    for result in results:
        cases = [(arm, verdict) for arm in result.arms if arm.counts for verdict in arm.verdicts]
        seconds = max((arm.recording.seconds for arm in result.arms), default=0.0)
        suite = Tree.SubElement(
            root, "testsuite", name=result.name, tests=str(len(cases)), time=f"{seconds:.2f}",
            failures=str(sum(not verdict.passed for _, verdict in cases)),
        )  # fmt: skip
        for arm, verdict in cases:
            case = Tree.SubElement(suite, "testcase", classname=f"{result.name}.{arm.name}", name=verdict.what)
            if not verdict.passed:
                text = f"measured {verdict.measured}, wanted {verdict.limit}"
                Tree.SubElement(case, "failure", message=text).text = verdict.because or text
    return Tree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
