"""Verdicts and reports, made from recordings.  Start reading at `recording`, then `judge`.

- `recording`: all that the judge and the reports look at.
- `judge`: an expectation and a recording become a verdict; how each measure is taken.
- `compare`: the sidecars beside Envoy, measure by measure.
- `cause`: the sentence that says which line of which policy did it.
- `report`: one page of HTML, with `curves` (a recording as lines) and `charts` (lines as SVG); `junit`: JUnit XML.

Nothing here runs a scenario or reads a clock.
"""
