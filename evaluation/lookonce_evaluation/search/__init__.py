"""The search for a selection: `lookonce eval search` answers the same questions on contexts made in many ways.

Each family of ways is a file with `candidates(num_layers)`; `families` lists them, `command` runs them.
"""
