"""Show a survey of data: on a terminal, as a page for the browser, as JSON for scripts."""
