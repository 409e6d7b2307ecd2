"""The four interfaces that plugins implement, and the problem that a solver solves. Importing this loads no torch."""

#: Version of the interfaces; a component of another version is refused.
API_VERSION = 1
