"""The directory as the front reads it: symbols by name and by id, from the page that the supervisor keeps.

Rule 1: the page is decoded once per version; a request costs one look at the version.
It refuses to know SQL and the state of trading.
"""
