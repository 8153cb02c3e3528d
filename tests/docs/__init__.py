"""Commands of the documentation, run as a reader runs them.

- `pages`: finds the pages, their blocks of commands, files and outputs, and the marks of blocks.
- `session`: runs a page's blocks in order, in shells of their own and on ports of their own.
- `screenshots`: takes the pictures of the documentation (`make screenshots`).
- `test_commands`: every command of every page is run, or at least understood by the program that it names.
- `test_site`: the site is built strictly, and loads nothing from elsewhere.
"""
