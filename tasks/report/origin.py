"""What a report leaves out so that equal runs give equal bytes, added where it is shown."""

import html

WHERE_SHOWN = "<!-- where it is shown -->"
"""Where who shows the page adds project, time, commit and release."""


def add_origin(report: str, origin: str) -> str:
    """Return the page `report` with the line `origin` in it.

    >>> add_origin(f"<h1>Labels</h1>{WHERE_SHOWN}", "messages, at <commit>")
    '<h1>Labels</h1><p class="overline">messages, at &lt;commit&gt;</p>'
    """
    return report.replace(WHERE_SHOWN, f'<p class="overline">{html.escape(origin)}</p>', 1)
