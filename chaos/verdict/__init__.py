"""What a run is worth: recordings in, verdicts and reports out.  Start reading at `recording`, then `judge`.

- `recording`: all that the judge and the reports look at.
- `judge`: an expectation and a recording become a verdict; how each measure is taken.
- `compare`: the sidecars beside Envoy, measure by measure.
- `cause`: the sentence that says which line of which policy did it.
- `report`: one page of HTML, with `curves` (a recording as lines) and `charts` (lines as SVG); `junit`: JUnit XML.

Nothing here runs anything or looks at a clock.
"""
